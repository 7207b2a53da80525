"""The Triton updates against plain torch's: on a GPU, or with TRITON_INTERPRET=1 (`test_triton.py` does that)."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hsae_hub.architectures import TrainStep, build
from hsae_hub.ops import kernels
from hsae_hub.ops.kernels import cuda, cuda_update, plain, plain_update, update
from hsae_hub.ops.kernels import uses as uses_module
from hsae_hub.ops.kernels.uses import AdamStep, BlockGradient, Learned, Missed, Uses, sort_uses
from hsae_hub.recipes import TrainSection
from hsae_hub.training.row_adam import RowAdam
from hsae_hub.training.trainer import Member

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ADAM = AdamStep(size=0.3, eps=1e-3, beta1=0.9, beta2=0.99, scale=0.7)
SHAPES = [(9, 1, 40), (7, 4, 300), (5, 70, 8)]  # n, s, width
SIZES = pytest.mark.parametrize("shape", SHAPES, ids=str)
UNIT = pytest.mark.parametrize("unit", [False, True], ids=["free", "unit"])


def random(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def uses_of(n: int, s: int, width: int) -> Uses:
    """Of all blocks but the last two; the first has more pairs than are summed at once."""
    index = torch.randint(n - 2, (24, 3), generator=torch.Generator().manual_seed(3))
    index[:, 0] = 0
    part = BlockGradient.of(random(24, width, seed=1), random(24, 3, s, seed=2), index)
    return sort_uses([part], n)


def tables(*shape: int, unit: bool = False) -> Learned:
    """A table, and both moments as they may be."""
    table = random(*shape, seed=4)
    if unit:
        table /= table.norm(dim=-1, keepdim=True)
    return Learned(table, random(*shape, seed=5), random(*shape, seed=6).square())


def there(uses: Uses) -> Uses:
    return Uses(*(part.to(DEVICE) for part in uses))


def copied(learned: Learned) -> Learned:
    return Learned(*(part.to(DEVICE, copy=True) for part in learned))


def compare(got: Sequence[Tensor], want: Sequence[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=2e-5, atol=2e-6)


@SIZES
@UNIT
def test_norms(shape: tuple[int, int, int], unit: bool) -> None:
    uses = uses_of(*shape)
    table = tables(*shape, unit=unit)[0] if unit else None
    want = plain_update.square_norms(uses, table)
    given = table if table is None else table.to(DEVICE)
    compare([cuda_update.square_norms(there(uses), given)], [want])


@SIZES
@UNIT
@pytest.mark.parametrize("only_used", [False, True], ids=["all", "used"])
def test_adam(shape: tuple[int, int, int], unit: bool, only_used: bool) -> None:
    uses, want = uses_of(*shape), tables(*shape, unit=unit)
    got = copied(want)
    plain_update.adam_blocks_(want, uses, ADAM, unit=unit, only_used=only_used)
    cuda_update.adam_blocks_(got, there(uses), ADAM, unit=unit, only_used=only_used)
    compare(got, want)


def test_adam_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_update, "_CHUNK", 32 * 40)  # 32 columns at a time
    uses, want = uses_of(45, 1, 40), tables(40, 45)
    got = copied(want)
    plain_update.adam_columns_(want, uses, ADAM)
    cuda_update.adam_columns_(got, there(uses), ADAM)
    compare(got, want)


@SIZES
@UNIT
def test_missed_steps(shape: tuple[int, int, int], unit: bool) -> None:
    want = tables(*shape, unit=unit)
    got = copied(want)
    blocks = torch.tensor([0, 3, 4])
    missed = Missed(
        kinds=torch.tensor([1, 0, 1]),
        motion=torch.tensor([[0.1, 0.05, 0.02], [0.2, 0, 0]]),
        eps=torch.tensor([1e-3, 2e-3]),
        first=torch.tensor([0.5, 0.9]),
        second=torch.tensor([0.8, 0.99]),
    )
    plain_update.catch_up_(want, blocks, missed, unit=unit)
    given = Missed(*(part.to(DEVICE) for part in missed))
    cuda_update.catch_up_(got, blocks.to(DEVICE), given, unit=unit)
    compare(got, want)


def test_nothing_was_used() -> None:
    none = torch.zeros(6).long()
    nothing = BlockGradient(random(2, 8, seed=1), none, torch.zeros(6, 4), none)
    uses = sort_uses([nothing], 5)
    want = tables(5, 4, 8)
    got = copied(want)
    assert len(cuda_update.square_norms(there(uses), None)) == 0
    cuda_update.adam_blocks_(got, there(uses), ADAM, unit=False, only_used=True)
    compare(got, want)
    plain_update.adam_blocks_(want, uses, ADAM, unit=False, only_used=False)
    cuda_update.adam_blocks_(got, there(uses), ADAM, unit=False, only_used=False)
    compare(got, want)


def test_training_steps_of_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"d_in": 24, "n_parents": 4, "n_children": 3, "d_subspace": 2, "k": 2}
    config = {"architecture": "hsae", **shape, "lambda_ortho": 0.0, "l1_over": "active"}
    section = TrainSection(steps=2, batch_size=5, lr=0.01, warmup_steps=0, adam="dense")
    monkeypatch.setattr(cuda, "top_k", plain.top_k)  # its interpretation takes longest
    found = []
    for device in ("cpu", DEVICE):
        sae = build(config, seed=0).to(device)
        member = Member("main", sae, RowAdam(sae, section))
        for i in range(2):
            member.optimizer.zero_grad()
            step = TrainStep(i, 2)
            with member.following():
                loss = sae.losses(random(5, 24, seed=i).to(device), step)["loss"]
                torch.autograd.backward(loss)
            member.clip(section.clip_norm)
            member.update(section.lr, step)
        found.append([p.detach() for p in sae.parameters()])
        monkeypatch.setattr(kernels, "pick", lambda *given, table=None: cuda)
        monkeypatch.setattr(update, "pick", lambda x: cuda_update)
        monkeypatch.setattr(uses_module, "_of_used_blocks", uses_module.of_every_block)
    compare(found[1], found[0])
