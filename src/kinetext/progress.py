"""What a run says while it trains: the live line, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from torch import Tensor

from kinetext.checkpoint import Run
from kinetext.config import TrainConfig
from kinetext.types import RunError


class Meter:
    """Counts clips and seconds, writes records, shows progress with an estimate of the time left.

    Args:
        first: the step that the run continues from.
        quiet: no live line.
        writes: whether this process keeps the records; one of several does.
    """

    def __init__(self, run: Run, config: TrainConfig, *, first: int, quiet: bool, writes: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.config = run, config
        self.board: Any = SummaryWriter(str(run.path / "tensorboard"), purge_step=first + 1) if writes else None
        self.console = Console(stderr=True, quiet=quiet)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[line]}"),
            console=self.console, disable=quiet or not self.console.is_terminal,
        )  # fmt: skip
        self.row = self.bar.add_task(run.path.name, total=1.0, line="starting")
        self.clips, self.since = 0, time.monotonic()
        self.start: tuple[float, float] | None = None

    def __enter__(self) -> Meter:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.board:
            self.board.close()

    def step(
        self,
        step: int,
        progress: float,
        seconds: float,
        logged: Mapping[str, Mapping[str, Tensor]],
        lr: float,
        clips: int,
    ) -> None:
        """After every step; writes a record every ``log_every`` steps."""
        self.clips += clips
        if self.start is None:
            self.start = (progress, seconds)
        if step % self.config.log_every and progress < 1:
            return
        self.check(step, logged)
        speed = self.clips / max(time.monotonic() - self.since, 1e-9)
        self.clips, self.since = 0, time.monotonic()
        several = len(logged) > 1
        values = {f"{p}/{k}" if several else k: float(v) for p, part in logged.items() for k, v in part.items()}
        values = {f"train/{k}": v for k, v in values.items()}
        self._write(step, {**values, "train/lr": lr, "train/clips_per_second": speed, "train/seconds": seconds})
        left = self._left(progress, seconds)
        loss = " ".join(f"{p + ' ' if several else ''}loss {float(part['loss']):.4f}" for p, part in logged.items())
        line = f"step {step}/{self.config.steps} {loss} {speed:.0f} clips/s, {left} left"
        self.bar.update(self.row, completed=progress, line=line)
        if not self.console.is_terminal:
            self.console.print(line, highlight=False)

    def check(self, step: int, logged: Mapping[str, Mapping[str, Tensor]]) -> None:
        """A loss that is no longer a number ends the run before anything bad is saved."""
        for player, part in logged.items():
            if not math.isfinite(float(part["loss"])):
                raise RunError(
                    f"loss of {player}: {float(part['loss'])} at step {step}; lower train.lr or set train.clip. "
                    "The last saved state is untouched"
                )

    def evaluated(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes and shows what an evaluation measured."""
        self._write(step, numbers)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.console.print(f"step {step}: {shown}", highlight=False)
        self.clips, self.since = 0, time.monotonic()

    def _left(self, progress: float, seconds: float) -> str:
        first_progress, first_seconds = self.start or (0.0, 0.0)
        if progress <= first_progress:
            return "?"
        left = (seconds - first_seconds) / (progress - first_progress) * (1 - progress)
        minutes, rest = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}"

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if not self.board:
            return
        self.run.log({"step": step, **values})
        for name, value in values.items():
            self.board.add_scalar(name, value, step)


def tell(lines: Sequence[str], *, quiet: bool = False) -> None:
    """Lines on stderr."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    for line in lines:
        console.print(line, highlight=False, markup=False)


@contextmanager
def bar(what: str, *, quiet: bool = False, lines: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with an estimate of the time left, for a terminal only.

    Args:
        lines: elsewhere a line every ten seconds, and one at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        row = shown.add_task(what, total=None)
        said = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal said
            shown.update(row, completed=done, total=total)
            if lines and not console.is_terminal and (done == total or time.monotonic() - said > 10):
                console.print(f"{what}: {done}/{total}")
                said = time.monotonic()

        yield show
