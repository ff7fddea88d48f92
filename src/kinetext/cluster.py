"""Work that is spread over processes and machines by Ray; the only module that knows it."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Generic, TypeVar

from kinetext.types import KinetextError, RunError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Work = Callable[[Sequence[Item]], Sequence[Answer]]

_AHEAD = 4  # chunks a worker that are given out, or done and waiting for their turn
_TRIES = 3  # how often something may kill its worker
_HOPELESS = 10  # deaths before anything is done, or of one new worker after another
_STORE = 256 << 20  # bytes of shared memory, for rows and answers: clips never travel


@dataclass(frozen=True)
class Died:
    """Stands where the answer to an item would, if the item killed every worker that it was given to."""

    why: str


@dataclass
class _Chunk(Generic[Item, Answer]):
    """Items that were taken together, and what is answered so far; a place that has no answer yet is missing."""

    items: Sequence[Item]
    answers: dict[int, Answer | Died] = field(default_factory=dict)


@dataclass
class _Job(Generic[Item, Answer]):
    """A part of a chunk, which goes to one worker: all of it, or an item alone where all of it killed workers."""

    chunk: _Chunk[Item, Answer]
    places: range
    deaths: int = 0

    @property
    def items(self) -> list[Item]:
        return [self.chunk.items[place] for place in self.places]


def spread(
    make_work: Callable[[], Work[Item, Answer]],
    chunks: Iterable[Sequence[Item]],
    workers: int | None = None,
    *,
    gpu: bool = False,
) -> Generator[list[Answer | Died]]:
    """The answers to chunks of items, in the order of the chunks, each item's once, whatever becomes of a worker.

    A worker that dies is replaced, and its chunk is done again. A chunk that kills three workers is done item by item,
    and an item that kills three more is answered by ``Died``. A few chunks a worker are held at a time, however many
    there are.

    Runs on the cluster that RAY_ADDRESS names, on the one that this process already uses, or on this machine alone.

    Args:
        make_work: called once in every worker; gives what answers a chunk, an answer for each item. Travels to the
            workers, so it is a function of a module, or a ``functools.partial`` of one.
        chunks: not empty ones.
        workers: processes, >= 1; None is one for every processor (or card) of the cluster.
        gpu: whether each worker has a card of its own.

    Raises:
        RunError: Ray is not installed or does not start, it has fewer processors than ``workers``, or every worker dies.
        KinetextError: what the work itself raises.
    """
    if workers is not None and workers < 1:
        raise RunError(f"workers: {workers}, expected 1 or more")
    with _started(workers) as ray:
        kind = "GPU" if gpu else "CPU"
        most = int(ray.cluster_resources().get(kind, 0))
        if not most or (workers or 1) > most:
            raise RunError(f"workers: {workers or 1}, expected at most {most}, which is how many {kind}s Ray has")
        crew = _Crew(ray, make_work, workers or most, {"num_cpus": 0 if gpu else 1, "num_gpus": int(gpu)})
        try:
            yield from crew.answers(iter(chunks))
        finally:
            crew.dismiss()


class _Worker(Generic[Item, Answer]):
    """What lives in a process of Ray's."""

    def __init__(self, make_work: Callable[[], Work[Item, Answer]]) -> None:
        self.make_work = make_work
        self.work: Work[Item, Answer] | None = None

    def ready(self) -> None:
        """Returns once the process is there."""

    def answer(self, items: list[Item]) -> list[Answer]:
        if self.work is None:
            self.work = self.make_work()
        return list(self.work(items))


