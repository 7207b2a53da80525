"""The kernels at the sizes of Gemma-2-2B's SAEs: against sums in float64, and against what the device can do."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from harness.device import on_device
from harness.findings import Findings
from harness.part import Scale
from harness.timing import interleaved
from hsae_hub.ops.kernels import plain
from hsae_hub.ops.kernels.uses import BlockGradient

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
"""Of ‖out − ref‖ / ‖ref‖: rounding of sums in float32, and of a result to 8 bits."""


class Case(NamedTuple):
    """Tokens, blocks of each, blocks and rows of each in the table, columns; see `hsae_hub.ops.kernels`."""

    tokens: int
    q: int
    n: int
    s: int
    width: int


class Given(NamedTuple):
    """What the kernels of blocks take."""

    x: Tensor
    table: Tensor
    values: Tensor
    index: Tensor


class Ceilings(NamedTuple):
    """What the device does at best."""

    bytes: float
    """A second, read and written by a copy."""
    flops: float
    """A second, in a product of two large bfloat16 matrices."""


def cases(scale: Scale) -> dict[str, Case]:
    """A tree's tables: decoder rows, subspaces, and the children, who see one block a token and parent."""
    if scale.quick:
        return {
            "rows": Case(8, 4, 40, 1, 48),
            "subspaces": Case(8, 4, 40, 4, 48),
            "children": Case(32, 1, 40, 6, 4),
        }
    return {
        "rows": Case(4096, 32, 16_384, 1, 2304),
        "subspaces": Case(4096, 32, 16_384, 8, 2304),
        "children": Case(4096 * 32, 1, 16_384, 16, 8),
    }


def given(case: Case, dtype: torch.dtype, device: torch.device) -> Given:
    """Normal numbers, and blocks of Zipf's popularity in an order of chance."""
    g = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, device=device, dtype=dtype)

    index = popular(case.tokens, case.q, case.n, g)
    return Given(
        normal(case.tokens, case.width),
        normal(case.n, case.s, case.width),
        normal(case.tokens, case.q, case.s),
        index,
    )


def popular(tokens: int, q: int, n: int, g: torch.Generator) -> Tensor:
    """`q` different ones of `n` for every token, the r-th most popular with weight 1/r, in an order of chance."""
    weights = (
        1 / torch.arange(1, n + 1, device=g.device)[torch.randperm(n, generator=g, device=g.device)]
    )
    parts = [
        torch.multinomial(weights.expand(min(1024, tokens - at), n), q, generator=g)
        for at in range(0, tokens, 1024)
    ]
    return torch.cat(parts)


