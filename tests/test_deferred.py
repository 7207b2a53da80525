"""Steps that blocks without a gradient take later, against an Adam that takes all of them at once."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from test_row_adam import MACHINES
from torch import Tensor

from hsae_hub.architectures import SAE, TrainStep, build
from hsae_hub.ops import block_dot, normalize_rows_, project_out_rows_, weighted_rows
from hsae_hub.ops.factored import read_whole
from hsae_hub.recipes import TrainSection
from hsae_hub.training.deferred import settle_
from hsae_hub.training.optim import learning_rate, optimizer_tensors
from hsae_hub.training.row_adam import RowAdam
from hsae_hub.training.trainer import Member

N, D_IN, STEPS = 96, 16, 600
TREE = {
    "architecture": "hsae",
    "d_in": D_IN,
    "n_parents": N,
    "n_children": 2,
    "d_subspace": 2,
    "k": 2,
}
TRAIN = TrainSection(steps=STEPS, batch_size=4, lr=0.003, warmup_steps=50, clip_norm=None)
TABLES = ("W_dec", "W_down")


def uses(step: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Rows of Zipf's popularity, the last ones about once in a hundred steps, and numbers that come with them."""
    generator = torch.Generator().manual_seed(step)
    popularity = 1 / torch.arange(1, N + 1)
    rows = torch.multinomial(popularity.expand(4, -1), 1, generator=generator)
    drawn = [torch.randn(shape, generator=generator) for shape in ((4, 1), (4, D_IN), (4, D_IN))]
    return rows, *(x.to(dtype) for x in drawn)


def loss_of(sae: SAE[Any], step: int) -> Tensor:
    """Its gradients do not depend on the weights."""
    rows, values, x, y = uses(step, sae.dtype)
    drift = torch.linspace(-1, 1, D_IN, dtype=sae.dtype)
    high = (weighted_rows(values, rows, sae.W_dec) * (y + drift)).sum()
    return high + (block_dot(x, sae.get_parameter("W_down"), rows) * values[..., None]).sum()


def every_step(sae: SAE[Any]) -> None:
    optimizer = torch.optim.Adam([sae.get_parameter(name) for name in TABLES])
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(sae, step).backward()
        assert sae.W_dec.grad is not None
        project_out_rows_(sae.W_dec.grad, sae.W_dec)
        optimizer.param_groups[0]["lr"] = learning_rate(step, TRAIN)
        optimizer.step()
        normalize_rows_(sae.W_dec)


def only_when_read(sae: SAE[Any], steps: int = STEPS) -> Member:
    member = Member("main", sae, RowAdam(sae, TRAIN))
    for step in range(steps):
        member.optimizer.zero_grad()
        with member.following():
            loss_of(sae, step).backward()
        member.clip(None)
        member.update(learning_rate(step, TRAIN), TrainStep(step, STEPS))
    return member


@pytest.mark.parametrize("dtype", MACHINES)
def test_deferred_steps_end_where_dense_ones_do(dtype: torch.dtype) -> None:
    start = build(TREE, seed=0).to(torch.float64)
    exact, ours = deepcopy(start), deepcopy(start).to(dtype)
    every_step(exact)
    member = only_when_read(ours)
    before_settling = ours.get_parameter("W_down").clone()
    member.settle()
    assert not torch.equal(before_settling, ours.get_parameter("W_down"))
    for name in TABLES:
        p, q, begun = (sae.get_parameter(name).double() for sae in (exact, ours, start))
        moved = (p - begun).flatten(1).norm(dim=1)
        apart = (q - p).flatten(1).norm(dim=1)
        assert apart.norm() < 1e-4 * moved.norm(), name
        assert (apart < 5e-4 * moved).all(), name
    torch.testing.assert_close(ours.W_dec.norm(dim=1), ours.W_dec.new_ones(N))


def test_whoever_reads_the_whole_table_finds_it_up_to_date() -> None:
    settled, member = (only_when_read(build(TREE, seed=0), steps=5) for _ in range(2))
    settled.settle()
    with member.following():
        read_whole(member.sae.W_dec)
    down, all_down = (one.sae.get_parameter("W_down") for one in (member, settled))
    assert torch.equal(member.sae.W_dec, settled.sae.W_dec)
    assert not torch.equal(down, all_down), "nobody has read it"


def test_a_run_goes_on_from_deferred_steps_without_deferring() -> None:
    member = only_when_read(build(TREE, seed=0), steps=5)
    sae = member.sae
    weights = {name: p.detach().clone() for name, p in sae.named_parameters()}
    moments = {key: value.clone() for key, value in optimizer_tensors(member.optimizer).items()}
    kept = settle_(weights, moments, sae.unit_rows, TRAIN)
    member.settle()
    assert all(torch.equal(weights[name], p) for name, p in sae.named_parameters())
    wanted = optimizer_tensors(member.optimizer)
    assert {key for key in wanted if not key.endswith(".clock")} == set(kept)
    assert all(torch.equal(wanted[key], value) for key, value in kept.items())
