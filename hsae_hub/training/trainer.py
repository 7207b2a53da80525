"""The training loop: one stream of activations, and any number of SAEs that learn from the same batches.

Several processes each take their part of every batch; what they do between two steps is the same in all of them.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.activations import Batches, StreamState
from hsae_hub.architectures import SAE, TrainStep
from hsae_hub.errors import DivergedError
from hsae_hub.metrics import ReconstructionStats
from hsae_hub.ops import collective, products_in
from hsae_hub.recipes import TrainSection
from hsae_hub.training.checkpoints import Checkpoint
from hsae_hub.training.deferred import settle_
from hsae_hub.training.optim import (
    adam,
    clip_gradient,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)
from hsae_hub.training.row_adam import RowAdam
from hsae_hub.training.sharding import (
    add_gradients_,
    as_part,
    in_full,
    is_sharded,
    loss_weight,
    own_part,
    shard_,
)


@dataclass
class Member:
    """One of the SAEs, with its optimiser."""

    name: str
    """As in `Recipe.saes`."""
    sae: SAE[Any]
    optimizer: torch.optim.Adam | RowAdam

    def following(self) -> AbstractContextManager[None]:
        """Inside, losses and their backward hand over gradients as the optimiser takes them."""
        return self.optimizer.following() if isinstance(self.optimizer, RowAdam) else nullcontext()

    def clip(self, limit: float | None) -> float:
        """Makes the gradient ready for a step: constraints, then the global norm, which is returned."""
        if isinstance(self.optimizer, RowAdam):
            return self.optimizer.clip(limit)
        add_gradients_(self.sae)
        self.sae.before_update()
        return clip_gradient(self.sae, limit)

    def update(self, lr: float, step: TrainStep) -> None:
        """One step of the optimiser, and what the architecture does after it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        if not isinstance(self.optimizer, RowAdam):
            self.sae.after_update(step, self.optimizer)

    def settle(self) -> None:
        """Brings all weights up to date, for whoever reads them outside of `following`."""
        if isinstance(self.optimizer, RowAdam):
            self.optimizer.settle()


