"""Hierarchical sparse autoencoders: train, publish, pull, attach, steer, splice, decompose.

The public names are those in `__all__`; each is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "attach": "attach",
    "build": "architectures",
    "build_index": "features",
    "evaluate": "evaluation",
    "list_architectures": "architectures",
    "list_recipes": "recipes",
    "load": "hub",
    "load_features": "hub",
    "load_language_model": "models",
    "load_recipe": "recipes",
    "register": "architectures",
    "render_card": "card",
    "save_sae": "artifact",  # not "save": nnsight gives every object, this module too, a method of that name
    "train": "training",
    "HSAEError": "errors",
    "Hub": "hub",
}
__all__ = [
    "HSAEError",
    "Hub",
    "attach",
    "build",
    "build_index",
    "evaluate",
    "list_architectures",
    "list_recipes",
    "load",
    "load_features",
    "load_language_model",
    "load_recipe",
    "register",
    "render_card",
    "save_sae",
    "train",
]

if TYPE_CHECKING:
    from hsae_hub.architectures import build, list_architectures, register
    from hsae_hub.artifact import save_sae
    from hsae_hub.attach import attach
    from hsae_hub.card import render_card
    from hsae_hub.errors import HSAEError
    from hsae_hub.evaluation import evaluate
    from hsae_hub.features import build_index
    from hsae_hub.hub import Hub, load, load_features
    from hsae_hub.models import load_language_model
    from hsae_hub.recipes import list_recipes, load_recipe
    from hsae_hub.training import train


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'hsae_hub' has no attribute {name!r}")
    value = getattr(import_module(f"hsae_hub.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
