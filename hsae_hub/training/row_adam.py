"""Adam that updates a table from the factors of its gradient, which then never exists as a whole."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.linalg import vector_norm

from hsae_hub.architectures import SAE
from hsae_hub.ops import collective, kernels, normalize_rows_, project_out_rows_
from hsae_hub.ops.factored import Take, following
from hsae_hub.ops.kept_linear import columns_gradient
from hsae_hub.ops.kernels import update
from hsae_hub.ops.kernels.uses import AdamStep, BlockGradient, Learned, Uses, sort_uses
from hsae_hub.recipes import TrainSection
from hsae_hub.training.deferred import Schedule, as_blocks, catch_up_
from hsae_hub.training.optim import EPS

_CLIP_EPS = 1e-6  # added to the norm, as torch's clip_grad_norm_ does


@dataclass
class _Table:
    """A parameter, and what is known of its gradient in this step."""

    parameter: nn.Parameter
    unit: bool
    """Whether its rows keep norm 1."""
    deferred: bool
    """Whether blocks without a gradient may wait."""
    parts: list[BlockGradient] = field(default_factory=list)
    uses: Uses | None = None
    squares: Tensor | None = None
    """Squared norms of the gradients of the blocks that have uses."""

    def square(self) -> Tensor:
        """The squared norm of the gradient."""
        if self.squares is not None:
            return self.squares.sum(dtype=torch.float64)
        grad = self.parameter.grad
        if grad is None:
            return torch.zeros((), dtype=torch.float64, device=self.parameter.device)
        norm: Tensor = vector_norm(grad)
        return norm.double().square()

    def squares_of_latents(self, dim: int) -> Tensor:
        """The same of each latent: along this axis of a dense gradient."""
        p = self.parameter
        if p.grad is not None:
            norms: Tensor = vector_norm(p.grad, dim=dim)
            return norms.square()
        squares = p.new_zeros(p.shape[1 - dim])
        if self.uses is not None and self.squares is not None:
            squares[self.uses.blocks] = self.squares
        return squares

    def scale_latents_(self, factor: Tensor, dim: int) -> None:
        """Multiplies each latent's gradient by its factor."""
        if self.parameter.grad is not None:
            self.parameter.grad.mul_(factor.unsqueeze(dim))
        elif self.uses is not None and self.squares is not None:
            of_blocks = factor[self.uses.blocks]
            counts = self.uses.starts.diff()
            of_pairs = of_blocks.repeat_interleave(counts)[:, None]
            self.uses = self.uses._replace(values=self.uses.values * of_pairs)
            self.squares = self.squares * of_blocks.square()

    @property
    def columns(self) -> bool:
        """Whether the blocks are columns."""
        return self.parts[0].columns

    def blocks_of(self, x: Tensor) -> Tensor:
        """A tensor of the parameter's shape as blocks of rows."""
        return x.view(-1, self.parts[0].values.shape[1], self.parts[0].x.shape[1])


