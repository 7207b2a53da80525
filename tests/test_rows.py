"""SAEs of an embedding's rows: which rows, their batches, a run from recipe to card, and what such an SAE can do."""

import hashlib
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from hsae_hub.activations import Batches, RowStream, choose_rows, is_heldout
from hsae_hub.artifact import read_artifact
from hsae_hub.attach import attach, splice_losses
from hsae_hub.cli.main import run
from hsae_hub.errors import InterruptedRun, UsageError
from hsae_hub.evaluation import evaluate
from hsae_hub.models import Hookpoint, LanguageModel, load_language_model
from hsae_hub.recipes import DataConfig, DataSource, LoadedRecipe, VocabularySection, load_recipe
from hsae_hub.training import train

PLACE = Hookpoint.parse("lm_head.weight")
LINES = [
    f"Sentence {i} is about the {word}, its number {i * i} and a few other things of the {word}."
    for i, word in enumerate("river king battle museum village album planet teacher".split() * 9)
]
TEXT = "The king of the village"
RECIPE: dict[str, Any] = {
    "hookpoint": "lm_head.weight",
    "data": {
        "train": [{"builtin": "python-docs"}],
        "heldout_fraction": 0.1,
        "vocabulary": {"min_count": 1},
    },
    "sae": {
        "architecture": "hsae",
        "whiten": True,
        "d_in": 256,
        "n_parents": 16,
        "n_children": 3,
        "d_subspace": 2,
        "k": 3,
        "penalty_warmup_steps": 5,
    },
    "baseline": {"architecture": "topk", "d_in": 256, "d_sae": 16, "k": 3},
    "train": {
        "steps": 12,
        "batch_size": 48,
        "lr": 1e-3,
        "warmup_steps": 4,
        "checkpoint_every": 5,
        "log_every": 4,
    },
    "eval": {"tokens": 64},
}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_language_model(device="cpu")


@pytest.fixture(scope="module")
def weight(lm: LanguageModel) -> Tensor:
    return lm.hf.lm_head.weight.detach()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> LoadedRecipe:
    path = tmp_path_factory.mktemp("recipe") / "rows.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return load_recipe(path)


@pytest.fixture(scope="module")
def finished(recipe: LoadedRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe, tmp_path_factory.mktemp("run") / "out", device="cpu").folder


def data(min_count: int = 1, **settings: Any) -> DataConfig:
    return DataConfig(
        train=[DataSource(lines=LINES)],
        heldout_fraction=0.1,
        vocabulary=VocabularySection(min_count=min_count, **settings),
    )


def chosen(lm: LanguageModel, config: DataConfig) -> Any:
    return choose_rows(lm, PLACE, config, sample_seed=0)


def stream_of(lm: LanguageModel, batch_size: int, seed: int = 0) -> RowStream:
    return RowStream(lm, PLACE, data(), batch_size=batch_size, seed=seed, sample_seed=0)


def ids_of(rows: Tensor, weight: Tensor) -> list[int]:
    """Tokens of rows, which differ in their first few numbers."""
    known = {tuple(row[:4].tolist()): i for i, row in enumerate(weight)}
    return [known[tuple(row[:4].tolist())] for row in rows]


# --- which rows ---


@pytest.mark.parametrize("min_count", [1, 2, 20])
def test_rows_are_those_of_tokens_that_occur_often_enough(
    lm: LanguageModel, min_count: int
) -> None:
    counts: Counter[int] = Counter()
    for line in LINES:
        if not is_heldout(line, 0.1):
            counts.update(lm.tokenizer(line, add_special_tokens=False)["input_ids"])
    kept = sorted(i for i, n in counts.items() if n >= min_count)
    pieces = lm.tokenizer.convert_ids_to_tokens(kept)
    hashes = [int(hashlib.sha256(piece.encode()).hexdigest()[:16], 16) / 2**64 for piece in pieces]
    found = chosen(lm, data(min_count))
    assert found.heldout.tolist() == [i for i, h in zip(kept, hashes, strict=True) if h < 0.1]
    assert found.trained.tolist() == [i for i, h in zip(kept, hashes, strict=True) if h >= 0.1]
    assert found.config.total == 4096 and found.config.counted_tokens == counts.total()
    assert found.config.trained + found.config.heldout == len(kept)


