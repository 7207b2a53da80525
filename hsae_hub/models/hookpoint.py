"""One place of a language model, under any of its usual names: activations, or the rows of an embedding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from hsae_hub.artifact import HookpointConfig
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.models.language_model import LanguageModel, execution_device, model_lock
from hsae_hub.models.reading import forward_arguments, read_module
from hsae_hub.problems import nearest

Side = Literal["input", "output", "weight"]
_LAYER = re.compile(r"(?:[a-z_]+\.)*?(?:layers|h|blocks)\.(\d+)((?:\.\w+)*)")
_SIDE = re.compile(r"\.(input|output|weight)$")
_TRANSFORMER_LENS: dict[str, tuple[str, Side]] = {
    ".hook_resid_pre": ("", "input"),
    ".hook_resid_post": ("", "output"),
    ".hook_attn_out": (".attn_out", "output"),
    ".hook_mlp_out": (".mlp_out", "output"),
}
_ADDED = {
    "attn_out": ("post_attention_layernorm", "self_attn", "attn", "attention"),
    "mlp_out": ("post_feedforward_layernorm", "mlp"),
}
"""What a layer's attention or MLP adds to the residual stream: the first of these modules that the layer has. As in
TransformerLens that is behind the norm where there is one after the sublayer (Gemma-2 and 3)."""
_SPELLINGS = (
    "write model.layers.3 (residual stream after layer 3), model.layers.3.input (before it), layers.3.attn_out or "
    "layers.3.mlp_out (what attention or MLP adds to it), blocks.3.hook_resid_post, or a module such as "
    "model.layers.3.mlp; "
    "lm_head.weight for the rows of the unembedding"
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
    """A module and its side. `layers.3` is decoder layer 3 in every family, `layers.3.attn_out` and `layers.3.mlp_out`
    are what its attention and MLP add to the residual stream; other modules go by their own path.

    The side `weight` is no activation but the rows of an embedding, one a token: of `lm_head`, or of the input's.
    """

    path: str
    side: Side = "output"

    @classmethod
    def parse(cls, text: str | int) -> Hookpoint:
        """Reads `model.layers.3`, `layers.3`, `transformer.h.3`, `3`, each with `.input` or `.output` at will,
        `blocks.3.hook_resid_pre`, `…_resid_post`, `…_attn_out` and `…_mlp_out`, the path of any module, or of an
        embedding with `.weight`.

        Raises:
            UsageError: it is none of these.
        """
        path = str(text).strip()
        if path.isdecimal():
            return cls(f"layers.{int(path)}")
        found = re.fullmatch(_LAYER, path)
        rest = found[2] if found else ""
        if found and rest in _TRANSFORMER_LENS:
            below, lens_side = _TRANSFORMER_LENS[rest]
            return cls(f"layers.{int(found[1])}{below}", lens_side)
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", path) or "hook_" in path:
            raise UsageError(f"{path!r} names no place in a language model", fix=_SPELLINGS)
        ending = _SIDE.search(path)
        side: Any = ending[1] if ending else "output"
        if found:
            return cls(f"layers.{int(found[1])}" + _SIDE.sub("", rest), side)
        return cls(_SIDE.sub("", path), side)

    @classmethod
    def from_config(cls, config: HookpointConfig) -> Hookpoint:
        """The place that a saved SAE names."""
        return cls.parse(config.path)._replace(side=config.side)

    def __str__(self) -> str:
        return self.path + ("" if self.side == "output" else f".{self.side}")

    @property
    def layer(self) -> int | None:
        """Number of the decoder layer that it is, or is in; None outside of them."""
        parts = self.path.split(".")
        return int(parts[1]) if parts[0] == "layers" and len(parts) > 1 else None

    @property
    def is_residual(self) -> bool:
        """Whether it is the residual stream before or after a decoder layer."""
        is_layer = self.layer is not None and self.path.count(".") == 1
        return is_layer and self.side != "weight"

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
        path = layers + self.path.removeprefix("layers")
        parent, _, last = path.rpartition(".")
        if last in _ADDED and path.count(".") == layers.count(".") + 2:
            return f"{parent}.{_added(modules[self.layer], last)}"
        return path

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

    def _lens_name(self, hf: PreTrainedModel) -> str | None:
        layer = self.layer
        for ending, (below, side) in _TRANSFORMER_LENS.items():
            if layer is not None and side == self.side:
                named = Hookpoint(f"layers.{layer}{below}", side)
                if named.full_path(hf) == self.full_path(hf):
                    return f"blocks.{layer}{ending}"
        return None

    def rows(self, lm: LanguageModel) -> Float[Tensor, "vocabulary d"]:
        """The weight of an embedding, a row a token, as the model holds it.

        Raises:
            MisfitError: the model has no such module, or it is not its input or output embedding.
        """
        module = self.module(lm.hf)
        embeddings = (lm.hf.get_output_embeddings(), lm.hf.get_input_embeddings())
        if not any(module is each for each in embeddings):
            paths = [
                f"{path}.weight"
                for path, each in lm.hf.named_modules()
                if any(each is embedding for embedding in embeddings)
            ]
            raise MisfitError(
                f"{self} has no row for each token of {lm.id}", fix=f"one of {', '.join(paths)}"
            )
        found = module.weight
        assert isinstance(found, Tensor)
        return found.detach()

    def device(self, lm: LanguageModel) -> torch.device:
        """Where its activations are: a model may be spread over several devices."""
        module = self.module(lm.hf)
        has_weights = next(module.parameters(), None) is not None
        return execution_device(module) if has_weights else lm.device

    def width(self, lm: LanguageModel) -> int:
        """Width of its activations or rows; outside the residual stream found by running one token.

        Raises:
            MisfitError: the model has no such layer or module.
        """
        if self.side == "weight":
            return self.rows(lm).shape[1]
        module = self.module(lm.hf)
        if self.is_residual:
            return lm.d_model
        token = torch.zeros(1, 1, dtype=torch.int64, device=lm.hf.device)
        return read_module(lm.hf, module, self.side, token, token + 1).shape[-1]

    def config(self, lm: LanguageModel) -> HookpointConfig:
        """What a saved SAE says of it: its path in this model and its names elsewhere.

        Raises:
            MisfitError: the model has no such layer or module.
        """
        if self.side == "weight":
            self.rows(lm)
        self.module(lm.hf)
        alias, index = self._lens_name(lm.hf), None
        if self.is_residual and self.layer is not None:
            after = self.side == "output"
            index = self.layer + after
        if index == lm.n_layers:  # transformers gives the last one after the final norm
            index = None
        return HookpointConfig(
            path=self.full_path(lm.hf), side=self.side, transformer_lens=alias, hidden_states=index
        )


def _added(layer: nn.Module, what: str) -> str:
    """Name of the module in a decoder layer whose output is added to the residual stream."""
    names = [name for name, _ in layer.named_children()]
    # Llama's post_attention_layernorm is the one before its MLP, and adds nothing
    known = _ADDED[what] if "post_feedforward_layernorm" in names else _ADDED[what][1:]
    for name in known:
        if name in names:
            return name
    raise MisfitError(
        f"{type(layer).__name__} has none of {', '.join(known)} to be its {what}", fix=_SPELLINGS
    )


@torch.no_grad()
def in_order_of_execution(lm: LanguageModel, hookpoints: Sequence[Hookpoint]) -> list[Hookpoint]:
    """Different places of activations in the order in which a forward comes to them, found by running one token.

    Raises:
        MisfitError: the model has no such layer or module, or a forward never comes to it.
    """
    if len(hookpoints) < 2:
        return list(hookpoints)
    reached: list[Hookpoint] = []
    handles = []
    with model_lock(lm.hf):
        for hookpoint in hookpoints:
            note = partial(_note, reached, hookpoint)
            module = hookpoint.module(lm.hf)
            if hookpoint.side == "output":
                handles.append(module.register_forward_hook(note))
            else:
                handles.append(module.register_forward_pre_hook(note))
        try:
            device = lm.hf.device if lm.remote else lm.device
            token = torch.zeros(1, 1, dtype=torch.int64, device=device)
            lm.hf(**forward_arguments(lm.hf, token, token + 1))
        finally:
            for handle in handles:
                handle.remove()
    for hookpoint in hookpoints:
        if hookpoint not in reached:
            raise MisfitError(f"a forward of {lm.id} never comes to {hookpoint}")
    return list(dict.fromkeys(reached))


def _note(reached: list[Hookpoint], hookpoint: Hookpoint, *_seen: object) -> None:
    reached.append(hookpoint)


def read_activations(
    lm: LanguageModel,
    hookpoint: Hookpoint,
    input_ids: Int64[Tensor, "b s"],
    attention_mask: Int64[Tensor, "b s"],
) -> Float[Tensor, "b s d"]:
    """Raw activations at a hookpoint, on the model's device and in its dtype; later layers are not computed.

    The mask is 1 on tokens and 0 on padding, on either side of a row; activations on padding mean nothing. Of an
    embedding's weight each token gives its row, whatever stands around it.

    Raises:
        MisfitError: the model has no such layer or module.
        UsageError: the model's weights are not here.
    """
    if lm.remote:
        if lm.reader is None or hookpoint.side == "weight":
            raise UsageError(
                f"{lm.id} runs on a server, and its activations stay there"
                if lm.reader is None
                else f"{lm.id} runs on vLLM, and its weights stay there",
                fix="steer, splice and generate; for everything else load the model",
            )
        return lm.reader(hookpoint, input_ids, attention_mask)
    ids, mask = input_ids.to(lm.device), attention_mask.to(lm.device)
    if hookpoint.side == "weight":
        return hookpoint.rows(lm)[ids]
    module = hookpoint.module(lm.hf)
    return read_module(lm.hf, module, hookpoint.side, ids, mask)
