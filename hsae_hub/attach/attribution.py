"""What latents do to the model's answer: their effect on a loss, a log-probability or a difference of two logits.

Every SAE's acts are put in the activations' place as they are, the error added, so that the model computes what it
computes without them and gradients arrive at the acts. Gradients pass an SAE on their way to an earlier one as if it
were not there (Marks et al. 2024, arXiv 2403.19647, with an error that is passed through).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hsae_hub.architectures import SAE, Acts
from hsae_hub.attach.batches import Reading, TokenBatch, pad_left
from hsae_hub.attach.decomposing import token_texts
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.gates import Where
from hsae_hub.attach.losses import Site
from hsae_hub.attach.running import Placed
from hsae_hub.attach.steering import Scaling, Steering
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel
from hsae_hub.render import table

Method = Literal["gradient", "integrated"]
Target = str | tuple[str, str] | None


@dataclass(frozen=True)
class Effect:
    """What one latent on one token does to the target."""

    sae: str
    """Name of the SAE among those that are attached."""
    position: int
    token: str
    feature: str
    """`4121` for a parent, `4121/3` for its child; each counts alone."""
    act: float
    effect: float
    """About what the target loses without it, in the target's units."""
    ablated: float | None = None
    """What it loses without it for real; None where that was not tried."""


@dataclass(frozen=True)
class Edge:
    """What a latent does to the target through a latent of a later SAE, all ways between them together."""

    source: int
    """Place in `Attribution.effects`."""
    sink: int
    effect: float
    """act of the source × ∂(act of the sink)/∂(act of the source) × ∂target/∂(act of the sink)."""


