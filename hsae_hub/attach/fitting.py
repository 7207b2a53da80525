"""Whether an SAE belongs to a language model."""

from __future__ import annotations

import warnings
from typing import Any

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactConfig
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.models import Hookpoint, LanguageModel, tokenizer_sha256

_FAMILIES = ("model.layers", "transformer.h", "gpt_neox.layers")
"""Where families of models keep their layers: Gemma, Llama and Qwen; GPT-2; Pythia."""


def choose_hookpoint(config: ArtifactConfig | None, given: str | None) -> Hookpoint:
    """The place that an SAE names, or the one that is given for an SAE that names none.

    Raises:
        UsageError: there is neither.
        MisfitError: both are there and differ.
    """
    named = None if config is None else config.hookpoint
    if named is None:
        if given is None:
            raise UsageError(
                "this SAE does not say which place of the model it reads",
                fix="attach(sae, model, hookpoint='model.layers.3')",
            )
        return Hookpoint.parse(given)
    hookpoint = Hookpoint.from_config(named)
    if given not in (None, named.transformer_lens) and Hookpoint.parse(str(given)) != hookpoint:
        raise MisfitError(
            f"this SAE reads {hookpoint}, not {Hookpoint.parse(str(given))}",
            fix="leave hookpoint out",
        )
    return hookpoint


def check_fit(
    sae: SAE[Any], lm: LanguageModel, hookpoint: Hookpoint, config: ArtifactConfig | None
) -> None:
    """Refuses an SAE of another model, and warns where it may be one of another model.

    Raises:
        MisfitError: the model has no such place, or another width there, another tokenizer, or is of another family.
    """
    made_for = None if config is None else config.model
    width = hookpoint.width(lm)
    name = "" if made_for is None else made_for.id
    remedy = f"attach(sae) without a model loads {name}" if name else "another model or hookpoint"
    if width != sae.d_in:
        of = f" ({name}, {hookpoint})" if name else ""
        raise MisfitError(
            f"this SAE reads width {sae.d_in}{of} but {lm.id} has width {width} at {hookpoint}",
            why="an SAE only fits the model it was trained on",
            fix=remedy,
        )
    if made_for is None:
        return
    named = None if config is None else config.hookpoint
    path = hookpoint.full_path(lm.hf)
    if named is not None and _family(named.path) not in (None, _family(path)):
        raise MisfitError(
            f"this SAE reads {named.path} ({name}) but in {lm.id}, a {type(lm.hf).__name__}, that place is {path}",
            why="the same place has other names in another family of models, where features mean nothing",
            fix=remedy,
        )
    tokenizer = tokenizer_sha256(lm.tokenizer)
    if made_for.tokenizer_sha256 not in (None, tokenizer):
        raise MisfitError(
            f"this SAE was trained with tokenizer {str(made_for.tokenizer_sha256)[:12]}… ({name}) "
            f"but {lm.id} has {tokenizer[:12]}…",
            why="its ids stand for other tokens, so it is another model of the same width",
            fix=remedy,
        )
    if _base_name(name) != _base_name(lm.id):
        warnings.warn(
            f"this SAE was trained on {name} and is attached to {lm.id}: the shapes agree, but its features "
            "may mean something else there",
            UserWarning,
            stacklevel=3,
        )


def _family(path: str) -> str | None:
    return next((layers for layers in _FAMILIES if path.startswith(f"{layers}.")), None)


def _base_name(model: str) -> str:
    # a local copy of org/name is the same model
    return model.rstrip("/\\").replace("\\", "/").rpartition("/")[2].casefold()
