"""What is learned."""

from kinetext.interfaces import Registry
from kinetext.tasks.classification import Classification
from kinetext.tasks.reconstruction import Reconstruction
from kinetext.tasks.regression import Regression
from kinetext.tasks.retrieval import Retrieval
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.tasks.video_to_text import VideoToText

REGISTRY: Registry = {
    "classification": Classification,
    "reconstruction": Reconstruction,
    "regression": Regression,
    "retrieval": Retrieval,
    "text_to_video": TextToVideo,
    "video_to_text": VideoToText,
}
