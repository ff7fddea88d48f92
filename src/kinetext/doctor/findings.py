"""What is wrong with a dataset: findings, each with a code that stays, the rows it is about, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kinetext.types import joined

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_SHOWN = 5  # rows that a sentence names


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Args:
        code: its name, which stays the same from release to release, such as "duplicate-across-splits".
        severity: an "error" makes training fail or its numbers wrong; a "warning" may; a "note" is good to know.
        text: a plain sentence.
        advice: what to do.
        details: row number -> what is the matter there, "" where the sentence says it all; in table order.
        column: the label column it is about, or "".
    """

    code: str
    severity: Severity
    text: str
    advice: str
    details: Mapping[int, str] = field(default_factory=dict)
    column: str = ""

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows it is about."""
        return tuple(self.details)

    def line(self) -> str:
        """The finding in one line, with the first five rows."""
        shown = [f"{row}" + (f" ({what})" if what else "") for row, what in list(self.details.items())[:_SHOWN]]
        more = f" and {len(self.details) - _SHOWN} more" if len(self.details) > _SHOWN else ""
        rows = f" Row{'s' if len(self.details) > 1 else ''} {', '.join(shown)}{more}." if shown else ""
        return f"{self.text}{rows}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, with all rows."""
        return {
            "code": self.code,
            "severity": self.severity,
            "text": self.text,
            "advice": self.advice,
            "column": self.column,
            "rows": [{"row": row, "what": what} for row, what in self.details.items()],
        }


def found(
    code: str,
    severity: Severity,
    text: str,
    advice: str,
    rows: Mapping[int, str] | Iterable[int] = (),
    column: str = "",
) -> list[Finding]:
    """The finding where there are rows it is about, and nothing where there are none."""
    details = dict(rows) if isinstance(rows, Mapping) else dict.fromkeys(rows, "")
    if not details:
        return []
    return [Finding(code, severity, text, advice, dict(sorted(details.items())), column)]


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; each in the order found."""
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def some(values: Sequence[object], most: int = 5) -> str:
    """A few values, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return joined([repr(v) if isinstance(v, str) else v for v in values[:most]]) + more


def counted(number: int, one: str, several: str = "") -> str:
    """ "1 row", "2 rows", "1,234 rows"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
