"""Features of several modalities -> features of one."""

from kinetext.fusion.attention import Attention
from kinetext.fusion.bottleneck import Bottleneck
from kinetext.fusion.concat import Concat
from kinetext.fusion.gated import Gated
from kinetext.fusion.joint_attention import JointAttention
from kinetext.fusion.late import Late
from kinetext.interfaces import Registry

REGISTRY: Registry = {
    "concat": Concat,
    "attention": Attention,
    "joint_attention": JointAttention,
    "bottleneck": Bottleneck,
    "gated": Gated,
    "late": Late,
}
