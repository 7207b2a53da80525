"""One place of a language model whose activations are read and written, under any of its usual names."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from hsae_hub.artifact import HookpointConfig
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.models.language_model import LanguageModel
from hsae_hub.models.reading import read_module
from hsae_hub.problems import nearest

Side = Literal["input", "output"]
_LAYER = re.compile(r"(?:[a-z_]+\.)*?(?:layers|h|blocks)\.(\d+)((?:\.\w+)*)")
_TRANSFORMER_LENS: dict[str, Side] = {".hook_resid_pre": "input", ".hook_resid_post": "output"}
_SPELLINGS = (
    "write model.layers.3 (residual stream after layer 3), model.layers.3.input (before it), "
    "blocks.3.hook_resid_post, or a module such as model.layers.3.mlp"
)


def layer_list(hf: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder layers and their path: `model.layers` in Gemma, Llama and Qwen, `transformer.h` in GPT-2.

    Raises:
        MisfitError: the model has no list of as many modules as its config has layers.
    """
    n_layers = hf.config.get_text_config().num_hidden_layers
    lists = [
        (path, module)
        for path, module in hf.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not lists:
        raise MisfitError(f"{type(hf).__name__} has no list of {n_layers} decoder layers")
    return min(lists, key=lambda found: found[0].count("."))


class Hookpoint(NamedTuple):
    """A module and its side. `layers.3` is decoder layer 3 in every family; other modules go by their own path."""

    path: str
    side: Side = "output"

    @classmethod
    def parse(cls, text: str | int) -> Hookpoint:
        """Reads `model.layers.3`, `layers.3`, `transformer.h.3`, `3`, each with `.input` or `.output` at will,
        `blocks.3.hook_resid_pre` and `…_post`, or the path of any module.

        Raises:
            UsageError: it is none of these.
        """
        path = str(text).strip()
        if path.isdecimal():
            return cls(f"layers.{int(path)}")
        found = re.fullmatch(_LAYER, path)
        rest = found[2] if found else ""
        if found and rest in _TRANSFORMER_LENS:
            return cls(f"layers.{int(found[1])}", _TRANSFORMER_LENS[rest])
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", path) or "hook_" in path:
            raise UsageError(f"{path!r} names no place in a language model", fix=_SPELLINGS)
        side: Side = "input" if path.endswith(".input") else "output"
        if found:
            return cls(f"layers.{int(found[1])}" + re.sub(r"\.(in|out)put$", "", rest), side)
        return cls(re.sub(r"\.(in|out)put$", "", path), side)

    @classmethod
    def from_config(cls, config: HookpointConfig) -> Hookpoint:
        """The place that a saved SAE names."""
        return cls.parse(config.path)._replace(side=config.side)

    def __str__(self) -> str:
        return self.path + (".input" if self.side == "input" else "")

    @property
    def layer(self) -> int | None:
        """Number of the decoder layer that it is, or is in; None outside of them."""
        parts = self.path.split(".")
        return int(parts[1]) if parts[0] == "layers" and len(parts) > 1 else None

    @property
    def is_residual(self) -> bool:
        """Whether it is the residual stream before or after a decoder layer."""
        return self.layer is not None and self.path.count(".") == 1

    def full_path(self, hf: PreTrainedModel) -> str:
        """Path of its module in this model.

        Raises:
            MisfitError: the model has no such layer or module.
        """
        if self.layer is None:
            return self.path
        layers, modules = layer_list(hf)
        if self.layer >= len(modules):
            raise MisfitError(
                f"no layer {self.layer} in {type(hf).__name__}: its layers are 0 to {len(modules) - 1}",
                fix=f"a hookpoint from {layers}.0 to {layers}.{len(modules) - 1}",
            )
        return layers + self.path.removeprefix("layers")

    def module(self, hf: PreTrainedModel) -> nn.Module:
        """Its module in this model.

        Raises:
            MisfitError: the model has no such layer or module.
        """
        path = self.full_path(hf)
        names: dict[str, nn.Module] = dict(hf.named_modules())
        if path not in names:
            raise MisfitError(
                f"no module {path!r} in {type(hf).__name__}{nearest(path, names)}", fix=_SPELLINGS
            )
        return names[path]

    def width(self, lm: LanguageModel) -> int:
        """Width of its activations; outside the residual stream found by running one token.

        Raises:
            MisfitError: the model has no such layer or module.
        """
        module = self.module(lm.hf)
        if self.is_residual:
            return lm.d_model
        token = torch.zeros(1, 1, dtype=torch.int64, device=lm.device)
        return read_module(lm.hf, module, self.side, token, token + 1).shape[-1]

    def config(self, lm: LanguageModel) -> HookpointConfig:
        """What a saved SAE says of it: its path in this model and its names elsewhere.

        Raises:
            MisfitError: the model has no such layer or module.
        """
        self.module(lm.hf)
        alias, index = None, None
        if self.is_residual and self.layer is not None:
            after = self.side == "output"
            alias = f"blocks.{self.layer}.hook_resid_{'post' if after else 'pre'}"
            index = self.layer + after
        if index == lm.n_layers:  # transformers gives the last one after the final norm
            index = None
        return HookpointConfig(
            path=self.full_path(lm.hf), side=self.side, transformer_lens=alias, hidden_states=index
        )


def read_activations(
    lm: LanguageModel,
    hookpoint: Hookpoint,
    input_ids: Int64[Tensor, "b s"],
    attention_mask: Int64[Tensor, "b s"],
) -> Float[Tensor, "b s d"]:
    """Raw activations at a hookpoint, on the model's device and in its dtype; later layers are not computed.

    The mask is 1 on tokens and 0 on padding, on either side of a row; activations on padding mean nothing.

    Raises:
        MisfitError: the model has no such layer or module.
    """
    module = hookpoint.module(lm.hf)
    ids, mask = input_ids.to(lm.device), attention_mask.to(lm.device)
    return read_module(lm.hf, module, hookpoint.side, ids, mask)