def test_counting_ends_where_it_is_told_to(lm: LanguageModel, monkeypatch: Any) -> None:
    monkeypatch.setattr("hsae_hub.activations.vocabulary._CONTEXTS", 1)
    counted = chosen(lm, data(count_tokens=100)).config.counted_tokens
    assert 100 <= counted < 100 + 40


def test_without_a_count_every_row_is_read_but_those_without_a_meaning(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = chosen(lm, data(0))
    both = torch.cat([found.trained, found.heldout]).sort().values.tolist()
    assert both == [i for i in range(4096) if i not in lm.special_ids]
    assert found.config.counted_tokens == 0
    vocabulary = lm.tokenizer.get_vocab()
    renamed = {"<unused7>": 500, "[unused12]": 501, "beyond": 4096}
    changed = {k: i for k, i in vocabulary.items() if i not in (500, 501, 502)} | renamed
    monkeypatch.setattr(type(lm.tokenizer), "get_vocab", lambda self: changed)
    fewer = chosen(lm, data(0))
    both = torch.cat([fewer.trained, fewer.heldout]).sort().values.tolist()
    gone = {500, 501, 502}  # two unused, one that no token has
    assert both == [i for i in range(4096) if i not in lm.special_ids | gone]


def test_no_row_left_is_an_error(lm: LanguageModel) -> None:
    with pytest.raises(UsageError, match=r"no row of lm_head\.weight is left") as caught:
        chosen(lm, data(10**6))
    assert "--set data.vocabulary.min_count=0" in caught.value.fix


# --- batches ---


def test_every_epoch_has_every_row_once_and_batches_go_on_across_its_end(
    lm: LanguageModel, weight: Tensor
) -> None:
    trained = chosen(lm, data()).trained.tolist()
    stream = stream_of(lm, 7)
    assert isinstance(stream, Batches) and stream.d_in == 256
    n = len(trained)
    ids = ids_of(torch.cat([stream.next_batch() for _ in range(-(-3 * n // 7))]), weight)
    assert n % 7 and stream.tokens == len(ids)
    epochs = [ids[e * n : (e + 1) * n] for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [trained] * 3
    assert epochs[0] != epochs[1] != epochs[2] != trained
    large = stream_of(lm, 2 * n + 5).next_batch()
    assert ids_of(large, weight) == ids[: 2 * n + 5]


@pytest.mark.parametrize("at", [0, 1, 30, 61])
def test_batches_follow_from_the_seed_and_go_on_from_a_saved_position(
    lm: LanguageModel, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, other = stream_of(lm, 11), stream_of(lm, 11, seed=1)
    first = stream.next_batch()
    assert not torch.equal(first, other.next_batch())
    for _ in range(at):
        stream.next_batch()
    saved = stream.state_dict()
    resumed = stream_of(lm, 11)
    monkeypatch.setattr("hsae_hub.activations.rows.choose_rows", None)  # no text is read again
    resumed.load_state_dict(saved._replace(values=json.loads(json.dumps(saved.values))))
    for _ in range(40):
        assert torch.equal(stream.next_batch(), resumed.next_batch())
    assert stream.tokens == resumed.tokens and stream.origin == resumed.origin


def test_normalising_is_fitted_to_all_rows_that_are_trained_on(
    lm: LanguageModel, weight: Tensor
) -> None:
    stream = stream_of(lm, 11)
    trained = chosen(lm, data()).trained
    assert torch.equal(stream.norm_sample(), weight[trained]) and stream.tokens == 0


# --- a run ---


def test_a_run_says_which_rows_it_saw(
    finished: Path, recipe: LoadedRecipe, lm: LanguageModel, weight: Tensor
) -> None:
    sae, config, stats = read_artifact(finished)
    rows = chosen(lm, recipe.recipe.data)
    assert config.tokens is None and config.vocabulary == rows.config
    assert config.hookpoint is not None and config.training is not None and stats is not None
    assert (config.hookpoint.path, config.hookpoint.side) == ("lm_head", "weight")
    told, counted = config.training.data
    n = len(rows.trained)
    assert told.startswith(f"{n:,} of the 4,096 rows of lm_head.weight: tokens that occur at least")
    assert counted.startswith("counted in documentation") and n > 1000
    assert config.training.tokens == 12 * 48
    seen = weight[rows.trained].double().numpy()
    np.testing.assert_allclose(sae.weights()["norm_mean"], seen.mean(0), atol=1e-6)
    root = sae.weights()["norm_unwhiten"].double().numpy()
    np.testing.assert_allclose(root @ root, np.cov(seen, rowvar=False), atol=1e-6)


def test_a_run_that_was_stopped_ends_with_the_same_weights(
    finished: Path, recipe: LoadedRecipe, tmp_path: Path
) -> None:
    def stop(event: Any) -> None:
        if event.phase == "train" and event.done == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRun, match="after step 7 of 12"):
        train(recipe, tmp_path / "out", device="cpu", on_event=stop)
    result = train(recipe, tmp_path / "out", device="cpu")
    expected = read_artifact(finished).sae.weights()
    assert result.resumed_from == 7
    assert all(torch.equal(expected[name], w) for name, w in result.sae.weights().items())


def test_the_report_agrees_with_numpy(
    finished: Path, recipe: LoadedRecipe, lm: LanguageModel, weight: Tensor
) -> None:
    artifact, flat = read_artifact(finished), read_artifact(finished / "baseline").sae
    report = evaluate(artifact.sae, recipe.recipe.data, beside={"baseline": flat})
    rows = chosen(lm, recipe.recipe.data)
    heldout, seen = (weight[ids].double().numpy() for ids in (rows.heldout, rows.trained))
    values, vectors = np.linalg.eigh(np.cov(seen, rowvar=False))
    white = vectors / np.sqrt(np.maximum(values, 1e-6 * values[-1]))

    def explained(x: Any, x_hat: Any) -> float:
        return float(1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())

    for name, sae in (("sae", artifact.sae), ("baseline", flat)):
        found = report.saes[name]
        out, on_seen = (sae(torch.tensor(x).float()) for x in (heldout, seen))
        x_hat, seen_hat = out.sae_out.double().numpy(), on_seen.sae_out.double().numpy()
        close = {"abs": 1e-5}
        assert found["explained_variance"] == pytest.approx(explained(heldout, x_hat), **close)
        found_white = found["explained_variance_whitened"]
        by_formula = explained(heldout @ white, x_hat @ white)
        assert found_white == pytest.approx(by_formula, rel=1e-3, abs=1e-4)
        assert found["seen_explained_variance"] == pytest.approx(explained(seen, seen_hat), **close)
        error = ((heldout - x_hat) ** 2).sum(1)
        assert found["mse"] == pytest.approx(error.mean(), rel=1e-5)
        fired = np.concatenate([out.acts.dense().numpy(), on_seen.acts.dense().numpy()]) != 0
        assert found["dead_latents"] == (fired.sum(0) == 0).sum()
        assert found["l0"] == pytest.approx(fired[: len(heldout)].sum(1).mean())
        assert (found["tokens"], found["seen_tokens"]) == (len(heldout), len(seen))
    tree = report.saes["sae"]
    acts = artifact.sae.encode(torch.tensor(heldout).float()).dense().numpy()
    by_parent = np.abs(acts[:, 16:]).reshape(len(acts), 16, 3).max(-1)
    strong = by_parent[acts[:, :16] > 0] >= 0.1 * acts[:, :16][acts[:, :16] > 0]
    assert tree["strong_children"] == pytest.approx(strong.mean()) and 0 < strong.mean() < 1
    assert tree["l0"] == pytest.approx(tree["l0_parents"] + tree["l0_children"])
    assert "l0_parents" not in report.saes["baseline"] and "ce_score" not in tree
    assert (report.tokens, report.contexts) == (len(heldout), 0)
    other = evaluate(artifact.sae, LINES[:30])  # other rows than the run's, so none is known seen
    assert "seen_tokens" not in other.saes["sae"] and other.tokens < report.tokens


def test_too_few_rows_to_measure_on_is_an_error(finished: Path) -> None:
    with pytest.raises(UsageError, match="0 rows are held out"):
        evaluate(read_artifact(finished).sae, ["The king"])


# --- attached ---


def test_a_text_is_taken_apart_token_by_token(finished: Path, weight: Tensor) -> None:
    sae = read_artifact(finished).sae
    attached = attach(sae)
    found = attached.decompose(TEXT)
    assert found.hookpoint == "lm_head.weight" and found.tokens[0].special
    for token in found.tokens[1:]:
        x = weight[token.id]
        acts = sae.encode(x)
        bias = sae.decode(acts.replace(torch.zeros_like(acts.values)))
        terms = [
            feature.act * sae.decoder_rows(torch.tensor(sae.shape.index_of(feature.id)))
            for parent in token.features
            for feature in (parent, parent.child)
            if feature is not None
        ]
        torch.testing.assert_close(sum(terms) + bias, sae(x).sae_out, rtol=1e-4, atol=1e-4)
        assert token.norm == pytest.approx(float(x.norm()), rel=1e-5)
    (again,) = [t for t in attached.decompose("A village.").tokens if t.text == " village"]
    (in_text,) = [t for t in found.tokens if t.text == " village"]
    assert [f.id for f in again.features] == [f.id for f in in_text.features]
    assert again.explained == pytest.approx(in_text.explained, rel=1e-4)
    assert isinstance(attached.generate(TEXT, max_new_tokens=2), str)


def test_there_is_nothing_to_steer_or_to_splice(finished: Path) -> None:
    attached = attach(read_artifact(finished).sae)
    said = "reads the rows of lm_head.weight; there are no activations to steer or splice"
    with pytest.raises(UsageError, match=said), attached.steer({"3": 1.0}):
        pass
    with pytest.raises(UsageError, match=said), attached.splice():
        pass
    with pytest.raises(UsageError, match=said):
        splice_losses({"sae": attached}, [TEXT])


# --- commands ---


def test_from_a_run_to_a_pulled_sae_by_commands(
    finished: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSAE_HOME", str(tmp_path / "home"))

    def succeed(*args: str) -> str:
        capsys.readouterr()
        assert run(list(args)) == 0, capsys.readouterr().err
        return str(capsys.readouterr().out)

    hub = ("--hub", str(tmp_path / "hub"))
    told = succeed("eval", str(finished), "--no-progress")
    assert "rows of lm_head.weight, held out by a hash of their tokens" in told
    assert (
        "explained_variance_whitened" in told and "ce_clean" not in told and "contexts" not in told
    )
    succeed("card", str(finished))
    card = (finished / "README.md").read_text()
    assert "reading the weight of lm_head in gemma2-tiny-en" in card
    assert "| module in transformers | lm_head, its weight, row by row |" in card
    assert "held-out rows of gemma2-tiny-en, seed" in card and "contexts" not in card
    assert "Input is the raw row; the SAE takes (x - mean) Σ^(-1/2)" in card
    assert "of the 4,096 rows of lm_head.weight: tokens that occur at least once" in card
    assert "there is nothing to steer or to splice" in card and "| ce_" not in card
    succeed("push", str(finished), "you/rows", *hub)
    succeed("pull", "you/rows", *hub)
    assert "weight of lm_head" in succeed("show", "you/rows", *hub)
    report = json.loads(succeed("eval", "you/rows", "--json", "--no-progress", *hub))["reports"][
        "core"
    ]
    assert report["tokens"] > 300 and "seen_tokens" not in report["saes"]["sae"]
    tree = succeed("decompose", "you/rows", TEXT, "--token", "last", *hub)
    assert "' village'" in tree and "lm_head.weight" in tree and "└─" in tree
    assert run(["steer", "you/rows", TEXT, "--edit", "3=+1", *hub]) == 2
    assert "no activations to steer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("data.vocabulary=null", "is read row by row: give data.vocabulary, such as"),
        (
            "hookpoint=model.layers.3",
            "data.vocabulary goes with a hookpoint such as lm_head.weight",
        ),
        ("data.heldout=[{lines: [a]}]", "data.heldout is text; of rows data.heldout_fraction"),
        ("data.vocabulary.min_counts=2", "did you mean 'data.vocabulary.min_count'?"),
    ],
)
def test_what_does_not_go_together_is_refused(
    recipe: LoadedRecipe, tmp_path: Path, change: str, problem: str
) -> None:
    (tmp_path / "rows.yaml").write_text(recipe.text)
    with pytest.raises(UsageError) as caught:
        load_recipe(tmp_path / "rows.yaml", overrides=[change])
    assert any(problem in line for line in caught.value.problems)
