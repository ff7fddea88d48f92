"""Files <-> video tensors; the only package that knows a video container.

Reading is exact: which frames a file has is taken from its packets, the frames asked for are found by the
times at which they are shown, and what a decoder sees a flaw in is a ``VideoError``, never a frame patched up from others.
(Packets of H.264 or VP9 that were lost before a file was written leave no trace that decoders tell of.)
"""

from kinetext.video.containers import VideoError
from kinetext.video.keeping import Kept, kept
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.looking import READING, Look, extent
from kinetext.video.pictures import digest
from kinetext.video.probing import VideoInfo, probe
from kinetext.video.reader import DECODERS, Decoder, Frames, VideoReader, forget, to_float
from kinetext.video.reading import SUFFIXES, read_all, read_clip, read_provenance
from kinetext.video.sampling import Sampling
from kinetext.video.shaping import WHOLE, Fit, Region, check_region
from kinetext.video.storing import Stored, as_file, frames_of, is_stored, restore, store
from kinetext.video.streaming import count_frames, is_steady, stream
from kinetext.video.timeline import Track
from kinetext.video.writing import WRITTEN, Writer, frame_rate, to_bytes, write, write_gif, write_png

__all__ = [
    "DECODERS",
    "LIMITS",
    "READING",
    "SUFFIXES",
    "WHOLE",
    "WRITTEN",
    "Decoder",
    "Fit",
    "Frames",
    "Kept",
    "Limits",
    "Look",
    "Region",
    "Sampling",
    "Stored",
    "Track",
    "VideoError",
    "VideoInfo",
    "VideoReader",
    "Writer",
    "as_file",
    "check_region",
    "count_frames",
    "digest",
    "extent",
    "forget",
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
