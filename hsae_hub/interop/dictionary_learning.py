"""dictionary_learning (Marks, Karvonen and Mueller): `ae.pt`, a pickled state dict, with `config.json` beside it.

Its training divides activations by a number that no file has; it multiplies the biases by it before it saves, so that
saved SAEs read raw activations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactConfig, HookpointConfig, write_atomic
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.interop.folding import FLAT, Flat, folded
from hsae_hub.interop.places import model_config, of_transformers, residual
from hsae_hub.interop.raw import Spec, number_of, read_json, read_pickle, take, text_of
from hsae_hub.interop.told import Told

WEIGHTS = "ae.pt"
CONFIG = "config.json"


class _Class(NamedTuple):
    """One of its classes."""

    spec: Spec
    config: dict[str, Any]
    state: tuple[str, ...] = ()
    """Entries of its state dict that are no weights."""


_LINEAR = {
    "encoder.weight": ("W_enc", "F d"),
    "decoder.weight": ("W_dec", "d F"),
}
_BIASED = {**_LINEAR, "encoder.bias": ("b_enc", "F")}
_MATRICES = {
    "W_enc": ("W_enc", "d F"),
    "W_dec": ("W_dec", "F d"),
    "b_enc": ("b_enc", "F"),
    "b_dec": ("b_dec", "d"),
}
_GATED = {
    **_LINEAR,
    "decoder_bias": ("b_dec", "d"),
    "gate_bias": ("b_gate", "F"),
    "mag_bias": ("b_mag", "F"),
    "r_mag": ("r_mag", "F"),
}
_TOP_K = {**_BIASED, "b_dec": ("b_dec", "d")}
_CLASSES = {
    "AutoEncoder": _Class(
        {**_BIASED, "bias": ("b_dec", "d")}, {"architecture": "l1", "lambda_l1": 0.0}
    ),
    "AutoEncoderNew": _Class(
        {**_BIASED, "decoder.bias": ("b_dec", "d")},
        {"architecture": "l1", "lambda_l1": 0.0, "pre_encoder_bias": False},
    ),
    "GatedAutoEncoder": _Class(_GATED, {"architecture": "gated", "lambda_l1": 0.0}),
    "JumpReluAutoEncoder": _Class(
        {**_MATRICES, "threshold": ("threshold", "F")},
        {"architecture": "jumprelu", "lambda_l0": 0.0, "pre_encoder_bias": False},
    ),
    "AutoEncoderTopK": _Class(_TOP_K, {"architecture": "topk"}, ("k", "threshold")),
    "BatchTopKSAE": _Class(_TOP_K, {"architecture": "batch_topk"}, ("k", "threshold")),
    "MatryoshkaBatchTopKSAE": _Class(
        _MATRICES, {"architecture": "matryoshka"}, ("k", "threshold", "group_sizes")
    ),
}
_EXPORTED = {
    "l1": "AutoEncoder",
    "gated": "GatedAutoEncoder",
    "jumprelu": "JumpReluAutoEncoder",
    "topk": "AutoEncoderTopK",
    "batch_topk": "BatchTopKSAE",
    "matryoshka": "MatryoshkaBatchTopKSAE",
}
_TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "GatedAutoEncoder": "GatedSAETrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
}


def read(folder: Path, where: str) -> Told:
    """See `Format.module`."""
    data = read_json(folder / CONFIG)
    about = data.get("trainer")
    if not isinstance(about, dict):
        raise CorruptError(f"{folder / CONFIG}: trainer is {about!r}, expected an object")
    name, weights = text_of(about, "dict_class"), str(folder / WEIGHTS)
    if name not in _CLASSES:
        raise UsageError(
            f"{folder / CONFIG}: class {name!r} of dictionary_learning has no counterpart here",
            fix=f"those that have one: {', '.join(_CLASSES)}",
        )
    cls = _CLASSES[name]
    raw = read_pickle(folder / WEIGHTS)
    if "ae" in raw and "optimizer" in raw:
        raise UsageError(
            f"{weights} is a backup of a training that was not over",
            why="dictionary_learning writes it under the name of the result",
        )
    tensors = take(raw, cls.spec, weights, ignored=cls.state)
    notes = []
    if cls.state:
        config = {**cls.config, "k": number_of(raw, "k", weights)}
    else:
        config = cls.config
        notes.append(
            "the penalty of its training is not on a scale that is used here; it is written as 0"
        )
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        tensors["threshold"] = _threshold(raw, tensors["b_enc"], weights)
    elif name == "AutoEncoderTopK":
        notes.append("the threshold that it can use in place of top-k is left out")
    if name == "MatryoshkaBatchTopKSAE":
        config |= {"prefixes": _prefixes(raw, weights)}
    buffer = data.get("buffer")
    hookpoint = _hookpoint(about, buffer if isinstance(buffer, dict) else {})
    model = model_config(text_of(about, "lm_name"))
    if model is None:
        notes.append("its config does not name the model")
    if hookpoint is None:
        notes.append("its config does not name a place that is known here")
    elif text_of(about, "submodule_name") is None:
        notes.append(
            "its config has a layer's number only, taken to mean the residual stream after it"
        )
    notes.append("its config does not say on which contexts it was trained")
    return Told(config, tensors, tuple(notes), model, hookpoint)


def _threshold(raw: dict[str, Any], like: Tensor, where: str) -> Tensor:
    """One value for every latent.

    Raises:
        CorruptError: it is not a number.
        UsageError: it was never estimated, so that every positive pre-activation would act.
    """
    found = raw.get("threshold")
    if not isinstance(found, Tensor) or found.numel() != 1 or not bool(torch.isfinite(found).all()):
        raise CorruptError(f"{where}: threshold is {found!r}, expected one number")
    if float(found) < 0:
        raise UsageError(
            f"{where}: its threshold is {float(found):g}, which means that it was never estimated",
            why="dictionary_learning estimates it after the first thousand steps",
        )
    return torch.full_like(like, float(found))


def _prefixes(raw: dict[str, Any], where: str) -> list[int]:
    """Cumulative widths, of increments."""
    found = raw.get("group_sizes")
    if not isinstance(found, Tensor) or found.dtype != torch.int64 or found.ndim != 1:
        raise CorruptError(f"{where}: group_sizes is {found!r}, expected whole numbers")
    return [int(width) for width in found.cumsum(0)]


def _hookpoint(about: dict[str, Any], buffer: dict[str, Any]) -> HookpointConfig | None:
    """`submodule_name` is free text: a module's path in the best case, and often nothing."""
    named, layer = text_of(about, "submodule_name"), about.get("layer")
    side = "input" if buffer.get("io") == "in" else "output"
    if named is not None and "." in named:
        return of_transformers(f"{named}.{side}")
    if named is not None and not named.startswith("resid_post"):
        return None
    if isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 and side == "output":
        return residual(layer, text_of(about, "lm_name"))
    return None