class RowAdam(torch.optim.Adam):
    """Adam of one SAE in one process, with clipping by the global norm and rows that keep norm 1 in the same pass.

    Products inside `following` hand over their gradients as factors; what else a loss depends on comes as `.grad`,
    and the two are added up. Its results are those of fused Adam between `before_update` and `after_update`.
    """

    def __init__(self, sae: SAE[Any], train: TrainSection) -> None:
        beta1, beta2 = train.betas
        super().__init__(sae.parameters(), lr=train.lr, betas=(beta1, beta2), eps=EPS, fused=True)
        defers = train.adam == "deferred" and sae.device.type == "cpu" and Schedule.suits(train)
        self._schedule = Schedule(train) if defers and sae.read_by_rows else None
        self._tables = {
            p.data_ptr(): _Table(p, name in sae.unit_rows, defers and name in sae.read_by_rows)
            for name, p in sae.named_parameters()
        }
        self._scale = 1.0
        self._sae = sae

    @staticmethod
    def suits(sae: SAE[Any]) -> bool:
        """Whether it can train this SAE: nothing else looks at gradients, no other process has a part of them."""
        own = type(sae)
        plain = own.before_update is SAE.before_update and own.after_update is SAE.after_update
        return plain and update.suits(sae.W_dec) and collective.alone()

    @property
    def defers(self) -> bool:
        """Whether there are tables of which blocks may wait."""
        return self._schedule is not None

    def following(self) -> AbstractContextManager[None]:
        """Inside, losses and their backward hand over gradients."""
        return following(self)

    def before_read(self, table: Tensor, blocks: Tensor | None) -> None:
        """Takes the steps that these blocks have missed."""
        found = self._find(table)
        if found is not None:
            self._catch_up(found, blocks)

    def taker(self, table: Tensor) -> Take | None:
        found = self._find(table)
        return None if found is None else found.parts.append

    def settle(self) -> None:
        """Takes all steps that were deferred: whoever reads whole tables needs it."""
        for table in self._tables.values():
            self._catch_up(table, None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for table in self._tables.values():
            table.parts.clear()
            table.uses = table.squares = None

    @torch.no_grad()
    def clip(self, limit: float | None) -> float:
        """Finds by how much the coming step scales the gradient down to this norm; returns the norm that it has."""
        self._sae.before_step()
        for table in self._tables.values():
            p = table.parameter
            if table.parts:
                table.uses = sort_uses(table.parts, len(table.blocks_of(p)))
            if p.grad is not None:
                self._catch_up(table, None)
                if table.uses is not None:
                    _add_(p.grad, table)
                if table.unit:
                    project_out_rows_(p.grad, p)
            elif table.uses is not None:
                unit = table.blocks_of(p) if table.unit else None
                table.squares = update.square_norms(table.uses, unit)
        if self._sae.scales_latents:
            self._scale_latents()
        squares = [table.square() for table in self._tables.values()]
        norm = float(torch.stack(squares).sum().sqrt())
        self._scale = 1.0 if limit is None else min(1.0, limit / (norm + _CLIP_EPS))
        return norm

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all parameters."""
        if self._scale < 1:
            for table in self._tables.values():
                if table.parameter.grad is not None:
                    table.parameter.grad.mul_(self._scale)
        super().step()
        for table in self._tables.values():
            p = table.parameter
            if p.grad is None and table.uses is not None:
                self._update_(table, table.uses)
            elif p.grad is not None:
                if table.unit:
                    normalize_rows_(p)
                if table.deferred and "clock" in self.state[p]:
                    self._clock(table).fill_(int(self.state[p]["step"]))
            increment_version(p)  # kernels, torch's fused Adam among them, do not count
        self._sae.after_step(self.param_groups[0]["lr"])

    def _scale_latents(self) -> None:
        """Scales the gradients of columns of `W_enc` and rows of `W_dec` as the SAE wants it."""
        both = [
            (self._tables[p.data_ptr()], dim)
            for p, dim in ((self._sae.W_enc, 0), (self._sae.W_dec, 1))
        ]
        squares = torch.stack([table.squares_of_latents(dim) for table, dim in both]).sum(0)
        factor = self._sae.latent_factors(squares)
        for table, dim in both:
            table.scale_latents_(factor, dim)

    def _update_(self, table: _Table, uses: Uses) -> None:
        p = table.parameter
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)  # where fused Adam wants it
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        clock = self._clock(table) if table.deferred else None
        state["step"] += 1
        adam = self._numbers(int(state["step"]))
        learned = self._learned(table)
        if table.columns:
            update.adam_columns_(learned, uses, adam)
        else:
            blocks = Learned(*map(table.blocks_of, learned))
            update.adam_blocks_(blocks, uses, adam, unit=table.unit, only_used=table.deferred)
        if clock is not None:
            clock[uses.blocks] = int(state["step"])

    @torch.no_grad()
    def _catch_up(self, table: _Table, blocks: Tensor | None) -> None:
        state = self.state.get(table.parameter)
        if not state or "clock" not in state:
            return  # nothing was deferred yet
        clock, now = self._clock(table), int(state["step"])
        if blocks is None:
            stale = (clock < now).nonzero()[:, 0]
        else:
            blocks = blocks.flatten()  # as many make up the table as in earlier products
            stale = torch.unique(blocks[clock[blocks] < now])
        if len(stale):
            assert self._schedule is not None
            learned = as_blocks(self._learned(table), len(clock))
            catch_up_(learned, clock, stale, now, self._schedule, unit=table.unit)

    def _find(self, table: Tensor) -> _Table | None:
        found = self._tables.get(table.data_ptr())
        return found if found and table.numel() == found.parameter.numel() else None

    def _learned(self, table: _Table) -> Learned:
        state = self.state[table.parameter]
        # not the parameter itself: what autograd has saved of it stays as it was, blocks that it has read do not change
        return Learned(table.parameter.data, state["exp_avg"], state["exp_avg_sq"])

    def _clock(self, table: _Table) -> Tensor:
        """After how many steps each block was last up to date."""
        state = self.state[table.parameter]
        if "clock" not in state:
            n = len(table.blocks_of(table.parameter))
            state["clock"] = torch.full((n,), int(state["step"]), dtype=torch.int64)
        elif state["clock"].is_floating_point():  # as torch reads it back
            state["clock"] = state["clock"].long()
        clock: Tensor = state["clock"]
        return clock

    def _numbers(self, step: int) -> AdamStep:
        group = self.param_groups[0]
        beta1, beta2 = group["betas"]
        root = (1 - beta2**step) ** 0.5
        size = group["lr"] * root / (1 - beta1**step)
        return AdamStep(size, group["eps"] * root, beta1, beta2, self._scale)


def _add_(grad: Tensor, table: _Table) -> None:
    """Adds the factors to a dense gradient."""
    for part in table.parts:
        if part.columns:
            grad.add_(columns_gradient(part, grad))
        else:
            n = len(table.blocks_of(grad))
            grad.add_(kernels.block_gradient(*part[:4], n).view_as(grad))