def ceilings(found: Findings, scale: Scale, device: torch.device) -> Ceilings:
    """Measured in the same run as what is held to them."""
    size, side = scale.pick(2**31, 2**16), scale.pick(8192, 128)
    source = torch.randint(0, 99, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    ways = {
        "a copy": on_device(lambda: target.copy_(source), device, 5),
        "a product": on_device(lambda: a @ b, device, 5),
    }
    times = interleaved(ways, scale.rounds, warmup=2)
    copies = [2 * size / took.wall for took in times["a copy"]]
    products = [2 * side**3 / took.wall for took in times["a product"]]
    found.add("copied, read and written", [each / 1e9 for each in copies], "GB/s")
    found.add(f"bfloat16 product of {side}³", [each / 1e12 for each in products], "TFLOP/s")
    return Ceilings(max(copies), max(products))


def works(kernels: ModuleType, of: Given) -> dict[str, Callable[[], Tensor]]:
    """What each kernel computes of these."""
    return {
        "block_dot": lambda: kernels.block_dot(of.x, of.table, of.index),
        "block_sum": lambda: kernels.block_sum(of.values, of.index, of.table),
        "block_gradient": lambda: kernels.block_gradient(
            *BlockGradient.of(of.x, of.values, of.index)[:4], len(of.table)
        ),
    }


def floor(kernel: str, case: Case, size: int, top: Ceilings, used: int) -> float:
    """Seconds below which nothing goes: each number that is needed moved once, or the arithmetic by matrix products."""
    block = case.s * case.width
    pairs = case.tokens * case.q
    table = {"block_gradient": case.n}.get(kernel, used) * block
    moved = size * (table + case.tokens * case.width + pairs * case.s) + 8 * pairs
    return max(moved / top.bytes, 2 * pairs * block / top.flops)


def measure(
    found: Findings, scale: Scale, device: torch.device, kernels: ModuleType, top: Ceilings
) -> None:
    """Errors, and times beside plain torch's and beside the floor."""
    for dtype, limit in LIMITS.items():
        for name, case in cases(scale).items():
            of = given(case, dtype, device)
            used = len(of.index.unique())
            exact = Given(*(part.double() for part in of[:3]), of.index)
            for kernel, work in works(kernels, of).items():
                label = f"{kernel}, {name}, {str(dtype).removeprefix('torch.')}"
                want = works(plain, exact)[kernel]()
                found.add(f"{label}: error", [error(work(), want)], "relative", bar=limit)
                del want
                bound = floor(kernel, case, of.x.element_size(), top, used)
                beside = works(plain, of)[kernel]
                compare(found, scale, device, label, work, beside, bound)
            del of, exact


def compare(
    found: Findings,
    scale: Scale,
    device: torch.device,
    label: str,
    ours: Callable[[], object],
    plainly: Callable[[], object],
    bound: float,
) -> None:
    """A kernel beside plain torch, in turns, and beside the least that it can take."""
    ways = {
        label: on_device(ours, device, scale.pick(20, 1)),
        f"{label}: plain torch": on_device(plainly, device, scale.pick(5, 1)),
    }
    found.add_times(interleaved(ways, scale.rounds, warmup=2))
    found.add(f"{label}: floor", [bound] * scale.rounds, "s")
    found.ratio(label, f"{label}: plain torch")
    found.ratio(label, f"{label}: floor")


def error(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖."""
    return float((got.double() - want).norm() / want.norm())


def measure_top_k(
    found: Findings, scale: Scale, device: torch.device, kernels: ModuleType, top: Ceilings
) -> None:
    """Beside torch.topk, and beside reading a row once."""
    tokens, k = scale.pick(4096, 8), scale.pick(32, 4)
    for n in (scale.pick(16_384, 64), scale.pick(65_536, 128)):
        for dtype in LIMITS:
            pre = torch.randn(tokens, n, device=device).to(dtype)
            label = f"top_k of {n}, {str(dtype).removeprefix('torch.')}"
            got = pre.gather(1, kernels.top_k(pre, k)).sort(descending=True).values
            wrong = int((got != pre.topk(k).values).sum())
            found.add(f"{label}: not as torch.topk has it", [wrong], "values", bar=0)
            bound = pre.nbytes / top.bytes
            ours, plainly = (lambda m=m, x=pre: m.top_k(x, k) for m in (kernels, plain))
            compare(found, scale, device, label, ours, plainly, bound)


def large_tables(found: Findings, scale: Scale, device: torch.device, kernels: ModuleType) -> None:
    """A table of more than 2³¹ numbers, 16,384 blocks of 64 rows of 2304, of which few tokens use a few blocks."""
    case = Case(64, 32, 16_384, 64, 2304) if not scale.quick else Case(8, 4, 40, 6, 48)
    of = given(case, torch.bfloat16, device)
    used, place = of.index.unique(return_inverse=True)
    few = Given(of.x.double(), of.table[used].double(), of.values.double(), place)
    size = f"of {of.table.numel():,} numbers: error"
    for kernel, work in works(kernels, of).items():
        got, want = work(), works(plain, few)[kernel]()
        if kernel == "block_gradient":
            others = torch.ones(case.n, dtype=torch.bool, device=device)
            others[used] = False
            wrong = int(got[others].count_nonzero())
            found.add(f"{kernel} {size} where no token is", [wrong], "values", bar=0)
            got = got[used]
        found.add(f"{kernel} {size}", [error(got, want)], "relative", bar=LIMITS[torch.bfloat16])
