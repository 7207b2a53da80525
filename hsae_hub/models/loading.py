"""Loads a causal language model: the embedded one, a folder, the hub's, or one that is loaded already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import Module
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from hsae_hub.assets import EMBEDDED_MODEL
from hsae_hub.errors import ResourceError, UsageError
from hsae_hub.models.finding import explained, locate
from hsae_hub.models.language_model import LanguageModel

Dtype = Literal["float64", "float32", "bfloat16", "float16", "auto"]
ModelSource = str | Path | LanguageModel | tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_language_model(
    source: ModelSource = EMBEDDED_MODEL,
    *,
    revision: str | None = None,
    dtype: Dtype | None = None,
    device: str | torch.device | None = None,
) -> LanguageModel:
    """A language model in eval mode, without gradients.

    `source` is the embedded model's name, a folder, a repository on the hub, or `(model, tokenizer)` loaded already.
    Without `device` a model goes to the GPU if there is one, with `auto` over all of them and what other memory there
    is; without `dtype` it is float32 (`auto`: as it was saved). One that is loaded already stays where and as it is
    unless these are given.

    Raises:
        NotFoundError: no such folder, repository or revision.
        DeniedError: its licence has to be accepted first, or a token is missing.
        NetworkError: the hub cannot be reached, or is not to be asked, and the cache lacks the model.
        CorruptError: its files are there but are no causal language model.
        ResourceError: no such device, or too little memory on it.
        UsageError: a device that torch does not know.
    """
    if isinstance(source, LanguageModel):
        return _adopted(source, dtype, device)
    if isinstance(source, tuple):
        hf, tokenizer = source
        return _adopted(LanguageModel(hf, tokenizer, hf.config.name_or_path), dtype, device)
    spread = device == "auto"
    target = pick_device(None if spread else device)
    place = locate(str(source), revision)
    where = {"revision": place.commit} if place.commit else {}
    try:
        config = AutoConfig.from_pretrained(place.path, **where)
        kind = _torch_dtype(dtype or "float32", config)
        if not spread:
            _check_memory(place.name, config, kind, target)
        with _without_bar():
            hf = AutoModelForCausalLM.from_pretrained(
                place.path,
                config=config,
                dtype=kind,
                device_map="auto" if spread else {"": str(target)},
                **where,
            )
        tokenizer = AutoTokenizer.from_pretrained(place.path, **where)
    except (OSError, ValueError) as error:
        raise explained(error, place.name, revision) from error
    return LanguageModel(_frozen(hf), tokenizer, place.name, place.commit)


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device that is named; without a name the GPU if there is one, else the CPU.

    Raises:
        ResourceError: there is no such device here.
        UsageError: torch knows no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"{device!r} is no device", fix="cpu, cuda, cuda:1 or mps") from None
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if found.type in count and (found.index or 0) >= count[found.type]:
        raise ResourceError(
            f"no device {found} here; torch sees {count[found.type]} of that kind", fix="use cpu"
        )
    return found


def _adopted(
    lm: LanguageModel, dtype: Dtype | None, device: str | torch.device | None
) -> LanguageModel:
    if device not in (None, "auto"):
        lm.hf.to(pick_device(device))
    if dtype is not None:
        lm.hf.to(_torch_dtype(dtype, lm.hf.config))
    _frozen(lm.hf)
    return lm


def _frozen(hf: Module) -> Any:
    return hf.eval().requires_grad_(False)


def _torch_dtype(dtype: Dtype, config: PretrainedConfig) -> torch.dtype:
    found = (config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    assert isinstance(found, torch.dtype)
    return found


def _check_memory(
    name: str, config: PretrainedConfig, dtype: torch.dtype, device: torch.device
) -> None:
    free = _free_bytes(device)
    if free is None:
        return
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    needed = parameters * dtype.itemsize
    if needed > free:
        smaller = "" if dtype.itemsize == 2 else "dtype bfloat16 takes half of it\n"
        raise ResourceError(
            f"{name} in {dtype} needs {needed / 1e9:.1f} GB on {device}, "
            f"where {free / 1e9:.1f} GB are free",
            fix=smaller + "or another device, or a smaller model",
        )


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.is_file():
        return None
    lines = [line.split() for line in meminfo.read_text().splitlines()]
    return next((int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"), None)


@contextmanager
def _without_bar() -> Iterator[None]:
    """transformers draws a bar also where loading takes a blink."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
