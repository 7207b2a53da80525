"""Every architecture, killed in the middle of its schedule and resumed, ends with the weights of one left alone."""

import signal

import pytest
import torch
import yaml
from test_training import RECIPE, metrics, one_thread  # noqa: F401
from test_training_kill import start, stop_after

from hsae_hub.architectures import list_architectures
from hsae_hub.architectures.compositional import CompositionalSAE
from hsae_hub.architectures.dynamic import DynamicSAE
from hsae_hub.artifact import read_artifact
from hsae_hub.recipes import load_recipe
from hsae_hub.training import train
from hsae_hub.training.checkpoints import latest_checkpoint

STEPS, KILLED, EVERY = 56, 42, 6
FLAT = {"d_sae": 40, "k": 4, "dead_after_tokens": 64}
SAES = {
    "batch_topk": FLAT,
    "compositional": {
        "widths": [24, 120],
        "starts": [0, 0.1],
        "reallocate_every": 4,
        "normalize": "mean_norm",
        "lambda_sparsity": 300.0,
    },
    "dynamic": {"d_sae": 48, "window": 4, "merge_every": 5, "min_rate": 0.5, "merge_cosine": 0.2},
    "gated": {"d_sae": 40, "lambda_l1": 0.1},
    "group": {"d_sae": 40, "n_groups": 3},
    "hsae": {
        "n_parents": 24,
        "n_children": 3,
        "d_subspace": 2,
        "k": 3,
        "ortho": "probes",
        "penalty_every": 2,
    },
    "jumprelu": {"d_sae": 40, "lambda_l0": 0.1, "bandwidth": 0.5, "init_threshold": 0.5},
    "l1": {"d_sae": 40, "penalty_warmup_steps": 30},
    "matryoshka": {**FLAT, "prefixes": [8, 20, 40]},
    "nested": {"d_sae": 40},
    "switch": {"d_sae": 40, "k": 4, "n_experts": 2},
    "topk": FLAT,
}
"""Settings under which what is done between steps is done before and after the kill."""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    first, *others = [{"architecture": name, "d_in": 256, **SAES[name]} for name in SAES]
    also = {sae["architecture"]: sae for sae in others}
    section = {**RECIPE["train"], "steps": STEPS, "lr": 1e-2, "checkpoint_every": EVERY}
    path = tmp_path_factory.mktemp("recipe") / "every.yaml"
    data = {**RECIPE, "sae": first, "also": also, "train": section, "baseline": None}
    path.write_text(yaml.safe_dump(data))
    return path


def test_every_architecture_is_among_them():
    assert set(SAES) == set(list_architectures())


def test_all_resume_to_the_same_weights_after_a_kill(recipe_file, tmp_path, monkeypatch):
    done = {"moved": [], "merged": [], "restarted": []}

    def watch(cls, name, what, amount):
        inner = getattr(cls, name)

        def watched(sae, *arguments):
            before = amount(sae, None, arguments)
            result = inner(sae, *arguments)
            if amount(sae, result, arguments) != before:
                done[what].append(counted[-1])
            return result

        monkeypatch.setattr(cls, name, watched)

    counted = [0]
    watch(CompositionalSAE, "_reallocate", "moved", lambda sae, result, a: sae.config.widths)
    watch(DynamicSAE, "_merge", "merged", lambda sae, found, a: 0 if found is None else len(found))
    watch(
        DynamicSAE, "_restart", "restarted", lambda sae, result, a: sae.W_dec.detach().clone().sum()
    )
    whole = train(
        load_recipe(recipe_file),
        tmp_path / "whole",
        device="cpu",
        on_event=lambda event: counted.append(event.done) if event.phase == "train" else None,
    )
    for what, steps in done.items():
        assert min(steps) < KILLED - EVERY and max(steps) > KILLED, (what, steps)

    process = start(recipe_file, tmp_path / "killed", pause=0.05)
    stop_after(process, KILLED, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    saved = latest_checkpoint(tmp_path / "killed" / "checkpoints")[0].step
    assert KILLED - EVERY <= saved < max(done["moved"])
    again = train(load_recipe(recipe_file), tmp_path / "killed", device="cpu")
    assert again.resumed_from == saved
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for name in ("", *whole.beside):
        mine, other = (read_artifact(run.folder / name).sae for run in (again, whole))
        assert mine.config == other.config
        for key, tensor in other.weights().items():
            assert torch.equal(mine.weights()[key], tensor), f"{name} {key}"
