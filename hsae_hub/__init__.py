"""Hierarchical sparse autoencoders: train, publish, pull, attach, steer, splice, decompose.

The public names are those in `__all__`; each is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

from hsae_hub.lazy import lazily

__version__ = "0.1.0"

_ROOMS = {
    "attach": "attach",
    "build": "architectures",
    "build_index": "features",
    "decompose_activations": "attach",
    "compare_on": "features",
    "evaluate": "evaluation",
    "list_architectures": "architectures",
    "list_recipes": "recipes",
    "load": "hub",
    "load_features": "hub",
    "load_language_model": "models",
    "load_recipe": "recipes",
    "read_steering": "attach",
    "register": "architectures",
    "render_card": "card",
    "save_sae": "artifact",  # not "save": nnsight gives every object, this module too, a method of that name
    "train": "training",
    "write_steering": "attach",
    "HSAEError": "errors",
    "Hub": "hub",
    "SteeringSpec": "attach",
}
__all__ = [
    "HSAEError",
    "Hub",
    "SteeringSpec",
    "attach",
    "build",
    "build_index",
    "compare_on",
    "decompose_activations",
    "evaluate",
    "list_architectures",
    "list_recipes",
    "load",
    "load_features",
    "load_language_model",
    "load_recipe",
    "read_steering",
    "register",
    "render_card",
    "save_sae",
    "train",
    "write_steering",
]

if TYPE_CHECKING:
    from hsae_hub.architectures import build, list_architectures, register
    from hsae_hub.artifact import save_sae
    from hsae_hub.attach import (
        SteeringSpec,
        attach,
        decompose_activations,
        read_steering,
        write_steering,
    )
    from hsae_hub.card import render_card
    from hsae_hub.errors import HSAEError
    from hsae_hub.evaluation import evaluate
    from hsae_hub.features import build_index, compare_on
    from hsae_hub.hub import Hub, load, load_features
    from hsae_hub.models import load_language_model
    from hsae_hub.recipes import list_recipes, load_recipe
    from hsae_hub.training import train


__getattr__ = lazily(__name__, _ROOMS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
