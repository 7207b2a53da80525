"""Core metrics of one SAE, and of a flat one beside it: reconstruction, sparsity, and the language model's loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.activations import choose_rows, describe_rows, heldout_windows
from hsae_hub.architectures import SAE, SAEOutput
from hsae_hub.artifact import config_of, weights_sha256
from hsae_hub.attach import Attached, SpliceReport, splice_losses
from hsae_hub.evaluation.bench import Bench, OnProgress
from hsae_hub.evaluation.bootstrap import of_sums
from hsae_hub.evaluation.parts import digest_of
from hsae_hub.evaluation.report import CoreReport, Measured, Result
from hsae_hub.evaluation.rows import measure_rows
from hsae_hub.evaluation.sums import (
    ACTIVE,
    ActivationSums,
    CoreSums,
    SAESums,
    density_histogram,
)
from hsae_hub.models import LanguageModel
from hsae_hub.recipes import DataConfig, DataSource, VocabularySection

_REPORTED = 16_384  # activations that an architecture's own report is about, at most: it takes them all at once
_NATS = ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "kl", "kl_zero")
_UNITS = {
    **dict.fromkeys(_NATS, "nats"),
    **dict.fromkeys(("l0", "l0_parents", "l0_children"), "latents a token"),
    **dict.fromkeys(("dead_latents", "dead_parents", "d_sae"), "latents"),
    "tokens": "tokens",
    "seen_tokens": "tokens",
    "l0_sparsity": "%",
    "mse": "squared activation",
}


def evaluate(
    sae: SAE[Any],
    data: DataConfig | Sequence[str],
    *,
    beside: Mapping[str, SAE[Any]] | None = None,
    model: str | LanguageModel | None = None,
    tokens: int = 50_000,
    seed: int = 0,
    device: str | None = None,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> CoreReport:
    """Measures an SAE, and others beside it on the same contexts, on about `tokens` activations of text not seen.

    `data` is a recipe's section, whose held-out part is taken, or a list of texts. The language model is the one that
    the SAE names unless `model` is given. `seed` is that of text which the model writes itself. An SAE of an
    embedding's rows is measured on all of them that are held out.

    Raises:
        UsageError: no text is held out, or too little.
        MisfitError: an SAE does not fit the model.
    """
    bench = Bench(
        sae,
        beside=beside,
        model=model,
        seed=seed,
        device=device,
        command=command,
        on_progress=on_progress,
    )
    return measure_core(
        bench, data if isinstance(data, DataConfig) else as_data(data, sae), tokens=tokens
    )


def measure_core(bench: Bench, data: DataConfig, *, tokens: int = 50_000) -> CoreReport:
    """Reconstruction, sparsity and the language model's loss, on about `tokens` activations that `data` holds out.

    Raises:
        UsageError: no text is held out, or too little.
    """

    def prepared(phase: str, done: int, total: int) -> None:
        bench.tell({"sample": "writing text", "count": "counting tokens"}[phase], done, total)

    measuring = partial(bench.tell, "measuring")
    lm, contexts, settings = bench.lm, [], {"tokens": tokens}
    if bench.hookpoint.side == "weight":
        rows = choose_rows(lm, bench.hookpoint, data, sample_seed=bench.seed, on_progress=prepared)
        measured = measure_rows(bench.saes, rows, measuring)
        found = {name: _without_intervals(numbers) for name, numbers in measured.items()}
        sources = [describe_rows(rows.config, str(bench.hookpoint), heldout=True)]
    else:
        contexts = heldout_windows(
            data, lm, tokens=tokens, sample_seed=bench.seed, on_progress=prepared
        )
        found = bench.measure(
            "core",
            settings,
            digest_of(each.tolist() for each in contexts),
            lambda saes: _measure(saes, contexts, bench.seed, measuring),
        )
        sources = [source.describe() for source in data.heldout or data.train]
    numbers = {name: each.details["numbers"] for name, each in found.items()}
    told = bench.report(
        "core",
        {
            name: Measured(each.results, {k: v for k, v in each.details.items() if k != "numbers"})
            for name, each in found.items()
        },
        tokens=int(numbers["sae"]["tokens"]),
        data=sources,
        settings=settings,
    )
    weights = {name: weights_sha256(each.sae) for name, each in bench.saes.items()}
    return CoreReport(
        **{field: getattr(told, field) for field in type(told).model_fields},
        contexts=len(contexts),
        weights={name: sha256 for name, sha256 in weights.items() if sha256 is not None},
        saes=numbers,
    )


def as_data(texts: Sequence[str], sae: SAE[Any]) -> DataConfig:
    """Texts as a recipe's section whose held-out part they are, in contexts as the SAE was trained on."""
    source = DataSource(lines=list(texts))
    known = config_of(sae)
    if known is not None and known.vocabulary is not None:
        fraction = known.vocabulary.heldout_fraction
        return DataConfig(train=[source], heldout_fraction=fraction, vocabulary=VocabularySection())
    tokens = known.tokens if known is not None else None
    as_trained = {} if tokens is None else tokens.model_dump()
    return DataConfig(train=[source], heldout=[source], **as_trained)


