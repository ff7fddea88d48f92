"""Pretrained text models against transformers' own forward, on texts that its own tokenisers prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kinetext.contracts import check_encoder
from kinetext.encoders.pretrained_text import PretrainedText
from kinetext.tokenizers import PretrainedTokenizer
from kinetext.types import RecipeError

Pooling = Literal["none", "mean", "first", "last", "pooler"]
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "first", "last", "pooler")
# the last one ends a text: CLIP pools at the highest id
PIECES = ["[UNK]", "[PAD]", "[CLS]", "a", "cat", "run", "##s", "一", "只", "猫", "jumps", "[SEP]"]
PAD, BEGIN, END = 1, 2, 11
TEXTS = ["A cat runs", "一只猫 jumps a cat", "a"]
TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
IDS = {"vocab_size": len(PIECES), "pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}


def tokeniser(folder: Path, longest: int = 16) -> None:
    made = Tokenizer(WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", BEGIN), ("[SEP]", END)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=longest, **special).save_pretrained(folder)


def seeded(cls: type[Any], config: Any) -> Any:
    """A model whose every weight and bias is random."""
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def bert() -> Any:
    return seeded(transformers.BertForPreTraining, transformers.BertConfig(**TINY, **IDS, max_position_embeddings=16))


def roberta() -> Any:  # as its checkpoints are: trained on masked words, and without a pooler
    config = transformers.RobertaConfig(**TINY, **IDS, max_position_embeddings=18)
    return seeded(transformers.RobertaForMaskedLM, config)


def t5() -> Any:
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=PAD, **IDS
    )
    return seeded(transformers.T5ForConditionalGeneration, config)


def bart() -> Any:
    config = transformers.BartConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=16, decoder_start_token_id=END, **IDS,
    )  # fmt: skip
    return seeded(transformers.BartModel, config)


def gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=16, **IDS)
    return seeded(transformers.GPT2LMHeadModel, config)


def clip() -> Any:
    text = TINY | IDS | {"max_position_embeddings": 16}
    vision = TINY | {"image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return seeded(transformers.CLIPModel, config)


def clip_text() -> Any:
    return seeded(transformers.CLIPTextModel, clip().config.text_config)


def chinese_clip() -> Any:
    text = TINY | IDS | {"max_position_embeddings": 16}
    vision = TINY | {"image_size": 8, "patch_size": 4}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return seeded(transformers.ChineseCLIPModel, config)


def xclip() -> Any:
    text = TINY | IDS | {"max_position_embeddings": 16}
    vision = TINY | {"image_size": 8, "patch_size": 4, "num_frames": 2, "mit_hidden_size": 12}
    vision |= {"mit_intermediate_size": 16, "mit_num_hidden_layers": 1, "mit_num_attention_heads": 2}
    config = transformers.XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=12, prompt_num_attention_heads=2
    )
    return seeded(transformers.XCLIPModel, config)


@dataclass(frozen=True)
class Case:
    """A model, the part of it that reads text, and what pools it."""

    build: Callable[[], Any]
    reader: Callable[[Any], Any]
    pooler: Callable[[Any, dict[str, Tensor]], Tensor] | None = None


def projected(model: Any, given: dict[str, Tensor]) -> Tensor:
    found: Tensor = model.get_text_features(**given).pooler_output
    return found


CASES = {
    "bert": Case(bert, lambda m: m.bert, lambda m, given: m.bert(**given).pooler_output),
    "roberta": Case(roberta, lambda m: m.roberta),
    "t5": Case(t5, lambda m: m.encoder),
    "bart": Case(bart, lambda m: m.encoder),
    "gpt2": Case(gpt2, lambda m: m.transformer),
    "clip": Case(clip, lambda m: m.text_model, projected),
    "clip_text": Case(clip_text, lambda m: m, lambda m, given: m(**given).pooler_output),
    "chinese_clip": Case(chinese_clip, lambda m: m.text_model, projected),
    "xclip": Case(xclip, lambda m: m.text_model, projected),
}


def saved(folder: Path, name: str) -> Any:
    model = CASES[name].build()
    model.save_pretrained(folder)
    tokeniser(folder)
    return model


def loaded(folder: Path, pooling: Pooling = "none", kept: Path | None = None) -> PretrainedText:
    return PretrainedText(model=str(folder), pooling=pooling, vocab=len(PIECES), kept=kept).eval()


def pooled_by_hand(pooling: Pooling, model: Any, case: Case, given: dict[str, Tensor]) -> Tensor:
    if pooling == "pooler":
        assert case.pooler is not None
        return case.pooler(model, given)
    h, lengths = case.reader(model)(**given).last_hidden_state, given["attention_mask"].sum(1)
    if pooling == "mean":
        return torch.stack([row[:n].mean(0) for row, n in zip(h, lengths, strict=True)])
    return torch.stack([row[0 if pooling == "first" else n - 1] for row, n in zip(h, lengths, strict=True)])


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_every_token_is_what_transformers_makes_of_it(tmp_path: Path, name: str) -> None:
    model = saved(tmp_path, name)
    given = AutoTokenizer.from_pretrained(tmp_path)(
        TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False
    )
    expected = CASES[name].reader(model)(**given).last_hidden_state
    tokens, mask = PretrainedTokenizer(tmp_path, max_tokens=12).batch(TEXTS)
    encoder = loaded(tmp_path)
    found = encoder(tokens, mask)
    assert encoder.dim == expected.shape[2] == found.x.shape[2]
    assert torch.equal(found.mask, mask)
    assert found.x.dtype == torch.float32
    real = given["attention_mask"].bool()
    torch.testing.assert_close(found.x[mask], expected[real], rtol=1e-5, atol=1e-5)
    assert (found.x[~mask] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "pooling"), [(n, p) for n in CASES for p in POOLINGS[1:] if p != "pooler" or CASES[n].pooler]
)
def test_pooled_vectors_are_those_of_transformers(tmp_path: Path, name: str, pooling: Pooling) -> None:
    model = saved(tmp_path, name)
    given = AutoTokenizer.from_pretrained(tmp_path)(
        TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False
    )
    expected = pooled_by_hand(pooling, model, CASES[name], given)
    encoder = loaded(tmp_path, pooling)
    found = encoder(*PretrainedTokenizer(tmp_path, max_tokens=12).batch(TEXTS))
    assert found.x.shape == (3, 1, encoder.dim)
    assert found.mask.all()
    torch.testing.assert_close(found.x[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["roberta", "t5", "bart", "gpt2"])
def test_a_pooler_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    """RoBERTa's class has one, of which its checkpoint has no weights."""
    saved(tmp_path, name)
    said = "keys missing: pooler" if name == "roberta" else rf"pooling: 'pooler', but {name} has none; expected none,"
    with pytest.raises(RecipeError, match=rf"encoders\.text\..*{said}"):
        loaded(tmp_path, "pooler")


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pooling", ["none", "last"])
def test_absent_texts_and_masked_tokens_say_nothing(tmp_path: Path, name: str, pooling: Pooling) -> None:
    saved(tmp_path, name)
    encoder = loaded(tmp_path, pooling)
    tokens, mask = PretrainedTokenizer(tmp_path, max_tokens=10).batch([*TEXTS, None])
    found = encoder(tokens, mask)
    assert not found.mask[3].any()
    assert (found.x[3] == 0).all()
    assert found.x.isfinite().all()
    for garbage in (4, -100):  # a real token's id, and none at all
        assert torch.equal(encoder(torch.where(mask, tokens, garbage), mask).x, found.x)
    alone = encoder(tokens[1:2], mask[1:2])
    torch.testing.assert_close(alone.x[0], found.x[1], rtol=1e-5, atol=1e-5)
    nothing = encoder(tokens, torch.zeros_like(mask))
    assert (nothing.x == 0).all()
    assert not nothing.mask.any()
    assert nothing.x.shape == found.x.shape


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "pooling"), [("bert", "pooler"), ("t5", "none"), ("bart", "mean"), ("clip", "pooler")]
)
def test_keep_rebuilds_without_the_checkpoint(tmp_path: Path, name: str, pooling: Pooling) -> None:
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.mkdir()
    kept.mkdir()
    saved(source, name)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    encoder = loaded(source, pooling)
    encoder.keep(kept)
    given = PretrainedTokenizer(source, max_tokens=8).batch(TEXTS)
    expected = encoder(*given).x
    state = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    for file in source.iterdir():
        file.unlink()
    rebuilt = loaded(source, pooling, kept)
    rebuilt.load_state_dict(state)
    assert torch.equal(rebuilt(*PretrainedTokenizer(kept, max_tokens=8).batch(TEXTS)).x, expected)
    assert rebuilt.licence == encoder.licence == f"{source}: apache-2.0"
    again = tmp_path / "again"
    again.mkdir()
    rebuilt.keep(again)
    assert {f.name: f.read_bytes() for f in again.iterdir()} == {f.name: f.read_bytes() for f in kept.iterdir()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_every_weight_learns(tmp_path: Path, name: str, pooling: Pooling) -> None:
    """What has no say, such as the vision side of CLIP, is not there: it would stop training in several processes."""
    saved(tmp_path, name)
    encoder = loaded(tmp_path, pooling)
    found = encoder(*PretrainedTokenizer(tmp_path, max_tokens=8).batch(TEXTS))
    (found.x * torch.randn(found.x.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None] == []
    assert not [key for key in encoder.state_dict() if "vision" in key or "decoder" in key or "logit_scale" in key]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_toy_keeps_the_contract(pooling: Pooling) -> None:
    check_encoder(PretrainedText(pooling=pooling))


def test_toy_is_kept_as_well(tmp_path: Path) -> None:
    toy = PretrainedText(vocab=40).eval()
    toy.keep(tmp_path)
    rebuilt = PretrainedText(vocab=40, kept=tmp_path).eval()
    rebuilt.load_state_dict(toy.state_dict())
    given = torch.arange(40)[None], torch.ones(1, 40, dtype=torch.bool)
    assert torch.equal(rebuilt(*given).x, toy(*given).x)
    assert toy.licence == rebuilt.licence == ""


def test_training_is_on_from_the_start(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    encoder = PretrainedText(model=str(tmp_path), vocab=len(PIECES))
    assert all(module.training for module in encoder.modules())
    assert PretrainedText.own_tokenizer


def test_dropout_is_on_the_features(tmp_path: Path) -> None:
    encoder = PretrainedText(dropout=0.5)
    x, mask = torch.ones(64, 4, dtype=torch.int64), torch.ones(64, 4, dtype=torch.bool)
    assert 0.4 < (encoder(x, mask).x == 0).float().mean() < 0.6
    assert (encoder.eval()(x, mask).x != 0).all()
    with pytest.raises(RecipeError, match=r"encoders\.text\.dropout: 1\.0, expected 0 <= dropout < 1"):
        PretrainedText(dropout=1.0)


@pytest.mark.parametrize(("name", "longest"), [("bert", 16), ("roberta", 16), ("clip", 16), ("xclip", 16)])
def test_longer_texts_than_there_are_positions_for_are_refused(tmp_path: Path, name: str, longest: int) -> None:
    """RoBERTa has 18 positions, and counts from that of the padding token on."""
    saved(tmp_path, name)
    encoder = loaded(tmp_path)
    assert encoder.max_tokens == longest
    x, mask = torch.full((1, longest + 1), 4), torch.ones(1, longest + 1, dtype=torch.bool)
    assert encoder(x[:, 1:], mask[:, 1:]).x.isfinite().all()
    with pytest.raises(ValueError, match=f"text: {longest + 1} tokens, .* reads at most {longest}"):
        encoder(x, mask)


def test_a_tokeniser_that_knows_more_than_the_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    with pytest.raises(RecipeError, match=r"encoders\.text\.model: .* knows 12 tokens, its tokeniser has 13"):
        PretrainedText(model=str(tmp_path), vocab=13)


def test_a_folder_without_tokeniser_is_refused(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"encoders\.text\.model: .* has no tokeniser, expected"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            transformers.SiglipTextConfig(**TINY, vocab_size=12),
            "is a siglip_text_model, which reads texts without a mask",
        ),
        (transformers.ViTConfig(**TINY), "is a vit, expected a model that reads text"),
    ],
)
def test_what_does_not_read_text_alone_is_refused(tmp_path: Path, config: Any, said: str) -> None:
    config.save_pretrained(tmp_path)
    tokeniser(tmp_path)
    with pytest.raises(RecipeError, match=rf"encoders\.text\.model: .* {said}"):
        loaded(tmp_path)


def test_a_corrupted_checkpoint_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, "clip")
    model.text_model.encoder.layers[1].mlp.fc1.bias = None
    model.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"1 keys missing: text_model\.encoder\.layers\.1\.mlp\.fc1\.bias"):
        loaded(tmp_path)


def test_half_precision_autocast_stays_near(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    encoder = loaded(tmp_path)
    given = PretrainedTokenizer(tmp_path, max_tokens=8).batch([*TEXTS, None])
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(*given).x.float()
    torch.testing.assert_close(half, encoder(*given).x, atol=0.1, rtol=0.1)
