"""A language model that vLLM has loaded, or is to load; what is here of it has shapes and no values."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from nnsight.modeling.vllm import VLLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hsae_hub.attach.vllm import VLLMRunner
from hsae_hub.errors import ResourceError, UsageError
from hsae_hub.models import LanguageModel, locate
from hsae_hub.models.loading import Dtype


def vllm_language_model(
    source: Any, revision: str | None, dtype: Dtype
) -> tuple[LanguageModel, VLLMRunner]:
    """A language model that vLLM runs, and what runs it; `source` is its name, or nnsight's `VLLM` model of it.

    Raises:
        ResourceError: vLLM is not installed.
        UsageError: the `VLLM` model is set up so that interventions would miss steps or tokens.
        HSAEError: whatever finding a model raises.
    """
    if isinstance(source, VLLM):
        model, name, commit = source, str(source.args[0]), None
    else:
        place = locate(str(source), revision)
        model, name, commit = _start(place.path, place.commit, dtype), place.name, place.commit
    check_engine(model)
    settings = model.vllm_entrypoint.llm_engine.vllm_config.model_config
    config = copy(settings.hf_config)
    # of what vLLM reads at most, one token is always a new one
    config.max_position_embeddings = settings.max_model_len - 1
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(config, dtype=settings.dtype)
    hf.generation_config = _generation_config(settings.model, settings.revision, config)
    tokenizer = AutoTokenizer.from_pretrained(
        settings.tokenizer, revision=settings.tokenizer_revision
    )
    runner = VLLMRunner(model, hf.eval())
    return LanguageModel(hf, tokenizer, name, commit, remote=True, reader=runner.read), runner


def _generation_config(path: str, revision: str | None, config: Any) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:  # it came without one
        return GenerationConfig.from_model_config(config)


def check_engine(model: Any) -> None:
    """Raises UsageError when a `VLLM` model is set up so that interventions would miss steps or tokens of a request."""
    if not model.dispatched:
        raise UsageError("this VLLM model is not loaded", fix="VLLM(…, dispatch=True)")
    if model.taps:
        raise UsageError(
            "this VLLM model replays CUDA graphs, where interventions are not asked",
            fix="VLLM(…) without taps",
        )
    if not hasattr(model.vllm_entrypoint, "llm_engine"):
        raise UsageError("this VLLM model is asynchronous", fix="VLLM(…) without mode='async'")
    settings = model.vllm_entrypoint.llm_engine.vllm_config
    if settings.scheduler_config.enable_chunked_prefill:
        raise UsageError(
            "this VLLM model reads prompts in pieces, and gates need them whole",
            fix="VLLM(…) without enable_chunked_prefill",
        )
    if settings.cache_config.enable_prefix_caching:
        raise UsageError(
            "this VLLM model keeps what it has read of other prompts, steered or not",
            fix="VLLM(…) without enable_prefix_caching",
        )


def _start(path: str, commit: str | None, dtype: Dtype) -> Any:
    try:
        from vllm.platforms import current_platform
    except ImportError:
        raise ResourceError(
            "vLLM is not installed here",
            fix="pip install vllm\nor attach(sae) without engine='vllm'",
        ) from None
    kind = VLLM
    if current_platform.is_cpu():
        from hsae_hub.attach.vllm_cpu import CPUVLLM

        kind = CPUVLLM
    pinned = {"revision": commit, "tokenizer_revision": commit} if commit else {}
    return kind(path, dispatch=True, dtype=dtype, **pinned)
