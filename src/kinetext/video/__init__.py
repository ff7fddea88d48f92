"""Files <-> video tensors; the only package that knows a video container.

Reading is exact: which frames a file has is taken from its packets, the frames asked for are found by the
times at which they are shown, and what can't be decoded without a flaw is a ``VideoError``, never a wrong frame.
"""

from kinetext.video.frames import VideoError
from kinetext.video.keeping import Kept
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
from kinetext.video.streaming import count_frames, is_steady, stream
from kinetext.video.writing import Writer, frame_rate, to_bytes, write, write_gif, write_png

__all__ = [
    "SUFFIXES",
    "WHOLE",
    "Fit",
    "Kept",
    "Region",
    "Sampling",
    "VideoError",
    "VideoInfo",
    "Writer",
    "check_region",
    "count_frames",
    "frame_rate",
    "is_steady",
    "probe",
    "read_all",
    "read_clip",
    "read_provenance",
    "stream",
    "to_bytes",
    "to_float",
    "write",
    "write_gif",
    "write_png",
]
