"""Datasets as training-ready shards: clips as small as they are trained at, any of them read at once, with checksums."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import kinetext
from kinetext import assemble, manifest, runtime, video
from kinetext.datasets.loader import ignore_interrupt
from kinetext.interfaces import Codec
from kinetext.manifest import Manifest, Row, changes, packed, tars
from kinetext.manifest.reading import PACK
from kinetext.runtime import whole_file
from kinetext.tasks.text_to_video import kept_as
from kinetext.types import DataError, KinetextError, Progress, check_between

_BEGUN = "unfinished.json"  # what a pack that is not whole yet is made with
_ELSE = "choose another folder, or delete it"
_CHANGED = f"clips were changed since this pack was begun; {_ELSE}"
_EARLIER = f"was begun by earlier code, which told changes of clips otherwise; {_ELSE}"
_MOST_FRAMES = 2**14  # of a packed clip, which is decoded as a whole


@dataclass(frozen=True)
class Packing:
    """What shards are made with.

    Args:
        size: pixels, the side of the square frames, 1 to 4096.
        num_frames: frames of a clip, spread over all of it, 1 to 2**14; 0 with ``fps``.
        fps: frames a second of the clip, more than 0, at most 1000; 0 with ``num_frames``.
        channels: 3 (RGB) or 1 (luma).
        fit, region: as of ``video.read_clip``.
        stored: "jpeg", every frame a JPEG; or "exact", every bit.
        quality: of JPEGs, 1 to 100; without chroma subsampling.
        shard_mb: a shard is closed before it grows beyond so many megabytes, 1 to 1,000,000, unless one sample does.

    Raises:
        DataError: one of them is outside its range.
    """

    size: int
    num_frames: int = 0
    fps: float = 0.0
    channels: int = 3
    fit: video.Fit = "crop"
    region: video.Region = video.WHOLE
    stored: video.Stored = "jpeg"
    quality: int = 95
    shard_mb: int = 256

    def __post_init__(self) -> None:
        if bool(self.num_frames) == bool(self.fps):
            raise DataError(
                f"num_frames and fps: {self.num_frames} and {self.fps:g}, expected one of them, the other 0"
            )
        check_between("num_frames", self.num_frames, 0, _MOST_FRAMES)
        check_between("fps", self.fps, 0, 1000)
        check_between("size", self.size, 1, 4096)
        check_between("quality", self.quality, 1, 100)
        check_between("shard_mb", self.shard_mb, 1, 1_000_000)
        video.Look(False, 1, self.size, self.channels, "uniform", 0.0, self.fit, self.region, False, 0.0)  # checks them

    @classmethod
    def asked(
        cls,
        *,
        size: int | None,
        num_frames: int | None,
        fps: float | None,
        channels: int | None,
        fit: str,
        region: tuple[float, float, float, float],
        exact: bool,
        quality: int,
        shard_mb: int,
        run: str | None,
    ) -> Packing:
        """What a command line asks for; what it leaves at None is as of the clips of ``run``, else 3 channels, 16 frames
        of 128.
        """
        shape = (assemble.open_run(run).meta.video_shape if run else None) or (3, 16, 128, 128)
        if num_frames is None:
            num_frames = shape[1] if fps is None else 0
        return cls(
            shape[-1] if size is None else size, num_frames, fps or 0.0, shape[0] if channels is None else channels,
            cast("video.Fit", fit), region, "exact" if exact else "jpeg", quality, shard_mb,
        )  # fmt: skip


def pack(
    source: Path,
    out: Path,
    packing: Packing,
    *,
    run: str = "",
    table: str = "",
    workers: int = 0,
    progress: Progress | None = None,
) -> int:
    """Writes the samples of a folder as tar shards with an index, checksums and what they were made with.

    The same rows and options give the same bytes, however many workers there are. A pack that was interrupted goes on
    after its last whole shard when it is asked for again. A table without a split gives a pack without one; a training then
    makes the very split that it would make beside the table.

    Args:
        source: a folder with a table, or by its layout; or a table among its clips.
        out: a new or empty folder, or one that holds the unfinished pack.
        run: a run folder or shipped model with a codec, as which clips are read: what the codec makes of them is packed
            beside them; "" packs clips alone.
        table: of a folder, relative to it or absolute; "" finds it.
        workers: processes that read clips, 0 for none besides this one.
        progress: called with the samples done, and all.

    Returns:
        How many shards there are.

    Raises:
        DataError: the table or a clip can't be read, ``table`` is given where ``source`` is one, ``out`` holds something
            else, or ``packing`` is not what the clips of ``run`` are.
        RunError: there is no such run.
    """
    root, name = manifest.located(source)
    if name and table:
        raise DataError(f"manifest: {table}, expected none, since {source} is a table itself")
    rows = manifest.with_stored_splits(manifest.load(root, manifest=name or table or None, multi=None))
    codec = _Codec.of(run, packing) if run else None
    recipe = _recipe(rows, packing, codec)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / PACK).is_file():
            _check_same(out, packed.Pack.open(out).recipe, recipe)
            _tidy(out)
        else:
            begun = _begin(out, rows, recipe)
            done = sum(shard["samples"] for shard in begun["shards"])
            coming = _samples(rows, packing, codec, done, workers)
            _write_shards(out, begun, coming, len(rows.rows), progress)
            _finish(out, rows, recipe, begun["shards"])
    except OSError as error:
        raise DataError(f"{out}: can't be written ({error})") from error
    return len(packed.Pack.open(out).recipe["shards"])


def verify(folder: Path, progress: Progress | None = None) -> list[str]:
    """What of a pack is no longer as it was written, in sentences that name shard and key.

    Raises:
        DataError: the pack is not whole.
    """
    return list(packed.verify(folder, progress))


def _recipe(rows: Manifest, packing: Packing, codec: _Codec | None) -> dict[str, Any]:
    """What a pack is made of and with; neither names a place nor a time."""
    told = hashlib.sha256()
    for row in rows.rows:
        told.update(json.dumps(_told(row), ensure_ascii=False).encode())
    clips = changes.content(rows.root, (row.file for row in rows.rows))
    source = {"table": rows.path.name, "rows": len(rows.rows), "sha256": told.hexdigest(), "clips": clips}
    versions = {"kinetext": kinetext.__version__} | {name: version(name) for name in ("av", "pillow", "torch")}
    options = asdict(packing) | {"region": list(packing.region)}
    latents = codec.told if codec else {}
    return {"format": packed.FORMAT, "options": options, "source": source, "versions": versions, "latents": latents}


def _told(row: Row) -> dict[str, Any]:
    """What the table says of a sample, without what it leaves out."""
    cells = {"file_name": row.file, "text": row.text, "start": row.start, "end": row.end, "group": row.group}
    told = {name: cell for name, cell in cells.items() if cell not in (None, "")} | dict(row.labels)
    return told | ({"split": row.split} if row.split else {}) | {"weight": row.weight}


def _begin(out: Path, rows: Manifest, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What is there of a pack that was interrupted, or the beginning of one."""
    state = changes.stamp(rows.root, (row.file for row in rows.rows))
    fresh: dict[str, Any] = {"recipe": recipe, "files": state, "shards": []}
    path = out / _BEGUN
    if not path.is_file() and any(out.iterdir()):
        raise DataError(f"{out}: has something else in it, expected a new or empty folder")
    for left in out.glob(".*.tmp"):  # of a process that was killed
        left.unlink()
    try:
        begun = json.loads(path.read_bytes()) if path.is_file() else fresh
    except ValueError as error:
        raise DataError(f"{path}: can't be read ({error}); delete the folder to begin anew") from error
    if not begun["shards"]:  # nothing would be lost: a table that was mended is packed as it is now
        _note(path, fresh)
        return fresh
    _check_same(out, begun["recipe"], recipe)
    if begun["files"] != state:
        raise DataError(f"{out}: {_CHANGED if 'clips' in begun['recipe']['source'] else _EARLIER}")
    return cast("dict[str, Any]", begun)


