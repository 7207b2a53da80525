"""Reads what passes one module, and stops the forward there."""

from __future__ import annotations

from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.models.language_model import model_lock


class _Reached(Exception):
    """Ends a forward from inside a hook."""


def hidden(output: Any) -> Tensor:
    """The activations in what a module returns: the tensor itself, or the first of a tuple (older transformers)."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


def rebuild(output: Any, activations: Tensor) -> Any:
    """What a module returned, with other activations in it."""
    return (activations, *output[1:]) if isinstance(output, tuple) else activations


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The activations in what a module is called with."""
    found = args[0] if args else kwargs["hidden_states"]
    assert isinstance(found, Tensor)
    return found


def replace_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], activations: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a module is called with, with other activations in it."""
    if args:
        return (activations, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": activations}


def positions(attention_mask: Int64[Tensor, "b s"]) -> Int64[Tensor, "b s"]:
    """Position of every token within its own text; 0 on padding, whichever side it is on."""
    return (attention_mask.cumsum(-1) - 1).clamp_min(0)


def forward_arguments(
    hf: nn.Module, input_ids: Int64[Tensor, "b s"], attention_mask: Int64[Tensor, "b s"]
) -> dict[str, Any]:
    """What a forward without a key-value cache is called with; padding on the left shifts no position."""
    if attention_mask.is_meta:
        # without values nobody can ask what is padding, as transformers does of a mask with fewer dimensions
        b, s = attention_mask.shape
        whole = attention_mask.bool()[:, None, None, :].expand(b, 1, s, s)
        return {"input_ids": input_ids, "attention_mask": whole, "use_cache": False}
    found = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    accepts = signature(type(hf).forward).parameters
    if "position_ids" in accepts and not bool(attention_mask.all()):
        found["position_ids"] = positions(attention_mask)
    return found


@torch.no_grad()
def read_module(
    hf: nn.Module,
    module: nn.Module,
    side: Literal["input", "output"],
    input_ids: Int64[Tensor, "b s"],
    attention_mask: Int64[Tensor, "b s"],
) -> Float[Tensor, "b s d"]:
    """Activations at one side of a module of `hf`; modules that come later are not run, and no hook stays.

    Raises:
        RuntimeError: the forward never came past the module.
    """
    found: list[Tensor] = []

    def stop(activations: Tensor) -> None:
        found.append(activations.detach())
        raise _Reached

    with model_lock(hf):
        if side == "output":
            handle = module.register_forward_hook(lambda _m, _args, out: stop(hidden(out)))
        else:
            handle = module.register_forward_pre_hook(
                lambda _m, args, kwargs: stop(first_input(args, kwargs)), with_kwargs=True
            )
        try:
            hf(**forward_arguments(hf, input_ids, attention_mask))
        except _Reached:
            return found[0]
        finally:
            handle.remove()
    raise RuntimeError(f"the forward never ran {type(module).__name__}")
