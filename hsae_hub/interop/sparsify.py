"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder whose name is the place in the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactConfig, write_atomic
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.interop.folding import folded
from hsae_hub.interop.places import model_config, of_transformers
from hsae_hub.interop.raw import Spec, number_of, read_json, read_safetensors, take, text_of
from hsae_hub.interop.told import Told

CFG = "cfg.json"
WEIGHTS = "sae.safetensors"
RUN = "../config.json"
"""Of the run that trained it, if it is there: names the model."""
_SPEC: Spec = {
    "encoder.weight": ("W_enc", "F d"),
    "encoder.bias": ("b_enc", "F"),
    "W_dec": ("W_dec", "F d"),
    "b_dec": ("b_dec", "d"),
}


def read(folder: Path, where: str) -> Told:
    """See `Format.module`."""
    cfg = read_json(folder / CFG)
    for key in ("transcode", "skip_connection"):
        if cfg.get(key):
            raise UsageError(
                f"{folder / CFG}: {key} is set; it is no autoencoder",
                why="an SAE here reconstructs what it reads",
            )
    activation = cfg.get("activation", "topk")
    if activation != "topk":
        raise UsageError(
            f"{folder / CFG}: activation {activation!r} of sparsify has no counterpart here, expected topk"
        )
    tensors = take(read_safetensors(folder / WEIGHTS), _SPEC, str(folder / WEIGHTS))
    if cfg.get("d_in") != tensors["W_enc"].shape[0]:
        raise CorruptError(
            f"{folder / CFG}: d_in is {cfg.get('d_in')!r}, but the weights have {tensors['W_enc'].shape[0]}"
        )
    notes = ["its config does not say on which contexts it was trained"]
    model = None
    if (folder / RUN).is_file():
        model = model_config(text_of(read_json(folder / RUN), "model"))
    if model is None:
        notes.append("no config.json of its run names the model")
    place = where.rstrip("/").split("/")[-1]
    hookpoint = of_transformers(place) if "." in place else None
    if hookpoint is None:
        notes.append(f"its folder's name, {place!r}, is no place in a model")
    config = {"architecture": "topk", "k": number_of(cfg, "k", str(folder / CFG))}
    return Told(config, tensors, tuple(notes), model, hookpoint)


def export_sparsify(sae: SAE[Any], config: ArtifactConfig | None, folder: Path) -> None:
    """Writes a TopK SAE for sparsify, which takes `b_dec` away before it encodes.

    Raises:
        UsageError: it is no TopK SAE of raw activations.
    """
    from safetensors.torch import save_file

    flat = folded(sae) if sae.config.architecture == "topk" else None
    if flat is None or flat.per_token != "none":
        raise UsageError(
            f"sparsify has TopK SAEs of raw activations only, this one is {sae.config.architecture!r} with "
            f"normalize {sae.config.normalize!r}",
            fix="hsae export REF sae-lens DIR",
        )
    flat = flat.with_pre_encoder_bias(True)
    ours = {"W_enc": flat.W_enc.T, "W_dec": flat.W_dec, "b_dec": flat.b_dec, **flat.vectors}
    weights = {old: ours[new].detach().cpu().contiguous() for old, (new, _) in _SPEC.items()}
    cfg = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": True,
        "num_latents": sae.d_sae,
        "k": sae.config.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, lambda path: save_file(weights, path, {"format": "pt"}))
    write_atomic(folder / CFG, json.dumps(cfg) + "\n")
