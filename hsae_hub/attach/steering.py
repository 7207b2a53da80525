"""Pushes the residual along features, and takes features out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from hsae_hub.architectures import SAE
from hsae_hub.artifact import LatentTable
from hsae_hub.attach.batches import Reading
from hsae_hub.errors import UsageError
from hsae_hub.problems import key_paths, problems_of

Mode = Literal["full", "relative"]
Units = Literal["p999", "raw"]
_SPELLING = "write 4121/3=+1.5, or 588=0 to take a feature out"


class Edit(BaseModel):
    """What is done to one feature."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    feature: str = Field(min_length=1)
    """`4121` for a parent, `4121/3` for its child, or a flat index."""
    strength: float = Field(allow_inf_nan=False)
    """In `units`; negative pushes away; 0 takes out what the feature adds now, a parent together with its children."""
    mode: Mode = "full"
    """Whether a child is pushed together with its parent (`full`) or alone (`relative`)."""
    units: Units = "p999"
    """`p999`: multiples of its 99.9th-percentile act at the token's residual norm; `raw`: the act itself."""


EditSpec = Mapping[Any, float | int] | Sequence[Edit | str] | str


def parse_edits(spec: EditSpec, *, mode: Mode = "full", units: Units = "p999") -> tuple[Edit, ...]:
    """Reads `{"4121/3": 1.5, "588": 0}`, a text such as `4121/3=+1.5`, or a list of texts and of `Edit`.

    `mode` and `units` hold for edits that do not bring their own.

    Raises:
        UsageError: an edit cannot be read, or there is none; every problem is in `problems`.
    """
    edits: list[Edit] = []
    problems: list[str] = []
    for item in _items(spec):
        if isinstance(item, Edit):
            edits.append(item)
            continue
        try:
            edits.append(Edit.model_validate({**item, "mode": mode, "units": units}))
        except ValidationError as error:
            found = problems_of(error, key_paths(Edit), (str(item.get("feature")),))
            problems += [str(problem) for problem in found]
    if problems or not edits:
        problems = problems or ["no edit was given"]
        raise UsageError(problems[0], fix=_SPELLING, problems=tuple(problems))
    return tuple(edits)


def _items(spec: EditSpec) -> Iterator[Edit | dict[str, Any]]:
    if isinstance(spec, Mapping):
        yield from ({"feature": name, "strength": value} for name, value in spec.items())
        return
    for item in [spec] if isinstance(spec, str) else spec:
        if isinstance(item, Edit):
            yield item
        else:
            name, _, strength = item.partition("=")
            yield {"feature": name.strip(), "strength": strength.strip()}


@dataclass(frozen=True, eq=False)
class Steering:
    """An intervention. All its edits read the activations as they come in, so their order does not matter."""

    sae: SAE[Any] | None
    """None where no act is read, and the SAE stayed behind."""
    scaled: Float[Tensor, " d_in"]
    """Added to every token, times its norm."""
    added: Float[Tensor, " d_in"]
    """Added to every token."""
    removed: Bool[Tensor, " d_sae"] | None
    """Latents whose contribution is taken out; None if there are none."""

    def __call__(
        self, activations: Float[Tensor, "b s d"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        """The steered activations; padding and special tokens stay as they are."""
        x = activations.to(torch.promote_types(activations.dtype, torch.float32))
        change = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scaled + self.added
        if self.removed is not None and self.sae is not None:
            change = change - contribution(self.sae, x, self.removed)
        return torch.where(
            reading.ordinary[..., None], (x + change).to(activations.dtype), activations
        )

    @property
    def reads_acts(self) -> bool:
        """Whether it needs the SAE, beside the vectors that it has."""
        return self.removed is not None


def contribution(
    sae: SAE[Any], x: Float[Tensor, "b s d"], latents: Bool[Tensor, " d_sae"]
) -> Float[Tensor, "b s d"]:
    """What some of the latents add to the reconstruction."""
    acts = sae.encode(x)
    chosen = latents[acts.indices]
    return sae.decode(acts.keep(chosen)) - sae.decode(acts.keep(torch.zeros_like(chosen)))


@torch.no_grad()
def make_steering(sae: SAE[Any], edits: Sequence[Edit], stats: LatentTable | None) -> Steering:
    """Turns edits into the two vectors and the set of latents that they come to.

    Raises:
        NotFoundError: the SAE has no such feature.
        UsageError: a strength is in multiples of an act that nobody has measured, or that never was positive.
    """
    device = sae.device
    vectors = {
        "p999": torch.zeros(sae.d_in, device=device, dtype=torch.float32),
        "raw": torch.zeros(sae.d_in, device=device, dtype=torch.float32),
    }
    removed = torch.zeros(sae.d_sae, dtype=torch.bool)
    problems: list[str] = []
    for edit in edits:
        latent = sae.shape.index_of(edit.feature)
        parent = sae.shape.parent_of(latent)
        pushed = [latent] if parent is None or edit.mode == "relative" else [parent, latent]
        if edit.strength == 0:
            removed[_with_children(sae, latent)] = True
            continue
        unit = torch.ones(len(pushed))
        if edit.units == "p999":
            problems += _unmeasured(sae, pushed, stats)
            unit = unit if stats is None else stats.p999[pushed].cpu()
        rows = sae.decoder_rows(torch.tensor(pushed, device=device)).float()
        vectors[edit.units] += edit.strength * (unit.float().to(device) @ rows)
    if problems:
        raise UsageError(
            problems[0],
            fix="give strengths in the activations' own units: units='raw'",
            problems=tuple(dict.fromkeys(problems)),
        )
    some = bool(removed.any())
    return Steering(sae, vectors["p999"], vectors["raw"], removed.to(device) if some else None)


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
