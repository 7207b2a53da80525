"""Sparse probing, SCR and TPP where the answer was planted, and the reading of labelled data."""

import json
import lzma

import datasets
import numpy as np
import pytest
from planted_eval import flat_sae, labelled, sparse

from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.evaluation.labelled import Columns, read_labelled
from hsae_hub.evaluation.probing import best_columns, probe_classes
from hsae_hub.evaluation.scr import Texts, decoder, score_scr, score_tpp


def test_a_planted_latent_is_the_probe_of_its_class():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    acts = rng.random((300, 30)) * (rng.random((300, 30)) < 0.5)
    acts[np.arange(300), 10 + labels] = 3
    data = labelled(labels, 3)
    accuracy, latents = probe_classes(sparse(acts), data, 1, seed=0)
    assert accuracy.value == 1.0 and latents == {f"class{i}": [10 + i] for i in range(3)}
    chance, _ = probe_classes(sparse(rng.random((300, 30))), data, 5, seed=0)
    assert chance.low < 0.62 and chance.value == pytest.approx(0.5, abs=0.13)
    assert probe_classes(sparse(acts), data, 1, seed=0)[0] == accuracy


def test_a_class_that_two_latents_share_needs_both():
    """A duplicate that takes over half of the texts: one latent finds half of the class, two find all."""
    labels = np.arange(400) % 2
    half = np.arange(400) // 2 % 2
    acts = np.zeros((400, 6))
    acts[:, 5] = 0.5
    acts[(labels == 1) & (half == 0), 2] = 3
    acts[(labels == 1) & (half == 1), 3] = 3
    data = labelled(labels, 2)
    one, two = (probe_classes(sparse(acts), data, k, seed=0) for k in (1, 2))
    assert one[0].value == pytest.approx(0.75, abs=0.05) and two[0].value == 1.0
    assert set(two[1]["class1"]) == {2, 3}


def test_columns_are_those_with_the_largest_difference_of_means_in_either_direction():
    rng = np.random.default_rng(1)
    x, is_class = rng.normal(0, 1, (80, 12)), np.arange(80) % 4 == 0
    x[is_class, 7] -= 5
    difference = np.abs(x[is_class].mean(0) - x[~is_class].mean(0))
    expected = sorted(range(12), key=lambda i: -difference[i])[:5]
    assert best_columns(x, is_class, 5).tolist() == expected and expected[0] == 7
    assert best_columns(sparse(x), is_class, 5).tolist() == expected


def concepts(entangled: bool):
    """Texts with a class and a second label, each written by a latent of its own, or both by the same ones."""
    rng = np.random.default_rng(2)
    labels, second = np.arange(480) % 2, np.arange(480) // 2 % 2
    rows = np.eye(12)[:4] * 4
    acts = np.abs(rng.normal(0, 0.05, (480, 4)))
    if entangled:
        acts[np.arange(480), labels * 2 + second] += 1
        rows[0], rows[1] = np.eye(12)[0] + np.eye(12)[2], np.eye(12)[0] + np.eye(12)[3]
        rows[2], rows[3] = np.eye(12)[1] + np.eye(12)[2], np.eye(12)[1] + np.eye(12)[3]
    else:
        acts[np.arange(480), 2 * labels] += 1
        acts[np.arange(480), 2 * second + 1] += 1
        rows[2:] = -rows[:2]
        rows[::2] *= 0.6  # the accident is easier to see than the class
    x = acts @ rows + rng.normal(0, 0.3, (480, 12))
    sae = flat_sae(rows)
    found = sparse(acts)
    return Texts(x.astype(np.float32), found, decoder(sae, found)), labelled(labels, 2, second)


def test_a_spurious_latent_of_its_own_is_removed_and_an_entangled_one_is_not():
    texts, data = concepts(entangled=False)
    scores, pairs = score_scr(texts, data, seed=0)
    assert pairs[0]["classes"] == ["class0", "class1"] and pairs[0]["evaluated_on"] == "class"
    assert pairs[0]["biased"] < 0.9 < pairs[0]["clean"]
    best = max(each.value for each in scores.values())
    assert best > 0.5
    texts, data = concepts(entangled=True)
    mixed, _ = score_scr(texts, data, seed=0)
    assert max(each.value for each in mixed.values()) < 0.3


