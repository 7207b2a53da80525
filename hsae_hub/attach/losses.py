"""Measures what it costs a language model to have reconstructions in the place of its activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from hsae_hub.architectures import SAE, SAEOutput
from hsae_hub.attach.batches import TokenBatch, in_batches, ordinary_tokens
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.running import Intervention, Placed
from hsae_hub.attach.splicing import Record, Replace
from hsae_hub.errors import UsageError
from hsae_hub.metrics import ReconstructionStats, resampled_sums
from hsae_hub.models import Hookpoint

_BASE = ("predictions", "clean", "zero", "mean")
_OWN = ("spliced", "kl")
_CHUNK = 512
"""Predictions whose log-probabilities are in memory at once."""


class Site(NamedTuple):
    """An SAE and the place that it reads."""

    sae: SAE[Any]
    hookpoint: Hookpoint


class Subject(NamedTuple):
    """What is measured: some SAEs, and all that is in place while they are."""

    sites: Mapping[str, Site]
    placed: Sequence[Placed]


@dataclass(frozen=True)
class Reconstruction:
    """How one SAE reconstructs the model's clean activations."""

    explained_variance: float
    """`1 − Σ‖x−x̂‖² / Σ‖x−x̄‖²`."""
    l0: float
    """Mean number of non-zero acts a token."""
    l0_parents: float | None
    """The same of parents; None for a flat SAE."""
    l0_children: float | None


@dataclass(frozen=True)
class SpliceReport:
    """What a language model loses with reconstructions in place, in nats, over ordinary tokens.

    Padding and special tokens (BOS, EOS …) are left as they are and counted nowhere: not as activations, not as
    tokens to predict or to predict from.
    """

    tokens: int
    """Activations that were reconstructed."""
    predictions: int
    """Next tokens that were predicted: the number behind every cross-entropy and the KL."""
    sequences: int
    """Texts or windows that they are from."""
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
    intervals: dict[str, tuple[float, float]]
    """95 % intervals of the losses: percentiles of 1000 resamples of whole sequences; empty for a single one."""
    saes: dict[str, Reconstruction]
    """By the name of each SAE that is spliced in."""

    @property
    def explained_variance(self) -> float:
        """Of the one SAE."""
        return self._only().explained_variance

    @property
    def l0(self) -> float:
        """Of the one SAE."""
        return self._only().l0

    @property
    def l0_parents(self) -> float | None:
        """Of the one SAE."""
        return self._only().l0_parents

    @property
    def l0_children(self) -> float | None:
        """Of the one SAE."""
        return self._only().l0_children

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, as JSON can hold it; the figures of an only SAE stand beside the losses."""
        found = asdict(self)
        each = found.pop("saes")
        return {**found, **(next(iter(each.values())) if len(each) == 1 else {"saes": each})}

    def numbers(self) -> dict[str, int | float]:
        """Every metric, and over how many tokens and predictions: plain numbers."""
        found = {k: v for k, v in self.to_dict().items() if isinstance(v, int | float)}
        del found["sequences"]
        return found

    def __str__(self) -> str:
        lines = [
            f"{self.tokens:,} tokens, {self.predictions:,} predictions in {self.sequences:,} sequences"
        ]
        lines += [
            f"{name:<18} {value:8.4f}{_interval(self.intervals.get(name))}"
            for name, value in self.numbers().items()
            if isinstance(value, float)
        ]
        if len(self.saes) > 1:
            lines += [f"{n}: explains {s.explained_variance:.4f}" for n, s in self.saes.items()]
        return "\n".join(lines)

    def _only(self) -> Reconstruction:
        if len(self.saes) != 1:
            raise UsageError(
                f"{len(self.saes)} SAEs were spliced in",
                fix=f"report.saes[{next(iter(self.saes))!r}]",
            )
        return next(iter(self.saes.values()))


class Losses(NamedTuple):
    """A report, and the sums over predictions that it is made of, sequence by sequence."""

    report: SpliceReport
    sums: dict[str, Float64[Tensor, " sequences"]]
    """`predictions`, `clean`, `zero`, `mean`, `spliced`, `kl`, and `kl_zero`: KL(clean ‖ with zeros in place)."""


OnRead = Callable[[str, Float[Tensor, "tokens d"], SAEOutput, Int64[Tensor, " tokens"]], None]
"""Told, of every batch and SAE, the name of what is measured, the clean activations of ordinary tokens, what the SAE
makes of them, and the number of the sequence that each stands in."""


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"   [{bounds[0]:.4f}, {bounds[1]:.4f}]"


class _Stats:
    """Sums about one SAE."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.reconstruction = ReconstructionStats(site.sae.d_in)
        self.parents = 0
        self.children = 0

    def update(self, x: Float[Tensor, "tokens d"]) -> SAEOutput | None:
        if not len(x):
            return None
        sae = self.site.sae
        out: SAEOutput = sae(x.to(sae.device))
        acts = out.acts
        self.reconstruction.update(x.to(sae.device), out.sae_out)
        fired = acts.values != 0
        parents = int((fired & (acts.indices < sae.shape.n_parents)).sum())
        self.parents += parents
        self.children += int(fired.sum()) - parents
        return out

    def report(self) -> Reconstruction:
        tokens, is_tree = self.reconstruction.tokens, bool(self.site.sae.shape.n_children)
        return Reconstruction(
            self.reconstruction.explained_variance(),
            (self.parents + self.children) / tokens,
            self.parents / tokens if is_tree else None,
            self.children / tokens if is_tree else None,
        )


