"""What the process that decodes answers: nothing of it is believed that reading can't give."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from fractions import Fraction

import pytest

from kinetext.video import answers, isolated

GOOD: dict[str, object] = {
    "path": "x",
    "num_frames": 1,
    "fps": 1.0,
    "duration": 1.0,
    "width": 1,
    "height": 1,
    "rotation": 0,
    "mirrored": False,
    "rate": "30000/1001",
    "counted": "packets",
    "header_frames": 0,
    "stored_width": 1,
    "stored_height": 1,
    "pixel_aspect": "1",
    "pix_fmt": "x",
    "color_range": "x",
    "variable": False,
    "codec": "x",
    "tracks": [{"kind": "video", "codec": "x"}],
}


def test_what_probe_can_give_is_believed() -> None:
    assert answers.info("clip.mp4", {"info": GOOD}).rate == Fraction(30000, 1001)


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": "many"},
        {"num_frames": -5},
        {"num_frames": 2.0},
        {"width": 0},
        {"rotation": 45},
        {"fps": float("nan")},
        {"duration": float("inf")},
        {"rate": "1/0"},
        {"rate": "1e30000000"},
        {"rate": float("inf")},
        {"rate": "-1"},
        {"pixel_aspect": "0/1"},
        {"tracks": 3},
        {"tracks": [{"kind": None, "codec": "x"}]},
        {"more": 1},
    ],
)
def test_a_decoder_that_was_taken_over_makes_up_no_facts(change: dict[str, object]) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"belongs|out of range|no "):
        answers.info("clip.mp4", {"info": {**GOOD, **change}})
    for reach in ([float("inf"), 1], [1], [0, 1.0], [1, float("nan")], "no", None, [1e9, 1]):
        with pytest.raises(ValueError, match=r"belongs|out of range|no "):
            answers.reach({"reach": reach})
    assert time.monotonic() - began < 1


def of(head: bytes, data: bytes, length: int | None = None) -> bytes:
    return (
        (len(head) if length is None else length).to_bytes(8, "little") + len(data).to_bytes(8, "little") + head + data
    )


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"123",
        of(b"[]", b""),
        of(b"{", b""),
        of(b"[" * 500_000, b""),
        of(b"{}", b"123"),
        of(b"{}", b"", 1 << 60),
        of(b'{"x": "' + b"." * (1 << 20) + b'"}', b""),
        of(b"{}", bytes(12))[:-1],
    ],
)
def test_what_is_no_answer_is_none(sent: bytes) -> None:
    (ours, theirs), (control, ending) = socket.socketpair(), socket.socketpair()
    with ours, theirs, control, ending:

        def send() -> None:
            with suppress(BrokenPipeError):  # given up before the end
                theirs.sendall(sent)
            ending.sendall(b"!")

        sender = threading.Thread(target=send)
        sender.start()
        assert isolated._received(ours, control, (1, 3, 2, 2), time.monotonic() + 5)[0] == {}
        ours.shutdown(socket.SHUT_RDWR)
        sender.join()


def test_what_was_sent_before_the_end_is_received() -> None:
    (ours, theirs), (control, ending) = socket.socketpair(), socket.socketpair()
    with ours, theirs, control, ending:
        theirs.sendall(of(b'{"rng": ""}', bytes(range(12))))
        ending.sendall(b"!")
        head, pixels = isolated._received(ours, control, (1, 3, 2, 2), time.monotonic() + 5)
        assert head == {"rng": ""}
        assert pixels.tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]]
