"""Interventions that put something in the place of the activations: a reconstruction, or the same vector everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hsae_hub.architectures import SAE, Acts
from hsae_hub.attach.batches import Reading


@dataclass(frozen=True, eq=False)
class Splice:
    """The SAE's reconstruction, with the error added to it or not."""

    sae: SAE[Any]
    error_term: bool
    chosen: Bool[Tensor, " d_sae"] | None = None
    """The only latents that take part in the reconstruction; None for all."""
    point: Callable[[Acts], Acts] | None = None
    """What the acts pass before they are decoded: a place that traces read and write."""

    def __call__(
        self, activations: Float[Tensor, "b s d"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        """The reconstruction; padding and special tokens stay as they are.

        With its error it is what came in plus what the latents changed, so without a change it is exactly what came in.
        """
        acts = self.sae.encode(activations)
        used = acts if self.chosen is None else acts.keep(self.chosen[acts.indices])
        if self.point is not None:
            # a copy: what a trace writes into must not be what the error is computed from
            used = self.point(used.replace(used.values.clone()))
        x_hat = self.sae.decode(used)
        if self.error_term:
            # detached: otherwise the error takes the latents' gradient away again
            whole = (x_hat if used is acts else self.sae.decode(acts)).detach()
            x = activations.detach().to(torch.promote_types(activations.dtype, x_hat.dtype))
            x_hat = x + (x_hat - whole)
        return torch.where(reading.ordinary[..., None], x_hat.to(activations.dtype), activations)


@dataclass(frozen=True, eq=False)
class Replace:
    """The same vector on every ordinary token."""

    vector: Float[Tensor, " d"]

    def __call__(
        self, activations: Float[Tensor, "b s d"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        """The vector; padding and special tokens stay as they are."""
        return torch.where(reading.ordinary[..., None], self.vector.to(activations), activations)


@dataclass(frozen=True, eq=False)
class Record:
    """Changes nothing, and remembers the activations of ordinary tokens."""

    seen: list[Float[Tensor, "tokens d"]]

    def __call__(
        self, activations: Float[Tensor, "b s d"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        """What came in."""
        self.seen.append(activations[reading.ordinary])
        return activations


def chosen_latents(
    sae: SAE[Any], names: Sequence[str | int] | None
) -> Bool[Tensor, " d_sae"] | None:
    """A mask of latents by name, parents with all their children; None for None.

    Raises:
        NotFoundError: the SAE has no such latent.
    """
    if names is None:
        return None
    mask = torch.zeros(sae.d_sae, dtype=torch.bool)
    for name in names:
        latent = sae.shape.index_of(name)
        mask[latent] = True
        if latent < sae.shape.n_parents:
            first = sae.shape.child(latent, 0)
            mask[first : first + sae.shape.n_children] = True
    return mask.to(sae.device)
