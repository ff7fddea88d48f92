"""What files can't be read, and what of them is odd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

from kinetext.doctor.facts import Facts, Trouble
from kinetext.doctor.findings import Finding, Severity, counted, found, some
from kinetext.doctor.subject import Subject, part
from kinetext.manifest import Row

_BLACK = 0.95  # share of its frames, from which a clip is black
_FROZEN = 3.0  # of 255: codecs change a still picture by less
_SMALL = 32  # pixels
_LONG = 4.0  # sides to each other

_TROUBLES: tuple[tuple[Trouble, str, str], ...] = (
    (
        "missing",
        "names a file that is not there|name files that are not there",
        "Bring the files back, or leave the rows out.",
    ),
    ("empty", "has an empty file|have empty files", "Copy the files again, or leave the rows out."),
    (
        "audio-only",
        "has a file with sound and no picture|have files with sound and no picture",
        "Find the files with pictures, or clear file_name where a text is enough.",
    ),
    ("truncated", "has a file that ends too soon|have files that end too soon", "Copy or download the files again."),
    (
        "unreadable",
        "has a file that can't be decoded|have files that can't be decoded",
        "Mend or replace the files, or leave the rows out.",
    ),
)


def check(subject: Subject, untracked: Sequence[str] = ()) -> list[Finding]:
    """Everything about single files.

    Args:
        untracked: clips in the folder that no row names.
    """
    return [
        *_unreadable(subject),
        *_ranges(subject),
        *_headers(subject),
        *_shown(subject),
        *_short(subject),
        *_shapes(subject),
        *_untracked(untracked),
    ]


def _unreadable(subject: Subject) -> list[Finding]:
    findings = []
    for kind, sentence, advice in _TROUBLES:
        rows = {
            row.number: f"{row.file}: {facts.why}"
            for row in subject.rows
            if row.file and (facts := subject.facts.get(row.file)) and facts.trouble == kind
        }
        one, several = sentence.split("|")
        findings += found(
            f"file-{kind}", "error", counted(len(rows), f"row {one}", f"rows {several}") + ".", advice, rows
        )
    return findings


def _ranges(subject: Subject) -> list[Finding]:
    rows = {}
    for row in subject.rows:
        facts = subject.facts_of(row)
        why = facts.looks.get(part(row)) if facts else None
        if isinstance(why, str):
            rows[row.number] = f"{row.file}: {why}"
    return found(
        "range-outside",
        "error",
        f"{counted(len(rows), 'row names a stretch', 'rows name stretches')} that the file does not have.",
        "Correct start and end; they are seconds from the first frame.",
        rows,
    )


def _headers(subject: Subject) -> list[Finding]:
    return _each(
        subject,
        "frame-count",
        "note",
        lambda row, facts: (
            f"{row.file}: {facts.header_frames} in the header, {facts.num_frames} decoded"
            if facts.header_frames and facts.header_frames != facts.num_frames
            else ""
        ),
        "has a file whose header says another number of frames than it has|"
        "have files whose headers say another number of frames than they have",
        "kinetext counts the frames that are shown; other readers may not. Re-encode them for those.",
    )


def _shown(subject: Subject) -> list[Finding]:
    def black(row: Row, facts: Facts) -> str:
        look = subject.look(row)
        return f"{row.file}: {look.black:.0%} of it" if look and look.black >= _BLACK else ""

    def frozen(row: Row, facts: Facts) -> str:
        look = subject.look(row)
        still = look and facts.num_frames > 1 and look.change < _FROZEN and look.black < _BLACK
        return str(row.file) if still else ""

    def turned(row: Row, facts: Facts) -> str:
        mirror = "mirrored, " if facts.mirrored else ""
        return f"{row.file}: {mirror}turned by {facts.rotation} degrees" if facts.rotation or facts.mirrored else ""

    return [
        *_each(
            subject,
            "black",
            "warning",
            black,
            "is black|are black",
            "Leave these rows out, unless black is what they should show.",
        ),
        *_each(
            subject,
            "frozen",
            "warning",
            frozen,
            "shows one picture that does not move|show one picture that does not move",
            "Leave these rows out, unless stills are what they should be.",
        ),
        *_each(
            subject,
            "variable-rate",
            "warning",
            lambda row, facts: "" if facts.steady else f"{row.file}: {facts.fps:.4g} frames a second in the mean",
            "has frames that are shown for different times|have frames that are shown for different times",
            "Frames are sampled by number, so that motion would come out uneven; re-encode to a constant rate.",
        ),
        *_each(
            subject,
            "turned",
            "note",
            turned,
            "is stored turned or mirrored|are stored turned or mirrored",
            "kinetext shows them upright; not every reader does.",
        ),
    ]


def _short(subject: Subject) -> list[Finding]:
    wanted = subject.plan.num_frames

    def short(row: Row, facts: Facts) -> str:
        have = frames_of(row, facts)
        return f"{row.file}: {counted(have, 'frame')}" if facts.num_frames > 1 and have < wanted else ""

    return _each(
        subject,
        "short",
        "warning",
        short,
        f"has fewer than the {wanted} frames that a clip is read as, so that some are shown twice|"
        f"have fewer than the {wanted} frames that a clip is read as, so that some are shown twice",
        "Lower data.num_frames, or leave these rows out.",
    )


def frames_of(row: Row, facts: Facts) -> int:
    """How many frames the stretch of a row has."""
    if row.start is None and row.end is None:
        return facts.num_frames
    until = facts.seconds if row.end is None else min(row.end, facts.seconds)
    return max(1, min(facts.num_frames, round((until - (row.start or 0.0)) * facts.fps)))


def _shapes(subject: Subject) -> list[Finding]:
    def small(row: Row, facts: Facts) -> str:
        return f"{row.file}: {facts.width}x{facts.height}" if min(facts.width, facts.height) < _SMALL else ""

    def long(row: Row, facts: Facts) -> str:
        sides = sorted((facts.width, facts.height))
        return f"{row.file}: {facts.width}x{facts.height}" if sides[1] > _LONG * sides[0] else ""

    def odd(row: Row, facts: Facts) -> str:
        return f"{row.file}: {facts.width}x{facts.height}" if facts.width % 2 or facts.height % 2 else ""

    return [
        *_each(
            subject,
            "small",
            "warning",
            small,
            f"has a side of fewer than {_SMALL} pixels|have a side of fewer than {_SMALL} pixels",
            "There is little to see in them; find larger copies.",
        ),
        *_each(
            subject,
            "elongated",
            "warning",
            long,
            f"is more than {_LONG:g} times as long as wide|are more than {_LONG:g} times as long as wide",
            'A square crop loses most of them, and fit = "squash" distorts them.',
        ),
        *_each(
            subject,
            "odd-size",
            "note",
            odd,
            "has an odd width or height|have an odd width or height",
            "Nothing to do here; some encoders and readers refuse such sizes.",
        ),
        *_sizes(subject),
    ]


def _sizes(subject: Subject) -> list[Finding]:
    """Aspects that differ are squashed or cut differently."""
    aspects: dict[str, int] = {}
    for row in subject.rows:
        if facts := subject.facts_of(row):
            common = gcd(facts.width, facts.height)
            name = f"{facts.width // common}:{facts.height // common}"
            aspects[name] = aspects.get(name, 0) + 1
    if len(aspects) < 2:
        return []
    most = sorted(aspects, key=lambda name: -aspects[name])
    return [
        Finding(
            "aspects",
            "note",
            f"Clips have {len(aspects)} different aspects: {some([f'{name} ({aspects[name]})' for name in most])}.",
            "See the shortcut test for whether the shape of a clip gives its label away.",
        )
    ]


def _untracked(files: Sequence[str]) -> list[Finding]:
    if not files:
        return []
    return [
        Finding(
            "untracked",
            "note",
            f"{counted(len(files), 'clip is', 'clips are')} in the folder, and no row names {'it' if len(files) == 1 else 'them'}: {some(list(files))}.",
            "Add rows for them if they belong to the data.",
        )
    ]


def _each(
    subject: Subject,
    code: str,
    severity: Severity,
    what: Callable[[Row, Facts], str],
    sentence: str,
    advice: str,
) -> list[Finding]:
    """A finding about every row whose file can be read and of which ``what`` says something."""
    rows = {row.number: said for row in subject.rows if (facts := subject.facts_of(row)) and (said := what(row, facts))}
    one, several = sentence.split("|")
    return found(code, severity, counted(len(rows), f"clip {one}", f"clips {several}") + ".", advice, rows)
