"""Files elsewhere come to the cache whole or not at all, whatever the server does; a table's URL reads no local file."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from kinetext import video
from kinetext.datasets.folder import Folder
from kinetext.manifest import fetch, fetching, load, place
from kinetext.runtime import whole_file
from kinetext.types import DataError

pytestmark = pytest.mark.usefixtures("own_cache")
BODY = bytes(range(256)) * 40_000  # 10 MB, more than one block


class Server(ThreadingHTTPServer):
    """Serves BODY, and counts what it was asked for.

    Args:
        ranges: whether it sends parts.
        cuts: answers that break off half-way, though they promise everything.
        named: whether it says a size and a version.
        sent: bytes of each answer that were taken.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges, self.cuts, self.named, self.status = BODY, True, 0, True, 200
        self.asked: list[str] = []
        self.sent: list[int] = []

    def url(self, name: str = "clip.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def do_GET(self) -> None:
        self._answer(whole=True)

    def _answer(self, whole: bool) -> None:
        server = self.server
        if server.status != 200:
            self.send_error(server.status)
            return
        first, last = 0, len(server.body) - 1
        asked = self.headers.get("Range", "")
        part = whole and server.ranges and asked.startswith("bytes=")
        if part:
            first, last = (int(end) for end in asked.removeprefix("bytes=").split("-"))
        if whole:
            server.asked.append(asked)
        self.send_response(206 if part else 200)
        if server.named:
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("ETag", f'"{hash(server.body)}"')
        if part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(server.body)}")
        self.end_headers()
        body = server.body[first : last + 1]
        if whole and server.cuts:
            server.cuts -= 1
            body = body[: len(body) // 2]
        if whole:
            self._send(body)
        self.close_connection = True

    def _send(self, body: bytes) -> None:
        self.server.sent.append(0)
        try:
            for at in range(0, len(body), 2**16):
                self.server.sent[-1] += self.wfile.write(body[at : at + 2**16])
        except ConnectionError:  # whoever asked has heard enough
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def left(path: Path) -> set[str]:
    return {one.name for one in path.parent.iterdir()} - {f".{path.name}.lock"}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_comes_whole_and_once(server: Server, named: bool, ranges: bool) -> None:
    server.named, server.ranges = named, ranges
    path = fetch(server.url())
    assert path.read_bytes() == BODY
    assert (path.name, left(path)) == ("clip.bin", {"clip.bin"})
    asked = len(server.asked)
    assert fetch(server.url()) == path
    assert len(server.asked) == asked


@pytest.mark.parametrize("ranges", [True, False])
def test_a_copy_that_breaks_off_goes_on_or_begins_anew(server: Server, ranges: bool) -> None:
    server.cuts, server.ranges = 1, ranges
    assert fetch(server.url()).read_bytes() == BODY
    resumed = [asked for asked in server.asked if asked.startswith("bytes=") and not asked.startswith("bytes=0-")]
    assert resumed
    assert server.cuts == 0


def test_what_a_server_without_parts_sends_again_is_not_read_into_memory(server: Server) -> None:
    server.body, server.ranges, server.cuts = bytes(2**26), False, 1
    assert fetch(server.url()).read_bytes() == server.body
    first, refused, whole = server.sent
    assert first == whole // 2 == 2**25 and refused < 2**24  # what is under way in sockets


def test_a_short_file_is_never_kept(server: Server) -> None:
    server.cuts = 100
    with pytest.raises(DataError, match=r"clip\.bin: can't be fetched \(.*, 3 times\)"):
        fetch(server.url())
    path = fetching.cached(server.url())
    assert not path.exists()
    assert (path.parent / ".clip.bin.part").stat().st_size < len(BODY)
    server.cuts = 0
    assert fetch(server.url()).read_bytes() == BODY


def test_what_is_left_of_another_version_is_not_gone_on_with(server: Server) -> None:
    server.cuts = 100
    with pytest.raises(DataError):
        fetch(server.url())
    server.cuts, server.body = 0, BODY[::-1]
    assert fetch(server.url()).read_bytes() == BODY[::-1]


def test_answers_that_are_no_file_are_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 404
    with pytest.raises(DataError, match=r"clip\.bin: there is no such file there"):
        fetch(server.url())
    server.status = 403
    with pytest.raises(DataError, match=r"the server refuses it \(403"):
        fetch(server.url())
    server.status = 503
    with pytest.raises(DataError, match=r"can't be fetched \(ClientResponseError: 503.*3 times\)"):
        fetch(server.url())
    server.status = 200
    with pytest.raises(DataError, match=r"has 10,240,000 bytes, expected at most 1,000"):
        fetch(server.url(), limit=1000)
    server.named = False
    with pytest.raises(DataError, match=r"has more than 1,000 bytes"):
        fetch(server.url(), limit=1000)
    assert left(fetching.cached(server.url())) <= {".clip.bin.part", ".clip.bin.json"}
    url = server.url()
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"can't be fetched \(ClientConnector"):
        fetch(url)


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(fetching, "SECONDS", 0.2)
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DataError, match=r"no answer for 0\.2 s"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.mp4")