class Trainer:
    """Trains SAEs on a stream, step by step; each has its own optimiser, all see the same batches in one pass."""

    def __init__(
        self,
        saes: dict[str, SAE[Any]],
        stream: Batches,
        train: TrainSection,
        *,
        command: str,
        shard: bool = False,
    ) -> None:
        """`command` begins this run anew; it is what an error names.

        With `shard` each of several processes holds a part of every SAE and of its optimiser's state.
        """
        if shard and not collective.alone():
            for sae in saes.values():
                shard_(sae)
        self.stream = stream
        self.train = train
        self.step = 0
        """Steps done."""
        self.seconds = 0.0
        """Time spent so far on activations and steps, the parts before a resume included."""
        self.saved: Path | None = None
        """The newest checkpoint."""
        self.members = [
            Member(name, sae, (RowAdam if RowAdam.suits(sae) else adam)(sae, train))
            for name, sae in saes.items()
        ]
        self._command = command

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.train.n_steps

    def fill(self) -> None:
        """Reads the activations that the first step needs; before it, those that normalising is fitted to.

        Raises:
            UsageError: there is no text, or less of it than one batch.
        """
        started = time.perf_counter()
        self.stream.fill()
        fitted = [member.sae for member in self.members if member.sae.needs_sample]
        if self.step == 0 and fitted:
            sample = self.stream.norm_sample().float()
            for sae in fitted:
                sae.fit_normalization(sample)
        self.seconds += time.perf_counter() - started

    def advance(self) -> dict[str, Any] | None:
        """One step of every SAE on one batch; returns a line for metrics.jsonl at the steps that have one.

        Raises:
            DivergedError: a loss or the norm of a gradient is not finite; no weight of that SAE was changed by it.
        """
        started = time.perf_counter()
        x = self.stream.next_batch().float()
        lr = learning_rate(self.step, self.train)
        done = self.step + 1
        is_logged = done % self.train.log_every == 0 or done in (1, self.train.n_steps)
        measured = {member.name: self._update(member, x, lr, is_logged) for member in self.members}
        self.step = done
        if self.done:
            for member in self.members:
                member.settle()
        self.seconds += time.perf_counter() - started
        if not is_logged:
            return None
        return {
            "step": self.step,
            "tokens": self.stream.tokens,
            "lr": lr,
            "seconds": round(self.seconds, 3),
            "wait_seconds": round(self.stream.wait_seconds, 3),
            **measured,
        }

    def checkpoint(self) -> Checkpoint:
        """Everything that the next step depends on; of several processes the first one has it.

        Raises:
            DivergedError: a weight is not finite.
        """
        stream = self.stream.state_dict()
        tensors = {"stream": stream.tensors}
        for member in self.members:
            for name, parameter in member.sae.named_parameters():
                bad = (~own_part(parameter).isfinite()).sum()
                if int(collective.total(bad)) > 0:
                    raise self._diverged(member, f"weight {name}", math.nan)
            tensors[f"weights.{member.name}"] = in_full(member.sae.state_dict())
            tensors[f"optimizer.{member.name}"] = optimizer_tensors(member.optimizer)
        values = {"stream": stream.values, "seconds": self.seconds}
        return Checkpoint(self.step, values, tensors)

    def restore(self, checkpoint: Checkpoint, place: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            CorruptError: the text is not what it was.
        """
        state = StreamState(checkpoint.values["stream"], checkpoint.tensors["stream"])
        self.stream.load_state_dict(state)
        for member in self.members:
            weights = checkpoint.tensors[f"weights.{member.name}"]
            moments = checkpoint.tensors[f"optimizer.{member.name}"]
            if not (isinstance(member.optimizer, RowAdam) and member.optimizer.defers):
                named = {name: weights[name] for name, _ in member.sae.named_parameters()}
                moments = settle_(named, moments, member.sae.unit_rows, self.train)
            if is_sharded(member.sae):
                lying = member.sae.state_dict()
                weights = {name: as_part(x, lying[name]) for name, x in weights.items()}
            member.sae.load_state_dict(weights)
            load_optimizer_tensors(member.optimizer, moments)
        self.step = checkpoint.step
        self.seconds = checkpoint.values["seconds"]
        self.saved = place

    def _update(
        self, member: Member, x: Float[Tensor, "batch d_in"], lr: float, is_logged: bool
    ) -> dict[str, float]:
        sae = member.sae
        step = TrainStep(self.step, self.train.n_steps, self.train.accumulate)
        member.optimizer.zero_grad()
        with member.following():
            measured = batch_metrics(sae, x) if is_logged else {}
            losses = self._add_up(sae, x, step)
        value = float(collective.mean_over_rows(losses["loss"], len(x)))
        if not math.isfinite(value):
            raise self._diverged(member, "loss", value, x)
        norm = member.clip(self.train.clip_norm)
        if not math.isfinite(norm):
            raise self._diverged(member, "gradient's norm", norm, x)
        member.update(lr, step)
        if not is_logged:
            return {}
        values = torch.stack(list(losses.values()))
        parts = collective.mean_over_rows(values, len(x)).tolist()
        return {**dict(zip(losses, parts, strict=True)), **measured, "grad_norm": norm}

    def _add_up(
        self, sae: SAE[Any], x: Float[Tensor, "batch d_in"], step: TrainStep
    ) -> dict[str, Tensor]:
        """Losses of a batch and, where the optimiser takes them, their gradients: sums over its microbatches."""
        found: dict[str, Tensor] = {}
        for part in x.tensor_split(self.train.accumulate):
            with products_in(getattr(torch, self.train.matmul)):
                losses = sae.losses(part, step)
            weight = loss_weight(sae, len(part), self.train.batch_size)
            torch.autograd.backward(losses["loss"], weight)
            for name, value in losses.items():
                own = value.detach() * (len(part) / len(x))
                found[name] = found[name] + own if name in found else own
        return found

    def _diverged(
        self, member: Member, what: str, value: float, x: Tensor | None = None
    ) -> DivergedError:
        lm_dtype = self.stream.origin.model.dtype
        peak = self.train.lr
        bad = 0 if x is None else collective.total_count(int((~x.isfinite()).sum()))
        if x is not None and bad > 0:
            share = f"{bad} of {collective.total_count(x.numel())} values"
            why = f"the batch of activations is not finite ({share}); the model runs in {lm_dtype}"
            change = "model.dtype=float32"
        elif self.step == 0:
            why = "it was so before any update: the weights in its loss overflow"
            change = ""
        elif member.sae.dtype != torch.float32:
            why = f"its weights are {str(member.sae.dtype).removeprefix('torch.')}"
            change = "train.dtype=float32"
        else:
            at = learning_rate(self.step, self.train)
            why = f"the learning rate is probably too high: {at:.2g} at this step, {peak:g} at its peak"
            change = f"train.lr={peak / 3:.1g}"
        kept = (
            f"the last good checkpoint is {self.saved}" if self.saved else "none was saved before"
        )
        return DivergedError(
            f"training stopped at step {self.step + 1}: the {what} of {member.name} is {value}; {kept}",
            why=why,
            fix=f"{self._command} --set {change} --out ANOTHER_FOLDER" if change else "",
        )


@torch.no_grad()
def batch_metrics(sae: SAE[Any], x: Float[Tensor, "batch d_in"]) -> dict[str, float]:
    """Explained variance (where the batch has any) and mean L0 on a batch of raw activations, all processes' parts."""
    output = sae(x)
    l0 = float(collective.mean_over_rows(output.acts.l0().mean(), len(x)))
    stats = ReconstructionStats(sae.d_in)
    stats.update(x, output.sae_out)
    stats.pool(collective.total)
    if stats.tokens < 2:
        return {"l0": l0}
    return {"explained_variance": stats.explained_variance(), "l0": l0}
