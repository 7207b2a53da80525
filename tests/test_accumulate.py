"""Batches that take their turn in parts make the step of the whole batch."""

import pytest
import torch
from several_processes import BATCH, Rows
from test_architectures import TINY

from hsae_hub.architectures import architecture, build, list_architectures
from hsae_hub.cli.needs import needs
from hsae_hub.errors import UsageError
from hsae_hub.recipes import TrainSection, load_recipe
from hsae_hub.training import Trainer

SPLIT = [name for name in list_architectures() if architecture(name).can_accumulate]
STEPS = 12


def trained(name, dtype, **settings):
    sae = build({"architecture": name, "d_in": 8, **TINY[name]}, seed=0).to(dtype)
    # a run that is long enough for no latent to be dead so early
    settings = {"steps": 1000, "batch_size": BATCH, "lr": 0.01, "warmup_steps": 4} | settings
    trainer = Trainer({"sae": sae}, Rows(), TrainSection(log_every=1, **settings), command="")
    trainer.fill()
    return [trainer.advance()["sae"] for _ in range(STEPS)], sae.state_dict()


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_parts_add_up_to_the_whole(name, dtype, close):
    """In float32 the factors of gradients are added up, in float64 gradients; 33 rows have no equal parts."""
    lines, weights = trained(name, dtype)
    found, parts = trained(name, dtype, accumulate=4)
    for one, other in zip(found, lines, strict=True):
        assert one == pytest.approx(other, rel=close, abs=close)
    for key, x in weights.items():
        if x.is_floating_point():
            torch.testing.assert_close(parts[key], x, rtol=close, atol=close)


def test_the_parts_hold_less_at_once_and_cost_as_much():
    whole, parts = (
        needs(load_recipe("gemma2-tiny-en/l3_hsae", overrides=[f"train.accumulate={n}"]).recipe)
        for n in (1, 4)
    )
    assert parts["saes"]["sae"]["memory_bytes"] < whole["saes"]["sae"]["memory_bytes"]
    flat = [data["saes"]["baseline"]["flops_a_step"] for data in (whole, parts)]
    assert flat[1] == pytest.approx(flat[0], rel=0.02)


@pytest.mark.parametrize("name", sorted(set(list_architectures()) - set(SPLIT)))
def test_an_architecture_that_looks_at_whole_batches_is_refused(name):
    with pytest.raises(UsageError) as caught:
        load_recipe(f"gemma2-tiny-en/l3_{name}", overrides=["train.accumulate=2"])
    (problem,) = caught.value.problems
    assert f"train.accumulate (=2) must be 1 for {name}" in str(problem)


def test_there_are_no_more_parts_than_rows():
    with pytest.raises(ValueError, match="accumulate \\(=5\\) must be at most batch_size \\(=4\\)"):
        TrainSection(steps=10, batch_size=4, lr=1e-3, warmup_steps=0, accumulate=5)
