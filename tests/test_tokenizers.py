"""Tokenisers of pretrained models: ids by hand, the library's own padding, cuts, what is absent, what is unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from kinetext.tokenizers import PretrainedTokenizer, files_of
from kinetext.types import DataError, RecipeError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "run", "##s", "##ning", "一", "只", "猫", "."]
TEXTS = ["A cat runs.", "一只猫 running", "cats run a cat", "a"]


def wordpiece(folder: Path, longest: int = 32) -> Path:
    """As BERT has it: lower case, single Chinese characters, [CLS] ... [SEP]."""
    made = Tokenizer(WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.decoder = decoders.WordPiece()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=longest, **special).save_pretrained(folder)
    return folder


def bytes_bpe(folder: Path) -> Path:
    """As RoBERTa has it: over bytes, <s> ... </s>, padded with id 1."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "ca", "cat", "Ġcat"])}
    made = Tokenizer(BPE(vocab, [("c", "a"), ("ca", "t"), ("Ġ", "cat")], unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    made.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return folder


def unigram(folder: Path) -> Path:
    """As T5 has it: pieces of words, ... </s>."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁cat", "▁run", "s", "ning", "."]
    made = Tokenizer(Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.decoder = decoders.Metaspace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return folder


KINDS = [wordpiece, bytes_bpe, unigram]


def test_ids_by_hand(tmp_path: Path) -> None:
    tokenizer = PretrainedTokenizer(wordpiece(tmp_path))
    assert tokenizer.encode("A cat runs.") == [2, 4, 5, 6, 7, 12, 3]
    assert tokenizer.encode("一只猫") == [2, 9, 10, 11, 3]
    assert tokenizer.encode("a dog") == [2, 4, 1, 3]
    assert tokenizer.vocabulary == tuple(PIECES)
    assert len(tokenizer) == 13
    assert tokenizer.decode([2, 4, 5, 6, 7, 3, 0, 0]) == "a cat runs"


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_what_the_library_pads_itself(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    folder = kind(tmp_path)
    tokens, mask = PretrainedTokenizer(folder, max_tokens=12).batch(TEXTS)
    own = AutoTokenizer.from_pretrained(folder)
    expected = own(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    assert tokens.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert torch.equal(tokens, expected["input_ids"])
    assert torch.equal(mask, expected["attention_mask"].bool())
    assert mask.any(1).all()
    assert not mask.all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nothing", [None, "", " ", "\n\t "])
def test_no_text_is_absent(tmp_path: Path, kind: Callable[[Path], Path], nothing: str | None) -> None:
    tokenizer = PretrainedTokenizer(kind(tmp_path))
    tokens, mask = tokenizer.batch([nothing, "a cat"])
    assert not mask[0].any()
    assert mask[1].any()
    assert tokens.shape == (2, 32)
    assert tokenizer.encode(nothing or "") == []
    assert tokenizer.length(nothing or "") == 0


def test_a_cut_keeps_the_special_tokens_and_length_tells_of_it(tmp_path: Path) -> None:
    tokenizer = PretrainedTokenizer(wordpiece(tmp_path), max_tokens=4)
    assert tokenizer.encode("a cat runs a cat") == [2, 4, 5, 3]
    assert tokenizer.length("a cat runs a cat") == 8
    assert tokenizer.encode("a cat") == [2, 4, 5, 3]


def test_longer_texts_than_the_model_reads_have_a_length_and_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert PretrainedTokenizer(wordpiece(tmp_path), max_tokens=8).length("cat " * 50) == 52
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("kind", "expected"), [(wordpiece, ["Dog", "jumps"]), (bytes_bpe, []), (unigram, ["Dog", "jump"])]
)
def test_unknown_words_in_order(tmp_path: Path, kind: Callable[[Path], Path], expected: list[str]) -> None:
    tokenizer = PretrainedTokenizer(kind(tmp_path))
    assert [word.strip() for word in tokenizer.unknown("a Dog jumps a Dog run")] == expected
    assert tokenizer.unknown("a cat") == []
    assert tokenizer.unknown("") == []


def test_a_tokeniser_that_is_written_in_python_serves_as_well(tmp_path: Path) -> None:
    ByT5Tokenizer(extra_ids=0).save_pretrained(tmp_path)
    tokenizer = PretrainedTokenizer(tmp_path)
    assert tokenizer.encode("ab") == [ord("a") + 3, ord("b") + 3, 1]  # bytes after <pad> </s> <unk>
    assert tokenizer.unknown("猫") == []
    assert tokenizer.decode(tokenizer.encode("一只猫")) == "一只猫"


class Encoded(Dataset[list[int]]):
    def __init__(self, tokenizer: PretrainedTokenizer) -> None:
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> list[int]:
        return self.tokenizer.encode(TEXTS[index])


def test_forked_workers_encode_alike_and_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = PretrainedTokenizer(wordpiece(tmp_path))
    expected = [tokenizer.encode(text) for text in TEXTS]  # used before the fork, which is what the library warns of
    loader = DataLoader(Encoded(tokenizer), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert list(loader) == expected
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_kept_files_encode_alike(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = PretrainedTokenizer(kind(tmp_path / "a"), max_tokens=9)
    for name, content in files_of(tmp_path / "a").items():
        (tmp_path / "b" / name).write_bytes(content)
    kept = PretrainedTokenizer(tmp_path / "b", max_tokens=9)
    assert [kept.encode(text) for text in TEXTS] == [source.encode(text) for text in TEXTS]
    assert kept.vocabulary == source.vocabulary


@pytest.mark.parametrize("wrong", [2, 17, 0])
def test_a_width_that_can_not_be_is_refused(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(DataError, match=rf"text.max_tokens: {wrong}, expected at least 3 \(2 are .* at most 16, what"):
        PretrainedTokenizer(wordpiece(tmp_path, longest=16), max_tokens=wrong)


def test_a_vocabulary_alone_will_do(tmp_path: Path) -> None:
    """As early checkpoints of BERT have it."""
    (tmp_path / "vocab.txt").write_text("\n".join([*PIECES, "[MASK]"]), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    assert PretrainedTokenizer(tmp_path).encode("一 cats") == [2, 9, 5, 7, 3]


def test_a_folder_without_tokeniser_is_refused(tmp_path: Path) -> None:
    """Where only the kind of model is known, the library would make a tokeniser that knows nothing."""
    with pytest.raises(RecipeError, match=r"encoders\.text\.model: .* has no tokeniser that can be read"):
        PretrainedTokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"model: .* has no tokeniser, expected tokenizer\.json, vocab\.txt"):
        PretrainedTokenizer(tmp_path)
    with pytest.raises(RecipeError, match=r"encoders\.text\.model: '', expected a folder"):
        PretrainedTokenizer("")
