"""Tokenisers: Chinese and English mixed, the vocabulary, the unknown."""

from __future__ import annotations

import unicodedata

import pytest

from kinetext.text import PAD, UNKNOWN, Tokenizer, count_scripts, split
from kinetext.types import DataError


def test_words_are_letters_digits_and_single_chinese_characters() -> None:
    assert split("The digit 37 isn't MOVING, ok?", "word") == [
        "the",
        "digit",
        "3",
        "7",
        "isn't",
        "moving",
        ",",
        "ok",
        "?",
    ]
    assert split("数字3上下移动，digit ７", "word") == ["数", "字", "3", "上", "下", "移", "动", ",", "digit", "7"]
    assert split("Ab  c", "character") == ["a", "b", " ", "c"]
    assert split("größe naïve", "word") == ["größe", "naïve"]


def test_a_round_trip_keeps_known_text() -> None:
    text = "the digit 3 moves 上下移动"
    tokenizer = Tokenizer.train([text], "word", max_tokens=16)
    assert tokenizer.decode(tokenizer.encode(text)) == "the digit 3 moves上下移动"
    letters = Tokenizer.train([text], "character", max_tokens=40)
    assert letters.decode(letters.encode(text)) == text


def test_punctuation_goes_back_to_its_word() -> None:
    text = "grey (dark), not bright; is it? 上下移动,数字7 up."
    tokenizer = Tokenizer.train([text], "word")
    assert tokenizer.decode(tokenizer.encode(text)) == "grey (dark), not bright; is it?上下移动,数字7 up."


def test_the_unknown_is_counted_and_marked() -> None:
    tokenizer = Tokenizer.train(["a b"], "word", max_tokens=4)
    assert tokenizer.encode("a zebra b zebra") == [2, 1, 3, 1]
    assert tokenizer.unknown("a zebra b zebra") == ["zebra"]
    assert tokenizer.length("a a a a a a") == 6 and len(tokenizer.encode("a a a a a a")) == 4


def test_batches_have_one_width_so_that_mates_do_not_matter() -> None:
    tokenizer = Tokenizer.train(["a b c"], "word", max_tokens=5)
    tokens, mask = tokenizer.batch(["a b c", None, ""])
    assert tokens.shape == (3, 5) and mask.sum(1).tolist() == [3, 0, 0]


def test_the_vocabulary_does_not_depend_on_order_and_is_checked() -> None:
    one, two = (Tokenizer.train(texts, "word") for texts in (["b a", "c"], ["c", "a b"]))
    assert one.vocabulary == two.vocabulary == (PAD, UNKNOWN, "a", "b", "c")
    with pytest.raises(DataError, match="starts with"):
        Tokenizer("word", ["a", "b"])
    with pytest.raises(DataError, match="max_tokens: 0"):
        Tokenizer("word", one.vocabulary, max_tokens=0)


def test_letters_are_counted_by_script() -> None:
    """Every letter is of the script that Unicode's name of it begins with."""
    begins = {
        "Latin": "LATIN", "Chinese": "CJK", "Japanese": ("HIRAGANA", "KATAKANA"), "Korean": "HANGUL", "Cyrillic": "CYRILLIC",
        "Greek": ("GREEK", "COPTIC"), "Arabic": "ARABIC", "Hebrew": "HEBREW", "Devanagari": "DEVANAGARI", "Thai": "THAI",
    }  # fmt: skip
    for text in ("naïve Œuvre", "挥手㐀豈𠀀", "ひらカタ", "손ᄀ", "привет", "γειά", "سلام", "שלום", "नमस्", "สวัส"):
        counts = count_scripts(text)
        assert len(counts) == 1
        (name,) = counts
        assert counts[name] == len(text.replace(" ", ""))
        assert all(unicodedata.name(letter).startswith(begins[name]) for letter in text if letter != " ")
    assert count_scripts("手を振る") == {"Japanese": 4}
    assert count_scripts("wave 挥手 3!") == {"Latin": 4, "Chinese": 2}
    assert count_scripts("3!") == {}
