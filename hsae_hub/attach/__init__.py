"""An SAE on a language model: decompose, steer, splice, generate."""

import sys
from types import ModuleType

from hsae_hub.attach.attached import Attached as Attached
from hsae_hub.attach.attaching import attach as attach
from hsae_hub.attach.decomposing import Decomposition as Decomposition
from hsae_hub.attach.decomposing import Feature as Feature
from hsae_hub.attach.decomposing import RunnerUp as RunnerUp
from hsae_hub.attach.decomposing import Token as Token
from hsae_hub.attach.losses import Losses as Losses
from hsae_hub.attach.losses import SpliceReport as SpliceReport
from hsae_hub.attach.spliced import Spliced as Spliced
from hsae_hub.attach.spliced import splice_losses as splice_losses
from hsae_hub.attach.steering import Edit as Edit
from hsae_hub.attach.steering import parse_edits as parse_edits


class _Room(ModuleType):
    """Once imported, the room hides the function of its name in `hsae_hub`; so it can be called in its stead."""

    __call__ = staticmethod(attach)


sys.modules[__name__].__class__ = _Room
