"""Writes SAEs for SAELens 6: a folder of `cfg.json` and `sae_weights.safetensors` that `SAE.load_from_disk` reads.

Flat SAEs become an architecture that SAELens has. It has none for a tree, tiers or a router: such an SAE is written as
it is, for the class that this package registers with SAELens, or as its parents alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import ArtifactConfig, dtype_name, write_atomic
from hsae_hub.errors import UsageError
from hsae_hub.interop.folding import FLAT, Flat, folded

CFG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
PLUGIN = "hsae_hub"
"""Architecture, in SAELens, of an SAE that is none of its own; the same key of its cfg.json holds our config."""
SAE_LENS_VERSION = "6.54.12"
"""The release whose format is written. Below 6, SAELens would throw away the names of model and hook."""

_ARCHITECTURES = {
    "l1": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batch_topk": "jumprelu",  # as SAELens itself saves these two
    "matryoshka": "jumprelu",
}
_NORMALIZE = {
    "none": "none",
    "unit_norm": "constant_norm_rescale",
    "layer_norm_unbiased": "layer_norm",
}


def export_sae_lens(sae: SAE[Any], config: ArtifactConfig | None, folder: Path) -> None:
    """Writes an SAE for SAELens: exactly, as its own architecture, or else for this package's class there.

    With `unit_norm` SAELens' acts are those of a token of norm √d_in, whatever its norm is; ours are in raw units.
    """
    flat = folded(sae) if sae.config.architecture in FLAT else None
    if flat is None or flat.per_token not in _NORMALIZE:
        weights = {name: tensor.contiguous() for name, tensor in sae.weights().items()}
        cfg = {PLUGIN: sae.config.model_dump(mode="json")}
        _write(folder, sae, config, PLUGIN, cfg, weights)
        return
    cfg, weights = _of_flat(flat)
    if sae.config.architecture == "topk":
        cfg |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    _write(folder, sae, config, _ARCHITECTURES[sae.config.architecture], cfg, weights)


def export_sae_lens_parents(sae: SAE[Any], config: ArtifactConfig | None, folder: Path) -> None:
    """Writes the parents of an `hsae` as a JumpReLU SAE: exact where at most `k` of them are above their threshold.

    SAELens has a threshold or a top-k, not both, so on other tokens more than `k` parents act there.

    Raises:
        UsageError: the SAE has no parents of that kind.
    """
    if sae.config.architecture != "hsae":
        raise UsageError(
            f"an SAE of architecture {sae.config.architecture!r} has no parents to export, expected hsae",
            fix="hsae export REF sae-lens DIR",
        )
    parents = build(
        {
            "architecture": "jumprelu",
            "d_in": sae.d_in,
            "d_sae": sae.shape.n_parents,
            "lambda_l0": 0.0,
            **sae.config.model_dump(include={"normalize", "whiten"}),
        }
    ).to(sae.dtype)
    has = sae.weights()
    with torch.no_grad():
        for name, tensor in parents.weights().items():
            if name == "threshold":
                tensor.fill_(sae.d_in**-0.5)
            elif name in has:
                tensor.copy_(has[name])
            else:
                tensor.zero_()
    export_sae_lens(parents, config, folder)


def _of_flat(flat: Flat) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """SAELens' `constant_norm_rescale` makes tokens of norm √d_in where ours have norm 1."""
    d_in = len(flat.b_dec)
    flat = flat.scaled(d_in**0.5 if flat.per_token == "unit_norm" else 1.0)
    cfg = {
        "apply_b_dec_to_input": flat.pre_encoder_bias,
        "normalize_activations": _NORMALIZE[flat.per_token],
    }
    weights = {"W_enc": flat.W_enc, "W_dec": flat.W_dec, "b_dec": flat.b_dec, **flat.vectors}
    return cfg, {name: tensor.contiguous() for name, tensor in weights.items()}


def _write(
    folder: Path,
    sae: SAE[Any],
    config: ArtifactConfig | None,
    architecture: str,
    cfg: dict[str, Any],
    weights: dict[str, Tensor],
) -> None:
    from safetensors.torch import save_file

    head = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": dtype_name(sae.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    data = {**head, **cfg, "metadata": _metadata(sae, config), "architecture": architecture}
    folder.mkdir(parents=True, exist_ok=True)
    cpu = {name: tensor.cpu() for name, tensor in weights.items()}
    write_atomic(folder / WEIGHTS, lambda path: save_file(cpu, path, {"format": "pt"}))
    write_atomic(folder / CFG, json.dumps(data, indent=2) + "\n")


def _metadata(sae: SAE[Any], config: ArtifactConfig | None) -> dict[str, Any]:
    """What SAELens keeps of an SAE beside its shape, under SAELens' names."""
    found: dict[str, Any] = {"sae_lens_version": SAE_LENS_VERSION}
    details = {"batch_topk": "batchtopk", "matryoshka": "matryoshka_batchtopk"}
    if sae.config.architecture in details:
        found["training_architecture"] = details[sae.config.architecture]
        found["training_architecture_details"] = {
            "k": sae.config.k,
            "topk_threshold_lr": sae.config.threshold_rate,
        }
    if sae.config.architecture == "matryoshka":
        found["training_architecture_details"]["matryoshka_widths"] = list(sae.config.prefixes)
    if config is None:
        return found
    if config.model is not None:
        found["model_name"] = config.model.id
    if config.hookpoint is not None:
        found["hook_name"] = config.hookpoint.transformer_lens
        found["hf_hook_name"] = f"{config.hookpoint.path}.{config.hookpoint.side}"
    if config.tokens is not None:
        found["context_size"] = config.tokens.context_length
        found["prepend_bos"] = config.tokens.bos
        found["exclude_special_tokens"] = config.tokens.skip_special
    return found
