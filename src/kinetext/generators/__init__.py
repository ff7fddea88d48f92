"""Methods that make video (or text) from a condition."""

from kinetext.generators.flow import Flow
from kinetext.generators.recurrent_vae import RecurrentVAE
from kinetext.generators.seq2seq import Seq2Seq
from kinetext.interfaces import Registry

REGISTRY: Registry = {"recurrent_vae": RecurrentVAE, "seq2seq": Seq2Seq, "flow": Flow}
