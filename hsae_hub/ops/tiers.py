"""Tiers of latents (CompositionalLens): how they fade in, what each explains, and how latents change tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.ops import collective

FADE = 0.1
"""Share of its stage over which a tier fades in."""
_BATCH_NORM_EPS = 1e-5  # that of torch's batch norm


class Moves(NamedTuple):
    """Which latents stay in their tier and which go to another, by their index within the tier."""

    to: int
    """The tier that gains; none of its own goes."""
    kept: list[Int64[Tensor, " _"]]
    gone: list[Int64[Tensor, " _"]]


def fade_in(done: float, starts: Sequence[float]) -> list[float]:
    """How much of each tier takes part, 0 to 1, when this fraction of a run is done.

    A tier's stage lasts from its start to the next one's; the first tier is there in full from the beginning.
    """
    stages = zip(starts[1:], [*starts[2:], 1.0], strict=True)
    fading = [(done - start) / (FADE * (end - start)) for start, end in stages]
    return [1.0, *(min(max(share, 0.0), 1.0) for share in fading)]


def batch_norm_(
    acts: Float[Tensor, "batch m"],
    mean: Float[Tensor, " m"],
    var: Float[Tensor, " m"],
    weight: Float[Tensor, " m"],
    bias: Float[Tensor, " m"],
    momentum: float,
) -> Float[Tensor, "batch m"]:
    """Batch norm with the moments of the batch, which is that of all processes.

    Moves the running moments, in place, towards those of the batch, of the latents that act in it: a rare latent's
    variance would fall to 0 between its acts, and the next one be magnified without bound. So it is normalised at
    inference as in the training batches where it acts.
    """
    n = collective.total_count(len(acts))
    with torch.set_grad_enabled(not collective.alone()):
        batch_mean, batch_var = _moments(acts, n)
    with torch.no_grad():
        act = collective.total((acts > 0).any(0).to(acts.dtype)) > 0
        rate = momentum * act.to(acts.dtype)
        mean += rate * (batch_mean - mean)
        var += rate * (batch_var - var)
    if collective.alone():
        return nn.functional.batch_norm(acts, None, None, weight, bias, True)
    biased = batch_var * ((n - 1) / n)
    return (acts - batch_mean) * (biased + _BATCH_NORM_EPS).rsqrt() * weight + bias


def _moments(
    acts: Float[Tensor, "batch m"], n: int
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Mean and variance, corrected, over the `n` rows of all processes."""
    if collective.alone():
        var, mean = torch.var_mean(acts, 0)
        return mean, var
    mean = collective.total(acts.sum(0)) / n
    return mean, collective.total((acts - mean).square().sum(0)) / (n - 1)


def describe_tiers(
    target: Float[Tensor, "batch d_in"],
    parts: Float[Tensor, "tiers batch d_in"],
    acts: Sequence[Float[Tensor, "batch _"]],
    compositions: Sequence[Float[Tensor, "_ _"]],
) -> dict[str, float]:
    """Of each tier `l0_1`, …; `explained_share_1`, …; and `composition_coverage_2`, … of all but the first.

    Shares are of what all parts explain of `‖target‖²` and add up to 1. They are Shapley values: the mean of what a
    part explains alone and what it explains last. Coverage is the R² of the acts predicted from the tier before; it is
    not finite for a tier without acts.
    """
    explained = (parts * (2 * target - parts.sum(0))).sum((1, 2))
    found: dict[str, float] = {}
    for i, act in enumerate(acts):
        found[f"l0_{i + 1}"] = float((act != 0).double().sum(-1).mean())
        found[f"explained_share_{i + 1}"] = float(explained[i] / explained.sum())
        if i > 0:
            error = (act - acts[i - 1] @ compositions[i - 1]).square().sum()
            variance = (act - act.mean(0)).square().sum()
            found[f"composition_coverage_{i + 1}"] = float(1 - error / variance)
    return found


def plan_moves(
    fires: Int64[Tensor, " d_sae"], gain: Float[Tensor, " tiers"], widths: Sequence[int]
) -> Moves:
    """Latents that never fired go to the tier with the largest gain a latent; no tier loses its last one."""
    to = int((gain / gain.new_tensor(widths)).argmax())
    kept, gone = [], []
    for tier, counts in enumerate(torch.split(fires, list(widths))):
        stays = (counts > 0) | (tier == to)
        stays[0] |= ~stays.any()
        kept.append(stays.nonzero()[:, 0])
        gone.append((~stays).nonzero()[:, 0])
    return Moves(to, kept, gone)


def resize_axes(
    tensor: Float[Tensor, "..."],
    kept: Sequence[Int64[Tensor, " _"] | None],
    sizes: Sequence[int],
    fill: float = 0.0,
) -> Float[Tensor, "..."]:
    """Along each axis the entries in `kept` (all where None), followed by as many of `fill` as make up `sizes`."""
    for axis, (places, size) in enumerate(zip(kept, sizes, strict=True)):
        if places is not None:
            tensor = tensor.index_select(axis, places)
            shape = list(tensor.shape)
            shape[axis] = size - len(places)
            tensor = torch.cat([tensor, tensor.new_full(shape, fill)], axis)
    return tensor


def replace_tensor_(
    module: nn.Module,
    name: str,
    new: Float[Tensor, "..."],
    optimizer: torch.optim.Optimizer,
    resize: Callable[[Tensor], Tensor],
) -> None:
    """Puts `new` where a module has a parameter or buffer; what the optimiser remembers of it goes through `resize`."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new)
        for group in optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
    setattr(module, name, new)
    if isinstance(old, nn.Parameter) and old in optimizer.state:
        optimizer.state[new] = {
            key: resize(value) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in optimizer.state.pop(old).items()
        }
