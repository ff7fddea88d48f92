"""Garbled texts are told from real ones, whatever language they are in."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinetext.doctor.texts import mended, script

SHARED = Path(__file__).parents[3] / "shared" / "data" / "text_sentiment"
REAL = {
    "English": "A person points at something – it's the “red” one, isn't it?",
    "French": "Où est passée la leçon d'été ? À côté de l'école, dit Noël : « ÇA VA, É” »",
    "German": "Größere Übungen für Ärzte, öfter als früher; Maß und Fuß",
    "Spanish": "¿Dónde está el niño? ¡Mañana vendrá a las 5 €!",
    "Polish": "Zażółć gęślą jaźń, powiedział mężczyzna",
    "Vietnamese": "Một người đàn ông đang đi bộ trong công viên",
    "Chinese": "一个人在公园里慢慢地走着，旁边有一只猫。酒店的早餐不错，房间也干净！",
    "Traditional": "兩個人在握手，後面還有一個觀眾。",
    "Japanese": "公園を歩いている人がいます。とても楽しそうです。",
    "Korean": "한 사람이 공원에서 천천히 걷고 있다.",
    "Russian": "Человек медленно идёт по парку.",
    "Greek": "Ένας άνθρωπος περπατά στο πάρκο.",
    "Hindi": "एक व्यक्ति पार्क में चल रहा है",
    "emoji": "👍🏽 nice walk 🚶‍♀️",
}


@pytest.mark.parametrize("text", REAL.values(), ids=REAL.keys())
def test_real_texts_are_left_in_peace(text: str) -> None:
    assert mended(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Il dit : «\u00a0un café\u00a0»",
        "«\u00a0Voilà\u00a0», «\u00a0café\u00a0» et «\u00a0très\u00a0»",
        "himlen är “blå…” och havet",
        "the “café”—a small one",
        "o filme “AMANHÃ” de ontem",
        "dónde «está…», ¿allá…?",
    ],
)
def test_accents_before_quotation_marks_are_left_in_peace(text: str) -> None:
    """Their bytes in Windows-1252 happen to be UTF-8, of a letter that none of the others is like."""
    assert mended(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "déjà",
        "an Ö",
        "I met 李雷 there",
        "dû à lui",
        "walk 👍 on",
        "wait — what",
        "voilà, no",
        "10\u00a0 km",
        "5 €",
        "Ôter",
        "Zażółć gęślą",
    ],
)
def test_one_garbled_run_is_enough(text: str) -> None:
    assert mended(text.encode().decode("cp1252", errors="ignore")) or mended(text.encode().decode("latin-1"))


@pytest.mark.parametrize(
    "language", ["French", "German", "Spanish", "Polish", "Vietnamese", "Russian", "Chinese", "emoji"]
)
def test_utf8_read_as_latin1_is_found(language: str) -> None:
    garbled = REAL[language].encode().decode("latin-1")
    assert mended(garbled) == REAL[language]


@pytest.mark.parametrize("text", ["café au lait", "it’s – well – fine", "naïve, déjà vu", "10 °C, 5 €"])
def test_utf8_read_as_windows_1252_is_found(text: str) -> None:
    assert mended(text.encode().decode("cp1252")) == text


@pytest.mark.parametrize("text", ["你好世界", "一个人在公园里走路", "酒店的早餐不错，房间也很干净"])
def test_utf8_read_as_gbk_is_found(text: str) -> None:
    garbled = text.encode().decode("gb18030", errors="replace").replace("\ufffd", "?")
    assert garbled != text
    assert mended(garbled) == text if "?" not in garbled else text[-3:] in mended(garbled)


def test_replacement_characters_are_found() -> None:
    assert mended("caf\ufffd") != ""
    assert mended("锟斤拷锟斤拷") != ""


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/text_sentiment")
def test_no_review_is_taken_for_garbled() -> None:
    """7.7 thousand Chinese hotel reviews and 9.6 thousand English ones: what is told really is garbled."""
    told, seen = [], 0
    for path in sorted(SHARED.iterdir()):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        seen += len(lines)
        told += [line for line in lines if mended(line)]
    assert seen > 10_000
    assert [text for text in told if "\ufffd" not in text] == []


def test_scripts() -> None:
    assert [script(REAL[name]) for name in ("English", "Chinese", "Japanese", "Korean", "Russian", "Greek")] == [
        "Latin", "Chinese", "Japanese", "Korean", "Cyrillic", "Greek",
    ]  # fmt: skip
    assert script("12 + 3 = 15") == ""
    assert script("我喜欢 kinetext 这个库") == "Latin", "as many letters as it has"
