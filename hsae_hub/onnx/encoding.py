"""From raw activations to acts, for every architecture: its forward in ONNX's operators.

Each function does what `encode_normalized` of its class does; where acts fall in any number, with as many slots as the
fullest token of the batch needs. `export` compares what the graphs give with torch.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, NamedTuple

from hsae_hub.architectures import SAE
from hsae_hub.architectures.base import LAYER_NORM_EPS, NORM_EPS
from hsae_hub.architectures.batch_topk import BatchTopKSAE
from hsae_hub.architectures.compositional import CompositionalSAE
from hsae_hub.architectures.dynamic import DynamicSAE
from hsae_hub.architectures.gated import GatedSAE
from hsae_hub.architectures.group import GroupSAE
from hsae_hub.architectures.hsae import HSAE, LEAK
from hsae_hub.architectures.jumprelu import JumpReLUSAE
from hsae_hub.architectures.l1 import L1SAE
from hsae_hub.architectures.matryoshka import MatryoshkaSAE
from hsae_hub.architectures.nested import NestedSAE
from hsae_hub.architectures.switch import SwitchSAE
from hsae_hub.architectures.topk import TopKSAE
from hsae_hub.errors import UsageError
from hsae_hub.onnx.graph import Graph

BATCH_NORM_EPS = 1e-5  # that of torch's batch norm


class Slots(NamedTuple):
    """Names of the values and flat indices of acts, each `[batch, slots]`."""

    values: str
    indices: str
    width: int | str
    """How many slots there are; `slots` where that depends on the batch."""


class Normal(NamedTuple):
    """Names of a normalised token, and of the scale and shift that undo it (see `Acts`)."""

    x: str
    scale: str
    shift: str


def normalize(sae: SAE[Any], g: Graph, x: str) -> Normal:
    """`SAE.normalize`."""
    if sae.norm_mean is not None:
        x = g.op("Sub", x, g.weight("norm_mean", sae.norm_mean))
    if sae.norm_std is not None:
        x = g.op("Div", x, g.weight("norm_std", sae.norm_std))
    if sae.norm_whiten is not None:
        x = g.op("MatMul", x, g.weight("norm_whiten", sae.norm_whiten))
    batch = g.op("Shape", x, start=0, end=1)
    scale, shift = (g.op("Expand", g.number(value), batch) for value in (1.0, 0.0))
    divisor, way = "", sae.config.normalize
    if way == "unit_norm":
        norm = g.op("ReduceL2", x, g.indices(1), keepdims=0)
        scale = g.op("Add", norm, g.number(NORM_EPS))
    elif way in ("layer_norm", "layer_norm_unbiased"):
        shift = g.op("ReduceMean", x, g.indices(1), keepdims=0)
        apart = g.op("Sub", x, _column(g, shift))
        squares = g.op("ReduceSum", g.op("Mul", apart, apart), g.indices(1), keepdims=0)
        freedom = sae.d_in - (way == "layer_norm_unbiased")
        variance = g.op("Div", squares, g.number(float(freedom)))
        eps = g.number(LAYER_NORM_EPS)
        if way == "layer_norm":
            scale = divisor = g.op("Sqrt", g.op("Add", variance, eps))
        else:
            scale = g.op("Sqrt", variance)
            divisor = g.op("Add", scale, eps)
    elif sae.norm_scale is not None:
        scale = g.op("Expand", g.weight("norm_scale", sae.norm_scale), batch)
    if way not in ("none", "standardize"):
        x = g.op("Div", g.op("Sub", x, _column(g, shift)), _column(g, divisor or scale))
    return Normal(x, scale, shift)


@singledispatch
def encode(sae: SAE[Any], g: Graph, x: str) -> Slots:
    """Adds the nodes that give the acts of normalised tokens; another architecture registers its own by its class.

    Raises:
        UsageError: the class of `sae` has none.
    """
    raise UsageError(
        f"no ONNX graph is known for {type(sae).__name__}",
        fix=f"register one: @hsae_hub.onnx.encoding.encode.register({type(sae).__name__})",
    )


@encode.register(TopKSAE)
def topk(sae: TopKSAE, g: Graph, x: str) -> Slots:
    """The k largest pre-activations."""
    return _largest(g, _pre_acts(sae, g, _without_bias(sae, g, x)), sae.config.k)


@encode.register(L1SAE)
@encode.register(GroupSAE)
@encode.register(DynamicSAE)
def relu(sae: L1SAE | GroupSAE | DynamicSAE, g: Graph, x: str) -> Slots:
    """What is positive; of these only `l1` takes the decoder's bias away first."""
    centred = _without_bias(sae, g, x) if isinstance(sae, L1SAE) else x
    return _nonzero(g, g.op("Relu", _pre_acts(sae, g, centred)))


