"""Absorption against its formula and against words in which it was planted."""

import numpy as np
import pytest
import torch
from planted_eval import flat_sae, sparse

from hsae_hub.evaluation.absorption import Absorbed, absorption, score_letters, train_words
from hsae_hub.evaluation.probes import Probe, train_probe, train_sparse_probe
from hsae_hub.evaluation.words import (
    EXAMPLES,
    LETTERS,
    first_letter_words,
    vocabulary_words,
)
from hsae_hub.models import load_language_model


def formula(acts, cosines, main, projection):
    """As in the reference: C, A, M and P in words of its own."""
    proj = [a * c for a, c in zip(acts, cosines, strict=True)]
    M = sum(proj[i] for i in main)
    C = [proj[i] for i in range(len(acts)) if i not in main and cosines[i] >= 0.1 and proj[i] > 0]
    A = sum(sorted(C, reverse=True)[:3])
    if M >= projection or A / projection < 0.4:
        return 0.0
    if M <= 0:
        return 1.0
    A = min(A, projection - M)
    return min(max(A / (A + M), 0.0), 1.0)


def test_the_fraction_is_the_formula_s_on_random_words():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        acts = rng.normal(0.5, 1, 12) * (rng.random(12) < 0.6)
        cosines, main = rng.uniform(-0.5, 0.9, 12), [int(i) for i in rng.choice(12, 2, False)]
        projection = float(rng.uniform(0.2, 3))
        found = absorption(acts, cosines, main, projection)
        assert found.fraction == pytest.approx(formula(acts, cosines, main, projection))
        seen.add(round(found.fraction, 1))
    assert {0.0, 1.0} < seen and len(seen) > 4


def test_full_absorption_is_a_silent_latent_and_one_that_speaks_for_it():
    cosines = np.array([0.9, 0.5, 0.01])
    assert absorption(np.array([0, 3.0, 0]), cosines, [0], 2.0) == Absorbed(1.0, True)
    assert absorption(np.array([2.0, 3.0, 0]), cosines, [0], 2.0).full is False, "it acts"
    assert absorption(np.array([0, 1.0, 0]), cosines, [0], 2.0) == Absorbed(0.0, False), "too weak"
    assert absorption(np.array([0, 0, 200.0]), cosines, [0], 2.0) == Absorbed(0.0, False), "cosine"


def test_a_latent_with_a_negative_act_is_not_silent():
    """SAEBench asks for acts below 1e-8, and so takes a strongly negative one for silence."""
    acts, cosines = np.array([-4.0, 3.0]), np.array([0.9, 0.5])
    theirs = bool((acts[[0]] < 1e-8).all())
    assert theirs and not absorption(acts, cosines, [0], 2.0).full


def planted(absorbed: float):
    """Words of two letters; each of a share of those with an `a` is written by a latent of its own alone."""
    letters, number = np.arange(200) % 2, np.arange(200) // 2
    rows = np.zeros((104, 110))
    rows[:2], acts = np.eye(110)[:2], np.zeros((200, 104))
    acts[np.arange(200), letters] = 5
    taken = (letters == 0) & (number % 10 < 10 * absorbed)
    for latent, word in enumerate(np.flatnonzero(taken), 4):
        rows[latent, [0, latent]] = 0.8, 0.6
        acts[word, 0], acts[word, latent] = 0, 6.25
    rows[2:4] = np.eye(110)[2:4]
    acts[:, 2:4] = np.random.default_rng(0).random((200, 2))
    return letters, acts, rows, taken


@pytest.mark.parametrize(("share", "norm"), [(0.0, 1.0), (0.3, 1.0), (0.3, 3.0)])
def test_planted_absorption_is_found_with_the_known_rate(share, norm):
    letters, acts, rows, taken = planted(share)
    scale = np.where(np.arange(104) >= 4, norm, 1.0)[:, None]
    x = (acts @ rows).astype(np.float32)
    is_train = np.arange(200) // 2 % 4 != 0
    directions = np.tile(np.eye(110)[109], (26, 1))
    directions[:2] = np.eye(110)[:2]
    probe = Probe(directions, np.where(np.arange(26) < 2, -2.5, -9.0))
    told = score_letters(
        flat_sae(rows * scale), sparse(acts / scale.T), x, letters, is_train, probe, 0
    )
    rate = taken[~is_train & (letters == 0)].mean()
    a, b = told.letters["a"], told.letters["b"]
    assert rate == 0 if not share else 0.2 < rate < 0.5
    assert a["full_absorption"] == pytest.approx(rate), f"whatever the row's norm ({norm})"
    assert a["absorption_fraction"] == pytest.approx(rate)
    assert a["latents"] == ["0"] and told.n_letters == 2 and b["full_absorption"] == 0
    assert told.numbers["full_absorption"].value == pytest.approx(rate / 2)
    assert a["one_latent_f1"] == pytest.approx(2 * (1 - rate) / (2 - rate))


def test_rows_of_another_norm_hide_absorption_from_the_unfolded_formula():
    """SAEBench's projection is act times cosine: with a row of norm 3 the act, a third, seems too weak."""
    act, row, probe = 6.25 / 3, 3 * np.array([0.8, 0.6]), np.array([1.0, 0.0])
    cosine = float(row @ probe / np.linalg.norm(row))
    theirs = act * cosine / 5 >= 0.4
    ours = absorption(
        np.array([0, act * np.linalg.norm(row)]), np.array([1, cosine]), [0], 5.0
    ).full
    assert not theirs and ours


def test_probes_find_what_is_linear_and_the_sparse_one_picks_its_latents():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 600)
    x = rng.normal(0, 1, (600, 20)).astype(np.float32)
    x[np.arange(600), labels] += 4
    probe = train_probe(x, labels, 3, seed=0)
    assert (probe.scores(x).argmax(1) == labels).mean() > 0.95
    acts = rng.random((600, 40)) * (rng.random((600, 40)) < 0.2)
    acts[np.arange(600), labels + 7] = 2
    weights = train_sparse_probe(sparse(acts), labels, 3, seed=0)
    assert weights.argmax(1).tolist() == [7, 8, 9]
    again = train_sparse_probe(sparse(acts), labels, 3, seed=0)
    assert (again == weights).all(), "seeded"


def test_words_stand_at_the_end_of_their_prompts_and_are_drawn_by_the_seed():
    lm = load_language_model()
    words = first_letter_words(lm, limit=50, seed=3)
    known = vocabulary_words(lm)
    assert len(known) > 3000 and len({word.text for word in words}) == 50
    for word in words:
        text = lm.tokenizer.decode(word.ids)
        assert (
            text.endswith(f"\n{word.text}") and LETTERS[word.letter] == word.text.strip()[0].lower()
        )
        shots = text.split("\n")[1:-1]
        assert len(shots) == EXAMPLES
        assert all(shot[-1] == shot.strip()[0].upper() for shot in shots)
        assert not any(shot.startswith(f"{word.text} has") for shot in shots), "contaminated"
    assert words == first_letter_words(lm, limit=50, seed=3)
    assert words != first_letter_words(lm, limit=50, seed=4)
    assert torch.tensor(words[0].ids).max() < len(lm.tokenizer)


def test_words_to_train_on_are_of_all_letters():
    words = first_letter_words(load_language_model(), limit=10**6, seed=0)
    letters = np.array([word.letter for word in words])
    is_train = train_words(len(words), seed=0)
    assert is_train.mean() == pytest.approx(0.8, abs=0.001)
    for letter in set(letters):
        share = is_train[letters == letter].mean()
        assert 0.6 < share < 0.95 or (letters == letter).sum() < 20, LETTERS[letter]
