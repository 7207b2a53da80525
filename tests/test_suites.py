"""Suites: what is trained together, intervals, verdicts, and a run that is stopped and goes on."""

import json
import math
import signal

import pytest
import yaml

from hsae_hub.cli.main import run
from hsae_hub.errors import InterruptedRun, UsageError
from hsae_hub.recipes import list_suites
from hsae_hub.suites import (
    LoadedSuite,
    Suite,
    load_suite,
    markdown,
    plan_suite,
    run_suite,
    summarise,
    with_seeds,
)
from hsae_hub.suites.plotting import plot

T_975 = {1: 12.7062, 2: 4.30265, 3: 3.18245}
"""Quantiles of Student's t, from a printed table, by degrees of freedom."""

RECIPE = {
    "hookpoint": "model.layers.0",
    "data": {
        "train": [
            {
                "lines": [
                    f"Line {i} of a text about {w}s." for i in range(40) for w in ("cat", "dog")
                ]
            }
        ],
        "context_length": 16,
        "buffer_tokens": 2048,
        "heldout_fraction": 0.2,
    },
    "sae": {"architecture": "topk", "d_in": 256, "d_sae": 32, "k": 4},
    "baseline": {"architecture": "topk", "d_in": 256, "d_sae": 32, "k": 2},
    "train": {"steps": 6, "batch_size": 32, "lr": 1e-3, "warmup_steps": 2, "log_every": 2},
    "eval": {"tokens": 100},
}
SUITE = {
    "title": "More acts",
    "paper": "nobody's",
    "seeds": [3, 4, 5],
    "metrics": ["explained_variance", "l0"],
    "plot": ["explained_variance", "l0"],
    "x_label": "k",
    "rows": {
        "two": {
            "recipe": "r.yaml",
            "sae": "baseline",
            "series": "topk",
            "x": 2,
            "paper": {"l0": 2},
        },
        "four": {"recipe": "r.yaml", "series": "topk", "x": 4, "label": "k | 4"},
        "deep": {"recipe": "r.yaml", "set": {"hookpoint": "model.layers.1", "sae.k": 3}},
    },
    "claims": [
        {
            "text": "more acts explain more",
            "metric": "explained_variance",
            "row": "four",
            "than": "two",
        },
        {"text": "more than 3 acts", "metric": "l0", "row": "two", "margin": 3},
    ],
}


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))

    def write(changes=None):
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(SUITE | (changes or {}), sort_keys=False))
        return "s.yaml"

    return write


def loaded(data):
    return LoadedSuite(Suite.model_validate(data), "s")


@pytest.mark.parametrize("name", list_suites())
def test_a_shipped_suite_can_be_planned(name):
    suite = load_suite(name).suite
    runs = plan_suite(suite)
    assert len(suite.seeds) >= 3
    assert {row for run in runs for row in run.rows} == set(suite.rows)
    assert set(suite.plot) <= set(suite.metrics)
    assert {claim.metric for claim in suite.claims} <= set(suite.metrics)


def test_rows_that_differ_in_the_sae_alone_are_one_run(suite):
    runs = plan_suite(load_suite(suite()).suite)
    assert [(r.folder, list(r.rows)) for r in runs] == [
        (f"{rows[0]}-seed{seed}", rows)
        for seed in (3, 4, 5)
        for rows in (["two", "four"], ["deep"])
    ]
    first, deep = runs[:2]
    assert first.recipe.seed == 3 and first.recipe.sae.k == 2 and first.recipe.also["four"].k == 4
    assert first.rows == {"two": "sae", "four": "four"} and first.recipe.baseline is None
    assert deep.recipe.hookpoint == "model.layers.1" and deep.recipe.sae.k == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": [1, 1]}, "must differ"),
        ({"seed": 1}, "s.yaml:41: seed: unknown key; did you mean 'seeds'?"),
        (
            {"claims": [{"text": "x", "metric": "l0", "row": "five"}]},
            "names row 'five'; there are two, four, deep",
        ),
        ({"rows": {"a": {"sae": "sae"}}}, "rows.a.recipe: required"),
    ],
)
def test_a_suite_that_cannot_be_meant_says_where(suite, changes, told):
    with pytest.raises(UsageError) as caught:
        load_suite(suite(changes))
    assert told in "\n".join(caught.value.problems)


def test_a_row_names_an_sae_of_its_recipe(suite):
    rows = {"a": {"recipe": "r.yaml", "sae": "flat"}}
    with pytest.raises(UsageError, match=r"r.yaml has no SAE 'flat'; it has sae, baseline"):
        plan_suite(load_suite(suite({"rows": rows, "claims": []})).suite)