class _Crew(Generic[Item, Answer]):
    """Workers with one job each at a time, so that it is known which job a death belongs to."""

    def __init__(
        self, ray: ModuleType, make_work: Callable[[], Work[Item, Answer]], workers: int, needs: dict[str, int]
    ) -> None:
        self.ray, self.make_work, self.workers = ray, make_work, workers
        # what died is replaced here: Ray's own retries would also count deaths against jobs that only waited
        self.hire = ray.remote(max_restarts=0, max_task_retries=0, **needs)(_Worker)
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, _Job[Item, Answer] | None]] = {}  # what is awaited: the worker and its job
        self.todo: deque[_Job[Item, Answer]] = deque()
        self.deaths: int | None = 0  # None once something is done
        self.stillborn = 0  # workers in a row that died before they were ready
        for _ in range(workers):
            self._hire()

    def answers(self, chunks: Iterator[Sequence[Item]]) -> Iterator[list[Answer | Died]]:
        line: deque[_Chunk[Item, Answer]] = deque()
        while True:
            while len(self.todo) <= len(self.idle) and len(line) < _AHEAD * self.workers:
                if (items := next(chunks, None)) is None:
                    break
                line.append(_Chunk(items))
                self.todo.append(_Job(line[-1], range(len(items))))
            while self.idle and self.todo:
                worker, job = self.idle.pop(), self.todo.popleft()
                self.busy[worker.answer.remote(job.items)] = worker, job
            if not line:
                return
            for done in self.ray.wait(list(self.busy))[0]:
                self._collect(done, *self.busy.pop(done))
            while line and len(line[0].answers) == len(line[0].items):
                chunk = line.popleft()
                yield [chunk.answers[place] for place in range(len(chunk.items))]

    def dismiss(self) -> None:
        for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
            self.ray.kill(worker)

    def _hire(self) -> None:
        worker = self.hire.remote(self.make_work)
        self.busy[worker.ready.remote()] = worker, None

    def _collect(self, done: Any, worker: Any, job: _Job[Item, Answer] | None) -> None:
        errors = self.ray.exceptions
        try:
            found = self.ray.get(done)
        except errors.RayTaskError as error:
            if isinstance(error.cause, KinetextError):
                raise error.cause from None
            raise
        except (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError) as error:
            self.ray.kill(worker)  # it may only be out of reach
            self._bury(job, str(error))
            self._replace(str(error))
            return
        self.idle.append(worker)
        if job is None:
            self.stillborn = 0
        else:
            self.deaths = None
            job.chunk.answers.update(zip(job.places, found, strict=True))

    def _replace(self, why: str) -> None:
        """Hires a worker for one that died; where none gets ready any more, those that are left do the work alone."""
        if self.stillborn < _HOPELESS:
            self._hire()
        elif not self.idle and not self.busy:
            raise RunError(
                f"workers: {self.stillborn} in a row died before they were ready; of the last one Ray says: {why}"
            )

    def _bury(self, job: _Job[Item, Answer] | None, why: str) -> None:
        """Sees to it that what a dead worker was at is done by others."""
        if self.deaths is not None:
            self.deaths += 1
            if self.deaths >= _HOPELESS:
                raise RunError(f"workers: {self.deaths} died before anything was done; of the last one Ray says: {why}")
        if job is None:
            self.stillborn += 1
            return
        job.deaths += 1
        if job.deaths < _TRIES:
            self.todo.appendleft(job)
        elif len(job.places) > 1:
            self.todo.extendleft(_Job(job.chunk, range(place, place + 1)) for place in reversed(job.places))
        else:
            said = f"the process that read it died, {2 * _TRIES} times: out of memory, or a file that crashes it"
            job.chunk.answers[job.places[0]] = Died(said)


@contextmanager
def _started(workers: int | None) -> Iterator[ModuleType]:
    """Ray, connected; what is begun here also ends here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at import
    try:
        import ray
    except ImportError as error:
        raise RunError(f"Ray can't be imported ({error}); install it: pip install 'kinetext[cluster]'") from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cpus = max(
            workers or 1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise RunError(f"Ray does not start at {address} (RAY_ADDRESS): {error}") from error
    try:
        # Ray prints what happens to workers on stdout, among a command's own output, and has no switch for that
        ray._private.worker._worker_logs_enabled = False
        yield ray
    finally:
        ray.shutdown()
