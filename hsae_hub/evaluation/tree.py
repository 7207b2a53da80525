"""What the children of a tree are: how often each is kept, what they add, and whether they mean something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from hsae_hub.activations import heldout_windows
from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached
from hsae_hub.errors import UsageError
from hsae_hub.evaluation.bench import Bench
from hsae_hub.evaluation.bootstrap import of_mean
from hsae_hub.evaluation.information import Meaning, label_information, meaning
from hsae_hub.evaluation.labelled import Labelled, longest_context
from hsae_hub.evaluation.parts import digest_of
from hsae_hub.evaluation.reading import Read, pooled, read_rows, tokenised
from hsae_hub.evaluation.report import Measured, Report, Result
from hsae_hub.evaluation.rows import STRONG
from hsae_hub.recipes import DataConfig

Array = np.ndarray
FEWEST = 50  # acts of a parent that is looked at
KEPT = 500  # acts of each parent whose token is remembered
ASKED = 200  # parents, drawn, whose children are compared with chance
_CHUNK = 256  # tokens whose children's directions are in memory at once


def measure_tree(
    bench: Bench, data: DataConfig, sets: Sequence[Labelled] = (), *, tokens: int = 50_000
) -> Report:
    """Of about `tokens` held-out activations, and of the texts of labelled data where there are any.

    A child means something given its parent where knowing it says more about the token (or the text's label) than
    knowing a child drawn at random from the same parent's.

    Raises:
        UsageError: an SAE without children or of an embedding's rows, or no text is held out.
    """
    bench.check_reads_text("tree")
    trees = {name for name, each in bench.saes.items() if each.sae.shape.n_children}
    if "sae" not in trees:
        raise UsageError("tree measures children, and this SAE has none", fix="--on core")
    contexts = [
        each.tolist()
        for each in heldout_windows(data, bench.lm, tokens=tokens, sample_seed=bench.seed)
    ]
    settings = {"tokens": tokens, "sets": [each.name for each in sets]}
    digest = digest_of([*contexts, *(each.digest() for each in sets)])
    found = bench.measure("tree", settings, digest, partial(_measure, bench, contexts, sets))
    lines = [source.describe() for source in data.heldout or data.train]
    lines += [f"{each.name}: {len(each.texts):,} texts" for each in sets]
    return bench.report(
        "tree",
        {name: each for name, each in found.items() if name in trees},
        tokens=int(found["sae"].details["tokens"]),
        data=lines,
        settings=settings,
    )


def _measure(
    bench: Bench,
    contexts: Sequence[Sequence[int]],
    sets: Sequence[Labelled],
    saes: dict[str, Attached],
) -> dict[str, Measured]:
    trees = {name: each for name, each in saes.items() if each.sae.shape.n_children}
    sums = {name: TreeSums(each.sae) for name, each in trees.items()}
    for part in read_rows(bench, contexts, "measuring trees"):
        for tree in sums.values():
            tree.update(part)
    found = {name: Measured([], {}) for name in saes}
    found |= {name: tree.measured(bench.seed) for name, tree in sums.items()}
    for data in sets:
        rows = tokenised(bench.lm, data.texts, longest_context(bench.lm))
        read = pooled(bench, trees, rows, f"reading {data.name}")
        for name, each in trees.items():
            results, details = of_labels(each.sae, read.acts[name], data, bench.seed)
            before = found[name]
            found[name] = Measured(before.results + results, before.details | {data.name: details})
    return found


class TreeSums:
    """Of one tree: memory grows with its width, not with tokens."""

    def __init__(self, sae: SAE[Any]) -> None:
        self.sae = sae
        n, m = sae.shape
        self.tokens = 0
        self.kept = np.zeros((n, m), dtype=np.int64)
        """How often each child is the kept one of its parent."""
        self.strong = 0
        self.gain = np.zeros(n)
        """Squared error that each parent's children take away, summed over tokens."""
        self.square, self.vector = 0.0, torch.zeros(sae.d_in, dtype=torch.float64)
        self.error, self.error_parents = 0.0, 0.0
        self.seen = np.zeros((n, KEPT, 2), dtype=np.int32)
        """Child and token of the first acts of every parent."""
        self.n_seen = np.zeros(n, dtype=np.int64)

    def update(self, read: Read) -> None:
        """Adds a batch."""
        for x, ids in zip(torch.split(read.x, _CHUNK), torch.split(read.ids, _CHUNK), strict=True):
            self._update(x, ids.numpy())

    def _update(self, x: Float[Tensor, "t d"], ids: Int[Array, " t"]) -> None:
        n, m = self.sae.shape
        x = x.float()  # differences of errors are lost in a model's 16 bits
        acts = self.sae.encode(x)
        act, below = acts.values.tensor_split(2, -1)
        index = acts.indices.tensor_split(2, -1)[1]
        residual = x - self.sae.decode(acts).to(x.dtype)
        added = self.sae.decoder_rows(index).to(x.dtype) * below[..., None].to(x.dtype)
        self.tokens += len(x)
        self.square += float(x.double().square().sum())
        self.vector += x.double().sum(0).cpu()
        self.error += float(residual.double().square().sum())
        self.error_parents += float((residual + added.sum(1)).double().square().sum())
        gain = 2 * torch.einsum("td,tkd->tk", residual, added) + added.square().sum(-1)
        fires = (act > 0).cpu().numpy()
        parent, child = np.divmod(index.cpu().numpy() - n, m)
        np.add.at(self.kept, (parent[fires], child[fires]), 1)
        np.add.at(self.gain, parent[fires], gain.double().cpu().numpy()[fires])
        self.strong += int((below.abs() >= STRONG * act)[act > 0].sum())
        self._remember(parent[fires], child[fires], ids[np.nonzero(fires)[0]])

    def _remember(
        self, parent: Int[Array, " f"], child: Int[Array, " f"], token: Int[Array, " f"]
    ) -> None:
        order = np.argsort(parent, kind="stable")
        parent, child, token = parent[order], child[order], token[order]
        starts = np.searchsorted(parent, parent)
        place = self.n_seen[parent] + np.arange(len(parent)) - starts
        fits = place < KEPT
        where = parent[fits], place[fits]
        self.seen[where] = np.stack([child[fits], token[fits]], 1)
        self.n_seen = np.minimum(
            self.n_seen + np.bincount(parent, minlength=len(self.n_seen)), KEPT
        )

    def measured(self, seed: int) -> Measured:
        """The numbers; those about parents are means over the ones that act often enough."""
        fires = self.kept.sum(1)
        often = np.flatnonzero(fires >= FEWEST)
        variance = self.square - float(self.vector.square().sum()) / max(self.tokens, 1)
        results = [
            Result(name="strong_children", value=self.strong / max(int(fires.sum()), 1)),
            Result(name="explained_variance_parents", value=1 - self.error_parents / variance),
            Result(
                name="explained_variance_children",
                value=(self.error_parents - self.error) / variance,
            ),
            Result(name="parents_measured", value=float(len(often)), unit="latents"),
        ]
        details: dict[str, Any] = {"tokens": self.tokens}
        if len(often):
            shares = self.kept[often] / fires[often, None]
            bits = entropy(shares)
            results += [
                of_mean(bits, seed).result("child_entropy", "bits"),
                of_mean(shares.max(1), seed).result("top_child_share"),
                of_mean((shares >= 0.01).sum(1).astype(np.float64), seed).result(
                    "children_in_use", "latents"
                ),
            ]
            rng = np.random.default_rng(seed)
            asked = rng.permutation(often)[:ASKED]
            pairs = {int(j): self.seen[j, : self.n_seen[j]].T for j in asked}
            told = meaning({j: (pair[0], pair[1]) for j, pair in pairs.items()}, seed)
            results += told_of_meaning(told, "token", seed)
            best = np.argsort(-self.gain)[:20]
            details["parents"] = {
                str(j): {
                    "acts": int(fires[j]),
                    "children": [round(float(v), 4) for v in self.kept[j] / max(fires[j], 1)],
                    "explained_variance": float(self.gain[j]) / variance,
                    **({"token": told[int(j)]._asdict()} if int(j) in told else {}),
                }
                for j in best
            }
        return Measured(results, details)


def told_of_meaning(found: Mapping[int, Meaning], of: str, seed: int) -> list[Result]:
    """Means over parents of what a child says of its token or label."""
    if not found:
        return []
    excess = of_mean([each.excess for each in found.values()], seed)
    sure = of_mean([float(each.p < 0.01) for each in found.values()], seed)
    return [
        excess.result(f"child_{of}_information"),
        sure.result(f"meaningful_parents_by_{of}"),
    ]


def entropy(shares: Float[Array, "n m"]) -> Float[Array, " n"]:
    """Of each row, in bits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts: Array = np.where(shares > 0, -shares * np.log2(shares), 0.0)
    return np.asarray(parts.sum(1))


class _Of(NamedTuple):
    results: list[Result]
    details: dict[str, Any]


def of_labels(sae: SAE[Any], acts: csr_matrix, data: Labelled, seed: int) -> _Of:
    """What parents and children say of the labels of texts, from mean acts `[texts, d_sae]`."""
    n, m = sae.shape
    fires: csr_matrix = acts != 0
    results, details = [], {}
    for level, columns in (("parents", slice(0, n)), ("children", slice(n, n * (1 + m)))):
        told = label_information(fires[:, columns], data.labels, seed)
        if len(told.latents):
            results.append(of_mean(told.bits, seed).result(f"{level}_label_information", "bits"))
            best = np.argsort(-told.bits)[:20]
            start = 0 if level == "parents" else n
            details[level] = {
                sae.shape.name(int(told.latents[i]) + start): float(told.bits[i]) for i in best
            }
    found = meaning(_kept_of_texts(acts, n, m, data.labels), seed)
    return _Of(results + told_of_meaning(found, "label", seed), details)


def _kept_of_texts(
    acts: csr_matrix, n: int, m: int, labels: Int[Array, " texts"]
) -> dict[int, tuple[Int[Array, " f"], Int[Array, " f"]]]:
    """By parent: the child that acts most in each text that it acts in, and the text's label."""
    children = acts[:, n:].tocoo()
    parent, child = np.divmod(children.col.astype(np.int64), m)
    order = np.lexsort((child, -np.abs(children.data), children.row, parent))
    parent, child, text = parent[order], child[order], children.row[order]
    first: Bool[Array, " f"] = np.ones(len(parent), dtype=bool)
    first[1:] = (parent[1:] != parent[:-1]) | (text[1:] != text[:-1])
    parent, child, text = parent[first], child[first], text[first]
    sizes = np.bincount(parent, minlength=n)
    often = np.argsort(-sizes, kind="stable")[:ASKED]
    ends = sizes.cumsum()
    return {
        int(j): (child[ends[j] - sizes[j] : ends[j]], labels[text[ends[j] - sizes[j] : ends[j]]])
        for j in often
        if sizes[j] >= FEWEST
    }
