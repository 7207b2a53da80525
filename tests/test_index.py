"""An index says what a slow pass over the same text, token by token, finds."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from attach_oracle import row_of
from small_corpus import DATA

from hsae_hub.activations import WindowStream
from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import ModelConfig, read_artifact, save_sae
from hsae_hub.features import FeatureIndex, Indexed, build_index
from hsae_hub.features.chunks import AHEAD, BEHIND, random_ranks
from hsae_hub.features.indexing import SAMPLED, TOP
from hsae_hub.models import Hookpoint, LanguageModel, read_activations
from hsae_hub.recipes import VocabularySection

pytest_plugins = ["feature_fixtures"]


class Slow:
    """Every act of every token, in dictionaries."""

    def __init__(self, sae: SAE[Any], lm: LanguageModel) -> None:
        self.contexts: list[list[int]] = []
        self.acts: dict[int, dict[tuple[int, int], float]] = defaultdict(dict)
        self.relative: dict[int, list[float]] = defaultdict(list)
        self.tokens = 0
        stream = WindowStream(DATA, lm, seed=0, sample_seed=0)
        while batch := stream.take(DATA.batch_contexts):
            for ids in batch:
                number, row = len(self.contexts), ids[None]
                x = read_activations(lm, Hookpoint("layers.3"), row, torch.ones_like(row))[0]
                acts = sae.encode(x)
                self.contexts.append(ids.tolist())
                for place in range(1, len(ids)):  # the first one is BOS
                    self.tokens += 1
                    for act, latent in zip(acts.values[place], acts.indices[place], strict=True):
                        if act != 0:
                            self.acts[int(latent)][number, place] = float(act)
                            if act > 0:
                                self.relative[int(latent)].append(float(act / x[place].norm()))


@pytest.fixture(scope="module")
def slow(sae: SAE[Any], model: LanguageModel) -> Slow:
    return Slow(sae, model)


@pytest.fixture(scope="module")
def latents(indexed: Indexed) -> list[dict[str, Any]]:
    return pq.read_table(indexed.folder / "latents.parquet").to_pylist()


@pytest.fixture(scope="module")
def contexts(indexed: Indexed) -> dict[int, list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in pq.read_table(indexed.folder / "contexts.parquet").to_pylist():
        found[row["latent"]].append(row)
    return found


def test_counts_and_strengths(indexed: Indexed, slow: Slow, latents, sae: SAE[Any]) -> None:
    assert indexed.info["tokens"] == slow.tokens and indexed.info["contexts"] == len(slow.contexts)
    assert [row["feature"] for row in latents] == [sae.shape.name(i) for i in range(sae.d_sae)]
    assert len(slow.acts) > 100 and any(act < 0 for a in slow.acts.values() for act in a.values())
    for i, row in enumerate(latents):
        acts = list(slow.acts[i].values())
        positive = [act for act in acts if act > 0]
        assert row["fired"] == len(acts)
        assert row["density"] == pytest.approx(len(acts) / slow.tokens)
        assert row["mean_act"] == pytest.approx(np.mean(positive) if positive else 0, rel=1e-4)
        assert row["max_act"] == pytest.approx(max(positive, default=0), rel=1e-4)
        parent = sae.shape.parent_of(i)
        assert row["parent"] == parent
        if parent is not None:
            assert row["share"] == pytest.approx(len(acts) / max(len(slow.acts[parent]), 1))
        relative = np.sort(slow.relative[i])
        assert sum(row["histogram"]) == len(relative)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
            exact = relative[max(int(np.ceil(share * len(relative))), 1) - 1] if positive else 0
            assert row[name] == pytest.approx(exact, rel=0.046)
        if len(relative):
            edges = 2 ** ((np.arange(len(row["histogram"]) + 1) + row["first_bin"]) / 8 - 24)
            assert edges[0] <= relative[0] * (1 + 1e-5) and relative[-1] <= edges[-1] * (1 + 1e-5)


def strongest(slow: Slow, latent: int) -> dict[int, tuple[float, int]]:
    """Of each context the strongest positive act of a latent, and its place."""
    found: dict[int, tuple[float, int]] = {}
    for (context, place), act in slow.acts[latent].items():
        if act > max(found.get(context, (0.0, 0))[0], 0):
            found[context] = act, place
    return found


def check_row(slow: Slow, latent: int, row: dict[str, Any], lm: LanguageModel) -> None:
    """What is kept of a context is what stands there."""
    act, place = strongest(slow, latent)[row["context"]]
    assert row["act"] == pytest.approx(act, rel=1e-4) and row["position"] == place
    ids = slow.contexts[row["context"]]
    around = range(max(1, place - AHEAD), min(len(ids), place + BEHIND + 1))
    assert "".join(row["tokens"]).strip() == lm.tokenizer.decode([ids[i] for i in around]).strip()
    assert row["at"] == place - around[0]
    acts = [slow.acts[latent].get((row["context"], i), 0.0) for i in around]
    assert row["acts"] == pytest.approx(acts, rel=2e-3, abs=2e-3 * abs(act))


def test_the_strongest_contexts(slow: Slow, contexts, model: LanguageModel) -> None:
    for latent in slow.acts:
        expected = sorted(
            ((-act, context) for context, (act, _) in strongest(slow, latent).items())
        )[:TOP]
        rows = [row for row in contexts[latent] if row["band"] == 0]
        assert [row["rank"] for row in rows] == list(range(len(rows)))
        assert [-row["act"] for row in rows] == pytest.approx([a for a, _ in expected], rel=1e-3)
        for row in rows:
            check_row(slow, latent, row, model)


def test_bands_divide_a_uniform_sample_by_act(slow: Slow, contexts, model: LanguageModel) -> None:
    several = 0
    for latent in slow.acts:
        held = np.array(sorted(strongest(slow, latent)), dtype=np.int64)
        ranks = random_ranks(0, np.full(len(held), latent), held)
        expected = set(held[np.argsort(ranks)][:SAMPLED].tolist())
        rows = [row for row in contexts[latent] if row["band"] > 0]
        assert {row["context"] for row in rows} == expected
        assert [row["act"] for row in rows] == sorted((r["act"] for r in rows), reverse=True)
        if len(rows) == SAMPLED:
            several += 1
            assert [row["band"] for row in rows] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3
        for row in rows:
            check_row(slow, latent, row, model)
    assert several > 20


def test_ranks_are_uniform_whatever_the_latent() -> None:
    for latent in (0, 5, 10**6):
        ranks = random_ranks(7, np.full(20_000, latent), np.arange(20_000))
        counts = np.histogram(ranks, bins=20, range=(0, 1))[0]
        assert abs(counts - 1000).max() < 150
    other = random_ranks(7, np.full(20_000, 1), np.arange(20_000))
    assert abs(np.corrcoef(ranks, other)[0, 1]) < 0.03


def test_parents_that_act_together(slow: Slow, latents, sae: SAE[Any]) -> None:
    parents = range(sae.shape.n_parents)
    acting = {p: set(slow.acts[p]) for p in parents}
    for parent in parents:
        both = {q: len(acting[parent] & acting[q]) for q in parents if q != parent}
        expected = sorted(
            (-count / (len(acting[parent]) * len(acting[q])) ** 0.5, q)
            for q, count in both.items()
            if count
        )[:8]
        rows = latents[parent]["together"]
        assert [-row["coefficient"] for row in rows] == pytest.approx([c for c, _ in expected])
        for row in rows:
            share = both[int(row["feature"])] / len(acting[parent])
            assert row["share"] == pytest.approx(share)
    assert all(not row["together"] for row in latents[sae.shape.n_parents :])


def test_directions(latents, sae: SAE[Any], model: LanguageModel) -> None:
    alive = [row for row in latents if row["fired"]]
    rows = torch.stack([row_of(sae, row["feature"]) for row in alive])
    unit = rows / rows.norm(dim=-1, keepdim=True)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    hf: Any = model.hf
    weight = 1 + hf.model.norm.weight  # Gemma's RMSNorm
    logits = (rows * weight) @ hf.lm_head.weight.T
    logits = logits - logits.mean(-1, keepdim=True)
    for i, row in enumerate(alive):
        assert [n["cosine"] for n in row["nearest"]] == pytest.approx(
            cosines[i].topk(8).values.tolist(), abs=1e-5
        )
        for column, largest in (("top_logits", True), ("bottom_logits", False)):
            expected = logits[i].topk(10, largest=largest).values.tolist()
            assert [n["logit"] for n in row[column]] == pytest.approx(expected, rel=1e-3, abs=1e-4)
        for n in row["top_logits"]:
            assert float(logits[i, n["id"]]) == pytest.approx(n["logit"], rel=1e-3, abs=1e-4)
    assert all(row["nearest"] == [] for row in latents if not row["fired"])


def test_windows_are_random_and_whole(indexed: Indexed, slow: Slow) -> None:
    rows = pq.read_table(indexed.folder / "windows.parquet").to_pylist()
    assert len(rows) == min(512, len(slow.contexts))
    there: dict[int, dict[int, float]] = defaultdict(dict)
    for latent, acts in slow.acts.items():
        for (context, _), act in acts.items():
            there[context][latent] = max(act, there[context].get(latent, act))
    for row in rows:
        acting = set(row["latents"])
        expected = there[row["window"]]
        assert acting <= set(expected)
        if len(row["tokens"]) == len(slow.contexts[row["window"]]) - 1:
            assert acting == set(expected)
            by_latent = dict(zip(row["latents"], row["acts"], strict=True))
            assert by_latent == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_rows_of_an_embedding_are_its_contexts(model: LanguageModel, tmp_path: Path) -> None:
    tree = {"architecture": "topk", "d_in": 256, "d_sae": 40, "k": 3}
    place = Hookpoint.parse("lm_head.weight").config(model)
    folder = tmp_path / "rows"
    save_sae(build(tree, seed=0), folder, model=ModelConfig(id=model.id), hookpoint=place)
    sae = read_artifact(folder).sae
    data = DATA.model_copy(update={"vocabulary": VocabularySection(min_count=1), "heldout": None})
    info = build_index(sae, data, folder, model=model).info
    assert info["tokens"] == info["contexts"] > 40
    rows = pq.read_table(folder / "features/contexts.parquet").to_pylist()
    assert rows and all(len(row["tokens"]) == 1 for row in rows)
    page = FeatureIndex.open(folder).feature(rows[0]["latent"])
    assert page.children == () and page.row["share"] is None
