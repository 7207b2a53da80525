"""Sparse autoencoders: what they share, and one file an architecture."""

from hsae_hub.architectures.base import SAE as SAE
from hsae_hub.architectures.base import SAEConfig as SAEConfig
from hsae_hub.architectures.base import TrainStep as TrainStep
from hsae_hub.architectures.latents import Acts as Acts
from hsae_hub.architectures.latents import SAEOutput as SAEOutput
from hsae_hub.architectures.latents import TreeShape as TreeShape
from hsae_hub.architectures.registry import architecture as architecture
from hsae_hub.architectures.registry import build as build
from hsae_hub.architectures.registry import list_architectures as list_architectures
from hsae_hub.architectures.registry import parse_config as parse_config
from hsae_hub.architectures.registry import register as register
