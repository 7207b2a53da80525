"""Adam from the factors of a gradient at the sizes of real SAEs: against float64, plain torch and the device."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.device import on_device
from harness.findings import Findings
from harness.kernel_cases import Case, Ceilings, Given, cases, compare, error, given
from harness.part import Scale
from hsae_hub.ops import normalize_rows_, project_out_rows_
from hsae_hub.ops.kernels import plain, update
from hsae_hub.ops.kernels.uses import AdamStep, BlockGradient, Learned, sort_uses

ADAM = AdamStep(size=0.1, eps=1e-8, beta1=0.9, beta2=0.999, scale=0.5)
LIMIT = 1e-5
UNIT = ("rows", "children")


def learned(of: Given, unit: bool) -> Learned:
    """Rows of norm 1 where they keep it, and moments as they may be."""
    table = of.table.clone()
    if unit:
        normalize_rows_(table)
    return Learned(table, 0.01 * torch.randn_like(table), 1e-4 * torch.rand_like(table))


def step(state: Learned, of: Given, unit: bool) -> Tensor:
    """The gradient's squared norm, and a step of Adam by it."""
    uses = sort_uses([BlockGradient.of(of.x, of.values, of.index)], len(of.table))
    square = update.square_norms(uses, state.table if unit else None).sum()
    update.adam_blocks_(state, uses, ADAM, unit=unit, only_used=False)
    return square


def step_by_dense(state: Learned, of: Given, unit: bool) -> Tensor:
    """The same from a gradient in memory, by the formula."""
    grad = plain.block_gradient(*BlockGradient.of(of.x, of.values, of.index)[:4], len(of.table))
    if unit:
        project_out_rows_(grad, state.table)
    square = grad.square().sum()
    grad *= ADAM.scale
    state.first.lerp_(grad, 1 - ADAM.beta1)
    state.second.mul_(ADAM.beta2).addcmul_(grad, grad, value=1 - ADAM.beta2)
    state.table.addcdiv_(state.first, state.second.sqrt().add_(ADAM.eps), value=-ADAM.size)
    if unit:
        normalize_rows_(state.table)
    return square


def floor(case: Case, top: Ceilings) -> float:
    """Seconds in which table and moments are read and written once, and what the gradient is made from read."""
    numbers = 6 * case.n * case.s * case.width + case.tokens * (case.width + case.q * case.s)
    return 4 * numbers / top.bytes


def measure_updates(found: Findings, scale: Scale, device: torch.device, top: Ceilings) -> None:
    """Errors of tables, moments and norms, and times."""
    for name, case in cases(scale).items():
        unit = name in UNIT
        of = given(case, torch.float32, device)
        state = learned(of, unit)
        exact = Learned(*(part.double() for part in state))
        exact_of = Given(*(part.double() for part in of[:3]), of.index)
        want = step_by_dense(exact, exact_of, unit)
        got = step(state, of, unit)
        label = f"adam, {name}"
        errors = [error(a, b) for a, b in zip((*state, got), (*exact, want), strict=True)]
        found.add(f"{label}: error", [max(errors)], "relative", bar=LIMIT)
        del exact, exact_of, want
        ways = (lambda w=w, s=state, o=of, u=unit: w(s, o, u) for w in (step, step_by_dense))
        compare(found, scale, device, label, *ways, floor(case, top))


def measure_columns(found: Findings, scale: Scale, device: torch.device, top: Ceilings) -> None:
    """The encoder: a matrix whose columns are the blocks, beside the same as rows."""
    case = cases(scale)["rows"]
    of = given(case, torch.float32, device)
    state = Learned(*(part[:, 0].T.contiguous() for part in learned(of, False)))
    parts = [BlockGradient.of(of.x, of.values, of.index, columns=True)]

    def work() -> None:
        update.adam_columns_(state, sort_uses(parts, case.n), ADAM)

    exact = Learned(*(part.double() for part in state))
    factors = BlockGradient.of(of.x.double(), of.values.double(), of.index)
    grad = ADAM.scale * plain.block_gradient(*factors[:4], case.n)[:, 0].T
    first = ADAM.beta1 * exact.first + (1 - ADAM.beta1) * grad
    second = ADAM.beta2 * exact.second + (1 - ADAM.beta2) * grad.square()
    want = exact.table - ADAM.size * first / (second.sqrt() + ADAM.eps)
    work()
    errors = [error(a, b) for a, b in zip(state, (want, first, second), strict=True)]
    found.add("adam, columns: error", [max(errors)], "relative", bar=LIMIT)
    times = [on_device(work, device, scale.pick(10, 1))() for _ in range(scale.rounds + 1)][1:]
    found.add_times({"adam, columns": times})
    found.add("adam, columns: floor", [floor(case, top)] * scale.rounds, "s")
    found.ratio("adam, columns", "adam, columns: floor")
