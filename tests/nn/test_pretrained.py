"""Checkpoints: strict weights, what may be left over, what is dropped, licences, folders and the hub's cache."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, VideoMAEConfig, VideoMAEModel
from transformers import VideoMAEForVideoClassification as VideoMAEClassifier

from kinetext.nn.pretrained import folder_of, library, licence_in, opened
from kinetext.types import RecipeError

FIELD = "encoders.text"
TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def bert(folder: Path, cls: type[BertForPreTraining] = BertForPreTraining) -> Path:
    torch.manual_seed(0)
    cls(BertConfig(vocab_size=12, max_position_embeddings=8, **TINY)).save_pretrained(folder)
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_arrive_and_heads_are_left_behind(tmp_path: Path) -> None:
    source = load_file(bert(tmp_path) / "model.safetensors")
    network = opened(FIELD, str(tmp_path)).network(BertModel)
    state = network.state_dict()
    assert state
    assert all(torch.equal(state[name], source[f"bert.{name}"]) for name in state)
    assert any(name.startswith("cls.") for name in source)
    assert network.training


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: w.pop("bert.encoder.layer.0.output.dense.bias"),
            "1 keys missing: encoder.layer.0.output.dense.bias",
        ),
        (lambda w: w.update({"bert.adapter.weight": torch.zeros(2)}), "1 keys unexpected: bert.adapter.weight"),
        (
            lambda w: w.update({"bert.embeddings.wordz.weight": w.pop("bert.embeddings.word_embeddings.weight")}),
            "1 keys missing: embeddings.word_embeddings.weight; 1 keys unexpected: bert.embeddings.wordz.weight",
        ),
        (
            lambda w: w.update({"bert.embeddings.word_embeddings.weight": torch.zeros(5, 8)}),
            r"1 keys of another shape: embeddings.word_embeddings.weight \(5, 8\), expected \(12, 8\)",
        ),
        (lambda w: w.pop("bert.pooler.dense.bias"), "1 keys missing: pooler.dense.bias"),
    ],
    ids=["removed", "added", "renamed", "reshaped", "pooler"],
)
def test_a_key_that_does_not_fit_is_named(tmp_path: Path, change: Callable[..., object], said: str) -> None:
    rewritten(bert(tmp_path), change)
    with pytest.raises(RecipeError, match=rf"encoders\.text\.model: the weights of .* do not fit: {said}"):
        opened(FIELD, str(tmp_path)).network(BertModel)


def test_what_is_not_used_may_be_missing_and_is_gone(tmp_path: Path) -> None:
    """Checkpoints of masked words have no pooler, which the library would fill with random numbers."""
    bert(tmp_path, BertForMaskedLM)
    with pytest.raises(RecipeError, match=r"2 keys missing: pooler\.dense\.bias, pooler.dense.weight"):
        opened(FIELD, str(tmp_path)).network(BertModel)
    network = opened(FIELD, str(tmp_path)).network(BertModel, ("pooler",))
    assert not [name for name in network.state_dict() if "pooler" in name]


def test_biases_of_videomae_survive(tmp_path: Path) -> None:
    """transformers 5.15 to 5.17 load them as zeros; in the file they are q_bias and v_bias."""
    torch.manual_seed(0)
    source = VideoMAEClassifier(VideoMAEConfig(image_size=8, patch_size=4, num_frames=2, **TINY))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn(parameter.shape))
    source.save_pretrained(tmp_path)
    assert [name for name in load_file(tmp_path / "model.safetensors") if name.endswith(("q_bias", "v_bias"))]
    state = opened("encoders.video", str(tmp_path)).network(VideoMAEModel).state_dict()
    biases = [name for name in state if name.endswith(("query.bias", "value.bias"))]
    assert len(biases) == 2
    for name, tensor in source.videomae.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=12, **TINY)).to(torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = opened(FIELD, str(tmp_path))
    assert {p.dtype for p in loaded.network(BertModel).parameters()} == {torch.float32}
    (tmp_path / "kept").mkdir()
    loaded.keep(tmp_path / "kept")
    kept = opened(FIELD, str(tmp_path), kept=tmp_path / "kept")
    assert {p.dtype for p in kept.network(BertModel).parameters()} == {torch.float32}


def test_loading_is_silent_and_leaves_no_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bert(tmp_path)
    log = logging.getLogger("transformers.modeling_utils")
    settings = transformers.utils.logging
    capfd.readouterr()
    before = (log.level, list(log.filters), settings._tqdm_hook, settings.get_verbosity(), torch.get_default_dtype())
    opened(FIELD, str(tmp_path)).network(BertModel)
    rewritten(tmp_path, lambda w: w.pop("bert.pooler.dense.bias"))
    with pytest.raises(RecipeError):
        opened(FIELD, str(tmp_path)).network(BertModel)
    after = (log.level, list(log.filters), settings._tqdm_hook, settings.get_verbosity(), torch.get_default_dtype())
    assert after == before
    assert "".join(capfd.readouterr()) == ""


def test_kept_builds_without_weights(tmp_path: Path) -> None:
    source = opened(FIELD, str(bert(tmp_path)))
    (tmp_path / "kept").mkdir()
    source.keep(tmp_path / "kept")
    (tmp_path / "model.safetensors").unlink()
    kept = opened(FIELD, "somebody/that-is-gone", kept=tmp_path / "kept")
    network = kept.network(BertModel, ("pooler",))
    assert network.config.hidden_size == 8
    assert network.training
    assert not [name for name in network.state_dict() if "pooler" in name]
    assert kept.licence == source.licence


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (None, "unknown (no model card)"),
        ("---\nlanguage: zh\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: tongyi\n---\n", "other (tongyi)"),
        ("---\nlicense:\n- mit\n- cc0-1.0\n---\n", "mit, cc0-1.0"),
        ("---\nlanguage: en\n---\nlicense: mit", "unknown (the model card states none)"),
        ("# A model\nlicense: mit\n", "unknown (the model card states none)"),
    ],
)
def test_the_licence_is_what_the_card_states(tmp_path: Path, card: str | None, said: str) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8", newline="")
    assert licence_in(tmp_path) == said


def test_a_card_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n", encoding="utf-8")
    assert licence_in(tmp_path).startswith("unknown (the model card can't be read: ")


def test_the_name_stands_before_the_licence(tmp_path: Path) -> None:
    bert(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    assert opened(FIELD, str(tmp_path)).licence == f"{tmp_path}: apache-2.0"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no config.json, expected a transformers model"),
        ({"config.json": "{"}, r"config\.json of .* can't be read"),
        ({"config.json": '{"model_type": "nosuch"}'}, r"config\.json of .* can't be read \(.*nosuch"),
        ({"config.json": '{"model_type": "bert"}'}, r"the weights of .* can't be read \(.*model\.safetensors"),
        (
            {"config.json": '{"model_type": "bert"}', "model.safetensors": "garbage"},
            r"the weights of .* can't be read",
        ),
    ],
    ids=["empty", "no JSON", "unknown kind", "no weights", "garbage"],
)
def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"encoders\.text\.model: .*{said}"):
        opened(FIELD, str(tmp_path)).network(BertModel)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "mine.py").write_text("raise SystemExit('run')", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"config\.json of .* can't be read"):
        opened(FIELD, str(tmp_path))


@pytest.mark.parametrize("name", ["", "a/b/c", "no such place", "../x"])
def test_what_is_neither_folder_nor_name_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"encoders\.text\.model: '{name}', expected a folder"):
        folder_of(FIELD, name)


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"encoders\.text\.revision: 'v2', but .* is a folder; expected none"):
        folder_of(FIELD, str(tmp_path), "v2")


def cached(cache: Path, name: str, revision: str) -> Path:
    """The folder where the hub's cache has a revision, as huggingface_hub lays it out."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / revision).write_text(commit)
    (home / "snapshots" / commit).mkdir(parents=True)
    return home / "snapshots" / commit


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_name_is_looked_up_in_the_cache_of_the_hub(offline: Path) -> None:
    place = bert(cached(offline, "somebody/bert", "main"))
    (place / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert folder_of(FIELD, "somebody/bert") == place
    found = opened(FIELD, "somebody/bert")
    assert found.licence == "somebody/bert: mit"
    assert found.network(BertModel).config.vocab_size == 12
    with pytest.raises(RecipeError, match=r"no folder 'somebody/bert', and it can't be had .* at revision 'v2'"):
        folder_of(FIELD, "somebody/bert", "v2")


def test_old_weights_are_read_where_there_are_no_others(offline: Path) -> None:
    place = bert(cached(offline, "somebody/bert", "v1"))
    weights = load_file(place / "model.safetensors")
    torch.save(weights, place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    state = opened(FIELD, "somebody/bert", "v1").network(BertModel).state_dict()
    assert all(torch.equal(state[name], weights[f"bert.{name}"]) for name in state)


def test_a_name_that_is_nowhere_is_refused(offline: Path) -> None:
    with pytest.raises(RecipeError, match=r"encoders\.text\.model: no folder 'nobody/nothing', and it can't be had"):
        opened(FIELD, "nobody/nothing")


@pytest.mark.parametrize("old", ["5.17.1", "4.57.0", "5.15.0.dev0"])
def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    monkeypatch.setattr("transformers.__version__", old)
    with pytest.raises(RecipeError, match=rf"transformers {old} is installed, expected >= 5\.18"):
        library()


@pytest.mark.parametrize("new", ["5.18.0", "5.23.0.dev0", "6.0.0"])
def test_a_new_library_is_taken(monkeypatch: pytest.MonkeyPatch, new: str) -> None:
    monkeypatch.setattr("transformers.__version__", new)
    assert library().__version__ == new


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"pip install 'kinetext\[pretrained\]'"):
        library()
