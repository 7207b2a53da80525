"""Attaches SAEs to the language model that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnsight.modeling.vllm import VLLM

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactConfig, ModelConfig, config_of
from hsae_hub.attach.attached import Attached
from hsae_hub.attach.engine import Engine, EngineName
from hsae_hub.attach.fitting import check_fit, choose_hookpoint
from hsae_hub.attach.losses import Site
from hsae_hub.attach.remote import RemoteRunner, remote_language_model
from hsae_hub.attach.vllm import VLLMRunner
from hsae_hub.attach.vllm_model import vllm_language_model
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.models import Hookpoint, LanguageModel, load_language_model
from hsae_hub.models.loading import Dtype, ModelSource


def attach(
    sae: SAE[Any] | Sequence[SAE[Any]] | Mapping[str, SAE[Any]],
    model: ModelSource | VLLM | None = None,
    *,
    hookpoint: str | None = None,
    device: str | torch.device | None = None,
    dtype: Dtype | None = None,
    engine: EngineName = "nnsight",
) -> Attached:
    """Attaches an SAE to a language model: by default the one it was trained on, in the type that it was read in.

    Several SAEs of one model come in a list, where each goes by its hookpoint, or under names of your own. `model` is
    a repository on the hub, a folder, a `LanguageModel` or `(model, tokenizer)`. `device` (`auto`: over all GPUs) and
    `dtype` are the model's; each SAE is moved to where its hookpoint is and keeps its type. `hookpoint` is for an SAE
    that does not say where it belongs; of several such, the name is the place. A model that only goes by another name
    is attached with a warning. `engine="hooks"` runs the model without nnsight: the same results, but no traces;
    `engine="ndif"` runs it on NDIF's servers, with nothing of it loaded here. `engine="vllm"` hands it to vLLM, many
    prompts at once and without gradients; settings of vLLM's own go to nnsight's `VLLM`, and the model that it gives is
    then `model`.

    Raises:
        MisfitError: width, layer, family or tokenizer are not those that the SAE was trained with, or the SAEs are of
            different models.
        UsageError: neither the SAE nor the call says which model or place, or two SAEs have one name.
        HSAEError: whatever `load_language_model` raises.
    """
    places = _places(sae, hookpoint)
    made_for = {name: config.model for name, (_, _, config) in places.items() if config}
    known = {name: each for name, each in made_for.items() if each}
    remote: RemoteRunner | VLLMRunner | None = None
    if isinstance(model, VLLM) or engine == "vllm":
        lm, remote = _on_vllm(model, known, device, dtype)
    elif engine == "ndif":
        lm, wrapper = _remote(model, known)
        remote = RemoteRunner(lm, wrapper)
    else:
        lm = _load(model, known, device, dtype)
    sites = {}
    for name, (one, place, config) in places.items():
        check_fit(one, lm, place, config)
        sites[name] = Site(one if remote else one.to(place.device(lm)), place)
    hookpoints = [site.hookpoint for site in sites.values() if site.hookpoint.side != "weight"]
    if isinstance(remote, VLLMRunner):
        for place in hookpoints:
            remote.check(place)
    return Attached(lm, sites, Engine(lm, list(dict.fromkeys(hookpoints)), engine, remote=remote))


def _places(
    given: object, hookpoint: str | None
) -> dict[str, tuple[SAE[Any], Hookpoint, ArtifactConfig | None]]:
    if isinstance(given, SAE):
        config = config_of(given)
        return {"sae": (given, choose_hookpoint(config, hookpoint), config)}
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence) or not given:
        raise _no_sae(given)
    if hookpoint is not None:
        raise UsageError(
            "hookpoint is for one SAE, and several were given",
            fix="attach({'model.layers.3': sae, 'model.layers.5': other}, model)",
        )
    found: dict[str, tuple[SAE[Any], Hookpoint, ArtifactConfig | None]] = {}
    named = given.items() if isinstance(given, Mapping) else ((None, sae) for sae in given)
    for name, sae in named:
        if not isinstance(sae, SAE):
            raise _no_sae(sae)
        config = config_of(sae)
        place = choose_hookpoint(config, name if config is None or not config.hookpoint else None)
        name = str(place) if name is None else name
        if name in found:
            raise UsageError(
                f"two SAEs read {name}, so that is no name for either",
                fix="give them names: attach({'hsae': sae, 'flat': other})",
            )
        found[name] = (sae, place, config)
    return found


def _no_sae(given: object) -> UsageError:
    return UsageError(
        f"attach takes an SAE, or several, not {given!r}", fix="attach(hsae_hub.load('org/name'))"
    )


def _load(
    model: ModelSource | None,
    made_for: Mapping[str, ModelConfig],
    device: str | torch.device | None,
    dtype: Dtype | None,
) -> LanguageModel:
    if model is not None:
        first = next(iter(made_for.values()), None)
        loaded = not isinstance(model, str | Path)
        wanted = dtype if loaded or first is None else dtype or first.dtype
        return load_language_model(model, dtype=wanted, device=device)
    own = _own_model(made_for)
    return load_language_model(
        own.id, revision=own.revision, dtype=dtype or own.dtype, device=device
    )


def _remote(
    model: ModelSource | None, made_for: Mapping[str, ModelConfig]
) -> tuple[LanguageModel, Any]:
    if model is None:
        own = _own_model(made_for)
        return remote_language_model(own.id, own.revision)
    if isinstance(model, str | Path):
        return remote_language_model(str(model), None)
    raise UsageError(
        "this model is loaded, and engine='ndif' runs one that is not", fix="give its name"
    )


def _on_vllm(
    model: Any,
    made_for: Mapping[str, ModelConfig],
    device: str | torch.device | None,
    dtype: Dtype | None,
) -> tuple[LanguageModel, VLLMRunner]:
    if device is not None or (isinstance(model, VLLM) and dtype is not None):
        raise UsageError(
            "where vLLM runs a model, and in which type, is its own matter",
            fix="attach(sae, VLLM('org/name', dispatch=True, dtype='bfloat16'))",
        )
    if model is not None and not isinstance(model, str | Path | VLLM):
        raise UsageError("this model is loaded, and vLLM loads its own", fix="give its name")
    own = _own_model(made_for) if model is None else next(iter(made_for.values()), None)
    wanted: Any = dtype or ("float32" if own is None else own.dtype)
    if model is None and own is not None:
        return vllm_language_model(own.id, own.revision, wanted)
    return vllm_language_model(model, None, wanted)


def _own_model(made_for: Mapping[str, ModelConfig]) -> ModelConfig:
    """The one model that all SAEs name."""
    first = next(iter(made_for.values()), None)
    if first is None:
        raise UsageError(
            "this SAE does not say which model it was trained on", fix="attach(sae, model)"
        )
    other = next((each for each in made_for.values() if each.id != first.id), first)
    if other.id != first.id:
        raise MisfitError(
            f"these SAEs are of different models: {first.id} and {other.id}",
            fix="attach each to its own, or say which one both belong to: attach(saes, model)",
        )
    return first
