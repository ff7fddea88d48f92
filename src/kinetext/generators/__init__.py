"""Methods that make video (or text) from a condition."""

from kinetext.generators.autoregressive import Autoregressive
from kinetext.generators.diffusion import Diffusion
from kinetext.generators.flow import Flow
from kinetext.generators.gan import Gan
from kinetext.generators.recurrent_vae import RecurrentVAE
from kinetext.generators.seq2seq import Seq2Seq
from kinetext.interfaces import Registry

REGISTRY: Registry = {
    "autoregressive": Autoregressive,
    "diffusion": Diffusion,
    "flow": Flow,
    "gan": Gan,
    "recurrent_vae": RecurrentVAE,
    "seq2seq": Seq2Seq,
}
