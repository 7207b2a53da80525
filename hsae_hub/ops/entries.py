"""Pre-activations that may act: in a list where they are few, else all of them; losses are written once for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from hsae_hub.ops.factored import read_whole
from hsae_hub.ops.kept_linear import Places, keep_linear
from hsae_hub.ops.products import product
from hsae_hub.ops.sparse import pair_sum

_FEW = 20
"""One of so many pre-activations at most is few: from there on products with all of them take no longer than a list."""


class Entries(NamedTuple):
    """Entries of a matrix `[batch, n]`; those that are not here count for nothing."""

    values: Float[Tensor, "*entries"]
    """A list, ordered by token, or the whole matrix."""
    places: Places | None
    """Where those in the list are."""
    batch: int

    def by_latent(self, x: Float[Tensor, " n"]) -> Float[Tensor, "*entries_or_n"]:
        """A number a latent, as an operand beside `values`."""
        return x if self.places is None else x[self.places.latents]

    def mean(
        self, acts: Float[Tensor, "*entries"], weights: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """What acts at these entries add up to, each times its latent's weight, on average over tokens."""
        if weights is None:
            return acts.sum() / self.batch
        if self.places is None:
            return acts.sum(0) @ weights / self.batch
        return acts @ weights[self.places.latents] / self.batch

    def decode(
        self, acts: Float[Tensor, "*entries"], W_dec: Float[Tensor, "n d_in"]
    ) -> Float[Tensor, "batch d_in"]:
        """The sum of each token's acts times the rows of their latents."""
        if self.places is not None:
            return pair_sum(acts, self.places.tokens, self.places.latents, W_dec, self.batch)
        read_whole(W_dec)
        return product(acts, W_dec)


def entries_linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n"],
    may_act: Callable[[Tensor], Tensor],
    *,
    bias: Float[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d_in"] | None = None,
) -> Entries:
    """`pre = (x - centre) W + bias` where `may_act(pre)` is true, or everywhere.

    Where it is false the loss may not depend on `pre`, nor on the parameters through it.
    """

    def choose(pre: Tensor) -> Places | None:
        if pre.is_meta:  # counted at its most
            return None
        mask = may_act(pre).flatten()
        if int(mask.count_nonzero()) * _FEW > len(mask):
            return None
        found = mask.nonzero()[:, 0]
        return Places(found // pre.shape[1], found % pre.shape[1])

    pre, values, places = keep_linear(x, W, choose, bias=bias, centre=centre)
    return Entries(pre if values is None else values, places, len(x))
