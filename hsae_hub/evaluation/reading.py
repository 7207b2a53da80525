"""Texts as one row each: the mean of activations and acts over some of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from scipy.sparse import coo_matrix, csr_matrix
from torch import Tensor

from hsae_hub.activations import pad_contexts
from hsae_hub.architectures import SAE, Acts
from hsae_hub.attach import Attached
from hsae_hub.evaluation.bench import Bench
from hsae_hub.models import LanguageModel, read_activations

Array = np.ndarray
_TOKENS = 8192  # that the language model reads at once, padding included


class Read(NamedTuple):
    """Some tokens of a batch of texts."""

    x: Float[Tensor, "tokens d"]
    text: Int64[Tensor, " tokens"]
    """Number of the text that each is in."""
    ids: Int64[Tensor, " tokens"]


class Pooled(NamedTuple):
    """Texts, a row each."""

    x: Float[Array, "texts d"]
    """Mean activation."""
    acts: dict[str, csr_matrix]
    """Mean acts `[texts, d_sae]` by SAE."""
    tokens: int
    """Activations that were read."""


def tokenised(lm: LanguageModel, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Ids of the first tokens of each text, with the special tokens that the tokenizer adds."""
    rows = lm.tokenizer(list(texts), verbose=False)["input_ids"]
    return [[int(i) for i in row[:longest]] for row in rows]


def read_rows(
    bench: Bench, rows: Sequence[Sequence[int]], what: str, *, at: Sequence[int] | None = None
) -> Iterator[Read]:
    """Activations of the ordinary tokens of rows of ids, or of the one token of each row that `at` names."""
    lm, done = bench.lm, 0
    for batch in _batches(rows):
        ids, mask = pad_contexts(
            [torch.tensor(row, dtype=torch.int64) for row in batch], lm.tokenizer.pad_token_id or 0
        )
        if at is None:
            kept = mask & ~torch.isin(ids, lm.special)
        else:
            kept = torch.zeros_like(mask)
            kept[torch.arange(len(batch)), torch.tensor(at[done : done + len(batch)])] = True
        x = read_activations(lm, bench.hookpoint, ids, mask.long())
        where = kept.nonzero()[:, 0] + done
        yield Read(x[kept.to(x.device)], where, ids[kept])
        done += len(batch)
        bench.tell(what, done, len(rows))


def pooled(
    bench: Bench,
    saes: Mapping[str, Attached],
    rows: Sequence[Sequence[int]],
    what: str,
    *,
    at: Sequence[int] | None = None,
) -> Pooled:
    """Each row's mean over its ordinary tokens, or its one token that `at` names; zeros where it has none."""
    x = torch.zeros(len(rows), next(iter(saes.values())).sae.d_in)
    parts: dict[str, list[csr_matrix]] = {name: [] for name in saes}
    counts = torch.zeros(len(rows))
    for read in read_rows(bench, rows, what, at=at):
        counts += torch.bincount(read.text, minlength=len(rows))
        x.index_add_(0, read.text, read.x.float().cpu())
        for name, each in saes.items():
            acts = each.sae.encode(read.x)
            parts[name].append(_summed(acts, read.text, len(rows)))
    share = 1 / counts.clamp_min(1)
    return Pooled(
        (x * share[:, None]).numpy(),
        {name: _scaled(sum(each[1:], each[0]), share) for name, each in parts.items()},
        int(counts.sum()),
    )


@torch.no_grad()
def decoder(sae: SAE[Any], acts: csr_matrix) -> tuple[Int[Array, " used"], Float[Array, "used d"]]:
    """The latents that act anywhere, and their decoder rows."""
    used = np.unique(acts.indices).astype(np.int64)
    rows = sae.decoder_rows(torch.from_numpy(used).to(sae.device))
    return used, rows.float().cpu().numpy()


def _scaled(acts: csr_matrix, share: Float[Tensor, " texts"]) -> csr_matrix:
    found = acts.copy()
    found.data = found.data * np.repeat(share.numpy(), np.diff(found.indptr))
    return found


def _summed(acts: Acts, text: Int64[Tensor, " tokens"], n: int) -> csr_matrix:
    fired = acts.values != 0
    rows = text[:, None].expand(fired.shape)[fired.cpu()]
    entries = (
        acts.values[fired].float().cpu().numpy(),
        (rows.numpy(), acts.indices[fired].cpu().numpy()),
    )
    return coo_matrix(entries, shape=(n, acts.d_sae)).tocsr()


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    batch: list[Sequence[int]] = []
    for row in rows:
        longest = max(len(each) for each in [*batch, row])
        if batch and (len(batch) + 1) * longest > _TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
