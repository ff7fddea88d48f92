"""Files <-> video tensors; the only package that knows a video container.

Reading is exact: which frames a file has is taken from its packets, the frames asked for are found by the
times at which they are shown, and what can't be decoded without a flaw is a ``VideoError``, never a wrong frame.
"""

from kinetext.video.frames import VideoError
from kinetext.video.keeping import Kept, kept
from kinetext.video.looking import Look, extent
from kinetext.video.reading import (
    SUFFIXES,
    WHOLE,
    Fit,
    Region,
    Sampling,
    VideoInfo,
    check_region,
    probe,
    read_all,
    read_clip,
    read_provenance,
    to_float,
)
from kinetext.video.storing import Stored, as_file, frames_of, is_stored, restore, store
from kinetext.video.streaming import count_frames, is_steady, stream
from kinetext.video.writing import Writer, frame_rate, to_bytes, write, write_gif, write_png

__all__ = [
    "SUFFIXES",
    "WHOLE",
    "Fit",
    "Kept",
    "Look",
    "Region",
    "Sampling",
    "Stored",
    "VideoError",
    "VideoInfo",
    "Writer",
    "as_file",
    "check_region",
    "count_frames",
    "extent",
    "frame_rate",
    "frames_of",
    "is_steady",
    "is_stored",
    "kept",
    "probe",
    "read_all",
    "read_clip",
    "read_provenance",
    "restore",
    "store",
    "stream",
    "to_bytes",
    "to_float",
    "write",
    "write_gif",
    "write_png",
]
