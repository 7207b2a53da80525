"""OpenAI's TopK and ReLU SAEs of GPT-2 (Gao et al. 2024, arXiv 2406.04093): one pickled state dict a layer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.interop.places import model_config, of_transformer_lens
from hsae_hub.interop.raw import Spec, number_of, read_pickle, take
from hsae_hub.interop.told import Told

_SPEC: Spec = {
    "encoder.weight": ("W_enc", "F d"),
    "latent_bias": ("b_enc", "F"),
    "decoder.weight": ("W_dec", "d F"),
    "pre_bias": ("b_dec", "d"),
}
_STATE = (
    "activation",
    "activation_state_dict",
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
)
_HOOKS = {
    "resid_post_mlp": "hook_resid_post",
    "mlp_output": "hook_mlp_out",
    "attention_output": "hook_attn_out",
}


def read(path: Path, where: str) -> Told:
    """See `Format.module`."""
    if path.is_dir():
        found = sorted(path.glob("*.pt"))
        if len(found) != 1:
            raise NotFoundError(
                f"{path} holds {len(found)} .pt files", fix=f"name one of them, such as {path}/6.pt"
            )
        path = found[0]
    raw = read_pickle(path)
    tensors = take(raw, _SPEC, str(path), ignored=_STATE)
    config: dict[str, Any] = {"architecture": "l1", "lambda_l1": 0.0}
    activation = raw.get("activation", "ReLU")
    notes = ["the file does not say on which contexts it was trained"]
    if activation == "TopK":
        state = raw.get("activation_state_dict")
        state = state if isinstance(state, dict) else {}
        if state.get("postact_fn", "ReLU") != "ReLU":
            raise UsageError(
                f"{path}: its k largest pre-activations go through {state['postact_fn']!r}, expected ReLU"
            )
        config = {
            "architecture": "topk",
            "k": number_of(state, "k", f"{path}: activation_state_dict"),
            "normalize": "layer_norm_unbiased",  # its loader takes it from the activation's name
        }
        notes.append("acts are in raw units: its own times the token's standard deviation")
    elif activation != "ReLU":
        raise UsageError(f"{path}: activation {activation!r} has no counterpart here")
    else:
        notes.append("the penalty of its training is not recorded; it is written as 0")
    place = re.search(
        r"(resid_post_mlp|mlp_output|attention_output)\w*/(?:.*/)?(\d+)(?:\.pt)?$", where
    )
    if place is None:
        notes.append("neither model nor place are in the file or its path")
        return Told(config, tensors, tuple(notes))
    notes.append("model and place are taken from its path")
    model = model_config("gpt2-small")
    hook = f"blocks.{place[2]}." + _HOOKS[place[1]]
    return Told(config, tensors, tuple(notes), model, of_transformer_lens(hook, "gpt2"))
