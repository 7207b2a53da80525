"""Puts the reconstruction in the place of the residual, and measures what that costs the language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hsae_hub.architectures import SAE
from hsae_hub.attach.batches import TokenBatch, in_batches, is_ordinary
from hsae_hub.attach.engine import Engine, Intervention
from hsae_hub.errors import UsageError
from hsae_hub.metrics import ReconstructionStats

_CHUNK = 512
"""Predictions whose log-probabilities are in memory at once."""


@dataclass(frozen=True, eq=False)
class Splice:
    """An intervention: the SAE's reconstruction, with the error added to it or not."""

    sae: SAE[Any]
    error_term: bool

    def __call__(
        self, activations: Float[Tensor, "b s d"], ordinary: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b s d"]:
        """The reconstruction; padding and special tokens stay as they are."""
        x_hat = self.sae(activations).sae_out
        if self.error_term:  # detached: otherwise it takes the latents' gradient away again
            x_hat = x_hat + (activations - x_hat).detach()
        return torch.where(ordinary[..., None], x_hat, activations)


@dataclass(frozen=True, eq=False)
class Replace:
    """An intervention: the same vector on every ordinary token."""

    vector: Float[Tensor, " d"]

    def __call__(
        self, activations: Float[Tensor, "b s d"], ordinary: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b s d"]:
        """The vector; padding and special tokens stay as they are."""
        return torch.where(ordinary[..., None], self.vector.to(activations), activations)


@dataclass(frozen=True, eq=False)
class _Record:
    """An intervention that only remembers the activations of ordinary tokens."""

    seen: list[Float[Tensor, "tokens d"]]

    def __call__(
        self, activations: Float[Tensor, "b s d"], ordinary: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b s d"]:
        self.seen.append(activations[ordinary])
        return activations


@dataclass(frozen=True)
class SpliceReport:
    """What a language model loses with a reconstruction in place, in nats, over ordinary tokens.

    Padding and special tokens (BOS, EOS …) are left as they are and counted nowhere: not as activations, not as
    tokens to predict or to predict from.
    """

    tokens: int
    """Activations that were reconstructed."""
    predictions: int
    """Next tokens that were predicted: the number behind every cross-entropy and the KL."""
    ce_clean: float
    """Cross-entropy of the model as it is, without any intervention."""
    ce_spliced: float
    """With everything in place that was in place when it was measured."""
    ce_zero: float
    """With zeros in place of the reconstruction."""
    ce_mean: float
    """With the mean of these activations in its place."""
    ce_score: float
    """`(ce_zero − ce_spliced) / (ce_zero − ce_clean)`: 1 is no loss, 0 no better than zeros; nan if those cost none."""
    kl: float
    """Mean KL(clean ‖ spliced) of next-token distributions."""
    explained_variance: float
    """Of the model's clean activations: `1 − Σ‖x−x̂‖² / Σ‖x−x̄‖²`."""
    l0: float
    """Mean number of non-zero acts a token."""
    l0_parents: float | None
    """The same of parents; None for a flat SAE."""
    l0_children: float | None

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.tokens:,} tokens, {self.predictions:,} predictions"]
        for name, value in self.to_dict().items():
            if isinstance(value, float):
                lines.append(f"{name:<18} {value:8.4f}")
        return "\n".join(lines)


@dataclass
class _Base:
    """Sums over predictions of what no SAE has a part in; Python's floats are float64."""

    predictions: int = 0
    clean: float = 0.0
    zero: float = 0.0
    mean: float = 0.0


@dataclass
class _Sums:
    """The same for one SAE."""

    spliced: float = 0.0
    kl: float = 0.0
    parents: int = 0
    children: int = 0


@torch.no_grad()
def measure_losses(
    engine: Engine,
    saes: Mapping[str, tuple[SAE[Any], Sequence[Intervention]]],
    rows: Sequence[Sequence[int]],
    replaced: Callable[[Intervention], Sequence[Intervention]],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, SpliceReport]:
    """Runs every row clean, with zeros, with the mean activation, and once for each SAE with its interventions.

    `replaced` gives what is in place with another intervention instead of the splice. `on_progress` is told how many
    forwards of a row are done, and of how many.

    Raises:
        UsageError: there are fewer than two ordinary tokens, or none that follows another.
    """
    sums = {name: _Sums() for name in saes}
    stats = {name: ReconstructionStats(sae.d_in) for name, (sae, _) in saes.items()}
    base, seen, done, n_forwards = _Base(), ReconstructionStats(_width(saes)), 0, 3 + len(saes)

    def tell(forwards: int) -> None:
        nonlocal done
        done += forwards
        if on_progress:
            on_progress(done, n_forwards * len(rows))

    zero = Replace(torch.zeros(_width(saes)))
    for batch in in_batches(engine.lm, rows):
        ordinary = is_ordinary(batch.ids, batch.mask, engine.special)
        record = _Record([])
        clean = _predictions(engine, batch, ordinary, [record])
        x = record.seen[0]
        seen.update(x, x)
        base.predictions += len(clean.targets)
        base.clean += _cross_entropy(clean)
        for name, (sae, interventions) in saes.items():
            _reconstruct(sae, x, stats[name], sums[name])
            spliced = _predictions(engine, batch, ordinary, interventions)
            sums[name].spliced += _cross_entropy(spliced)
            sums[name].kl += _kl(clean.logits, spliced.logits)
            del spliced
        del clean
        base.zero += _cross_entropy(_predictions(engine, batch, ordinary, replaced(zero)))
        tell((2 + len(saes)) * len(batch.ids))
    if seen.tokens < 2 or not base.predictions:
        raise UsageError(
            f"{seen.tokens} ordinary tokens are too few to measure on", fix="give longer texts"
        )
    mean = Replace(seen.mean())
    for batch in in_batches(engine.lm, rows):
        ordinary = is_ordinary(batch.ids, batch.mask, engine.special)
        base.mean += _cross_entropy(_predictions(engine, batch, ordinary, replaced(mean)))
        tell(len(batch.ids))
    return {
        name: _report(stats[name], base, sums[name], is_tree=bool(sae.shape.n_children))
        for name, (sae, _) in saes.items()
    }


def _width(saes: Mapping[str, tuple[SAE[Any], Sequence[Intervention]]]) -> int:
    return next(sae.d_in for sae, _ in saes.values())


@dataclass(frozen=True)
class _Predictions:
    logits: Float[Tensor, "p vocabulary"]
    targets: Int64[Tensor, " p"]


def _predictions(
    engine: Engine,
    batch: TokenBatch,
    ordinary: Bool[Tensor, "b s"],
    interventions: Sequence[Intervention],
) -> _Predictions:
    pairs = ordinary[:, :-1] & ordinary[:, 1:]
    logits = engine.logits(batch, interventions)
    return _Predictions(logits[:, :-1][pairs], batch.ids[:, 1:][pairs])


def _reconstruct(
    sae: SAE[Any], x: Float[Tensor, "tokens d"], stats: ReconstructionStats, sums: _Sums
) -> None:
    if not len(x):
        return
    x_hat, acts = sae(x)
    stats.update(x, x_hat)
    fired = acts.values != 0
    parents = int((fired & (acts.indices < sae.shape.n_parents)).sum())
    sums.parents += parents
    sums.children += int(fired.sum()) - parents


def _cross_entropy(found: _Predictions) -> float:
    chunks = zip(*(torch.split(t, _CHUNK) for t in (found.logits, found.targets)), strict=True)
    return sum(
        float(
            torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            .double()
            .sum()
        )
        for logits, targets in chunks
    )


def _kl(clean: Float[Tensor, "p vocabulary"], other: Float[Tensor, "p vocabulary"]) -> float:
    total = 0.0
    for left, right in zip(*(torch.split(t, _CHUNK) for t in (clean, other)), strict=True):
        p, q = left.float().log_softmax(-1), right.float().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum(-1).double().sum())
    return total


def _report(stats: ReconstructionStats, base: _Base, sums: _Sums, *, is_tree: bool) -> SpliceReport:
    clean, zero, mean, spliced, kl = (
        value / base.predictions
        for value in (base.clean, base.zero, base.mean, sums.spliced, sums.kl)
    )
    return SpliceReport(
        tokens=stats.tokens,
        predictions=base.predictions,
        ce_clean=clean,
        ce_spliced=spliced,
        ce_zero=zero,
        ce_mean=mean,
        ce_score=(zero - spliced) / (zero - clean) if zero != clean else float("nan"),
        kl=kl,
        explained_variance=stats.explained_variance(),
        l0=(sums.parents + sums.children) / stats.tokens,
        l0_parents=sums.parents / stats.tokens if is_tree else None,
        l0_children=sums.children / stats.tokens if is_tree else None,
    )
