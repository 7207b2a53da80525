"""Names of models and of places in them, as other toolkits write them."""

from __future__ import annotations

import re
from typing import NamedTuple

from hsae_hub.artifact import HookpointConfig, ModelConfig


class _Family(NamedTuple):
    """Where a family of models has what TransformerLens gives one name in all of them."""

    layers: str
    attention_input: str
    """Module, below a layer, whose input are the heads' outputs."""
    attention_output: str
    """Module whose output attention adds to the residual stream."""
    mlp_output: str


_LLAMA = _Family("model.layers", "self_attn.o_proj", "self_attn", "mlp")
_GEMMA_2 = _LLAMA._replace(
    attention_output="post_attention_layernorm", mlp_output="post_feedforward_layernorm"
)  # these normalise before they add, and TransformerLens' hooks come after that
_GPT2 = _Family("transformer.h", "attn.c_proj", "attn", "mlp")
_PYTHIA = _Family("gpt_neox.layers", "attention.dense", "attention", "mlp")
_FAMILIES = {
    "gemma-2-": _GEMMA_2,
    "gemma-3-": _GEMMA_2,
    "gemma": _LLAMA,
    "llama": _LLAMA,
    "qwen": _LLAMA,
    "mistral": _LLAMA,
    "gpt2": _GPT2,
    "pythia": _PYTHIA,
}
"""By how a model's name begins; the first that fits."""
_OWNERS = {"gemma": "google", "pythia": "EleutherAI", "gpt2": "openai-community"}
_SHORT = {"gpt2-small": "gpt2"}
_SIDES = ("input", "output")


def model_config(name: str | None) -> ModelConfig | None:
    """The model of a name, which may be TransformerLens' own for it."""
    if not name:
        return None
    short = _SHORT.get(name, name)
    owner = next((o for start, o in _OWNERS.items() if short.startswith(start)), None)
    return ModelConfig(id=f"{owner}/{short}" if owner and "/" not in short else short)


def residual(layer: int, model: str | None) -> HookpointConfig:
    """The residual stream after a layer."""
    found = of_transformer_lens(f"blocks.{layer}.hook_resid_post", model)
    assert found is not None
    return found


def of_transformer_lens(hook: str, model: str | None) -> HookpointConfig | None:
    """The place that TransformerLens names so, in transformers; None for one that has no module there."""
    found = re.fullmatch(r"blocks\.(\d+)\.(?:attn\.)?(hook_\w+)", hook)
    if found is None:
        return None
    layer, short = int(found[1]), (model or "").split("/")[-1].lower()
    family = next((f for start, f in _FAMILIES.items() if short.startswith(start)), None)
    path = f"{family.layers if family else 'layers'}.{layer}"
    if found[2] in ("hook_resid_pre", "hook_resid_post"):
        after = found[2] == "hook_resid_post"
        return HookpointConfig(
            path=path,
            side="output" if after else "input",
            transformer_lens=hook,
            hidden_states=layer + after,
        )
    if found[2] in ("hook_attn_out", "hook_mlp_out"):
        attention = found[2] == "hook_attn_out"
        below = "attn_out" if attention else "mlp_out"  # as `models.Hookpoint` takes it anywhere
        if family is not None:
            below = family.attention_output if attention else family.mlp_output
        return HookpointConfig(path=f"{path}.{below}", transformer_lens=hook)
    if found[2] == "hook_z" and family is not None:
        below = family.attention_input
        return HookpointConfig(path=f"{path}.{below}", side="input", transformer_lens=hook)
    return None


def of_transformers(text: str) -> HookpointConfig | None:
    """The place written as a module's path with `.input` or `.output` behind it, or without: its output."""
    path, _, side = text.rpartition(".")
    if side not in _SIDES:
        path, side = text, "output"
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", path):
        return None
    layer = re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h|blocks)\.(\d+)", path)
    if layer is None:
        return HookpointConfig(path=path, side=side)  # type: ignore[arg-type]
    after = side == "output"
    return HookpointConfig(
        path=path,
        side="output" if after else "input",
        transformer_lens=f"blocks.{layer[1]}.hook_resid_{'post' if after else 'pre'}",
        hidden_states=int(layer[1]) + after,
    )
