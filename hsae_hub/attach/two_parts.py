"""Activations in what vLLM's modules take and give: flat, and of most decoder layers in two parts.

Such a layer gives `(hidden, residual)`, for the next norm adds them anyway: the residual stream is their sum.
"""

from __future__ import annotations

from inspect import BoundArguments, signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_HIDDEN, _RESIDUAL = "hidden_states", "residual"


def joined(value: Any, is_stream: bool) -> Float[Tensor, "tokens d"]:
    """The activations in what a module gives; `is_stream` when it is a decoder layer, whose parts belong together."""
    if not isinstance(value, tuple):
        return _flat(value)
    residual = value[1] if is_stream and len(value) > 1 else None
    return _flat(value[0] if residual is None else value[0] + residual)


def parted(value: Any, activations: Float[Tensor, "tokens d"], is_stream: bool) -> Any:
    """What a module gave, with other activations in it; numbers that did not change keep their two parts, bit for bit.

    A changed number comes whole in the first part: a difference to the residual would be rounded once more.
    """
    if not isinstance(value, tuple):
        return activations.reshape(value.shape)
    first, *rest = value
    new = activations.reshape(first.shape)
    if not is_stream or not rest or rest[0] is None:
        return (new, *rest)
    residual = rest[0]
    same = new == first + residual
    return (torch.where(same, first, new), torch.where(same, residual, 0), *rest[1:])


def joined_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], is_stream: bool
) -> Float[Tensor, "tokens d"]:
    """The activations in what a module is called with, under whatever name and in whatever order."""
    bound = _bound(module, args, kwargs)
    return joined(_parts(bound), is_stream)


def parted_input(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    activations: Float[Tensor, "tokens d"],
    is_stream: bool,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a module is called with, with other activations in it."""
    bound = _bound(module, args, kwargs)
    value = parted(_parts(bound), activations, is_stream)
    if isinstance(value, tuple):
        bound.arguments[_hidden(bound)], bound.arguments[_RESIDUAL] = value
    else:
        bound.arguments[_hidden(bound)] = value
    return bound.args[1:], bound.kwargs


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundArguments:
    # the class's own: nnsight puts another forward, of any arguments, in front of it
    return signature(type(module).forward).bind(module, *args, **kwargs)


def _hidden(bound: BoundArguments) -> str:
    # vLLM's decoder layers take positions first, their MLPs what they call x
    return _HIDDEN if _HIDDEN in bound.arguments else list(bound.arguments)[1]


def _parts(bound: BoundArguments) -> Any:
    hidden = bound.arguments[_hidden(bound)]
    return (hidden, bound.arguments[_RESIDUAL]) if _RESIDUAL in bound.arguments else hidden


def _flat(activations: Any) -> Float[Tensor, "tokens d"]:
    # a model that vLLM runs as transformers wrote it has a batch of one in front
    found: Tensor = activations.reshape(-1, activations.shape[-1])
    return found