def test_processes_that_want_one_file_fetch_it_once(server: Server) -> None:
    code = f"from kinetext.manifest import fetch; print(len(fetch({server.url()!r}).read_bytes()))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == [str(len(BODY))] * 2
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", "...", ".mp4", "..%2f..%2fa.mp4", "视频" * 60 + ".mp4", "a" * 300 + ".mp4"]
)
def test_any_name_becomes_a_file(server: Server, name: str) -> None:
    """A folder holds names of 255 bytes, and temporary ones are longer than the file's own."""
    server.body = b"clip"
    path = fetching.cached(server.url("clips/" + name))
    assert path.parent.parent == fetching.cached(server.url()).parent.parent
    assert not path.name.startswith(".")
    assert len(path.name.encode()) <= 80
    assert path.suffix == (".mp4" if len(name) > 4 else "")
    path.parent.mkdir(parents=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(b"clip")
    assert left(path) == {path.name}


def test_what_is_too_large_is_not_kept(server: Server) -> None:
    server.named = False  # so that it is known only from what arrives
    with pytest.raises(DataError, match=r"has more than 3,000,000 bytes"):
        fetch(server.url(), limit=3_000_000)
    assert left(fetching.cached(server.url())) == set()


@pytest.mark.parametrize(
    "file",
    [
        "file:///etc/passwd",
        "local:///etc/passwd",
        "simplecache::file:///etc/passwd",
        "ftp://host/a.mp4",
        "HTTP://a/b.mp4",
    ],
)
def test_other_protocols_are_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "metadata.csv").write_text(f"file_name\n{file}\n")
    with pytest.raises(DataError, match=r"row 1: file_name .* begins with .*://, expected a path or one of http://"):
        load(tmp_path)
    with pytest.raises(DataError, match="expected a URL"):
        fetch(file)


def test_no_chain_of_protocols_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    with pytest.raises(DataError):
        fetch(f"memory://x::file://{tmp_path}/secret.mp4")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match="pip install s3fs"):
        fetch("s3://bucket/a.mp4")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(DataError, match="pip install aiohttp"):
        fetch("http://127.0.0.1:1/a.mp4")


def test_a_folder_reads_clips_from_elsewhere(tmp_path: Path, server: Server) -> None:
    """Rows by http, by memory:// and beside the table are the same clip to the dataset; only what is read is fetched."""
    video.write(tmp_path / "a.mp4", torch.zeros(3, 4, 32, 32), fps=8.0)
    server.body = (tmp_path / "a.mp4").read_bytes()
    fsspec.filesystem("memory").pipe("/clips/b.mp4", server.body)
    rows = [
        "a.mp4,train",
        "memory://clips/b.mp4,train",
        f"{server.url('c.mp4?x=1')},train",
        f"{server.url('d.mp4')},val",
    ]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,split", *rows]) + "\n")
    data = Folder(root=str(tmp_path), num_frames=4, size=16)
    first, *others = [data[index].video for index in range(3)]
    assert first is not None
    assert all(other is not None and torch.equal(first, other) for other in others)
    assert data.fingerprint(0) == data.fingerprint(1) == data.fingerprint(2)
    assert [row.file for row in data.rows][2].endswith("c.mp4?x=1")
    assert fetching.cached(server.url("c.mp4?x=1")).suffix == ".mp4"
    assert not fetching.cached(server.url("d.mp4")).exists()
    assert place(tmp_path, "a.mp4") == tmp_path / "a.mp4"


def test_predictions_read_clips_from_elsewhere(tmp_path: Path, server: Server, runs: Any) -> None:
    """The same class as of the file itself; a row whose file can't be fetched says so, and takes no other with it."""
    from kinetext.apps import predicting
    from kinetext.pipeline import Pipeline

    video.write(tmp_path / "a.mp4", torch.zeros(3, 4, 32, 32), fps=8.0)
    server.body = (tmp_path / "a.mp4").read_bytes()
    rows = ["a.mp4", server.url("b.mp4"), "memory://nowhere/c.mp4"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name", *rows]) + "\n")
    done = predicting.predict(Pipeline.load(str(runs.reader)), tmp_path, tmp_path / "said.jsonl")
    one, two, three = map(json.loads, (tmp_path / "said.jsonl").read_text().splitlines())
    assert done.failed == 1
    assert {**one, "file_name": ""} == {**two, "file_name": ""}
    assert three["error"].startswith("memory://nowhere/c.mp4: there is no such file")