def _check_same(out: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses to go on with what was packed otherwise."""
    for part in ("versions", "options", "source", "latents"):
        for name in dict.fromkeys([*asked[part], *there[part]]):
            was, now = there[part].get(name), asked[part].get(name)
            if was == now or (name == "clips" and was is None):  # of a pack that earlier code made nobody knows
                continue
            said = _CHANGED if name == "clips" else f"was packed with {name} {was!r}, now it is {now!r}; {_ELSE}"
            raise DataError(f"{out}: {said}")


def _note(path: Path, value: Mapping[str, Any]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Sample:
    """A packed sample: its piece of a tar, and what the index says of it."""

    key: str
    piece: bytes
    frames: int
    source_frames: int
    seconds: float
    clip: Tensor | None


@dataclass(frozen=True)
class _Codec:
    """Makes latents of clips, each by itself, as a training that keeps targets does."""

    codec: Codec
    precision: runtime.Precision
    device: torch.device
    told: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, packing: Packing) -> _Codec:
        """That of a run."""
        run = assemble.open_run(name)
        task, shape = assemble.restore(run), run.meta.video_shape
        codec = getattr(task, "codec", None)
        if not isinstance(codec, Codec) or shape is None:
            raise DataError(f"run: {name} has no codec, expected a run of reconstruction or text_to_video")
        asked = (packing.channels, packing.num_frames, packing.size, packing.size)
        if asked != tuple(shape):
            raise DataError(
                f"run: {name} is of clips (C, T, H, W) {tuple(shape)}, and {asked} are packed; expected --size {shape[-1]} "
                f"--num-frames {shape[1]} --channels {shape[0]}"
            )
        device = runtime.device()
        told = {
            "codec": assemble.codec_name(run.recipe, codec), "video_shape": list(shape),
            "shape": list(codec.target_shape(shape)), "kept_as": str(kept_as(codec)).removeprefix("torch."),
        }  # fmt: skip
        return cls(codec.to(device).eval(), run.recipe.train.precision, device, told)

    @torch.no_grad()
    def encoded(self, sample: _Sample) -> _Sample:
        """The sample with one member more."""
        if sample.clip is None:
            return sample
        with runtime.autocast(self.precision, self.device):
            made = self.codec.encode(sample.clip[None].to(self.device))[0]
        file = io.BytesIO()
        np.save(file, made.to(kept_as(self.codec)).cpu().numpy(), allow_pickle=False)
        member = tars.entry(f"{sample.key}.{packed.LATENT}", file.getvalue())
        return replace(sample, piece=sample.piece + member, clip=None)


def _write_shards(
    out: Path, begun: dict[str, Any], coming: Iterator[_Sample], total: int, progress: Progress | None
) -> None:
    """All shards that are not there yet, one after another."""
    done, most = sum(shard["samples"] for shard in begun["shards"]), begun["recipe"]["options"]["shard_mb"] * 10**6
    sample = next(coming, None)
    while sample is not None:
        number = len(begun["shards"])
        path, places, told = out / f"shard-{number:06}.tar", list[dict[str, object]](), hashlib.sha256()
        size = 0
        with whole_file(path) as temporary, temporary.open("wb") as file:
            while sample is not None and (not size or size + len(sample.piece) <= most):
                file.write(sample.piece)
                told.update(sample.piece)
                place = {name: getattr(sample, name) for name in ("key", "frames", "source_frames", "seconds")}
                place |= {"shard": number, "start": size, "size": len(sample.piece)}
                places.append(place | {"crc32": zlib.crc32(sample.piece)})
                size += len(sample.piece)
                done += 1
                if progress:
                    progress(done, total)
                sample = next(coming, None)
            file.write(tars.END)
            told.update(tars.END)
        packed.write_index(_part(out, number), places)
        shard = {"name": path.name, "samples": len(places), "bytes": size + len(tars.END), "sha256": told.hexdigest()}
        begun["shards"].append(shard)
        _note(out / _BEGUN, begun)


def _part(out: Path, number: int) -> Path:
    """The index of one shard of an unfinished pack."""
    return out / f"shard-{number:06}.parquet"


def _finish(out: Path, rows: Manifest, recipe: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]) -> None:
    """The tables of all samples; last the recipe, which says that the pack is whole."""
    parts = [_part(out, number) for number in range(len(shards))]
    packed.join_indices(parts, out / packed.INDEX)
    packed.write_rows(out / packed.ROWS, [{k: str(v) for k, v in _told(row).items()} for row in rows.rows])
    tables = {name: packed.sha256(out / name) for name in (packed.INDEX, packed.ROWS)}
    _note(out / PACK, {**recipe, "tables": tables, "shards": shards})
    _tidy(out)


def _tidy(out: Path) -> None:
    """Takes away what only an unfinished pack needs; last what says that there is any."""
    for path in (*out.glob("shard-*.parquet"), out / _BEGUN) if (out / _BEGUN).exists() else ():
        path.unlink()


def _samples(rows: Manifest, packing: Packing, codec: _Codec | None, start: int, workers: int) -> Iterator[_Sample]:
    """The samples of the table from row ``start`` on, in its order, made by ``workers`` processes."""
    loader: DataLoader[_Sample | KinetextError] = DataLoader(
        cast("torch.utils.data.Dataset[_Sample | KinetextError]", _Made(rows, packing, codec is not None)),
        sampler=range(start, len(rows.rows)),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=ignore_interrupt,
        multiprocessing_context="fork" if workers else None,
    )
    for made in loader:
        if isinstance(made, KinetextError):
            raise made
        yield codec.encoded(made) if codec else made


@dataclass(frozen=True)
class _Made:
    """Packs the sample of a row; a mistake in the data is handed over as a value, as by the loader of a training."""

    rows: Manifest
    packing: Packing
    with_clips: bool

    def __len__(self) -> int:
        return len(self.rows.rows)

    def __getitem__(self, index: int) -> _Sample | KinetextError:
        row = self.rows.rows[index]
        try:
            return self._sample(row)
        except KinetextError as error:
            return DataError(
                f"row {row.number}: {error}; mend it, or leave the row out of the table (`kinetext doctor` finds all "
                "such rows), and pack into another folder"
            )

    def _sample(self, row: Row) -> _Sample:
        files: Mapping[str, bytes] = {}
        source_frames, seconds, clip = 0, 0.0, None
        if row.file:
            clip, source_frames, seconds = self._clip(manifest.place(self.rows.root, row.file), row)
            files = video.store(clip, how=self.packing.stored, quality=self.packing.quality)
            clip = self._whole(clip) if self.with_clips else None
        key, told = f"{row.number:08}", {"key": manifest.key_of(row), **_told(row)}
        frames = video.frames_of(files) if files else 0
        if files:  # a column of the table that is called key or clip stays what it is
            told.setdefault("clip", {"frames": frames, "seconds": round(seconds, 6)})
        said = json.dumps(told, ensure_ascii=False).encode()
        members = [tars.entry(f"{key}.{name}", data) for name, data in (*files.items(), ("json", said))]
        return _Sample(key, b"".join(members), frames, source_frames, seconds, clip)

    def _whole(self, clip: Tensor) -> Tensor:
        """The clip with as many frames as a training shows: short ones repeat theirs."""
        count, total = self.packing.num_frames, clip.shape[1]
        return clip[:, [(2 * i + 1) * total // (2 * count) for i in range(count)]]

    def _clip(self, path: Path, row: Row) -> tuple[Tensor, int, float]:
        """A clip, how many frames it had, and its seconds."""
        packing = self.packing
        had, seconds = video.extent(path, row.start, row.end)
        count = min(had, packing.num_frames or max(1, round(seconds * packing.fps)))
        if count > _MOST_FRAMES:
            raise DataError(f"{path}: {count} frames, expected at most {_MOST_FRAMES}; give it rows with start and end")
        clip = video.read_clip(
            path, num_frames=count, size=packing.size, channels=packing.channels, start=row.start, end=row.end,
            fit=packing.fit, region=packing.region,
        )  # fmt: skip
        return clip, had, seconds
