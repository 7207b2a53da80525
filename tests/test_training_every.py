"""One run of every architecture, killed amid all that they do between steps, ends as one that was left alone."""

import random
import signal
from itertools import pairwise

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_architectures import TINY
from test_training import RECIPE, metrics
from test_training_kill import start, stop_after

from hsae_hub.architectures import dynamic, list_architectures
from hsae_hub.errors import ConflictError
from hsae_hub.recipes import load_recipe
from hsae_hub.training import train
from hsae_hub.training.checkpoints import latest_checkpoint
from hsae_hub.training.trainer import Trainer

STEPS, EVERY = 48, 8
KILLED = range(34, 37)
"""Steps after one of which the kill comes, so that the run goes on from step 32, or 40 on a slow machine."""
BEFORE, AFTER = range(1, 32), range(40, STEPS)
"""Steps done by the killed run alone, and by the resumed one."""
WARMUP = {"penalty_warmup_steps": STEPS}
SHORT = {
    "batch_topk": {"d_sae": 300, "normalize": "mean_norm"},
    "compositional": {"widths": [200, 150], "starts": [0, 0.05], "reallocate_every": 3}
    | {"normalize": "unit_norm"},
    "dynamic": {"window": 4, "merge_every": 5, "min_rate": 0.4, "merge_cosine": 0.1},
    "gated": WARMUP,
    "hsae": {**WARMUP, "penalty_every": 3, "ortho": "probes", "bias": True, "whiten": True},
    "jumprelu": WARMUP,
    "matryoshka": {"d_sae": 300, "prefixes": [4, 9, 300]},
    "topk": {"d_sae": 300},
}
"""Beside `TINY`: what makes an architecture's schedules fit into a short run."""
CURRICULUM = {"architecture": "compositional", "widths": [6, 5, 4], "starts": [0, 0.1, 0.88]}
"""Its tiers fade in before the kill and after it, so its latents move only at the end."""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    missing = set(list_architectures()) - TINY.keys()
    assert not missing, f"TINY of test_architectures.py has no settings for {missing}"
    saes = {name: {"architecture": name, **TINY[name], **SHORT.get(name, {})} for name in TINY}
    saes = {name: {**sae, "d_in": 256} for name, sae in {**saes, "curriculum": CURRICULUM}.items()}
    recipe = RECIPE | {
        "data": {
            "train": [{"builtin": "python-docs"}],
            "context_length": 64,
            "buffer_tokens": 2048,
        },
        "sae": saes.pop("hsae"),
        "baseline": None,
        "also": saes,
        "train": {"steps": STEPS, "batch_size": 16, "lr": 2e-2, "warmup_steps": 4}
        | {"checkpoint_every": EVERY, "log_every": 1},
    }
    path = tmp_path_factory.mktemp("recipe") / "every.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    """The folder of a run that nothing stopped; every SAE's buffers after each step; pairs merged at each step."""
    states, merged = [], {}
    advance, similar_pairs = Trainer.advance, dynamic.similar_pairs

    def watched_advance(trainer):
        line = advance(trainer)
        states.append({m.name: buffers(m.sae) for m in trainer.members})
        return line

    def watched_pairs(*arguments):
        pairs = similar_pairs(*arguments)
        merged[len(states)] = len(pairs[0])
        return pairs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", watched_advance)
        patch.setattr(dynamic, "similar_pairs", watched_pairs)
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        train(load_recipe(recipe_file), out, device="cpu")
    return out, states, merged


def buffers(sae):
    return {name: buffer.clone() for name, buffer in sae.named_buffers()}


def saved_tensors(folder):
    """Weights and statistics of all SAEs of a run."""
    return {
        f"{path.relative_to(folder)} {name}": tensor
        for path in folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize("steps", [BEFORE, AFTER], ids=["before", "after"])
def test_all_that_is_done_between_steps_is_done_before_and_after_the_kill(undisturbed, steps):
    out, states, merged = undisturbed
    counted = {
        (sae, name)
        for sae, own in states[0].items()
        for name in own
        if not name.startswith("norm_") and sae != "curriculum"
    }
    changed = {
        (sae.replace("curriculum", "compositional"), name)
        for i in steps
        for sae, own in states[i].items()
        for name, buffer in own.items()
        if not torch.equal(buffer, states[i - 1][sae][name])
    }
    assert changed >= counted  # whatever an architecture keeps beside its weights

    windows = [states[i]["dynamic"]["batches_seen"] for i in steps]
    assert any(merged.get(i) for i in steps)
    restarted = [int((new < old).sum()) for old, new in pairwise(windows)]
    assert sum(restarted) > sum(merged.get(i, 0) for i in steps)
    assert len({len(states[i]["compositional"]["bn_mean"]) for i in steps}) > 1
    lines = [metrics(out)[i] for i in steps]
    for name in ("topk", "batch_topk", "matryoshka"):
        assert all(line[name]["aux"] > 0 for line in lines[-3:])
    ramp = [line["jumprelu"]["loss"] - line["jumprelu"]["reconstruction"] for line in lines]
    ramp = [extra / line["jumprelu"]["l0"] for extra, line in zip(ramp, lines, strict=True)]
    assert ramp == pytest.approx(
        [TINY["jumprelu"]["lambda_l0"] * i / STEPS for i in steps], rel=0.01
    )
    assert {"l1" in line["sae"] for line in lines} == {True, False}


def test_a_killed_run_ends_as_one_that_was_not(recipe_file, undisturbed, tmp_path):
    out, step = tmp_path / "out", random.choice(KILLED)
    process = start(recipe_file, out, pause=0.1)
    assert process.stdout.readline().strip() == "1"
    with pytest.raises(
        ConflictError, match=rf"^{out} is in use: process {process.pid} on .* into it(\n|$)"
    ):
        train(load_recipe(recipe_file), out, device="cpu")
    stop_after(process, step, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, f"killed at step {step}"
    saved = latest_checkpoint(out / "checkpoints")[0].step
    assert BEFORE[-1] < saved <= AFTER[0] and saved % EVERY == 0, f"killed at step {step}"
    result = train(load_recipe(recipe_file), out, device="cpu")
    assert result.resumed_from == saved
    assert {"hsae", *result.beside} == {"curriculum", *list_architectures()}
    mine, theirs = saved_tensors(out), saved_tensors(undisturbed[0])
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert metrics(out) == metrics(undisturbed[0])