def _measure(
    saes: Mapping[str, Attached],
    contexts: Sequence[Int64[Tensor, " _"]],
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Measured]:
    first = next(iter(saes))
    n, d_in = len(contexts), saes[first].sae.d_in
    activations = ActivationSums(n, d_in)
    sums = {name: SAESums(n, each.sae.shape) for name, each in saes.items()}
    sample: list[Tensor] = []

    def read(
        name: str, x: Float[Tensor, "t d"], out: SAEOutput, context: Int64[Tensor, " t"]
    ) -> None:
        if name == first:
            activations.update(x, context)
            sample.append(x[: max(_REPORTED - sum(map(len, sample)), 0)])
        sums[name].update(saes[name].sae, x, out, context)

    losses = splice_losses(saes, contexts, on_progress=on_progress, on_read=read)
    return {
        name: _measured(
            each.sae,
            CoreSums(activations, sums[name], losses[name]),
            sums[name],
            losses[name].report,
            torch.cat(sample),
            seed,
        )
        for name, each in saes.items()
    }


def _measured(
    sae: SAE[Any],
    table: CoreSums,
    sums: SAESums,
    losses: SpliceReport,
    sample: Float[Tensor, "tokens d_in"],
    seed: int,
) -> Measured:
    intervals = of_sums(table.rows, table.numbers, seed)
    n_parents, dead = sae.shape.n_parents, sums.counts == 0
    counted: dict[str, int] = {
        "dead_latents": int(dead.sum()),
        "active_latents": int((sums.acts / losses.tokens > ACTIVE).sum()),
    }
    density = {"all": density_histogram(sums.counts, losses.tokens)}
    if sae.shape.n_children:
        counted["dead_parents"] = int(dead[:n_parents].sum())
        density["parents"] = density_histogram(sums.counts[:n_parents], losses.tokens)
        density["children"] = density_histogram(sums.counts[n_parents:], losses.tokens)
    counted["d_sae"] = sae.d_sae
    reported = {name: value for name, value in sae.report(sample).items() if math.isfinite(value)}
    finite = {name: each for name, each in intervals.items() if math.isfinite(each.value)}
    results = [each.result(name, _UNITS.get(name, "")) for name, each in finite.items()]
    results += [
        Result(name=name, value=float(value), unit="latents") for name, value in counted.items()
    ]
    results += [Result(name=name, value=value) for name, value in reported.items()]
    numbers = {**losses.numbers(), **{name: each.value for name, each in finite.items()}}
    return Measured(results, {"numbers": numbers | counted | reported, "density": density})


def _without_intervals(numbers: dict[str, int | float]) -> Measured:
    results = [
        Result(name=name, value=float(value), unit=_UNITS.get(name, ""))
        for name, value in numbers.items()
    ]
    return Measured(results, {"numbers": numbers})
