"""Gemma Scope 2, for Gemma 3: `params.safetensors`, and a `config.json` that some of its folders lack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hsae_hub.errors import UsageError
from hsae_hub.interop.gemma_scope import JUMPRELU
from hsae_hub.interop.places import model_config, of_transformers
from hsae_hub.interop.raw import read_json, read_safetensors, take, text_of
from hsae_hub.interop.told import Told

PARAMS = "params.safetensors"
CONFIG = "config.json"
_SPEC = {
    "w_enc": ("W_enc", "d F"),
    "w_dec": ("W_dec", "F d"),
    "b_enc": ("b_enc", "F"),
    "b_dec": ("b_dec", "d"),
    "threshold": ("threshold", "F"),
}
_PLACES = {
    "resid_post": "model.layers.{}.output",
    "attn_out": "model.layers.{}.self_attn.o_proj.input",
    "mlp_out": "model.layers.{}.post_feedforward_layernorm.output",
}


def _by_path(where: str) -> dict[str, Any]:
    """What a config would say, from the names of repository and folder."""
    found: dict[str, Any] = {}
    name = re.search(r"gemma-scope-2-(\d+m|\d+b)-(pt|it)", where)
    if name is not None:
        found["model_name"] = f"google/gemma-3-{name[1]}-{name[2]}"
    place = re.search(r"(resid_post|attn_out|mlp_out)(?:_all)?/layer_(\d+)", where)
    if place is not None:
        found["hf_hook_point_in"] = _PLACES[place[1]].format(place[2])
    return found


def read(folder: Path, where: str) -> Told:
    """See `Format.module`."""
    has_config = (folder / CONFIG).is_file()
    about = read_json(folder / CONFIG) if has_config else _by_path(where)
    read, written = (about.get(f"hf_hook_point_{end}") for end in ("in", "out"))
    transcodes = written not in (None, read) or about.get("affine_connection")
    if transcodes or re.search(r"transcoder|(^|/)clt(/|$)", where):
        raise UsageError(
            f"{where} is a transcoder: it reads one place and writes another",
            why="an SAE here reconstructs what it reads",
        )
    if about.get("architecture", "jump_relu") != "jump_relu":
        raise UsageError(
            f"{folder / CONFIG}: architecture {about['architecture']!r}, expected jump_relu"
        )
    tensors = take(read_safetensors(folder / PARAMS), _SPEC, str(folder / PARAMS))
    notes = ["the files record neither its penalty nor its tokens; lambda_l0 is written as 0"]
    if not has_config:
        notes.append("there is no config.json: model and hookpoint are those that its path names")
    model, hookpoint = model_config(text_of(about, "model_name")), None
    if isinstance(read, str):
        hookpoint = of_transformers(read)
    if model is None or hookpoint is None:
        notes.append("neither config.json nor its path tell model and hookpoint")
    return Told(JUMPRELU, tensors, tuple(notes), model, hookpoint)
