"""The three graphs of an SAE: encode, decode, and both in one."""

from __future__ import annotations

from typing import Any

from hsae_hub.architectures import SAE
from hsae_hub.onnx.decoding import decode
from hsae_hub.onnx.encoding import Slots, encode, normalize
from hsae_hub.onnx.graph import Graph, Value

_BATCH = "batch"


def build_graphs(sae: SAE[Any]) -> list[Graph]:
    """`encode` (x to values, indices, scale, shift), `decode` (these to sae_out) and `full` (x to all five).

    Raises:
        UsageError: there is no graph for its class.
    """
    tokens = Value("x", "float32", (_BATCH, sae.d_in))
    encoder, decoder, full = Graph("encode"), Graph("decode"), Graph("full")
    slots, scale, shift = _encoded(sae, encoder, encoder.input(tokens))
    declared = _acts(slots.width)
    for value, found in zip(declared, (slots.values, slots.indices, scale, shift), strict=True):
        encoder.output(value, found)

    values, indices, scale, shift = map(decoder.input, declared)
    sae_out = decode(sae, decoder, Slots(values, indices, slots.width), scale, shift)
    reconstruction = Value("sae_out", "float32", (_BATCH, sae.d_in))
    decoder.output(reconstruction, sae_out)

    slots, scale, shift = _encoded(sae, full, full.input(tokens))
    full.output(reconstruction, decode(sae, full, slots, scale, shift))
    for value, found in zip(declared, (slots.values, slots.indices, scale, shift), strict=True):
        full.output(value, found)
    return [encoder, decoder, full]


def _encoded(sae: SAE[Any], g: Graph, x: str) -> tuple[Slots, str, str]:
    """Acts in raw units, scale and shift."""
    normal = normalize(sae, g, x)
    slots = encode(sae, g, normal.x)
    column = g.op("Unsqueeze", normal.scale, g.indices(1))
    return slots._replace(values=g.op("Mul", slots.values, column)), normal.scale, normal.shift


def _acts(width: int | str) -> tuple[Value, Value, Value, Value]:
    return (
        Value("values", "float32", (_BATCH, width)),
        Value("indices", "int64", (_BATCH, width)),
        Value("scale", "float32", (_BATCH,)),
        Value("shift", "float32", (_BATCH,)),
    )
