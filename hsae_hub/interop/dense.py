"""An SAE as other toolkits see one: acts as rows of numbers, one encoder and one decoder matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hsae_hub.architectures import SAE, Acts
from hsae_hub.architectures.hsae import HSAE

View = Literal["flat", "parents"]
_ROWS = 4096  # decoder rows at a time: a tree of 16k parents has 278k of them


def encoder_columns(sae: SAE[Any]) -> Float[Tensor, "d_in d_sae"]:
    """The direction that each latent reads, for raw activations: a child's is that of its encoder in its subspace.

    What an encoder does beyond one product (subspaces, tiers, routers) is not in it.
    """
    columns = sae.W_enc
    if isinstance(sae, HSAE):
        children = (sae.child_W_enc @ sae.W_down).flatten(0, 1)
        columns = torch.cat([columns, children.T], 1)
    if sae.norm_whiten is not None:
        return sae.norm_whiten @ columns
    return columns if sae.norm_std is None else columns / sae.norm_std[:, None]


def decoder_rows(sae: SAE[Any], width: int) -> Float[Tensor, "width d_in"]:
    """The first `width` rows of the flat view, each what an act of 1 adds to a raw activation."""
    parts = torch.split(torch.arange(width, device=sae.device), _ROWS)
    return torch.cat([sae.decoder_rows(part) for part in parts])


class DenseSAE(nn.Module):
    """Dense acts in and out, of parents and children (`flat`) or of parents alone; gradients pass.

    Decoding is one product. What it needs beside acts where tokens are normalised one by one, their norm or mean, it
    has from the last `encode`, so it takes acts of the same tokens, any number of times.
    """

    def __init__(self, sae: SAE[Any], view: View = "flat") -> None:
        super().__init__()
        self.sae = sae
        self.width = sae.shape.n_parents if view == "parents" else sae.d_sae
        self._norms: Float[Tensor, " width"] | None = None
        self._tokens: tuple[Tensor, Tensor] | None = None
        self._matrices: dict[str, Tensor] = {}

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch width"]:
        """The acts, 0 where a latent is silent."""
        acts = self.sae.encode(x)
        self._tokens = acts.scale.reshape(-1), acts.shift.reshape(-1)
        if self.width < self.sae.d_sae:
            inside = acts.indices < self.width
            kept = acts.keep(inside)
            places = torch.where(inside, acts.indices, 0)
            acts = Acts(kept.values, places, self.width, acts.scale, acts.shift)
        dense = acts.dense()
        return dense if self._norms is None else dense * self._norms

    def decode(self, dense: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of raw activations.

        Raises:
            ValueError: it needs what the last `encode` saw of the tokens, and that saw another number of them.
        """
        rows = dense.reshape(-1, self.width)
        scale, shift = self._scale_and_shift(rows)
        if self._norms is not None:
            rows = rows / self._norms
        raw = self.sae.denormalize(_sum_rows(self.sae, rows), scale, shift)
        return raw.reshape(*dense.shape[:-1], self.sae.d_in)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Encodes and decodes; the reconstruction comes back in the dtype of `x`."""
        return self.decode(self.encode(x)).to(x.dtype)

    def fold_norms(self) -> None:
        """From now on decoder rows have norm 1, and acts are as much larger as these were longer."""
        if self._norms is None:
            self._norms = decoder_rows(self.sae, self.width).norm(dim=-1).clamp_min(1e-8)
            self._matrices = {}

    @property
    def norms(self) -> Float[Tensor, " width"]:
        """What folding multiplies acts by; all 1 where it was not done."""
        return self.b_dec.new_ones(self.width) if self._norms is None else self._norms

    @property
    def W_enc(self) -> Float[Tensor, "d_in width"]:
        """`encoder_columns`, kept from its first use on."""
        return self._kept("W_enc", lambda: encoder_columns(self.sae)[:, : self.width] * self.norms)

    @property
    def W_dec(self) -> Float[Tensor, "width d_in"]:
        """`decoder_rows`, kept from its first use on."""
        return self._kept("W_dec", lambda: decoder_rows(self.sae, self.width) / self.norms[:, None])

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        """What silent latents give, of a token of norm 1 where tokens are divided by theirs."""
        rows = next(self.sae.parameters()).new_zeros(1, self.sae.d_in)
        return self.sae.denormalize(rows, rows[:, 0] + 1, rows[:, 0])[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sae.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.sae.dtype

    def _kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self._matrices:
            with torch.no_grad():
                self._matrices[name] = make()
        return self._matrices[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DenseSAE:
        """Called by `to` and its like."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._matrices, self._tokens = {}, None
        if self._norms is not None:
            self._norms = fn(self._norms)
        return self

    def _scale_and_shift(self, rows: Float[Tensor, "batch width"]) -> tuple[Tensor, Tensor]:
        config, shared = self.sae.config, self.sae.norm_scale
        by_token = config.normalize.startswith("layer_norm") or (
            config.normalize == "unit_norm" and self.sae.b_dec is not None
        )
        if not by_token:
            scale = rows.new_ones(()) if shared is None else shared
            return scale.expand(len(rows)), rows.new_zeros(len(rows))
        if self._tokens is None or len(self._tokens[0]) != len(rows):
            seen = 0 if self._tokens is None else len(self._tokens[0])
            raise ValueError(
                f"acts of {len(rows)} tokens, but the last encode() saw {seen}; "
                f"{config.architecture} with normalize={config.normalize} decodes acts of those"
            )
        return self._tokens


def _sum_rows(sae: SAE[Any], dense: Float[Tensor, "batch width"]) -> Float[Tensor, "batch d_in"]:
    """Acts times decoder directions; children of `hsae` by way of their subspaces, never as rows of `d_in`."""
    width = dense.shape[-1]
    if isinstance(sae, HSAE):
        n = sae.shape.n_parents
        high = dense[:, :n] @ sae.W_dec
        if width == n:
            return high
        children = dense[:, n:].reshape(-1, n, sae.shape.n_children)
        inner = torch.einsum("bnm,nms->bns", children, sae.child_W_dec_T)
        return high + inner.flatten(1) @ sae.W_up_T.flatten(0, 1)
    table = getattr(sae, "W_dec", None)  # one of tiers has several
    return dense @ (sae.rows(torch.arange(width, device=sae.device)) if table is None else table)
