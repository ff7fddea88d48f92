"""Every file of a dataset, read once: what it holds and shows, kept by the hash of its content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue

import kinetext
from kinetext import video
from kinetext.doctor.facts import WHOLE, Facts, Range, Trouble
from kinetext.doctor.looking import SIDE, TIMES, Look, look
from kinetext.manifest import is_elsewhere, place
from kinetext.runtime import whole_file
from kinetext.types import DataError, Progress

_FORMAT = 1  # of what is kept; another number, and every file is read anew
_FEW = 4 * 2**20  # bytes that one process reads sooner than a second one has started
_PROGRAM = "from kinetext.doctor import survey; survey.serve()"
_READY = "ready\n"
_LONGEST = 3600.0  # seconds that a file may take


@dataclass(frozen=True)
class _Unread:
    """A file that has to be decoded: where it is, its content, and where and what is kept of it."""

    path: Path
    digest: str
    size: int
    kept: Path | None
    old: Facts | None


@dataclass(frozen=True)
class _Job:
    """A file to be read, and the stretches of it that rows name."""

    root: str
    file: str
    ranges: tuple[Range, ...]
    cache: str | None


def survey(
    root: Path,
    ranges: Mapping[str, Sequence[Range]],
    *,
    cache: Path | None = None,
    processes: int = 0,
    progress: Progress | None = None,
) -> dict[str, Facts]:
    """Reads files in processes of their own, several where there is much to read; what was found before is taken from
    ``cache``, so that an interrupted survey goes on where it was. A file that makes a decoder crash is a file that can't be read.

    Args:
        ranges: file, relative to ``root`` -> starts and ends that rows name, in seconds.
        cache: a folder; None keeps nothing.
        processes: how many; 0 is one, and as many as the machine has cores where files are large together; 1 is this
            one, which starts at once and which a decoder may crash.

    Raises:
        DataError: the cache can't be written.
    """
    jobs = [
        _Job(str(root.absolute()), file, tuple(dict.fromkeys(some)), str(cache.absolute()) if cache else None)
        for file, some in ranges.items()
    ]
    done: dict[str, Facts] = {}
    with closing(_reading(jobs, processes, _bytes(root, ranges) > _FEW)) as read:
        for job, facts in read:
            done[job.file] = facts
            if progress:
                progress(len(done), len(jobs))
    return {job.file: done[job.file] for job in jobs}


def _reading(jobs: Sequence[_Job], processes: int, large: bool) -> Generator[tuple[_Job, Facts]]:
    if processes == 1:
        yield from ((job, _read(job)) for job in jobs)
    elif processes or large:
        yield from _in_processes(jobs, processes or _cores())
    else:  # what need not be decoded is told sooner than a process starts
        found = [(job, _found(job)) for job in jobs]
        yield from ((job, facts) for job, facts in found if isinstance(facts, Facts))
        yield from _in_processes([job for job, facts in found if isinstance(facts, _Unread)], 1)


def _bytes(root: Path, files: Iterable[str]) -> int:
    """How large files are together; one that is elsewhere counts as large, one that can't be asked as nothing."""
    total = 0
    for file in files:
        with suppress(OSError):  # said of the file when it is read
            total += _FEW if is_elsewhere(file) else size_of(root / file) or 0
    return total


def size_of(path: Path) -> int | None:
    """Bytes of a file, or of a folder of pictures; None where there is neither."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.iterdir() if one.is_file())
    return path.stat().st_size if path.is_file() else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(jobs: Sequence[_Job], processes: int) -> Generator[tuple[_Job, Facts]]:
    """Facts as they are found, by processes that a thread each talks to. One that dies takes no other file with it.

    They are no children of ``multiprocessing``: that would run a user's own script again in each of them.
    """
    todo: SimpleQueue[_Job] = SimpleQueue()
    done: SimpleQueue[tuple[_Job, Facts] | BaseException] = SimpleQueue()
    for job in jobs:
        todo.put(job)
    readers = [_Reader(todo, done) for _ in range(min(processes, len(jobs)))]
    try:
        for reader in readers:
            reader.thread.start()
        for _ in jobs:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        for reader in readers:
            reader.end()


class _Reader:
    """A process that reads files, and the thread that talks to it: a line of JSON each way."""

    def __init__(self, todo: SimpleQueue[_Job], done: SimpleQueue[tuple[_Job, Facts] | BaseException]) -> None:
        self.todo, self.done, self.ended = todo, done, False
        self.process: subprocess.Popen[str] | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def end(self) -> None:
        """Ends both; what is being read is given up."""
        self.ended = True
        if self.process:
            self.process.kill()
        if self.thread.ident:
            self.thread.join()

    def _run(self) -> None:
        try:
            while not self.ended:
                job = self.todo.get_nowait()
                self.done.put((job, self._ask(job)))
        except Empty:
            pass
        except BaseException as error:  # whoever waits for an answer has to have one
            if not self.ended:
                self.done.put(error)
        if self.process:
            self.process.kill()
            self.process.communicate()

    def _ask(self, job: _Job) -> Facts:
        process = self.process or self._started()
        assert process.stdin and process.stdout
        clock = threading.Timer(_LONGEST, process.kill)
        clock.start()
        try:
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            clock.cancel()
        if not line:
            process.communicate()
            self.process = None
            self._check_wanted()
            path = place(Path(job.root), job.file)
            return Facts(video.digest(path), size_of(path) or 0, "unreadable", "its decoder crashes, or does not end")
        answer = json.loads(line)
        if "error" in answer:
            raise DataError(answer["error"])
        return Facts.from_json(answer["facts"])

    def _started(self) -> subprocess.Popen[str]:
        """A process that is ready for files.

        Raises:
            DataError: it can't be started, so that no file is to blame for its end.
        """
        self.process = process = _launched()  # from here on, ``end`` can end it
        self._check_wanted()
        assert process.stdout
        if process.stdout.readline() != _READY:
            self._check_wanted()
            raise DataError("doctor: no process to read files could be started; see above")
        return process

    def _check_wanted(self) -> None:
        if self.ended:
            raise DataError("doctor: ended while files were read")


def _launched() -> subprocess.Popen[str]:
    """A process that gets ready to read files; what lies in the folder that it is called in, maybe a stranger's, is no code."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,  # a terminal's Ctrl-C is the main process's to hear
    )