@torch.no_grad()
def measure_losses(
    engine: Engine,
    several: Mapping[str, Subject],
    rows: Sequence[Sequence[int]],
    replaced: Callable[[Mapping[Hookpoint, Intervention]], Sequence[Placed]],
    on_progress: Callable[[int, int], None] | None = None,
    on_read: OnRead | None = None,
) -> dict[str, Losses]:
    """Runs every row clean, with zeros, with the mean activation, and once for each of several with what it places.

    They are at the same places. `replaced` gives what is in place with other interventions instead of the splices.
    `on_progress` is told how many forwards of a row are done, and of how many.

    Raises:
        UsageError: there are fewer than two ordinary tokens, or none that follows another.
    """
    places = {s.hookpoint: s.sae.d_in for s in next(iter(several.values())).sites.values()}
    stats = {name: {n: _Stats(s) for n, s in each.sites.items()} for name, each in several.items()}
    seen = {hookpoint: ReconstructionStats(width) for hookpoint, width in places.items()}
    sums: dict[str, list[Float64[Tensor, " b"]]] = {}
    done, total, first = 0, (3 + len(several)) * len(rows), 0

    def tell(forwards: int) -> None:
        nonlocal done
        done += forwards
        if on_progress:
            on_progress(done, total)

    def add(name: str, values: Float64[Tensor, " p"], found: Predictions) -> None:
        by_row = torch.zeros(found.n_rows, dtype=torch.float64)
        sums.setdefault(name, []).append(by_row.index_add(0, found.rows, values))

    zero = replaced({hookpoint: Replace(torch.zeros(width)) for hookpoint, width in places.items()})
    for batch in in_batches(engine.lm, rows):
        records: dict[Hookpoint, Record] = {hookpoint: Record([]) for hookpoint in places}
        clean = predictions(engine, batch, [Placed(*each) for each in records.items()])
        for hookpoint, record in records.items():
            seen[hookpoint].update(record.seen[0], record.seen[0])
        add("predictions", torch.ones(len(clean.targets), dtype=torch.float64), clean)
        add("clean", cross_entropy(clean), clean)
        for name, each in several.items():
            for one in stats[name].values():
                x = records[one.site.hookpoint].seen[0]
                out = one.update(x)
                if on_read and out is not None:
                    on_read(name, x, out, first + clean.ordinary)
            spliced = predictions(engine, batch, each.placed)
            add(f"spliced {name}", cross_entropy(spliced), clean)
            add(f"kl {name}", kl_divergence(clean.logits, spliced.logits), clean)
            del spliced
        zeroed = predictions(engine, batch, zero)
        add("zero", cross_entropy(zeroed), clean)
        add("kl_zero", kl_divergence(clean.logits, zeroed.logits), clean)
        del clean, zeroed
        first += len(batch.ids)
        tell((2 + len(several)) * len(batch.ids))
    tokens = min(each.tokens for each in seen.values())
    if tokens < 2 or not torch.cat(sums["predictions"]).any():
        raise UsageError(
            f"{tokens} ordinary tokens are too few to measure on", fix="give longer texts"
        )
    mean = replaced({hookpoint: Replace(each.mean()) for hookpoint, each in seen.items()})
    for batch in in_batches(engine.lm, rows):
        meant = predictions(engine, batch, mean)
        add("mean", cross_entropy(meant), meant)
        tell(len(batch.ids))
    base = {name: torch.cat(sums[name]) for name in (*_BASE, "kl_zero")}
    found = {}
    for name in several:
        own = base | {kind: torch.cat(sums[f"{kind} {name}"]) for kind in _OWN}
        figures = {n: one.report() for n, one in stats[name].items()}
        table = torch.stack([own[each] for each in (*_BASE, *_OWN)], dim=-1)
        found[name] = Losses(_report(tokens, table, figures), own)
    return found