@dataclass(frozen=True)
class Attribution:
    """The strongest effects on a target, and how they reach each other."""

    target: str
    """What is asked: the loss, a log-probability, or a difference of logits."""
    value: float
    """Of the target, in nats or logits."""
    method: Method
    totals: dict[str, float]
    """Sum of the effects of all latents of an SAE, those that are not among `effects` too."""
    effects: tuple[Effect, ...]
    """Strongest first."""
    edges: tuple[Edge, ...] = ()
    """Strongest first; none with a single SAE."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("", "sae", "token", "feature", "act", "effect", "ablated")
        rows = [
            (
                str(number),
                one.sae,
                f"{one.position} {one.token!r}",
                one.feature,
                f"{one.act:.2f}",
                f"{one.effect:+.4f}",
                "" if one.ablated is None else f"{one.ablated:+.4f}",
            )
            for number, one in enumerate(self.effects)
        ]
        totals = ", ".join(f"{name} {value:+.4f}" for name, value in self.totals.items())
        lines = [f"{self.target}: {self.value:.4f}; all latents: {totals}", "", table(head, rows)]
        if self.edges:
            paths = [(f"{e.source} → {e.sink}", f"{e.effect:+.4f}") for e in self.edges]
            lines += ["", table(("edge", "effect"), paths)]
        return "\n".join(lines)


class _Watch:
    """An intervention that changes nothing at `part` 1 and lets gradients arrive at the acts; below, acts times it."""

    def __init__(self, sae: SAE[Any], part: float = 1.0) -> None:
        self.sae = sae
        self.part = part
        self.acts: Acts
        """Connected to what comes before."""
        self.leaf: Float[Tensor, "b s a"]

    def __call__(
        self, activations: Float[Tensor, "b s d"], reading: Reading
    ) -> Float[Tensor, "b s d"]:
        x = activations.to(torch.promote_types(activations.dtype, torch.float32))
        self.acts = acts = self.sae.encode(x)
        self.leaf = acts.values.detach().requires_grad_()
        alone = Acts(self.leaf, acts.indices, acts.d_sae, acts.scale.detach(), acts.shift.detach())
        with torch.no_grad():
            x_hat = self.sae.decode(alone)
        changed = x + self.sae.decode(alone.replace(self.leaf * self.part)) - x_hat
        return torch.where(reading.ordinary[..., None], changed.to(activations.dtype), activations)


class Asked:
    """A target on one text.

    Raises:
        UsageError: the target is not one token, or no token of the text follows another.
    """

    def __init__(self, engine: Engine, ids: list[int], target: Target) -> None:
        self.engine = engine
        self.ids = ids
        self.batch: TokenBatch = pad_left(engine.lm, [ids])
        words = () if target is None else (target,) if isinstance(target, str) else target
        self.tokens = [_token(engine.lm, each) for each in words]
        names = " − ".join(f"logit {each!r}" for each in words)
        self.name = "loss" if target is None else f"log p {target!r}" if len(words) == 1 else names
        ordinary = torch.tensor([i not in engine.lm.special_ids for i in ids])
        self.pairs = (ordinary[:-1] & ordinary[1:]).nonzero()[:, 0]
        if target is None and not len(self.pairs):
            raise UsageError("the text has no token that follows another", fix="give a longer text")

    def value(self, placed: Sequence[Placed], *, gradients: bool) -> Float[Tensor, ""]:
        """With some interventions, in nats or logits."""
        logits = self.engine.logits(self.batch, placed, gradients=gradients)[0].float()
        if not self.tokens:
            at = self.pairs.to(logits.device)
            wanted = self.batch.ids.to(logits.device)[0, at + 1]
            return torch.nn.functional.cross_entropy(logits[at], wanted)
        if len(self.tokens) == 1:
            return logits[-1].log_softmax(-1)[self.tokens[0]]
        return logits[-1, self.tokens[0]] - logits[-1, self.tokens[1]]


def _token(lm: LanguageModel, text: str) -> int:
    ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) != 1:
        raise UsageError(
            f"the target {text!r} has {len(ids)} tokens, expected 1",
            why="a blank before a word belongs to its token",
        )
    return int(ids[0])


def attribute(
    asked: Asked,
    sites: Mapping[str, Site],
    placed: Sequence[Placed],
    method: Method,
    steps: int,
    top: int,
    check: int,
) -> Attribution:
    """The `top` strongest effects of all SAEs' latents, the first `check` of them tried for real.

    Raises:
        UsageError: a number is too small.
    """
    if min(steps, top) < 1 or check < 0:
        raise UsageError(
            f"steps (={steps}) and top (={top}) must be at least 1, check (={check}) 0"
        )
    watches = {name: _Watch(site.sae) for name, site in sites.items()}
    watched = [Placed(sites[name].hookpoint, watch) for name, watch in watches.items()]
    target = asked.value([*placed, *watched], gradients=True)
    value = float(target.detach())
    leaves = [watch.leaf for watch in watches.values()]
    slopes = dict(zip(watches, torch.autograd.grad(target, leaves, retain_graph=True), strict=True))
    effects = {name: watches[name].leaf.detach() * slope for name, slope in slopes.items()}
    if method == "integrated":
        for name, site in sites.items():
            slope = _mean_slope(asked, site, placed, steps)
            effects[name] = watches[name].leaf.detach() * slope
    nodes = _strongest(asked, sites, watches, effects, top)
    edges = _edges(watches, slopes, nodes) if len(sites) > 1 else []
    found = [
        replace(one, ablated=value - _without(asked, sites[one.sae], placed, one))
        if number < check
        else one
        for number, (one, _) in enumerate(nodes)
    ]
    totals = {name: float(each.sum()) for name, each in effects.items()}
    strongest = sorted(edges, key=lambda edge: -abs(edge.effect))[:top]
    return Attribution(asked.name, value, method, totals, tuple(found), tuple(strongest))


def _mean_slope(
    asked: Asked, site: Site, placed: Sequence[Placed], steps: int
) -> Float[Tensor, "b s a"]:
    """Mean gradient at the acts on the way from none to all of them (Sundararajan et al. 2017, midpoint rule)."""
    total: Tensor | None = None
    for step in range(steps):
        watch = _Watch(site.sae, (step + 0.5) / steps)
        value = asked.value([*placed, Placed(site.hookpoint, watch)], gradients=True)
        # the leaf is multiplied by the part, and so is its gradient
        slope = torch.autograd.grad(value, watch.leaf)[0] / watch.part
        total = slope if total is None else total + slope
    assert total is not None
    return total / steps


def _strongest(
    asked: Asked,
    sites: Mapping[str, Site],
    watches: Mapping[str, _Watch],
    effects: Mapping[str, Float[Tensor, "b s a"]],
    top: int,
) -> list[tuple[Effect, tuple[int, int]]]:
    """Effects with their token and slot."""
    texts = token_texts(asked.engine.lm, asked.ids)
    found: list[tuple[Effect, tuple[int, int]]] = []
    for name, effect in effects.items():
        indices, slots = watches[name].acts.indices, effect.shape[-1]
        acts = watches[name].leaf.detach()
        order = effect[0].abs().flatten().topk(min(top, effect[0].numel())).indices.tolist()
        for at, slot in (divmod(i, slots) for i in order):
            act = float(acts[0, at, slot])
            if act == 0:
                continue
            feature = sites[name].sae.shape.name(int(indices[0, at, slot]))
            one = Effect(name, at, texts[at], feature, act, float(effect[0, at, slot]))
            found.append((one, (at, slot)))
    return sorted(found, key=lambda pair: -abs(pair[0].effect))[:top]


def _edges(
    watches: Mapping[str, _Watch],
    slopes: Mapping[str, Float[Tensor, "b s a"]],
    nodes: Sequence[tuple[Effect, tuple[int, int]]],
) -> list[Edge]:
    found = []
    for sink, (one, (at, slot)) in enumerate(nodes):
        act = watches[one.sae].acts.values[0, at, slot]
        for name, watch in watches.items():
            if name == one.sae or not act.requires_grad:
                continue
            (slope,) = torch.autograd.grad(act, watch.leaf, retain_graph=True, allow_unused=True)
            if slope is None:  # it comes later
                continue
            through = watch.leaf.detach() * slope * slopes[one.sae][0, at, slot]
            for source, (other, (before, own)) in enumerate(nodes):
                if other.sae == name and (effect := float(through[0, before, own])):
                    found.append(Edge(source, sink, effect))
    return found


def _without(asked: Asked, site: Site, placed: Sequence[Placed], one: Effect) -> float:
    """The target without one latent on one token, its child or parent left alone."""
    latents = torch.zeros(site.sae.d_sae, dtype=torch.bool, device=site.sae.device)
    latents[site.sae.shape.index_of(one.feature)] = True
    where = Where(positions=(one.position,))
    out = Placed(site.hookpoint, Steering(site.sae, scalings=(Scaling(latents, 0.0, where),)))
    return float(asked.value([*placed, out], gradients=False))
