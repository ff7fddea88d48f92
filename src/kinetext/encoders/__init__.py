"""One modality -> features."""

from kinetext.encoders.c3d import C3D
from kinetext.encoders.features import PrecomputedFeatures
from kinetext.encoders.frame_cnn import FrameCNN
from kinetext.encoders.i3d import I3D
from kinetext.encoders.lstm import LSTM
from kinetext.encoders.pretrained_text import PretrainedText
from kinetext.encoders.pretrained_video import PretrainedVideo
from kinetext.encoders.torchvision_video import TorchvisionVideo
from kinetext.encoders.transformer import Transformer
from kinetext.encoders.video_transformer import VideoTransformer
from kinetext.encoders.word_vectors import WordVectors
from kinetext.interfaces import Registry

REGISTRY: Registry = {
    "transformer": Transformer,
    "word_vectors": WordVectors,
    "lstm": LSTM,
    "frame_cnn": FrameCNN,
    "c3d": C3D,
    "i3d": I3D,
    "video_transformer": VideoTransformer,
    "torchvision_video": TorchvisionVideo,
    "pretrained_text": PretrainedText,
    "pretrained_video": PretrainedVideo,
    "features": PrecomputedFeatures,
}
