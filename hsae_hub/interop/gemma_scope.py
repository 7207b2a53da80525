"""Gemma Scope (Lieberum et al. 2024, arXiv 2408.05147): `params.npz`, and nothing else says what it is but its path."""

from __future__ import annotations

import re
from pathlib import Path

from hsae_hub.artifact import HookpointConfig
from hsae_hub.errors import UsageError
from hsae_hub.interop.places import model_config, of_transformer_lens
from hsae_hub.interop.raw import read_npz, take
from hsae_hub.interop.told import Told

PARAMS = "params.npz"
_SPEC = {
    "W_enc": ("W_enc", "d F"),
    "W_dec": ("W_dec", "F d"),
    "b_enc": ("b_enc", "F"),
    "b_dec": ("b_dec", "d"),
    "threshold": ("threshold", "F"),
}
JUMPRELU = {"architecture": "jumprelu", "lambda_l0": 0.0, "pre_encoder_bias": False}
"""`b_dec` is not taken away before encoding, and the penalty is not recorded."""
_HOOKS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def read(folder: Path, where: str) -> Told:
    """See `Format.module`."""
    name = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(\w+)", where)
    if "transcoder" in where:
        raise UsageError(
            f"{where} is a transcoder: it reads one place and writes another",
            why="an SAE here reconstructs what it reads",
        )
    raw = {re.sub("^w_", "W_", n): t for n, t in read_npz(folder / PARAMS).items()}
    tensors = take(raw, _SPEC, str(folder / PARAMS))
    notes = ["the file records neither its penalty nor its tokens; lambda_l0 is written as 0"]
    hookpoint, model = None, None
    if name is None:
        notes.append(
            "its path does not name the repository, so neither model nor hookpoint are known"
        )
    else:
        model = model_config(f"google/gemma-2-{name[1]}" + ("-it" if name[2] == "it" else ""))
        layer = re.search(r"layer_(\d+)", where)
        if layer is not None and name[3] in _HOOKS:
            hook = f"blocks.{layer[1]}.{_HOOKS[name[3]]}"
            hookpoint = of_transformer_lens(hook, f"gemma-2-{name[1]}")
        elif "embedding" in where:
            hookpoint = HookpointConfig(path="model.embed_tokens", side="weight")
        else:
            notes.append("its path does not say layer_N, so its hookpoint is not known")
    return Told(JUMPRELU, tensors, tuple(notes), model, hookpoint)
