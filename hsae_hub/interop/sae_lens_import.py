"""Reads SAEs of SAELens, from before release 6 and after: `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from hsae_hub.artifact import HookpointConfig, TokensConfig
from hsae_hub.artifact.tensors import check_finite
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.interop.places import model_config, of_transformer_lens, of_transformers
from hsae_hub.interop.raw import Spec, number_of, read_json, read_safetensors, take, text_of
from hsae_hub.interop.sae_lens_export import CFG, PLUGIN, WEIGHTS
from hsae_hub.interop.told import Told

_BASE = {"W_enc": ("W_enc", "d F"), "W_dec": ("W_dec", "F d"), "b_dec": ("b_dec", "d")}
_BIASED = _BASE | {"b_enc": ("b_enc", "F")}
_SPECS: dict[str, Spec] = {
    "standard": _BIASED,
    "topk": _BIASED,
    "jumprelu": _BIASED | {"threshold": ("threshold", "F")},
    "gated": _BASE | {name: (name, "F") for name in ("b_gate", "b_mag", "r_mag")},
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "l1", "lambda_l1": 0.0},
    "topk": {"architecture": "topk"},
    "jumprelu": {"architecture": "jumprelu", "lambda_l0": 0.0},
    "gated": {"architecture": "gated", "lambda_l1": 0.0},
}
_NORMALIZE = {
    "none": "none",
    "constant_norm_rescale": "unit_norm",
    "layer_norm": "layer_norm_unbiased",
}
_UNFOLDED = ("expected_average_only_in", "covariance_whitening")
"""Normalisations whose constants no file of SAELens has: it folds them into the weights when training ends."""
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


def _modern(cfg: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and metadata as release 6 has them; before it all keys stood side by side, some under other names."""
    metadata = cfg.get("metadata")
    if isinstance(metadata, dict) and text_of(metadata, "sae_lens_version"):
        return cfg, metadata
    old = {_OLD_NAMES.get(key, key): value for key, value in cfg.items()}
    function = old.get("activation_fn", "relu")
    arguments = old.get("activation_fn_kwargs")
    new = {"architecture": "standard", "apply_b_dec_to_input": True, **old}
    if function == "topk":
        new["architecture"] = "topk"
        new["k"] = arguments.get("k") if isinstance(arguments, dict) else None
    elif function != "relu":
        raise UsageError(f"activation function {function!r} of SAELens has no counterpart here")
    if isinstance(old.get("normalize_activations"), bool):  # as it was before release 3
        new["normalize_activations"] = _UNFOLDED[0] if old["normalize_activations"] else "none"
    if new.get("normalize_activations") is None:
        new["normalize_activations"] = "none"
    return new, old


def read(folder: Path, where: str) -> Told:
    """See `Format.module`."""
    cfg, metadata = _modern(read_json(folder / CFG))
    architecture, weights = text_of(cfg, "architecture"), str(folder / WEIGHTS)
    raw: dict[str, Tensor] = read_safetensors(folder / WEIGHTS)
    notes: list[str] = []
    if architecture == PLUGIN:
        config, tensors = _as_it_was(cfg, raw, str(folder))
        return _told(config, tensors, notes, metadata)
    if architecture not in _SPECS:
        raise UsageError(
            f"{folder / CFG}: SAELens' architecture {architecture!r} has no counterpart here",
            fix=f"those that have one: {', '.join(_SPECS)}",
        )
    normalize = cfg.get("normalize_activations", "none")
    if normalize not in _NORMALIZE:
        known = normalize in _UNFOLDED
        raise UsageError(
            f"{folder / CFG}: normalize_activations is {normalize!r}",
            why="its constants are not in the file" if known else "no such normalisation is known",
            fix="fold it into the weights with SAELens (SAE.fold_activation_...), save, import again"
            if known
            else "",
        )
    factor = raw.pop("scaling_factor", None)
    if factor is not None and not bool((factor == 1).all()):
        raise UsageError(f"{weights}: scaling_factor is not 1; fold it into W_dec, then import")
    tensors = take(raw, _SPECS[architecture], weights)
    config = {
        **_CONFIGS[architecture],
        "normalize": _NORMALIZE[normalize],
        "pre_encoder_bias": bool(cfg.get("apply_b_dec_to_input", True)),
    }
    if architecture == "topk":
        config["k"] = number_of(cfg, "k", str(folder / CFG))
        if cfg.get("rescale_acts_by_decoder_norm") is True:
            notes.append(
                "norms of decoder rows are folded into the encoder, as its acts are rescaled by them"
            )
            _fold_norms(tensors)
    if normalize == "constant_norm_rescale":
        notes.append("acts are in raw units: SAELens' times the token's norm over √d_in")
        by = tensors["W_enc"].shape[0] ** -0.5
        tensors = {n: t * by if t.ndim == 1 and n != "r_mag" else t for n, t in tensors.items()}
    elif normalize == "layer_norm":
        notes.append("acts are in raw units: SAELens' times the token's standard deviation")
    config = _as_trained(config, metadata, tensors)
    if config.keys() & {"lambda_l1", "lambda_l0"}:
        notes.append(
            "the penalty of its training is not on a scale that is used here; it is written as 0"
        )
    return _told(config, tensors, notes, metadata)


