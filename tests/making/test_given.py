"""What is given lies where it should: in time, in space, and on the grid of the codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kinetext.making import File, Plan
from kinetext.making.given import Piece, Place, Rolling, frames_of, known_cells, places
from kinetext.making.layout import Layout, history_between, history_of, layout
from kinetext.types import DataError

FILES = {"clip": 5, "picture": 1}


def read(path: str, fps: float | None) -> Iterator[Tensor]:
    """Frame i of a file is all i; "clip" has 5 of them, "mask" is white on the right."""
    if path in ("mask", "black"):
        picture = torch.full((1, 2, 4), -1.0)
        picture[..., 2:] = 1.0 if path == "mask" else -1.0
        yield picture
        return
    for number in range(FILES[path]):
        yield torch.full((1, 2, 4), float(number))


def plan(**given: object) -> Plan:
    settings = {"prompt": "", "seed": 0, "index": 0, "steps": 1, "guidance": 1.0, "fps": 8.0, "precision": "fp32"}
    files = {name: File(v, "") if isinstance(v, str) else v for name, v in given.items()}
    return Plan(**{"num_frames": 16, **settings, **files})  # type: ignore[arg-type]


def seen(given: Iterator[Place | None]) -> list[tuple[float, float] | None]:
    """(which frame, what share of it stays) of every place."""
    return [place and (float(place.frame.mean()), float(place.stays.float().mean())) for place in given]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"image": "picture"}, [(0, 1)]),
        ({"video": "clip", "keep": 3}, [(0, 1), (1, 1), (2, 1)]),
        ({"change": "clip", "strength": 0.5}, [(i, 0) for i in range(5)]),
        ({"change": "clip", "strength": 0.5, "image": "picture"}, [(0, 1), *((i, 0) for i in range(1, 5))]),
        ({"video": "clip", "mask": "mask"}, [(i, 0.5) for i in range(5)]),
        ({"change": "clip", "strength": 0.5, "mask": "mask"}, [(i, 0.5) for i in range(5)]),
        ({"source": "clip", "factor": 3}, [p for i in range(5) for p in ((i, 1), None, None)]),
    ],
)
def test_places(given: dict[str, object], expected: list[tuple[float, float] | None]) -> None:
    assert seen(places(plan(**given), read, 8.0)) == expected


def test_a_mask_without_white_is_refused() -> None:
    with pytest.raises(DataError, match="mask: there is no white in black"):
        next(places(plan(video="clip", mask="black"), read, 8.0))


def test_windows_of_places_go_on_for_ever_and_keep_one_window() -> None:
    rolling = Rolling(places(plan(change="clip", strength=0.5), read, 8.0))
    assert [p and int(p.frame[0, 0, 0]) for p in rolling.window(0, 4)] == [0, 1, 2, 3]
    assert [p and int(p.frame[0, 0, 0]) for p in rolling.window(2, 6)] == [2, 3, 4, None]
    assert rolling.window(9, 12) == [None] * 3
    assert len(rolling._kept) == 3


def test_a_piece_repeats_the_nearest_frame_where_nothing_is_given() -> None:
    given = [None, Place.whole(torch.full((1, 2, 2), 5.0)), None, None, Place.whole(torch.full((1, 2, 2), 7.0))]
    piece = Piece.of(given, (1, 5, 2, 2))
    assert piece.frames[0, :, 0, 0].tolist() == [5, 5, 5, 7, 7]
    assert piece.stays[:, 0, 0].tolist() == [False, True, False, False, True]
    assert piece.shown and not Piece.of([None] * 5, (1, 5, 2, 2)).shown


def in_a_loop(stays: Tensor, groups: list[list[int]], size: int) -> Tensor:
    """Known cells as the definition says them: all pixels of a cell stay."""
    rows, columns = stays.shape[1] // size, stays.shape[2] // size
    found = torch.zeros(len(groups), rows, columns, dtype=torch.bool)
    for t, group in enumerate(groups):
        for y in range(rows):
            for x in range(columns):
                found[t, y, x] = stays[group][:, y * size : (y + 1) * size, x * size : (x + 1) * size].all()
    return found


@pytest.mark.parametrize(
    ("total", "frames", "groups"),
    [
        (4, 4, [[0], [1], [2], [3]]),
        (4, 2, [[0, 1], [2, 3]]),
        (5, 3, [[0], [1, 2], [3, 4]]),
        (9, 3, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (4, 1, [[0, 1, 2, 3]]),
    ],
)
def test_a_cell_is_known_if_all_its_pixels_are(total: int, frames: int, groups: list[list[int]]) -> None:
    dice = torch.Generator().manual_seed(0)
    stays = torch.rand(total, 8, 12, generator=dice) < 0.97
    found = known_cells(stays[None], (3, frames, 2, 3))
    assert found.shape == (1, 1, frames, 2, 3)
    assert torch.equal(found[0, 0], in_a_loop(stays, groups, 4))
    assert found.any() and not found.all()


def test_a_codec_whose_frames_lie_otherwise_is_refused() -> None:
    with pytest.raises(DataError, match="makes 3 frames of 16"):
        known_cells(torch.ones(1, 16, 8, 8, dtype=torch.bool), (3, 3, 2, 2))


def test_frames_it_takes_to_know_some_of_the_target() -> None:
    assert [frames_of(n, 16, (1, 16, 2, 2)) for n in (1, 8, 15)] == [1, 8, 15]
    assert [frames_of(n, 16, (1, 4, 2, 2)) for n in (1, 2, 3)] == [4, 8, 12]
    assert [frames_of(n, 17, (1, 5, 2, 2)) for n in (1, 2, 3)] == [1, 5, 9]


def covered(lie: Layout, total: int) -> list[int]:
    """How many windows make each frame."""
    times = [0] * (lie.window * 99)
    for number in range(lie.windows(total)):
        for place in range(lie.reach):
            times[number * lie.stride + place] += 1
    return times[:total]


@pytest.mark.parametrize("history", [1, 4, 8, 15])
@pytest.mark.parametrize("total", [17, 31, 32, 33, 128])
def test_windows_cover_a_clip(history: int, total: int) -> None:
    lie = layout(plan(num_frames=total, history=history), 16, (4, 16, 8, 8))
    assert (lie.window, lie.reach, lie.overlap, lie.stride) == (16, 16, history, 16 - history)
    assert min(covered(lie, total)) >= 1
    assert (lie.windows(total) - 2) * lie.stride + lie.reach < total  # the last one is needed


@pytest.mark.parametrize("factor", range(2, 16))
def test_windows_of_an_interpolation_begin_and_end_with_a_given_frame(factor: int) -> None:
    history = history_between(factor, 16)
    lie = layout(plan(num_frames=5 * factor + 1, history=history, factor=factor), 16, (4, 16, 8, 8))
    assert lie.stride % factor == 0
    assert (lie.reach - 1) % factor == 0
    assert 1 <= lie.overlap < lie.reach <= 16
    assert min(covered(lie, 5 * factor + 1)) >= 1


def test_histories_that_do_not_fit_are_refused() -> None:
    target = (4, 16, 8, 8)
    assert history_of(None, 17, 16, target) == 8
    assert history_of(3, 17, 16, target) == 3
    assert history_of(None, 16, 16, target) is None
    assert history_of(None, 99, 16, (4, 4, 8, 8)) == 2
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: history_of(4, 16, 16, target), "history: 4, but 16 frames fit in one window of 16"),
        (lambda: history_of(16, 17, 16, target), "history: 16, expected 1 to 15"),
        (lambda: history_of(0, 17, 16, target), "history: 0, expected 1 to 15"),
        (lambda: history_of(None, 17, 16, (4, 1, 8, 8)), "seconds: expected at most one window of 16 frames"),
        (lambda: history_between(16, 16), "factor: 16, expected 2 to 15"),
        (lambda: history_between(1, 16), "factor: 1, expected 2 to 15"),
    ]
    for call, message in refused:
        with pytest.raises(DataError, match=message):
            call()
