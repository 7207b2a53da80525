"""Pushes the residual along features, makes features act more, less or not at all, or swaps one for its sibling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hsae_hub.architectures import SAE, Acts
from hsae_hub.artifact import LatentTable
from hsae_hub.attach.batches import Reading
from hsae_hub.attach.gates import Where, make_where
from hsae_hub.attach.steering_spec import PUSHES, Edit, Gate, SteeringSpec
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel


class Scaling(NamedTuple):
    """What some latents add is multiplied; by 0 it is taken out."""

    latents: Bool[Tensor, " d_sae"]
    factor: float
    where: Where


class Swap(NamedTuple):
    """A child's act goes to its sibling."""

    child: int
    sibling: int
    where: Where


class Clamp(NamedTuple):
    """A latent acts at `scaled` times the token's norm plus `added`."""

    latent: int
    row: Float[Tensor, " d_in"]
    scaled: float
    added: float
    where: Where


class Push(NamedTuple):
    """`scaled` times the token's norm plus `added` is added."""

    scaled: Float[Tensor, " d_in"]
    added: Float[Tensor, " d_in"]
    where: Where


class Projection(NamedTuple):
    """What lies along a unit vector is taken out."""

    unit: Float[Tensor, " d_in"]
    where: Where


@dataclass(frozen=True, eq=False)
class Steering:
    """An intervention: the edits of a `SteeringSpec`, in the order that it states."""

    sae: SAE[Any] | None
    """None where no act is read, and the SAE stayed behind."""
    scalings: tuple[Scaling, ...] = ()
    swaps: tuple[Swap, ...] = ()
    clamps: tuple[Clamp, ...] = ()
    pushes: tuple[Push, ...] = ()
    projections: tuple[Projection, ...] = ()

    @property
    def _changes_acts(self) -> bool:
        return bool(self.scalings or self.swaps or self.clamps)

    @property
    def reads_acts(self) -> bool:
        """Whether it needs the SAE, beside the vectors that it has."""
        gates = [push.where for push in self.pushes] + [each.where for each in self.projections]
        return self._changes_acts or any(where.latent is not None for where in gates)

    def __call__(
        self, activations: Float[Tensor, "b s d"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        """The steered activations; padding and special tokens stay as they are."""
        x = activations.to(torch.promote_types(activations.dtype, torch.float32))
        norm = torch.linalg.vector_norm(x, dim=-1)
        acts = self.sae.encode(x) if self.sae is not None and self.reads_acts else None
        y = x
        if self.sae is not None and acts is not None and self._changes_acts:
            y = y + self._change_of_acts(self.sae, acts, norm, reading)
        for push in self.pushes:
            on = push.where(reading, acts)[..., None]
            y = y + torch.where(on, norm[..., None] * push.scaled + push.added, 0)
        for unit, where in self.projections:
            along = (y @ unit)[..., None] * unit
            y = y - torch.where(where(reading, acts)[..., None], along, 0)
        return torch.where(reading.ordinary[..., None], y.to(activations.dtype), activations)

    def _change_of_acts(
        self, sae: SAE[Any], acts: Acts, norm: Float[Tensor, "b s"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        values, indices = acts.values, acts.indices
        for latents, factor, where in self.scalings:
            chosen = latents[indices] & where(reading, acts)[..., None]
            values = torch.where(chosen, values * factor, values)
        for child, sibling, where in self.swaps:
            chosen = (indices == child) & where(reading, acts)[..., None]
            indices = torch.where(chosen, sibling, indices)
        held: dict[int, Tensor] = {}
        for clamp in self.clamps:
            on = clamp.where(reading, acts)
            values = torch.where((indices == clamp.latent) & on[..., None], 0, values)
            before = held.get(clamp.latent, torch.zeros_like(norm))
            held[clamp.latent] = torch.where(on, norm * clamp.scaled + clamp.added, before)
        changed = (values != acts.values) | (indices != acts.indices)
        new = Acts(values, indices, acts.d_sae, acts.scale, acts.shift)
        change = sae.decode(new.keep(changed)) - sae.decode(acts.keep(changed))
        rows = {clamp.latent: clamp.row for clamp in self.clamps}
        return change + sum(held[latent][..., None] * row for latent, row in rows.items())


@torch.no_grad()
def make_steering(
    sae: SAE[Any], spec: SteeringSpec, stats: LatentTable | None, lm: LanguageModel
) -> Steering:
    """Turns a spec into what is done to this SAE's latents.

    Raises:
        NotFoundError: the SAE has no such feature.
        UsageError: a strength is in multiples of an act that nobody has measured, or that never was positive; two
            features that are to be swapped are not children of one parent; a direction has another width. Every problem
            is in `problems`.
    """
    making = _Making(sae, stats, lm)
    for edit in spec.edits:
        making.add(edit)
    if making.problems or making.unmeasured:
        problems = tuple(dict.fromkeys([*making.problems, *making.unmeasured]))
        fix = "give strengths in the activations' own units: units='raw'"
        raise UsageError(problems[0], fix=fix if making.unmeasured else "", problems=problems)
    return Steering(
        sae,
        tuple(making.scalings),
        tuple(making.swaps),
        tuple(making.clamps),
        tuple(making.pushes.values()),
        tuple(making.projections),
    )


class _Making:
    """The parts of a `Steering` while they are put together, and what stands against it."""

    def __init__(self, sae: SAE[Any], stats: LatentTable | None, lm: LanguageModel) -> None:
        self.sae = sae
        self.stats = stats
        self.lm = lm
        self.scalings: list[Scaling] = []
        self.swaps: list[Swap] = []
        self.clamps: list[Clamp] = []
        self.pushes: dict[tuple[Gate, int | None], Push] = {}
        self.projections: list[Projection] = []
        self.problems: list[str] = []
        self.unmeasured: list[str] = []

    def add(self, edit: Edit) -> None:
        """Adds what an edit comes to, or says why it cannot be done."""
        latent = None if edit.feature is None else self.sae.shape.index_of(edit.feature)
        parent = None if latent is None else self.sae.shape.parent_of(latent)
        where = make_where(edit.gate, latent, parent, self.lm)
        strength = 0.0 if edit.strength is None else edit.strength
        if latent is None:
            self._along(edit, where, strength)
        elif edit.mode in PUSHES:
            above = [] if parent is None or edit.mode == "relative" else [parent]
            self._push(edit, [*above, latent], where, strength)
        elif edit.mode == "set":
            unit = self._units(edit, [latent])
            held = strength * float(unit)
            row = self._rows([latent])[0]
            scaled, added = (held, 0.0) if edit.units == "p999" else (0.0, held)
            self.clamps.append(Clamp(latent, row, scaled, added, where))
        elif edit.mode == "project_out":
            row = self._rows([latent])[0]
            self.projections.append(Projection(row / row.norm(), where))
        elif edit.sibling is not None:
            self._swap(edit, latent, where)
        else:
            latents = torch.zeros(self.sae.d_sae, dtype=torch.bool, device=self.sae.device)
            latents[_with_children(self.sae, latent)] = True
            self.scalings.append(Scaling(latents, strength, where))

    def _push(self, edit: Edit, latents: list[int], where: Where, strength: float) -> None:
        along = strength * (self._units(edit, latents) @ self._rows(latents))
        self._add_push(edit, along, where)

    def _along(self, edit: Edit, where: Where, strength: float) -> None:
        direction = torch.tensor(edit.direction, dtype=torch.float32, device=self.sae.device)
        if len(direction) != self.sae.d_in:
            self.problems.append(
                f"direction has {len(direction)} numbers, the activations have width {self.sae.d_in}"
            )
            return
        unit = direction / direction.norm()
        if edit.mode == "project_out":
            self.projections.append(Projection(unit, where))
        else:
            self._add_push(edit, strength * (direction if edit.units == "raw" else unit), where)

    def _add_push(self, edit: Edit, along: Float[Tensor, " d_in"], where: Where) -> None:
        """Pushes behind one gate are one vector."""
        key = (edit.gate, where.latent)
        nothing = torch.zeros_like(along)
        scaled, added = (along, nothing) if edit.units == "p999" else (nothing, along)
        if key in self.pushes:
            scaled, added = scaled + self.pushes[key].scaled, added + self.pushes[key].added
        self.pushes[key] = Push(scaled, added, where)

    def _swap(self, edit: Edit, latent: int, where: Where) -> None:
        sibling, shape = self.sae.shape.index_of(edit.sibling or ""), self.sae.shape
        parents = {shape.parent_of(latent), shape.parent_of(sibling)}
        if len(parents) == 1 and None not in parents and sibling != latent:
            self.swaps.append(Swap(latent, sibling, where))
        else:
            names = f"{shape.name(latent)} and {shape.name(sibling)}"
            self.problems.append(f"swap: {names} are not two children of one parent")

    def _rows(self, latents: list[int]) -> Float[Tensor, "i d_in"]:
        return self.sae.decoder_rows(torch.tensor(latents, device=self.sae.device)).float()

    def _units(self, edit: Edit, latents: list[int]) -> Float[Tensor, " i"]:
        if edit.units == "raw":
            return torch.ones(len(latents), device=self.sae.device)
        self.unmeasured += _unmeasured(self.sae, latents, self.stats)
        if self.stats is None:
            return torch.ones(len(latents), device=self.sae.device)
        return self.stats.p999[latents].float().to(self.sae.device)


def _with_children(sae: SAE[Any], latent: int) -> list[int]:
    shape = sae.shape
    if latent >= shape.n_parents:
        return [latent]
    return [latent, *(shape.child(latent, child) for child in range(shape.n_children))]


def _unmeasured(sae: SAE[Any], latents: list[int], stats: LatentTable | None) -> list[str]:
    if stats is None:
        return [
            "this SAE came without stats.safetensors, so nobody knows how strong its features are"
        ]
    return [
        f"feature {sae.shape.name(i)} is dead: it was never positive on {stats.tokens:,} tokens"
        for i in latents
        if not stats.p999[i] > 0
    ]
