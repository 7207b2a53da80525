"""Hierarchical SAE (Muchane, Richardson, Park, Veitch 2025, sections 3.1-3.2 and appendix A).

The authors' code says expert for a parent with its subspace and atom for a child.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures.base import SAE, TrainStep
from hsae_hub.architectures.configs.hsae import HSAEConfig
from hsae_hub.architectures.latents import Acts
from hsae_hub.architectures.registry import register
from hsae_hub.ops import (
    chained_dot,
    chained_sum,
    cross_orthogonality,
    normalize_rows_,
    top_k,
    topk_linear,
    weighted_rows,
)
from hsae_hub.ops.kept_linear import Kept

_FEW = 64  # so many times fewer chosen than all pre-activations: their own sums are quicker than a dense product
LEAK = 0.01
"""Slope of a child's activation below the threshold (the authors' code)."""


class _Codes(NamedTuple):
    """Everything a forward pass computes of normalised tokens."""

    parents: Float[Tensor, "batch k"]
    parent_indices: Int64[Tensor, "batch k"]
    all_children: Float[Tensor, "batch k m"]
    children: Float[Tensor, "batch k"]
    """The kept child of each parent; 0 without an active parent."""
    child_rows: Int64[Tensor, "batch k"]
    """`parent · m + child`."""


@register
class HSAE(SAE[HSAEConfig]):
    """A TopK layer of parents and, under each, `m` children in a subspace of which the best one is kept (algorithm 1).

    The sparse products find the columns of `W_up` and `child_W_dec` as rows of the parameters `W_up_T` and
    `child_W_dec_T`; on disk these two lie as the formulas have them.
    """

    config_class = HSAEConfig
    unit_rows = ("W_dec", "child_W_dec_T")
    read_by_rows = ("W_dec", "W_down", "W_up_T", "child_W_enc", "child_W_dec_T")
    tables = ("W_dec", "W_down", "W_up", "child_W_enc", "child_W_dec")
    title = "A hierarchical sparse autoencoder: parents, and under each parent children of which at most one is active"
    citation = """@article{muchane2025incorporating,
  title = {Incorporating Hierarchical Semantics in Sparse Autoencoder Architectures},
  author = {Muchane, Mark and Richardson, Sean and Park, Kiho and Veitch, Victor},
  year = {2025}
}"""

    def __init__(self, config: HSAEConfig) -> None:
        super().__init__(config)
        d, n, m, s = config.d_in, config.n_parents, config.n_children, config.d_subspace
        self.theta = 1 / math.sqrt(d)
        self.W_enc = nn.Parameter(torch.empty(d, n))
        self.W_dec = nn.Parameter(torch.empty(n, d))
        self.W_down = nn.Parameter(torch.empty(n, s, d))
        self.W_up_T = nn.Parameter(torch.empty(n, s, d))
        self.child_W_enc = nn.Parameter(torch.empty(n, m, s))
        self.child_W_dec_T = nn.Parameter(torch.empty(n, m, s))
        if config.bias:
            self.b_dec = nn.Parameter(torch.empty(d))

    @property
    def W_up(self) -> Float[Tensor, "n d_in s"]:
        """Each parent's subspace brought back to `d_in`."""
        return self.W_up_T.mT

    @property
    def child_W_dec(self) -> Float[Tensor, "n s m"]:
        """Each parent's children, of norm 1 in its subspace."""
        return self.child_W_dec_T.mT

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """He-uniform encoder; everything else unit rows; each decoder its encoder's transpose (the authors' code)."""
        bound = math.sqrt(6 / self.d_in)
        self.W_enc.uniform_(-bound, bound, generator=generator)
        self.W_dec.copy_(self.W_enc.T)
        for unit in (self.W_down, self.child_W_enc):
            unit.normal_(generator=generator)
            normalize_rows_(unit)
        self.W_up_T.copy_(self.W_down)
        self.child_W_dec_T.copy_(self.child_W_enc)
        normalize_rows_(self.W_dec)
        if self.b_dec is not None:
            self.b_dec.zero_()

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return {
            name.removesuffix("_T"): tensor.mT if name.endswith("_T") else tensor
            for name, tensor in super().weights().items()
        }

    def encode_normalized(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]]:
        few = None
        if self.config.variant == "paper":
            few = self.few_tokens.top_k(x, self.W_enc, self.config.k, centre=self.b_dec)
        codes = self._codes(x, *(self._encoded(x)[1:] if few is None else few))
        return (
            torch.cat([codes.parents, codes.children], -1),
            torch.cat([codes.parent_indices, codes.child_rows + self.shape.n_parents], -1),
        )

    def sum_rows(
        self, values: Float[Tensor, "batch a"], indices: Int64[Tensor, "batch a"]
    ) -> Float[Tensor, "batch d_in"]:
        parents, children = values.tensor_split(2, -1)
        parent_indices, child_indices = indices.tensor_split(2, -1)
        high = SAE.sum_rows(self, parents, parent_indices)  # no super() where its code was shipped
        return high.add_(self._decode_children(children, child_indices - self.shape.n_parents))

    def rows(self, indices: Int64[Tensor, "*i"]) -> Float[Tensor, "*i d_in"]:
        n = self.shape.n_parents
        is_child = indices >= n
        rows = self.W_enc.new_empty(*indices.shape, self.d_in)
        rows[~is_child] = SAE.rows(self, indices[~is_child])
        child_rows = indices[is_child][:, None] - n
        rows[is_child] = self._decode_children(rows.new_ones(child_rows.shape), child_rows)
        return rows

    def runner_ups(
        self, x: Float[Tensor, "*batch d_in"], acts: Acts
    ) -> Float[Tensor, "*batch k m"]:
        normal, scale, _ = self.normalize(x.reshape(-1, self.d_in))
        parents, _ = acts.indices.tensor_split(2, -1)
        rows = parents.reshape(len(normal), -1)
        children = self._all_children(self._without_bias(normal), rows)
        return (children * scale[:, None, None]).reshape(*parents.shape, -1)

    def losses(
        self, x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Float[Tensor, ""]]:
        x, _, _ = self.normalize(x)
        penalised = step.step % self.config.penalty_every == 0
        every = penalised and self.config.l1_over == "all" and self.config.lambda_l1 > 0
        encoded = self._encoded(x, every=every)
        codes = self._codes(x, encoded.values, encoded.indices)
        x = self._without_bias(x)
        high = weighted_rows(codes.parents, codes.parent_indices, self.W_dec)
        low = self._decode_children(codes.children, codes.child_rows)
        reconstruction = (x - high - low).square().sum(-1).mean()
        parents_only = (x - high).square().sum(-1).mean()
        parts = {"reconstruction": reconstruction, "parents_only": parents_only}
        loss = reconstruction + self.config.beta * parents_only
        if penalised:
            ramp = min(1.0, step.step / max(self.config.penalty_warmup_steps, 1))
            weight = self.config.penalty_every * (ramp if self.config.penalty_warmup_steps else 1.0)
            parts["l1"] = self._l1(encoded, codes)
            if self.config.lambda_l1 > 0:  # else the encoder's gradient is that of the kept parents
                loss = loss + weight * self.config.lambda_l1 * parts["l1"]
            if self.config.lambda_ortho > 0:
                parts["ortho"] = self._ortho(step)
                loss = loss + weight * self.config.lambda_ortho * parts["ortho"]
        return {"loss": loss, **parts}

    def _encoded(self, x: Float[Tensor, "batch d_in"], *, every: bool = False) -> Kept:
        """Pre-activations and those that are kept; with `every` these and then others above the threshold."""
        choose = self._largest_and_above if every else self._largest
        return topk_linear(x, self.W_enc, choose, centre=self.b_dec)

    def _codes(
        self,
        x: Float[Tensor, "batch d_in"],
        chosen: Float[Tensor, "batch q"],
        indices: Int64[Tensor, "batch q"],
    ) -> _Codes:
        """What follows from chosen pre-activations, of which the first `k` are kept."""
        above = self._above(chosen)
        parents, parent_indices = above[:, : self.config.k], indices[:, : self.config.k]
        all_children = self._all_children(self._without_bias(x), parent_indices)
        children, best = all_children.max(-1)
        return _Codes(
            parents,
            parent_indices,
            all_children,
            torch.where(parents > 0, children, 0),
            parent_indices * self.shape.n_children + best,
        )

    def _above(self, pre: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Parents' pre-activations where they reach the threshold, else 0."""
        return torch.where(pre >= self.theta, pre, 0)

    def _largest(self, pre: Float[Tensor, "batch n"]) -> Int64[Tensor, "batch k"]:
        indices = top_k(pre, self.config.k)
        if self.config.variant == "released":
            return _lowest_first(self._above(pre), indices)
        return indices

    def _largest_and_above(self, pre: Float[Tensor, "batch n"]) -> Int64[Tensor, "batch q"]:
        """The kept parents, and behind them all others that reach the threshold, where these are few."""
        k, n = self.config.k, pre.shape[1]
        if (
            pre.device.type != "cpu"
        ):  # a GPU would wait for the count, and its dense products are quick
            return self._largest(pre)
        q = int((pre >= self.theta).sum(-1).max())
        if not k < q <= n // _FEW:
            return self._largest(pre)
        found = top_k(pre, q)
        ordered = found.gather(-1, pre.gather(-1, found).argsort(dim=-1, descending=True))
        largest = ordered[:, :k]
        if self.config.variant == "released":
            largest = _lowest_first(self._above(pre), largest)
        return torch.cat([largest, ordered[:, k:]], -1)

    def _without_bias(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        return x if self.b_dec is None else x - self.b_dec

    def _all_children(
        self, x: Float[Tensor, "batch d_in"], parents: Int64[Tensor, "batch k"]
    ) -> Float[Tensor, "batch k m"]:
        subspaces = self.blocks("W_down", parents)
        pre = chained_dot(x, *subspaces, *self.blocks("child_W_enc", parents))
        return torch.where(pre >= self.theta, pre, LEAK * pre)

    def _decode_children(
        self, values: Float[Tensor, "batch k"], child_rows: Int64[Tensor, "batch k"]
    ) -> Float[Tensor, "batch d_in"]:
        parents = child_rows // self.config.n_children
        atoms, place = self.blocks("child_W_dec_T", parents)
        kept = place * self.config.n_children + child_rows % self.config.n_children
        return chained_sum(values, atoms.flatten(0, 1), kept, *self.blocks("W_up_T", parents))

    def _l1(self, encoded: Kept, codes: _Codes) -> Float[Tensor, ""]:
        if self.config.l1_over == "active":
            return (codes.parents.sum(-1) + codes.children.abs().sum(-1)).mean()
        children = codes.all_children.abs().sum(-1)
        if self.config.variant == "paper":
            children = torch.where(codes.parents > 0, children, 0)
        pre, chosen, _ = encoded
        above = self._above(chosen)
        all_chosen = pre.device.type == "cpu" and bool(
            (pre >= self.theta).sum() == (above > 0).sum()
        )
        parents = above if all_chosen else self._above(pre)
        return (parents.sum(-1) + children.sum(-1)).mean()

    def _ortho(self, step: TrainStep) -> Float[Tensor, ""]:
        probes = None
        if self.config.ortho == "probes":  # seeded by the step: a resumed run draws the same ones
            device = "cpu" if self.W_enc.is_meta else self.W_enc.device  # meta has no generator
            probes = torch.Generator(device).manual_seed(step.step)
        return cross_orthogonality(
            self.W_enc,
            self.W_dec,
            variant=self.config.variant,
            products=torch.bfloat16 if self.config.ortho == "bf16" else None,
            probes=probes,
        )


def _lowest_first(
    above: Float[Tensor, "batch n"], indices: Int64[Tensor, "batch k"]
) -> Int64[Tensor, "batch k"]:
    """Slots left without an active parent go to the lowest indices, as the authors' repeated argmax gives them."""
    short = (above.gather(-1, indices) == 0).any(-1)
    ordered = above[short].argsort(dim=-1, descending=True, stable=True)
    return indices.masked_scatter(short[:, None], ordered[:, : indices.shape[1]])