def serve() -> None:
    """Reads files that lines of stdin name, and answers on stdout, until stdin ends. What libraries print goes to stderr."""
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        print(_READY, end="", file=answers, flush=True)
        for line in sys.stdin:
            raw = json.loads(line)
            job = _Job(raw["root"], raw["file"], tuple((start, end) for start, end in raw["ranges"]), raw["cache"])
            try:
                answer = {"facts": _read(job).to_json()}
            except DataError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), file=answers, flush=True)


def _read(job: _Job) -> Facts:
    """A file's facts, from the cache or from the file."""
    found = _found(job)
    if isinstance(found, Facts):
        return found
    facts = _facts(found.path, found.digest, found.size, job.ranges)
    if found.old:  # what another table asked for stays
        facts = replace(facts, looks={**found.old.looks, **facts.looks})
    if found.kept:
        _keep(found.kept, facts)
    return facts


def _found(job: _Job) -> Facts | _Unread:
    """What can be said of a file without decoding it, all or that it has to be decoded."""
    try:
        path = place(Path(job.root), job.file)
    except DataError as error:
        return Facts("", 0, "missing", str(error))
    try:
        size = size_of(path)
        if size is None:
            return Facts("", 0, "missing", "there is no such file")
        if size == 0:
            return Facts("", 0, "empty", f"the {'folder' if path.is_dir() else 'file'} is empty")
        digest = video.digest(path)
    except video.VideoError as error:
        return Facts("", size or 0, "unreadable", str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Facts("", 0, "unreadable", error.strerror or str(error))
    kept = Path(job.cache, digest[:2], f"{digest}.json") if job.cache else None
    old = _kept(kept)
    if old and all(one in old.looks or old.trouble for one in job.ranges):
        return old
    return _Unread(path, digest, size, kept, old)


def _kept(path: Path | None) -> Facts | None:
    """What was found before; what can't be read is found anew."""
    if path is None or not path.is_file():
        return None
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        return Facts.from_json(body) if head == _head() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@once
def _head() -> str:
    """What was found holds for: another version may read what this one can't, or read it otherwise."""
    versions = f"kinetext {kinetext.__version__}, av {version('av')}, reading {video.READING}"
    return f"kinetext doctor {_FORMAT}, {versions}"


def _keep(path: Path, facts: Facts) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(f"{_head()}\n{facts.to_json()}", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error.strerror or error}); set KINETEXT_CACHE to a folder with room"
        ) from error


def _facts(path: Path, digest: str, size: int, ranges: Sequence[Range]) -> Facts:
    """Decodes every frame of a file, and looks at the stretches that are asked for."""
    try:
        info = video.probe(path)
        aspect = info.width / info.height
        whole = look(video.stream(path, size=SIDE, fit="squash"), info.num_frames, aspect)
    except video.VideoError as error:
        why = str(error).removeprefix(f"{path}: ")
        return Facts(digest, size, _trouble(why), why)
    looks = {one: whole if one == WHOLE else _stretch(path, one, aspect) for one in ranges}
    return Facts(
        digest,
        size,
        num_frames=whole.frames,
        header_frames=info.header_frames,
        fps=info.fps,
        seconds=info.duration,
        width=info.width,
        height=info.height,
        rotation=info.rotation,
        mirrored=info.mirrored,
        steady=not info.variable,
        looks=looks,
    )


def _stretch(path: Path, part: Range, aspect: float) -> Look | str:
    """A look at frames evenly over a stretch of a file, read as training reads them; or why there are none."""
    try:
        clip = video.read_clip(path, num_frames=2 * TIMES, size=SIDE, start=part[0], end=part[1], fit="squash")
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return look(clip.unbind(1), 2 * TIMES, aspect)


def _trouble(why: str) -> Trouble:
    if why.startswith("truncated"):
        return "truncated"
    return "audio-only" if why.startswith("no video stream") else "unreadable"