def test_latents_are_taken_out_as_sums_of_rows():
    texts, _ = concepts(entangled=False)
    some, gone = np.array([3, 7, 11]), np.array([1, 2])
    acts = np.asarray(texts.acts.todense())
    expected = texts.x[some] - acts[some][:, gone] @ texts.rows[1][gone]
    assert texts.rows[1][1] == pytest.approx(np.eye(12)[1] * 4)
    assert texts.without(some, gone) == pytest.approx(expected, abs=1e-5)


def test_a_class_with_a_latent_of_its_own_is_perturbed_alone():
    rng = np.random.default_rng(3)
    labels = np.arange(600) % 4
    for shared in (False, True):
        acts = np.abs(rng.normal(0, 0.01, (600, 8)))
        acts[np.arange(600), labels] += 1
        rows = np.eye(16)[:8] * 3
        if shared:  # every class is written by all latents
            acts = np.abs(rng.normal(1, 0.01, (600, 8)))
            rows = np.zeros((8, 16)) + 0.01
        base = np.eye(16)[labels + 8] if shared else 0.0
        x = (acts @ rows + base + rng.normal(0, 0.05, (600, 16))).astype(np.float32)
        found = sparse(acts)
        texts = Texts(x, found, decoder(flat_sae(rows), found))
        scores = score_tpp(texts, labelled(labels, 4), seed=0)
        if shared:
            assert abs(scores[2].value) < 0.1
        else:
            assert scores[2].value > 0.4


def test_labelled_texts_are_read_from_files(tmp_path):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2], "who": "xyz"[i % 3]} for i in range(50)]
    path = tmp_path / "set.jsonl.xz"
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    data = read_labelled(str(path), Columns(second="who"), limit=40, seed=0)
    assert data.name == "set" and data.classes == ["a", "b"] and len(data.texts) == 40
    assert data.is_train.mean() == pytest.approx(0.8)
    for text, label, second in zip(data.texts, data.labels, data.second, strict=True):
        number = int(text[1:])
        assert label == number % 2 and second in (-1, 0, 1)
    assert (data.second == -1).sum() < 20, "the two commonest values are kept"
    same = read_labelled(str(path), Columns(second="who"), limit=40, seed=0)
    other = read_labelled(str(path), Columns(second="who"), limit=40, seed=1)
    assert data.digest() == same.digest() != other.digest()


def test_a_split_is_kept_where_it_leaves_enough_to_test_on(tmp_path):
    path = tmp_path / "set.jsonl"
    splits = ["train"] * 30 + ["test"] * 10 + ["val"] * 5
    lines = [{"text": s, "label": i % 2, "split": s} for i, s in enumerate(splits)]
    path.write_text("\n".join(map(json.dumps, lines)))
    data = read_labelled(str(path), Columns(), limit=100, seed=0)
    assert {t for t, train in zip(data.texts, data.is_train, strict=True) if train} == {"train"}
    assert {t for t, train in zip(data.texts, data.is_train, strict=True) if not train} == {"test"}


def test_a_data_set_of_the_hub_is_read_by_its_name(monkeypatch):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = {"text": [f"t{i}" for i in range(30)], "label": [i % 2 for i in range(30)]}
    table = datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **_: table)
    data = read_labelled("org/name", Columns(), limit=100, seed=0)
    assert data.classes == ["no", "yes"] and len(data.texts) == 30 and data.name == "org/name"


def test_what_labelled_data_cannot_be(tmp_path):
    with pytest.raises(NotFoundError, match="no file"):
        read_labelled("none.jsonl", Columns(), limit=9, seed=0)
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(UsageError, match="line 1, is not JSON"):
        read_labelled(str(tmp_path / "a.jsonl"), Columns(), limit=9, seed=0)
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 1}\n' * 3)
    with pytest.raises(UsageError, match="1 classes"):
        read_labelled(str(tmp_path / "a.jsonl"), Columns(), limit=9, seed=0)
    with pytest.raises(NotFoundError, match="no 'topic'"):
        read_labelled(str(tmp_path / "a.jsonl"), Columns(label="topic"), limit=9, seed=0)