class Predictions(NamedTuple):
    """Next tokens that ordinary tokens predict, as far as they are ordinary themselves."""

    logits: Float[Tensor, "p vocabulary"]
    targets: Int64[Tensor, " p"]
    rows: Int64[Tensor, " p"]
    """Which row of the batch each is from, on the CPU."""
    columns: Int64[Tensor, " p"]
    """At which position of its row each is predicted, on the CPU."""
    n_rows: int
    ordinary: Int64[Tensor, " tokens"]
    """Which row each ordinary token is from, on the CPU."""


def predictions(engine: Engine, batch: TokenBatch, placed: Sequence[Placed]) -> Predictions:
    """What a batch predicts with interventions in place."""
    ordinary = ordinary_tokens(engine.lm, batch)
    pairs = ordinary[:, :-1] & ordinary[:, 1:]
    logits = engine.logits(batch, placed)
    where = pairs.to(logits.device)
    rows, columns = pairs.nonzero().cpu().unbind(-1)
    targets = batch.ids[:, 1:].to(logits.device)[where]
    own = ordinary.nonzero()[:, 0].cpu()
    return Predictions(logits[:, :-1][where], targets, rows, columns, len(pairs), own)


def cross_entropy(found: Predictions) -> Float64[Tensor, " p"]:
    """`-log p` of each prediction's target, in nats."""
    parts = [
        torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").double().cpu()
        for logits, targets in zip(
            *(torch.split(t, _CHUNK) for t in (found.logits, found.targets)), strict=True
        )
    ]
    return torch.cat(parts)


def kl_divergence(
    clean: Float[Tensor, "p vocabulary"], other: Float[Tensor, "p vocabulary"]
) -> Float64[Tensor, " p"]:
    """KL(clean ‖ other) of each prediction, in nats."""
    parts = []
    for left, right in zip(*(torch.split(t, _CHUNK) for t in (clean, other)), strict=True):
        p, q = left.float().log_softmax(-1), right.float().log_softmax(-1)
        parts.append((p.exp() * (p - q)).sum(-1).double().cpu())
    return torch.cat(parts)


def _report(
    tokens: int, sums: Float64[Tensor, "sequences 6"], saes: dict[str, Reconstruction]
) -> SpliceReport:
    sums = sums[sums[:, 0] > 0]  # a text without a prediction says nothing
    values = _losses(sums.sum(0, keepdim=True))
    intervals: dict[str, tuple[float, float]] = {}
    if len(sums) > 1:
        for name, drawn in _losses(resampled_sums(sums)).items():
            low, high = torch.quantile(drawn, drawn.new_tensor([0.025, 0.975])).tolist()
            intervals[name] = (low, high)
    numbers = {name: float(value) for name, value in values.items()}
    return SpliceReport(
        tokens=tokens,
        predictions=int(sums[:, 0].sum()),
        sequences=len(sums),
        intervals=intervals,
        saes=saes,
        **numbers,
    )


def _losses(sums: Float64[Tensor, "n 6"]) -> dict[str, Float64[Tensor, " n"]]:
    """Every loss of the report from the sums of predictions, clean, zero, mean, spliced and KL."""
    clean, zero, mean, spliced, kl = (sums[:, 1:] / sums[:, :1]).unbind(-1)
    score = (zero - spliced) / torch.where(zero == clean, torch.nan, zero - clean)
    names = ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "ce_score", "kl")
    return dict(zip(names, (clean, spliced, zero, mean, score, kl), strict=True))