def _as_it_was(
    cfg: dict[str, Any], raw: dict[str, Tensor], where: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An SAE that this package exported as it is."""
    config = cfg.get(PLUGIN)
    if not isinstance(config, dict):
        raise CorruptError(f"{where}/{CFG}: {PLUGIN} is {config!r}, expected the config of an SAE")
    for name, tensor in raw.items():
        check_finite(f"{where}: {name}", tensor)
    return config, raw


def _fold_norms(tensors: dict[str, Tensor]) -> None:
    norms = tensors["W_dec"].double().norm(dim=1)
    dtype = tensors["W_dec"].dtype
    tensors["W_enc"] = (tensors["W_enc"].double() * norms).to(dtype)
    tensors["b_enc"] = (tensors["b_enc"].double() * norms).to(dtype)
    tensors["W_dec"] = (tensors["W_dec"].double() / norms[:, None]).to(dtype)


def _as_trained(
    config: dict[str, Any], metadata: dict[str, Any], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """BatchTopK and Matryoshka SAEs are saved as JumpReLU ones; their names come back where all of it is told."""
    names = {"batchtopk": "batch_topk", "matryoshka_batchtopk": "matryoshka"}
    trained, details = (metadata.get(f"training_architecture{end}") for end in ("", "_details"))
    threshold = tensors.get("threshold")
    if threshold is None or trained not in names or not isinstance(details, dict):
        return config
    k, widths = details.get("k"), details.get("matryoshka_widths")
    if not isinstance(k, int | float) or not float(k).is_integer():
        return config
    alike = bool((threshold == threshold[0]).all()) and float(threshold[0]) >= 0
    if not alike or not config["pre_encoder_bias"]:
        return config
    found = {"architecture": names[trained], "normalize": config["normalize"], "k": int(k)}
    rate = details.get("topk_threshold_lr")
    if isinstance(rate, float) and 0 < rate <= 1:
        found["threshold_rate"] = rate
    if trained == "batchtopk":
        return found
    d_sae = len(threshold)
    if not isinstance(widths, list) or not all(isinstance(width, int) for width in widths):
        return config
    return {**found, "prefixes": sorted({*widths, d_sae})}


def _told(
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    notes: list[str],
    metadata: dict[str, Any],
) -> Told:
    name = text_of(metadata, "model_name")
    hookpoint = _hookpoint(metadata, name)
    model = model_config(name)
    if model is None:
        notes.append("its config does not name the model")
    elif model.id == name and "/" not in name:
        notes.append(f"{name} is TransformerLens' name of the model, perhaps not the hub's")
    if hookpoint is None:
        notes.append(f"hook {metadata.get('hook_name')!r} is no place known here")
    length = metadata.get("context_size")
    tokens = None
    if isinstance(length, int) and length > 0:
        tokens = TokensConfig(
            context_length=length,
            bos=metadata.get("prepend_bos") is not False,
            skip_special=bool(metadata.get("exclude_special_tokens")),
        )
    else:
        notes.append("its config does not say on which contexts it was trained")
    return Told(config, tensors, tuple(notes), model, hookpoint, tokens)


def _hookpoint(metadata: dict[str, Any], model: str | None) -> HookpointConfig | None:
    hook, hf = text_of(metadata, "hook_name"), text_of(metadata, "hf_hook_name")
    if metadata.get("hook_head_index") is not None:  # one head's part of a place
        return None
    found = of_transformers(hf) if hf else None
    if found is None and hook:
        return of_transformer_lens(hook, model)
    if found is not None and hook:
        return found.model_copy(update={"transformer_lens": hook})
    return found
