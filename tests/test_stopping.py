"""Ctrl-C in verbs that go on where they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from kinetext import cli


@pytest.mark.parametrize(
    ("verb", "work"),
    [
        (("doctor", "DIR"), "doctoring.examine"),
        (("data", "pack", "DIR", "DIR/out"), "packing.pack"),
        (("predict", "digits", "DIR", "-o", "DIR/said.csv"), "predicting.predict"),
    ],
)
def test_work_that_goes_on_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...], work: str
) -> None:
    def stop(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"kinetext.apps.{work}", stop)
    done = CliRunner().invoke(cli.app, [word.replace("DIR", str(tmp_path)) for word in verb])
    assert done.exit_code == 130
    assert done.stderr == "kinetext: stopped; what is done is kept, and the same command goes on\n"
