"""What is wrong with texts: empty, garbled, in another language, too long, the same again."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict

from kinetext.doctor.findings import Finding, counted, found
from kinetext.doctor.labels import same_name
from kinetext.doctor.subject import Subject
from kinetext.manifest import Row
from kinetext.text import count_scripts, split

_MOST = 0.9  # share of texts in one script, from which another one is odd
_ENOUGH = 10  # texts, to speak of a majority
_SHOWN = 60  # characters

# what each byte becomes where UTF-8 is read as Windows-1252; its five undefined bytes become control characters
_BYTES = {bytes([byte]).decode("cp1252", errors="ignore") or chr(byte): byte for byte in range(0x80, 0x100)}
_GARBLED = re.compile(f"[{re.escape(''.join(_BYTES))}\u0080-\u009f]{{2,}}")
_CLOSING = set("”’»›…—–")  # what may follow the last letter of a word
_SPACE = {"\u00a0"}  # what may stand before that in French
_HAN_RUN = re.compile(r"[^\x00-\x7f]{2,}")


def check(subject: Subject) -> list[Finding]:
    """Everything about the texts."""
    texts = {row.number: text for row in subject.rows if (text := subject.text(row)) and text.strip()}
    if not texts:
        return []
    rows = {row.number: row for row in subject.rows}
    return [
        *_empty(subject, texts),
        *_garbled(texts),
        *_languages(texts),
        *_long(subject, texts),
        *_again(subject, texts, rows),
    ]


def _empty(subject: Subject, texts: dict[int, str]) -> list[Finding]:
    rows = [row.number for row in subject.rows if row.number not in texts and row.number not in subject.broken]
    few = 2 * len(rows) < len(subject.rows)
    return found(
        "text-empty",
        "warning" if few else "note",
        f"{counted(len(rows), 'row has', 'rows have')} no text.",
        "Fill them in; a missing text is legal, and then only the clip is read.",
        rows,
    )


def _garbled(texts: dict[int, str]) -> list[Finding]:
    rows = {
        number: f"{text[:_SHOWN]!r} for {right[:_SHOWN]!r}" for number, text in texts.items() if (right := mended(text))
    }
    return found(
        "text-garbled",
        "warning",
        f"{counted(len(rows), 'text was', 'texts were')} written in UTF-8 and read as another encoding on the way here.",
        "Make the table anew from its source, read as UTF-8.",
        rows,
    )


def mended(text: str) -> str:
    """What a text was before its UTF-8 was read as Windows-1252, Latin-1 or GBK; "" where it was not.

    Bytes that were read wrongly are valid UTF-8 again, which real texts in these encodings practically never are
    (the idea of the library ftfy).
    """
    if "\ufffd" in text or "锟斤拷" in text:
        return text.replace("锟斤拷", "\ufffd")
    if _is_western(text):
        return _GARBLED.sub(lambda match: _from_western(match[0]) or match[0], text)
    chinese = _HAN_RUN.sub(lambda match: _from_gbk(match[0]) or match[0], text)
    return chinese if chinese != text else ""


def _is_western(text: str) -> bool:
    """Whether runs of accents and signs in a text were UTF-8, and not accents before a quotation mark, whose bytes may by
    chance be those of one letter.
    """
    around = script(_GARBLED.sub(" ", text))
    doubtful = set()
    for match in _GARBLED.finditer(text):
        found = _from_western(match[0])
        if len(found) > 1:
            return True
        if not found or not _fits(found, match[0], around):
            continue
        after = set(match[0][1:])
        ends_a_word = after <= _CLOSING | _SPACE and after != _SPACE
        if not ends_a_word or text[match.end() : match.end() + 1].isalpha():
            return True
        doubtful.add(found)
    return len(doubtful) > 1


def _fits(letter: str, run: str, around: str) -> bool:
    """Whether a letter or sign that a run would have been could stand in its text."""
    if len(run) == 2 and run[0] not in "ÂÃ":
        return False  # what is left are letters of few languages, which come in several runs
    if letter.isalpha():
        return script(letter) == (around or script(letter)) != ""
    return unicodedata.category(letter)[0] in "PSZ"


def _from_western(run: str) -> str:
    """What a run of accents and signs was; "" where it is none of UTF-8."""
    try:
        return bytes(_BYTES.get(letter, ord(letter)) for letter in run).decode()
    except UnicodeDecodeError:
        return ""


def _from_gbk(run: str) -> str:
    try:
        raw = run.encode("gb18030")
    except UnicodeEncodeError:
        return ""
    right = raw.decode("utf-8", errors="ignore")
    lost = len(raw) - len(right.encode())
    if lost > 2 or len(right) < 2 or lost * 4 > len(raw):
        return ""  # the last character may be torn, no other one
    common, before = _common(right), _common(run)
    return right if common >= 0.6 and common > before else ""


def _common(text: str) -> float:
    """The share of a text that is among the 3,755 characters that Chinese is mostly written with: level 1 of GB 2312."""
    frequent = 0
    for letter in text:
        code = letter.encode("gb2312", errors="ignore")
        frequent += len(code) == 2 and 0xB0 <= code[0] <= 0xD7
    return frequent / len(text)


def script(text: str) -> str:
    """The script that most letters of a text are in; "" where it has none. Chinese characters with Japanese ones among
    them are Japanese.
    """
    counts = count_scripts(text)
    return max(counts, key=lambda name: counts[name]) if counts else ""


def _languages(texts: dict[int, str]) -> list[Finding]:
    scripts = {number: one for number, text in texts.items() if (one := script(text))}
    most, count = Counter(scripts.values()).most_common(1)[0] if scripts else ("", 0)
    if count < _ENOUGH or count < _MOST * len(scripts):
        return []
    rows = {number: f"{one}: {texts[number][:_SHOWN]!r}" for number, one in scripts.items() if one != most}
    return found(
        "text-language",
        "warning",
        f"{counted(len(rows), 'text is', 'texts are')} in another script than the {most} of {count / len(scripts):.0%} of them.",
        "Check that they belong here; a tokeniser of words learns little from so few.",
        rows,
    )


def _long(subject: Subject, texts: dict[int, str]) -> list[Finding]:
    how, most = subject.plan.tokenizer, subject.plan.max_tokens
    if how is None or not most:
        return []
    lengths = {number: len(split(text, how)) for number, text in texts.items()}
    rows = {number: f"{length} tokens" for number, length in lengths.items() if length > most}
    return found(
        "text-long",
        "warning",
        f"{counted(len(rows), 'text has', 'texts have')} more than {most} tokens (text.max_tokens), and what is behind them is not read; the longest has {max(lengths.values())}.",
        "Raise text.max_tokens, or shorten the texts.",
        rows,
    )


def _again(subject: Subject, texts: dict[int, str], rows: dict[int, Row]) -> list[Finding]:
    same: dict[str, list[int]] = defaultdict(list)
    for number, text in texts.items():
        same[text.strip()].append(number)
    repeated = {text: numbers for text, numbers in same.items() if len(numbers) > 1}
    if not repeated:
        return []
    most = max(repeated, key=lambda text: len(repeated[text]))
    findings = [
        Finding(
            "text-repeated",
            "note",
            f"{counted(sum(map(len, repeated.values())), 'row', 'rows')} share {counted(len(repeated), 'text')}; the most frequent one is in {len(repeated[most])}: {most[:_SHOWN]!r}.",
            "Nothing to do where texts name classes; for retrieval and captions, such rows can't be told apart.",
        )
    ]
    across = [
        n for numbers in repeated.values() if len({subject.split(rows[row]) for row in numbers}) > 1 for n in numbers
    ]
    findings += found(
        "text-across-splits",
        "note",
        f"{counted(len(across), 'row has', 'rows have')} a text that another split has, too.",
        "A reader of texts alone has seen them; look at the text-only score.",
        across,
    )
    return findings + [one for column in subject.columns for one in _conflicts(subject, repeated, rows, column)]


def _conflicts(subject: Subject, repeated: dict[str, list[int]], rows: dict[int, Row], column: str) -> list[Finding]:
    """The same text with different labels: wrong where the text is all there is."""
    if column in subject.plan.multi:
        return []
    alone: dict[int, str] = {}
    with_clip: dict[int, str] = {}
    for numbers in repeated.values():
        labels = {number: label for number in numbers if (label := rows[number].labels.get(column))}
        if len(set(map(same_name, labels.values()))) > 1:
            for number, label in labels.items():
                (with_clip if rows[number].file else alone)[number] = label
    return [
        *found(
            "text-conflict",
            "warning",
            f"{column}: {counted(len(alone), 'row', 'rows')} without a clip {'has' if len(alone) == 1 else 'have'} the text of another row and another label.",
            "One of them is wrong, or the text does not say what the label asks.",
            alone,
            column,
        ),
        *found(
            "text-ambiguous",
            "note",
            f"{column}: {counted(len(with_clip), 'row has', 'rows have')} the text of another row and another label: the clip has to tell them apart.",
            "Nothing to do where clips are read.",
            with_clip,
            column,
        ),
    ]
