"""Which architectures there are: every file beside this one, and every installed package's entry points."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hsae_hub.architectures.base import SAE, SAEConfig
from hsae_hub.errors import UsageError
from hsae_hub.problems import key_paths, nearest, problems_of

ENTRY_POINTS = "hsae_hub.architectures"
"""Group under which another distribution names modules that register architectures."""

_NOT_ARCHITECTURES = {"__init__", "base", "latents", "registry"}
_registered: dict[str, type[SAE[Any]]] = {}

T = TypeVar("T", bound=type[SAE[Any]])


def register(cls: T) -> T:
    """Class decorator that makes an architecture known under its config's `architecture`.

    Raises:
        ValueError: another class has that name.
    """
    name = cls.config_class.model_fields["architecture"].default
    if name in _registered:
        raise ValueError(f"architecture {name!r} is taken by {_registered[name].__module__}")
    _registered[name] = cls
    return cls


@cache
def _discover() -> None:
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _NOT_ARCHITECTURES:
            import_module(f"hsae_hub.architectures.{path.stem}")
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def list_architectures() -> list[str]:
    """Names of all architectures, sorted."""
    _discover()
    return sorted(_registered)


def architecture(name: str) -> type[SAE[Any]]:
    """The class of an architecture.

    Raises:
        UsageError: there is none of that name.
    """
    _discover()
    if name not in _registered:
        known = list_architectures()
        raise UsageError(
            f"unknown architecture {name!r}{nearest(name, known)}", fix=f"known: {', '.join(known)}"
        )
    return _registered[name]


def parse_config(data: dict[str, Any]) -> SAEConfig:
    """The config of an SAE from plain data, such as a recipe's `sae:` or a config.json.

    Raises:
        UsageError: no or an unknown architecture, unknown keys, values out of range: every problem at once.
    """
    if "architecture" not in data:
        raise UsageError(
            "architecture: required, but not given", fix=f"known: {', '.join(list_architectures())}"
        )
    config_class = architecture(str(data["architecture"])).config_class
    try:
        return config_class.model_validate(data)
    except ValidationError as error:
        problems = tuple(str(p) for p in problems_of(error, key_paths(config_class)))
        raise UsageError(
            f"this {data['architecture']} config cannot be used: {'; '.join(problems)}",
            problems=problems,
        ) from None


def build(config: SAEConfig | dict[str, Any], *, seed: int = 0) -> SAE[Any]:
    """A freshly initialised SAE, in float32 on the CPU; the same seed gives the same weights.

    Raises:
        UsageError: the config cannot be used.
    """
    import torch

    parsed = parse_config(config) if isinstance(config, dict) else config
    sae = architecture(parsed.architecture)(parsed)
    sae.reset_parameters(torch.Generator().manual_seed(seed))
    return sae