def test_intervals_are_students_and_claims_are_judged_within_each_seed():
    two = [{"explained_variance": v, "l0": 2.0} for v in (0.5, 0.9, 0.7)]
    four = [{"explained_variance": v, "l0": 3.9, "odd": 1.0} for v in (0.52, 0.93, 0.71)]
    deep = [{"explained_variance": v} for v in (0.1, 0.2, 0.6)]
    results = summarise(loaded(SUITE), {"two": two, "four": four, "deep": deep}, command="c")
    found = results.estimates["two"]["explained_variance"]
    assert found.mean == pytest.approx(0.7)
    assert found.half_width == pytest.approx(T_975[2] * 0.2 / math.sqrt(3), rel=1e-5)
    # the rows overlap widely, but the second is ahead within every seed
    more, acts = results.claims
    assert more.measured.mean == pytest.approx(0.02)
    assert more.measured.half_width == pytest.approx(T_975[2] * 0.01 / math.sqrt(3), rel=1e-5)
    assert (more.verdict, acts.verdict) == ("undecided", "does not hold")
    assert acts.measured.half_width == 0
    four[0]["explained_variance"] = 0.525
    four[2]["explained_variance"] = 0.72
    again = summarise(loaded(SUITE), {"two": two, "four": four, "deep": deep}, command="c")
    assert again.claims[0].verdict == "holds"
    text = markdown(again)
    assert "| k &#124; 4 | 0.72 ± 0.50 | 3.9000 ± 0.0000 |  |" in text
    assert "| two | 0.70 ± 0.50 | 2 ± 0 | 2 |" in text
    assert "| more than 3 acts | L0 2 ± 0 | does not hold |" in text


def test_one_seed_has_no_interval_and_decides_nothing():
    one = {row: [{"explained_variance": 0.5, "l0": 9.0}] for row in SUITE["rows"]}
    results = summarise(loaded(SUITE | {"seeds": [0]}), one, command="c")
    assert [claim.verdict for claim in results.claims] == ["undecided", "undecided"]
    absent = SUITE | {"claims": [{"text": "x", "metric": "kl", "row": "two"}], "seeds": [0]}
    (claim,) = summarise(loaded(absent), one, command="c").claims
    assert claim.verdict == "undecided" and math.isnan(claim.measured.mean)
    assert "KL nan" in markdown(summarise(loaded(absent), one, command="c"))
    assert "±" not in markdown(results).partition("claim")[0].partition("|")[2]


def test_a_suite_is_stopped_and_goes_on_where_it_was(suite, tmp_path, monkeypatch, capsys):
    def stop(planned, number, event):
        if number == 1 and event.phase == "train" and event.done == 3:
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "out"
    ref = suite({"seeds": [3, 4]})
    with pytest.raises(InterruptedRun) as caught:
        run_suite(load_suite(ref), out, device="cpu", on_event=stop)
    assert caught.value.fix == f"hsae suite run s --out {out}"
    assert sorted(p.name for p in out.iterdir()) == ["deep-seed3", "two-seed3"]

    seen = []
    results = run_suite(
        load_suite(ref),
        out,
        device="cpu",
        on_event=lambda p, n, event: seen.append((n, event.message)),
    )
    assert (0, "this run is finished already") in seen and (1, "resumed from step 3") in seen
    for seed in (3, 4):
        core = json.loads((out / f"two-seed{seed}" / "eval" / "core.json").read_text())
        at = results.suite.seeds.index(seed)
        for row, sae in (("two", "sae"), ("four", "four")):
            values = results.estimates[row]["explained_variance"].values
            assert values[at] == core["saes"][sae]["explained_variance"]
    assert results.estimates["four"]["l0"].mean == pytest.approx(4, abs=0.5)

    def never(*args, **kwargs):
        raise AssertionError("what is finished is not done again")

    monkeypatch.setattr("hsae_hub.suites.running.evaluate", never)
    one = run_suite(with_seeds(load_suite(ref), [4]), out, device="cpu")
    assert one.command == "hsae suite run s --seed 4"
    assert one.estimates["two"]["l0"].values == results.estimates["two"]["l0"].values[1:]
    assert run(["suite", "run", ref, "--out", str(out), "--device", "cpu", "--no-progress"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("**More acts** — nobody's") and "does not hold" in printed.out
    assert (out / "results.md").read_text() == printed.out
    assert json.loads((out / "results.json").read_text())["schema"] == "hsae.suite/1"
    assert (out / "results.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (out / "results.svg").read_text()


def test_a_plan_is_told_without_training(suite, tmp_path, capsys):
    assert run(["suite", "run", suite(), "--dry-run", "--json", "--set", "train.steps=9"]) == 0
    told = json.loads(capsys.readouterr().out)
    first = told["runs"][0]
    assert (
        first.pop("memory_bytes") > 2 * 4 * 2 * 256 * 32 * 4
    )  # two SAEs, each with its gradient and moments
    assert first == {"folder": "two-seed3", "steps": 9, "rows": ["two", "four"]}
    assert run(["suite", "run", suite(), "--dry-run", "--seed", "7", "--quiet"]) == 0
    assert capsys.readouterr().out == "2\n"
    assert len(told["runs"]) == 6 and not (tmp_path / "runs").exists()


def test_a_plot_without_lines_has_a_dot_for_each_row(tmp_path):
    rows = {name: {"recipe": "r.yaml", "label": f"row {name}"} for name in ("two", "four", "deep")}
    data = SUITE | {"rows": rows}
    measured = {row: [{"explained_variance": v, "l0": 2.0} for v in (0.5, 0.6)] for row in rows}
    plot(summarise(loaded(data | {"seeds": [0, 1]}), measured, command="c"), tmp_path / "p.svg")
    drawn = (tmp_path / "p.svg").read_text()
    assert all(f"row {name}" in drawn for name in rows)


def test_a_suite_is_refused_under_torchrun(monkeypatch, capsys):
    numbers = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in (numbers | {"TORCHELASTIC_RUN_ID": "none"}).items():
        monkeypatch.setenv(name, str(value))
    assert run(["suite", "run", list_suites()[0]]) == UsageError("").code
    assert "one process, not in 2" in capsys.readouterr().err
