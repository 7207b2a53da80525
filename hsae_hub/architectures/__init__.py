"""Sparse autoencoders: what they share, and two files an architecture: its hyper-parameters and its tensors.

Configs load no torch; what has tensors does.
"""

from typing import TYPE_CHECKING

from hsae_hub.architectures.configs.base import NORMALIZE as NORMALIZE
from hsae_hub.architectures.configs.base import SAEConfig as SAEConfig
from hsae_hub.architectures.registry import architecture as architecture
from hsae_hub.architectures.registry import build as build
from hsae_hub.architectures.registry import config_class as config_class
from hsae_hub.architectures.registry import list_architectures as list_architectures
from hsae_hub.architectures.registry import parse_config as parse_config
from hsae_hub.architectures.registry import register as register
from hsae_hub.architectures.registry import tensor_shapes as tensor_shapes
from hsae_hub.architectures.shape import TreeShape as TreeShape
from hsae_hub.lazy import lazily

if TYPE_CHECKING:
    from hsae_hub.architectures.base import SAE as SAE
    from hsae_hub.architectures.base import TrainStep as TrainStep
    from hsae_hub.architectures.latents import Acts as Acts
    from hsae_hub.architectures.latents import SAEOutput as SAEOutput

__getattr__ = lazily(
    __name__, {"SAE": "base", "TrainStep": "base", "Acts": "latents", "SAEOutput": "latents"}
)