@encode.register(BatchTopKSAE)
@encode.register(MatryoshkaSAE)
@encode.register(JumpReLUSAE)
def above_threshold(sae: BatchTopKSAE | MatryoshkaSAE | JumpReLUSAE, g: Graph, x: str) -> Slots:
    """What is above the threshold; that of `jumprelu` alone may let negative ones through."""
    acts = _pre_acts(sae, g, _without_bias(sae, g, x))
    if not isinstance(sae, JumpReLUSAE):
        acts = g.op("Relu", acts)
    passes = g.op("Greater", acts, g.weight("threshold", sae.threshold))
    return _nonzero(g, g.op("Where", passes, acts, g.number(0.0)))


@encode.register(GatedSAE)
def gated(sae: GatedSAE, g: Graph, x: str) -> Slots:
    """Magnitudes where the gate is open."""
    shared = _encoder(sae, g, _without_bias(sae, g, x))
    gate = g.op("Add", shared, g.weight("b_gate", sae.b_gate))
    scaled = g.op("Mul", shared, g.op("Exp", g.weight("r_mag", sae.r_mag)))
    magnitude = g.op("Relu", g.op("Add", scaled, g.weight("b_mag", sae.b_mag)))
    opened = g.op("Greater", gate, g.number(0.0))
    return _nonzero(g, g.op("Where", opened, magnitude, g.number(0.0)))


@encode.register(SwitchSAE)
def switch(sae: SwitchSAE, g: Graph, x: str) -> Slots:
    """The k largest of the expert that the router picks; here all experts multiply every token."""
    experts, width = sae.config.n_experts, sae.d_sae // sae.config.n_experts
    routed = g.op("Sub", x, g.weight("b_router", sae.b_router))
    routed = g.op("MatMul", routed, g.weight("W_router", sae.W_router))
    probabilities = g.op("Softmax", routed, axis=-1)
    expert = g.op("ArgMax", probabilities, axis=-1, keepdims=1)
    probability = g.op("ReduceMax", probabilities, g.indices(1), keepdims=1)
    pre = _encoder(sae, g, _without_bias(sae, g, x))
    pre = g.op("Reshape", pre, g.indices(-1, experts, width))
    kept = _largest(g, g.op("GatherND", pre, expert, batch_dims=1), sae.config.k)
    first = g.op("Mul", expert, g.index(width))
    return Slots(
        g.op("Mul", kept.values, probability), g.op("Add", kept.indices, first), kept.width
    )


@encode.register(NestedSAE)
def nested(sae: NestedSAE, g: Graph, x: str) -> Slots:
    """Each dictionary under its own layer norm; there may be no shared one."""
    pre = _pre_acts(sae, g, x)
    parts = {"special": pre}
    if sae.config.n_shared > 0:
        sizes = g.indices(sae.config.n_shared, sae.d_sae - sae.config.n_shared)
        shared, special = g.ops("Split", pre, sizes, outputs=2, axis=-1)
        parts = {"shared": shared, "special": special}
    normal = []
    for part, values in parts.items():
        names = f"norm_{part}_weight", f"norm_{part}_bias"
        affine = [g.weight(name, sae.get_parameter(name)) for name in names]
        normal.append(g.op("LayerNormalization", values, *affine, axis=-1, epsilon=LAYER_NORM_EPS))
    return _nonzero(g, g.op("Relu", g.op("Concat", *normal, axis=-1)))


@encode.register(CompositionalSAE)
def compositional(sae: CompositionalSAE, g: Graph, x: str) -> Slots:
    """Tier by tier; the batch norm that joins two is that of inference, a product and a sum."""
    w = sae.weights()
    bases = [g.weight(f"W_{i + 1}", w[f"W_{i + 1}"]) for i in sae.tiers]
    biases = [g.weight(f"b_{i + 1}", w[f"b_{i + 1}"]) for i in sae.tiers]
    acts = [g.op("Relu", g.op("Add", g.op("MatMul", x, bases[0]), biases[0]))]
    for i in sae.tiers[:-1]:
        end = "" if i == 0 else f"_{i + 1}"
        slope = w[f"bn_weight{end}"] * (w[f"bn_var{end}"] + BATCH_NORM_EPS).rsqrt()
        offset = w[f"bn_bias{end}"] - slope * w[f"bn_mean{end}"]
        even = g.op("Mul", acts[i], g.weight(f"bn_slope{end}", slope))
        even = g.op("Add", even, g.weight(f"bn_offset{end}", offset))
        composed = g.op("MatMul", even, g.weight(f"W_c{end}", w[f"W_c{end}"]))
        through = bases[i + 1 if sae.config.compose_through == "second" else i]
        back = g.op("MatMul", composed, g.op("Transpose", through))
        pre = g.op("MatMul", g.op("Add", x, back), bases[i + 1])
        acts.append(g.op("Relu", g.op("Add", pre, biases[i + 1])))
    shares = (1 - sae.held_back).tolist()
    present = [g.op("Mul", act, g.number(s)) for act, s in zip(acts, shares, strict=True)]
    return _nonzero(g, g.op("Concat", *present, axis=-1))