def export_dictionary_learning(sae: SAE[Any], config: ArtifactConfig | None, folder: Path) -> None:
    """Writes a flat SAE for dictionary_learning, whose one format of weights is a pickle.

    Raises:
        UsageError: it has no class that computes the same.
    """
    flat = folded(sae) if sae.config.architecture in FLAT else None
    if flat is None or flat.per_token != "none":
        raise UsageError(
            f"dictionary_learning has no class for an SAE of architecture {sae.config.architecture!r} with "
            f"normalize {sae.config.normalize!r}",
            why=f"it has them for {', '.join(_EXPORTED)}, without a normalisation of each token",
            fix="hsae export REF sae-lens DIR",
        )
    name = _EXPORTED[sae.config.architecture]
    if name == "AutoEncoder" and not flat.pre_encoder_bias:
        name = "AutoEncoderNew"
    flat = flat.with_pre_encoder_bias(_CLASSES[name].config.get("pre_encoder_bias", True))
    state = _state(name, flat, sae)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, lambda path: torch.save(state, path))
    about = _about(name, sae, config)
    write_atomic(folder / CONFIG, json.dumps(about, indent=4) + "\n")


def _state(name: str, flat: Flat, sae: SAE[Any]) -> dict[str, Tensor]:
    cls = _CLASSES[name]
    ours = {"W_enc": flat.W_enc, "W_dec": flat.W_dec, "b_dec": flat.b_dec, **flat.vectors}
    turned = {"W_enc": "F d", "W_dec": "d F"}
    state = {
        old: (ours[new].T if turned.get(new) == axes else ours[new]).detach().cpu().contiguous()
        for old, (new, axes) in cls.spec.items()
    }
    if cls.state:
        threshold = flat.vectors["threshold"][0] if "threshold" in flat.vectors else -1.0
        state["k"] = torch.tensor(sae.config.k, dtype=torch.int32)
        state["threshold"] = torch.tensor(float(threshold), dtype=torch.float32)
    if name == "MatryoshkaBatchTopKSAE":
        ends = torch.tensor([0, *sae.config.prefixes])
        state["group_sizes"] = ends.diff()
    return state


def _about(name: str, sae: SAE[Any], config: ArtifactConfig | None) -> dict[str, Any]:
    """Its config.json: what its own loader needs, and what other readers ask for."""
    trainer: dict[str, Any] = {
        "trainer_class": _TRAINERS.get(name, "StandardTrainerAprilUpdate"),
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "layer": None,
        "lm_name": config.model.id if config is not None and config.model is not None else None,
        "submodule_name": None,
    }
    if _CLASSES[name].state:
        trainer["k"] = sae.config.k
    buffer: dict[str, Any] = {"d_submodule": sae.d_in, "io": "out"}
    if config is not None and config.hookpoint is not None:
        place = config.hookpoint
        index = place.hidden_states
        trainer["layer"] = index - 1 if index and place.side == "output" else None
        trainer["submodule_name"] = place.path
        buffer["io"] = "in" if place.side == "input" else "out"
    if config is not None and config.tokens is not None:
        buffer["ctx_len"] = config.tokens.context_length
    return {"trainer": trainer, "buffer": buffer}
