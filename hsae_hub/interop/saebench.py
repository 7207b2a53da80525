"""An SAE as SAEBench takes one: pass `[("name", for_saebench(sae))]` as its `selected_saes`.

SAEBench reads activations through TransformerLens, so the SAE must know that name of its hookpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from hsae_hub.architectures import SAE
from hsae_hub.artifact import config_of, dtype_name
from hsae_hub.errors import UsageError
from hsae_hub.interop.dense import DenseSAE, View


def for_saebench(
    sae: SAE[Any],
    *,
    view: View = "flat",
    model_name: str | None = None,
    hook_name: str | None = None,
) -> SAEBenchSAE:
    """An SAE with the attributes that SAEBench asks for; names default to what a loaded one knows.

    `flat` shows parents and children, `parents` the upper level alone, as Muchane et al. 2025 evaluate absorption.
    SAEBench takes decoder rows to have norm 1, so norms are folded into the acts. With 16k parents x 16 children dense
    acts of 4,096 tokens take 4.6 GB.

    Raises:
        UsageError: model or hookpoint are neither known nor given, or the hookpoint has no layer.
    """
    known = config_of(sae)
    if known is not None and known.model is not None and model_name is None:
        model_name = known.model.id.rpartition("/")[2]
    if known is not None and known.hookpoint is not None and hook_name is None:
        hook_name = known.hookpoint.transformer_lens
    if model_name is None or hook_name is None:
        raise UsageError(
            f"{'model_name' if model_name is None else 'hook_name'} of the SAE is not known",
            fix='for_saebench(sae, model_name="gemma-2-2b", hook_name="blocks.20.hook_resid_post")',
        )
    layer = re.search(r"\d+", hook_name)
    if layer is None:
        raise UsageError(f"hook_name {hook_name!r} names no layer, expected blocks.N.…")
    tokens = known.tokens if known is not None else None
    cfg = SAEBenchConfig(
        model_name=model_name,
        hook_name=hook_name,
        hook_layer=int(layer.group()),
        d_in=sae.d_in,
        d_sae=sae.shape.n_parents if view == "parents" else sae.d_sae,
        architecture=sae.config.architecture,
        context_size=128 if tokens is None else tokens.context_length,
        prepend_bos=True if tokens is None else tokens.bos,
        exclude_special_tokens=True if tokens is None else tokens.skip_special,
    )
    return SAEBenchSAE(sae, view, cfg)


@dataclass
class SAEBenchConfig:
    """What SAEBench 0.6 reads of `cfg`; it sets more of its own on it."""

    model_name: str
    hook_name: str
    """TransformerLens' name."""
    hook_layer: int
    d_in: int
    d_sae: int
    architecture: str
    context_size: int
    prepend_bos: bool
    exclude_special_tokens: bool
    dtype: str = "float32"
    device: str = "cpu"
    hook_head_index: int | None = None
    normalize_activations: str = "none"
    """`none`, whatever the SAE does: it normalises tokens itself."""
    apply_b_dec_to_input: bool = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


class SAEBenchSAE(DenseSAE):
    """A dense SAE of unit decoder rows with SAEBench's `cfg`."""

    def __init__(self, sae: SAE[Any], view: View, cfg: SAEBenchConfig) -> None:
        super().__init__(sae, view)
        self.cfg = cfg
        self.fold_norms()
        self._tell()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SAEBenchSAE:
        super()._apply(fn, recurse)
        self._tell()
        return self

    def _tell(self) -> None:
        self.cfg.dtype = dtype_name(self.dtype)
        self.cfg.device = str(self.device)
