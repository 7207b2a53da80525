"""An SAE on a language model: decompose, steer, splice, generate."""

import sys
from types import ModuleType

from hsae_hub.attach import before as before  # before nnsight, wherever it is loaded
from hsae_hub.attach.attached import Attached as Attached
from hsae_hub.attach.attaching import attach as attach
from hsae_hub.attach.attribution import Attribution as Attribution
from hsae_hub.attach.attribution import Edge as Edge
from hsae_hub.attach.attribution import Effect as Effect
from hsae_hub.attach.beside import Beside as Beside
from hsae_hub.attach.beside import BesideStep as BesideStep
from hsae_hub.attach.decomposing import decompose_activations as decompose_activations
from hsae_hub.attach.decomposition import Decomposition as Decomposition
from hsae_hub.attach.decomposition import Feature as Feature
from hsae_hub.attach.decomposition import RunnerUp as RunnerUp
from hsae_hub.attach.decomposition import Token as Token
from hsae_hub.attach.losses import Losses as Losses
from hsae_hub.attach.losses import SpliceReport as SpliceReport
from hsae_hub.attach.spliced import Spliced as Spliced
from hsae_hub.attach.spliced import splice_losses as splice_losses
from hsae_hub.attach.steering_file import read_steering as read_steering
from hsae_hub.attach.steering_file import steering_data as steering_data
from hsae_hub.attach.steering_file import steering_schema as steering_schema
from hsae_hub.attach.steering_file import write_steering as write_steering
from hsae_hub.attach.steering_spec import Edit as Edit
from hsae_hub.attach.steering_spec import Gate as Gate
from hsae_hub.attach.steering_spec import SteeringSpec as SteeringSpec
from hsae_hub.attach.steering_spec import parse_edits as parse_edits
from hsae_hub.attach.steering_spec import parse_gate as parse_gate
from hsae_hub.attach.streaming import Stream as Stream
from hsae_hub.attach.token_losses import TokenLoss as TokenLoss


class _Room(ModuleType):
    """Once imported, the room hides the function of its name in `hsae_hub`; so it can be called in its stead."""

    __call__ = staticmethod(attach)


sys.modules[__name__].__class__ = _Room
