"""Which architectures there are: every file of `configs`, and every installed package's entry points."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from hsae_hub.architectures.configs.base import SAEConfig, Shapes
from hsae_hub.errors import UsageError
from hsae_hub.problems import key_paths, nearest, problems_of

if TYPE_CHECKING:
    from hsae_hub.architectures.base import SAE

    T = TypeVar("T", bound=type[SAE[Any]])

ENTRY_POINTS = "hsae_hub.architectures"
"""Group under which another distribution names modules that register architectures."""

_HERE = "hsae_hub.architectures"
_OWN = frozenset(path.stem for path in (Path(__file__).parent / "configs").glob("[a-z]*.py")) - {
    "base"
}
_registered: dict[str, type[SAE[Any]]] = {}


def register(cls: T) -> T:
    """Class decorator that makes an architecture known under its config's `architecture`.

    Raises:
        ValueError: another class has that name.
    """
    name = _name(cls.config_class)
    taken = _registered[name].__module__ if name in _registered else f"{_HERE}.{name}"
    if name in _registered or (name in _OWN and cls.__module__ != taken):
        raise ValueError(f"architecture {name!r} is taken by {taken}")
    _registered[name] = cls
    return cls


def _name(config: type[SAEConfig]) -> Any:
    return config.model_fields["architecture"].default


@cache
def _load_others() -> None:
    from importlib.metadata import entry_points  # slow to import

    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def list_architectures() -> list[str]:
    """Names of all architectures, sorted."""
    _load_others()
    return sorted(_OWN | _registered.keys())


def architecture(name: str) -> type[SAE[Any]]:
    """The class of an architecture.

    Raises:
        UsageError: there is none of that name.
    """
    if name in _OWN:
        import_module(f"{_HERE}.{name}")
    elif name not in _registered:
        _load_others()
    if name not in _registered:
        known = list_architectures()
        raise UsageError(
            f"unknown architecture {name!r}{nearest(name, known)}", fix=f"known: {', '.join(known)}"
        )
    return _registered[name]


def config_class(name: str) -> type[SAEConfig]:
    """The class of an architecture's config; for one of this package no torch is loaded.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in _OWN:
        return architecture(name).config_class
    found = vars(import_module(f"{_HERE}.configs.{name}")).values()
    configs = (c for c in found if isinstance(c, type) and issubclass(c, SAEConfig))
    return next(config for config in configs if _name(config) == name)


def parse_config(data: dict[str, Any]) -> SAEConfig:
    """The config of an SAE from plain data, such as a recipe's `sae:` or a config.json.

    Raises:
        UsageError: no or an unknown architecture, unknown keys, values out of range: every problem at once.
    """
    if "architecture" not in data:
        raise UsageError(
            "architecture: required, but not given", fix=f"known: {', '.join(list_architectures())}"
        )
    config = config_class(str(data["architecture"]))
    try:
        return config.model_validate(data)
    except ValidationError as error:
        problems = tuple(str(p) for p in problems_of(error, key_paths(config)))
        raise UsageError(
            f"this {data['architecture']} config cannot be used: {'; '.join(problems)}",
            problems=problems,
        ) from None


def tensor_shapes(config: SAEConfig) -> Shapes:
    """What the weight file of an SAE holds, by the names on disk; for one of this package no torch is loaded."""
    if config.architecture in _OWN:
        return config.tensors()
    import torch

    with torch.device("meta"):
        weights = architecture(config.architecture)(config).weights()
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


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