@encode.register(HSAE)
def hsae(sae: HSAE, g: Graph, x: str) -> Slots:
    """The k largest parents and the best child of each; only rows of these parents are read for children."""
    n, m, s, k = sae.config.n_parents, sae.config.n_children, sae.config.d_subspace, sae.config.k
    zero, theta = g.number(0.0), g.number(sae.theta)
    x = _without_bias(sae, g, x)
    pre = _encoder(sae, g, x)
    above = g.op("Where", g.op("GreaterOrEqual", pre, theta), pre, zero)
    parents, rows = g.ops("TopK", above, g.indices(k), outputs=2, axis=-1, sorted=0)
    down = g.op("Gather", g.weight("W_down", sae.W_down), rows, axis=0)
    down = g.op("Reshape", down, g.indices(-1, k * s, sae.d_in))
    inner = g.op("MatMul", down, g.op("Unsqueeze", x, g.indices(2)))
    inner = g.op("Reshape", inner, g.indices(-1, k, s, 1))
    atoms = g.op("Gather", g.weight("child_W_enc", sae.child_W_enc), rows, axis=0)
    child_pre = g.op("Squeeze", g.op("MatMul", atoms, inner), g.indices(3))
    leaked = g.op("Mul", child_pre, g.number(LEAK))
    children = g.op("Where", g.op("GreaterOrEqual", child_pre, theta), child_pre, leaked)
    best = g.op("ArgMax", children, axis=-1, keepdims=0)
    value = g.op("ReduceMax", children, g.indices(2), keepdims=0)
    value = g.op("Where", g.op("Greater", parents, zero), value, zero)
    flat = g.op("Add", g.op("Mul", rows, g.index(m)), g.op("Add", best, g.index(n)))
    return Slots(
        g.op("Concat", parents, value, axis=-1), g.op("Concat", rows, flat, axis=-1), 2 * k
    )


def _column(g: Graph, vector: str) -> str:
    return g.op("Unsqueeze", vector, g.indices(1))


def _without_bias(sae: SAE[Any], g: Graph, x: str) -> str:
    """The token without the decoder's bias, if there is one and the config takes it away."""
    if sae.b_dec is None or not getattr(sae.config, "pre_encoder_bias", True):
        return x
    return g.op("Sub", x, g.weight("b_dec", sae.b_dec))


def _encoder(sae: SAE[Any], g: Graph, x: str) -> str:
    return g.op("MatMul", x, g.weight("W_enc", sae.W_enc))


def _pre_acts(sae: Any, g: Graph, x: str) -> str:
    pre = _encoder(sae, g, x)
    return pre if sae.b_enc is None else g.op("Add", pre, g.weight("b_enc", sae.b_enc))


def _largest(g: Graph, pre: str, k: int) -> Slots:
    values, indices = g.ops("TopK", pre, g.indices(k), outputs=2, axis=-1, sorted=0)
    return Slots(g.op("Relu", values), indices, k)


def _nonzero(g: Graph, dense: str) -> Slots:
    """`nonzero_slots`: as many slots as the fullest row needs, at least one."""
    is_zero = g.op("Equal", dense, g.number(0.0))
    active = g.op("Cast", g.op("Not", is_zero), to=7)  # TensorProto.INT64
    counts = g.op("ReduceSum", active, g.indices(1), keepdims=0)
    counts = g.op("Concat", g.indices(1), counts, axis=0)
    slots = g.op("ReduceMax", counts, g.indices(0), keepdims=1)
    _, indices = g.ops("TopK", g.op("Abs", dense), slots, outputs=2, axis=-1, sorted=0)
    return Slots(g.op("GatherElements", dense, indices, axis=-1), indices, "slots")
