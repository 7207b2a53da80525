"""What a training run is made of: the optimiser's schedule, clipping and moments, and checkpoints on disk."""

import math

import pytest
import torch

from hsae_hub.architectures import TrainStep, build
from hsae_hub.recipes import TrainSection
from hsae_hub.training.checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from hsae_hub.training.optim import (
    adam,
    clip_gradient,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)

HSAE = {
    "architecture": "hsae",
    "d_in": 256,
    "n_parents": 16,
    "n_children": 3,
    "d_subspace": 2,
    "k": 3,
}


# --- optimiser ---


def settings(**changes):
    return TrainSection(
        **({"steps": 100, "batch_size": 4, "lr": 0.5, "warmup_steps": 10} | changes)
    )


def test_the_learning_rate_warms_up_and_decays_to_its_fraction():
    rates = [learning_rate(step, settings()) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[9] == rates[10] == max(rates) == 0.5
    assert rates[-1] == pytest.approx(0.05)
    half = 10 + (99 - 10) / 2
    assert (rates[int(half)] + rates[int(half) + 1]) / 2 == pytest.approx(0.5 * (0.1 + 0.9 / 2))
    assert learning_rate(0, settings(warmup_steps=0)) == 0.5


def test_the_gradient_is_clipped_by_its_global_norm():
    layer = torch.nn.Linear(3, 1)
    for scale, clip, after in ((10.0, 0.75, 0.75), (0.1, 0.75, 0.2), (10.0, None, 20.0)):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        assert clip_gradient(layer, clip) == pytest.approx(2 * scale)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in layer.parameters()))
        assert norm == pytest.approx(after, rel=1e-4)


def test_the_fused_optimiser_agrees_with_the_plain_one_and_moments_can_be_put_back():
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    saes = [build(HSAE) for _ in range(3)]
    plain = torch.optim.Adam(saes[1].parameters(), lr=1e-3, fused=False, foreach=False)
    optimizers = [adam(saes[0], settings(lr=1e-3)), plain, adam(saes[2], settings(lr=1e-3))]
    for i in range(4):
        if i == 2:
            load_optimizer_tensors(
                optimizers[2],
                {k: v.clone().contiguous() for k, v in optimizer_tensors(optimizers[2]).items()},
            )
        for sae, optimizer in zip(saes, optimizers, strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(sae.losses(x, TrainStep(i, 4))["loss"])
            optimizer.step()
    for fused, unfused, put_back in zip(*(sae.parameters() for sae in saes), strict=True):
        torch.testing.assert_close(fused, unfused, rtol=1e-4, atol=1e-4)
        assert torch.equal(fused, put_back)


# --- checkpoints ---


def checkpoint_of(step):
    return Checkpoint(step, {"note": step}, {"main": {"w": torch.full((3,), float(step))}})


def test_checkpoints_keep_the_last_two_and_read_back(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, checkpoint_of(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010", "00000015"]
    found, skipped = latest_checkpoint(tmp_path)
    assert (found.step, found.values, skipped) == (15, {"note": 15}, [])
    assert found.tensors["main"]["w"].tolist() == [15.0] * 3


def flip(place):
    path = place / "main.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def truncate(place):
    path = place / "main.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def tear_state(place):
    (place / "state.json").write_text((place / "state.json").read_text()[:40])


def lose_file(place):
    (place / "main.safetensors").unlink()


def lose_state(place):
    (place / "state.json").unlink()


@pytest.mark.parametrize("damage", [flip, truncate, tear_state, lose_file, lose_state])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, damage, caplog):
    for step in (5, 10):
        save_checkpoint(tmp_path, checkpoint_of(step))
    (tmp_path / ".00000015.partial").mkdir()
    damage(tmp_path / "00000010")
    found, skipped = latest_checkpoint(tmp_path)
    assert found.step == 5
    assert len(skipped) == 1 and "checkpoint 00000010 is damaged" in skipped[0]
    assert skipped[0] in caplog.text
    save_checkpoint(tmp_path, checkpoint_of(10))
    assert latest_checkpoint(tmp_path)[0].step == 10


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "none") == (None, [])
