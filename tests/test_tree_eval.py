"""What children add and mean, and what languages share, against formulas and planted answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from planted_eval import labelled, sparse
from scipy import stats
from sklearn.metrics import mutual_info_score

from hsae_hub.architectures import build
from hsae_hub.errors import UsageError
from hsae_hub.evaluation.cross_lingual import differences, read_parallel, top_sets
from hsae_hub.evaluation.information import label_information, meaning, mutual_information
from hsae_hub.evaluation.reading import Read
from hsae_hub.evaluation.tree import FEWEST, TreeSums, entropy, of_labels


def test_mutual_information_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 500), rng.integers(0, 3, 500)
    b[a == 2] = 1
    table = np.zeros((4, 3))
    np.add.at(table, (a, b), 1)
    bits = mutual_info_score(a, b) / np.log(2)
    assert mutual_information(table) == pytest.approx(bits)
    assert meaning({7: (a, b)}, seed=0)[7].bits == pytest.approx(bits)


def test_children_that_follow_the_token_mean_something_and_random_ones_do_not():
    rng = np.random.default_rng(1)
    token = rng.integers(0, 30, 400)
    found = meaning({0: (token % 3, token), 1: (rng.integers(0, 3, 400), token)}, seed=0)
    assert found[0].excess == pytest.approx(1) and found[0].p < 0.01
    assert abs(found[1].excess) < 0.05 and found[1].p > 0.01
    assert found[1].bits > 0.05, "by chance alone"
    many = {j: (rng.integers(0, 4, 100), rng.integers(0, 20, 100)) for j in range(60)}
    shares = [each.p for each in meaning(many, seed=2).values()]
    assert stats.kstest(shares, "uniform").pvalue > 0.01
    assert not meaning({0: (np.zeros(9, dtype=int), np.arange(9))}, seed=0), "one child in use"


def test_latents_know_labels_beyond_chance():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 400)
    fires = rng.random((400, 5)) < 0.3
    fires[:, 3] = labels == 1
    fires[:, 4] = False
    told = label_information(sparse(fires), labels, seed=0)
    assert told.latents.tolist() == [0, 1, 2, 3]
    shares = np.bincount(labels) / 400
    assert told.bits[3] == pytest.approx(float(stats.entropy(shares, base=2)), abs=0.01)
    assert np.abs(told.bits[:3]).max() < 0.03


def test_what_children_add_agrees_with_numpy():
    sae = build(
        {
            "architecture": "hsae",
            "d_in": 16,
            "n_parents": 12,
            "n_children": 3,
            "d_subspace": 2,
            "k": 3,
        },
        seed=0,
    )
    x = torch.randn(700, 16, generator=torch.Generator().manual_seed(0)) * 5
    ids = torch.arange(700) % 11
    sums = TreeSums(sae)
    with torch.no_grad():
        sums.update(Read(x[:300], torch.zeros(300, dtype=torch.int64), ids[:300]))
        sums.update(Read(x[300:], torch.zeros(400, dtype=torch.int64), ids[300:]))
        acts = sae.encode(x)
        dense = acts.dense().numpy()
        rows = sae.decoder_rows(torch.arange(sae.d_sae)).numpy()
    kept = (dense[:, 12:] != 0).sum(0).reshape(12, 3)
    assert (sums.kept == kept).all()
    x_hat, parents = dense @ rows, dense[:, :12] @ rows[:12]
    raw = x.numpy()
    variance = ((raw - raw.mean(0)) ** 2).sum()
    found = {each.name: each.value for each in sums.measured(seed=0).results}
    high = 1 - ((raw - parents) ** 2).sum() / variance
    both = 1 - ((raw - x_hat) ** 2).sum() / variance
    assert found["explained_variance_parents"] == pytest.approx(high, abs=1e-4)
    assert found["explained_variance_children"] == pytest.approx(both - high, abs=1e-4)
    j = int(kept.sum(1).argmax())
    without = x_hat - dense[:, 12 + 3 * j : 15 + 3 * j] @ rows[12 + 3 * j : 15 + 3 * j]
    gain = ((raw - without) ** 2).sum() - ((raw - x_hat) ** 2).sum()
    assert sums.gain[j] == pytest.approx(gain, rel=1e-3, abs=1e-2)
    often = kept.sum(1) >= FEWEST
    shares = kept[often] / kept[often].sum(1, keepdims=True)
    expected = np.mean([stats.entropy(row, base=2) for row in shares])
    assert found["child_entropy"] == pytest.approx(expected)
    assert entropy(np.array([[1.0, 0], [0.5, 0.5]])).tolist() == [0, 1]
    where = [
        (t, int(dense[t, 12 + 3 * j : 15 + 3 * j].nonzero()[0][0]))
        for t in np.flatnonzero(dense[:, j])
    ]
    seen = [(child, token) for child, token in sums.seen[j, : sums.n_seen[j]]]
    assert seen == [(child, int(ids[t])) for t, child in where][: len(seen)]


def test_children_of_a_parent_that_all_classes_share_tell_them_apart():
    sae = build(
        {
            "architecture": "hsae",
            "d_in": 8,
            "n_parents": 3,
            "n_children": 4,
            "d_subspace": 2,
            "k": 1,
        },
        seed=0,
    )
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 240)
    acts = np.zeros((240, 15))
    acts[:, 0] = 1  # in every text, whatever its label
    acts[np.arange(240), 3 + labels] = 0.5
    some = rng.random(240) < 0.5
    acts[some, 1] = 1
    acts[some, 7 + rng.integers(0, 4, 240)[some]] = 0.5
    told = of_labels(sae, sparse(acts), labelled(labels, 4), seed=0)
    found = {each.name: each.value for each in told.results}
    assert found["children_label_information"] > 0.3 > found["parents_label_information"]
    assert found["meaningful_parents_by_label"] == 0.5, "the first, not the second"
    assert list(told.details["children"])[:1][0].startswith("0/")


def test_the_top_latents_and_their_difference():
    acts = np.array([[5, 0, 3, 1, -9.0], [0, 0, 0, 2, 0], [1, 1, 1, 1, 1]])
    assert top_sets(sparse(acts), 2) == [{0, 2}, {3}, {0, 1}]
    assert top_sets(sparse(acts))[0] == {0, 2, 3}, "a negative act is no top one"
    left, right = top_sets(sparse(acts)), top_sets(sparse(acts[[0, 2, 1]]))
    assert differences(left, right) == [0, 4, 4] and differences(left, left) == [0, 0, 0]


def test_parallel_files_have_the_same_lines(tmp_path: Path):
    one, two = tmp_path / "en.txt", tmp_path / "de.txt"
    one.write_text("a\nb\n")
    two.write_text("c\nd\n")
    assert read_parallel([one, two]).lines == [["a", "b"], ["c", "d"]]
    two.write_text("c\n\n")
    with pytest.raises(UsageError, match=r"de\.txt, line 2, is blank"):
        read_parallel([one, two])
    two.write_text("c\n")
    with pytest.raises(UsageError, match=r"de\.txt 1 lines"):
        read_parallel([one, two])
    with pytest.raises(UsageError, match="two languages"):
        read_parallel([one])
