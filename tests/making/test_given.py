"""What is given lies where it should: in time, in space, and on the grid of the codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kinetext.codecs.autoencoder import Autoencoder
from kinetext.codecs.pixel import Pixel
from kinetext.codecs.vq import Vq
from kinetext.interfaces import Codec
from kinetext.making import File, Plan
from kinetext.making.given import Grid, Piece, Place, Rolling, places
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


def joined(total: int, stride: int, first_alone: bool = False) -> Grid:
    """Of a codec that joins ``stride`` frames, and completes the last ones; or lets the first one stand alone."""
    cells = [-(-frame // stride) if first_alone else frame // stride for frame in range(total)]
    return Grid(tuple(cells), (3, cells[-1] + 1, 2, 3))


@pytest.mark.parametrize(
    ("grid", "groups"),
    [
        (joined(4, 1), [[0], [1], [2], [3]]),
        (joined(4, 2), [[0, 1], [2, 3]]),
        (joined(5, 2), [[0, 1], [2, 3], [4]]),
        (joined(5, 2, first_alone=True), [[0], [1, 2], [3, 4]]),
        (joined(9, 4), [[0, 1, 2, 3], [4, 5, 6, 7], [8]]),
        (joined(4, 8), [[0, 1, 2, 3]]),
    ],
)
def test_a_cell_is_known_if_all_its_pixels_are(grid: Grid, groups: list[list[int]]) -> None:
    dice = torch.Generator().manual_seed(0)
    stays = torch.rand(2, grid.window, 8, 12, generator=dice) < 0.97
    found = grid.known(stays)
    assert found.shape == (2, 1, len(groups), 2, 3)
    for row in range(2):
        assert torch.equal(found[row, 0], in_a_loop(stays[row], groups, 4))
    assert found.any() and not found.all()
    assert [grid.first(count) for count in range(len(groups) + 1)] == [0, *(group[-1] + 1 for group in groups)]


@pytest.mark.parametrize(
    ("codec", "frames", "first"),
    [
        (Autoencoder(), 16, [1, 2, 3]),
        (Autoencoder(temporal="causal", time_levels=2), 16, [4, 8, 12, 16]),
        (Autoencoder(temporal="causal", time_levels=1), 5, [2, 4, 5]),
        (Vq(), 4, [1, 2, 3, 4]),
        (Pixel(), 4, [1, 2, 3, 4]),
    ],
)
def test_what_is_known_of_a_codec_is_what_does_not_change(codec: Codec, frames: int, first: list[int]) -> None:
    """Cells that are known keep their values when all other frames are other ones."""
    grid = Grid.of(codec.eval(), (1, frames, 32, 32))
    assert [grid.first(count + 1) for count in range(len(first))] == first
    dice = torch.Generator().manual_seed(0)
    clip, other = (torch.rand(1, 1, frames, 32, 32, generator=dice) * 2 - 1 for _ in range(2))
    for count in first[:-1]:
        stays = torch.zeros(1, frames, 32, 32, dtype=torch.bool)
        stays[:, :count] = True
        with torch.no_grad():
            one, two = codec.encode(clip), codec.encode(torch.where(stays[:, None], clip, other))
        known = grid.known(stays).expand_as(one)
        torch.testing.assert_close(one[known], two[known])
        assert not torch.equal(one[~known], two[~known])


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
    lie = layout(plan(num_frames=total, history=history), joined(16, 1))
    assert (lie.window, lie.reach, lie.overlap, lie.stride) == (16, 16, history, 16 - history)
    assert min(covered(lie, total)) >= 1
    assert (lie.windows(total) - 2) * lie.stride + lie.reach < total  # the last one is needed


@pytest.mark.parametrize("factor", range(2, 16))
def test_windows_of_an_interpolation_begin_and_end_with_a_given_frame(factor: int) -> None:
    history = history_between(factor, 16)
    lie = layout(plan(num_frames=5 * factor + 1, history=history, factor=factor), joined(16, 1))
    assert lie.stride % factor == 0
    assert (lie.reach - 1) % factor == 0
    assert 1 <= lie.overlap < lie.reach <= 16
    assert min(covered(lie, 5 * factor + 1)) >= 1


def test_histories_that_do_not_fit_are_refused() -> None:
    grid = joined(16, 1)
    assert history_of(None, 17, grid) == 8
    assert history_of(3, 17, grid) == 3
    assert history_of(None, 16, grid) is None
    assert history_of(None, 99, joined(16, 4)) == 2
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: history_of(4, 16, grid), "history: 4, but 16 frames fit in one window of 16"),
        (lambda: history_of(16, 17, grid), "history: 16, expected 1 to 15"),
        (lambda: history_of(0, 17, grid), "history: 0, expected 1 to 15"),
        (lambda: history_of(None, 17, joined(16, 16)), "seconds: expected at most one window of 16 frames"),
        (lambda: history_between(16, 16), "factor: 16, expected 2 to 15"),
        (lambda: history_between(1, 16), "factor: 1, expected 2 to 15"),
    ]
    for call, message in refused:
        with pytest.raises(DataError, match=message):
            call()
