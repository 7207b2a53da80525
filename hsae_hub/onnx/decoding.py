"""From acts back to raw activations, in ONNX's operators: only the rows of acts are read."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch

from hsae_hub.architectures import SAE
from hsae_hub.architectures.hsae import HSAE
from hsae_hub.onnx.encoding import Slots
from hsae_hub.onnx.graph import Graph


def decode(sae: SAE[Any], g: Graph, acts: Slots, scale: str, shift: str) -> str:
    """`SAE.decode`."""
    total = sum_rows(sae, g, acts)
    if sae.b_dec is not None:
        bias = g.op("Mul", _column(g, scale), g.weight("b_dec", sae.b_dec))
        total = g.op("Add", total, bias)
    total = g.op("Add", total, _column(g, shift))
    if sae.norm_unwhiten is not None:
        total = g.op("MatMul", total, g.weight("norm_unwhiten", sae.norm_unwhiten))
    elif sae.norm_std is not None:
        total = g.op("Mul", total, g.weight("norm_std", sae.norm_std))
    if sae.norm_mean is not None:
        total = g.op("Add", total, g.weight("norm_mean", sae.norm_mean))
    return total


@singledispatch
def sum_rows(sae: SAE[Any], g: Graph, acts: Slots) -> str:
    """`SAE.sum_rows`, from a table of all decoder rows; where these are too many, an architecture registers its own."""
    table = sae.rows(torch.arange(sae.d_sae, device=sae.device))
    return _weighted(g, acts.values, g.op("Gather", g.weight("rows", table), acts.indices, axis=0))


@sum_rows.register(HSAE)
def tree_rows(sae: HSAE, g: Graph, acts: Slots) -> str:
    """Rows of parents, and those of children by way of their parent's subspace."""
    n, m, s, k = sae.config.n_parents, sae.config.n_children, sae.config.d_subspace, sae.config.k
    halves = g.indices(k, k)
    parents, children = g.ops("Split", acts.values, halves, outputs=2, axis=-1)
    parent_rows, child_rows = g.ops("Split", acts.indices, halves, outputs=2, axis=-1)
    high = g.op("Gather", g.weight("W_dec", sae.W_dec), parent_rows, axis=0)
    child_rows = g.op("Sub", child_rows, g.index(n))
    atoms = g.weight("child_W_dec_T", sae.child_W_dec_T.view(n * m, s))
    inner = g.op("Gather", atoms, child_rows, axis=0)
    inner = g.op("Mul", inner, g.op("Unsqueeze", children, g.indices(2)))
    up = g.weight("W_up_T", sae.W_up_T)
    up = g.op("Gather", up, g.op("Div", child_rows, g.index(m)), axis=0)
    up = g.op("Reshape", up, g.indices(-1, k * s, sae.d_in))
    low = _weighted(g, g.op("Reshape", inner, g.indices(-1, k * s)), up)
    return g.op("Add", _weighted(g, parents, high), low)


def _weighted(g: Graph, values: str, rows: str) -> str:
    """`[batch, q]` times `[batch, q, d_in]`."""
    product = g.op("MatMul", g.op("Unsqueeze", values, g.indices(1)), rows)
    return g.op("Squeeze", product, g.indices(1))


def _column(g: Graph, vector: str) -> str:
    return g.op("Unsqueeze", vector, g.indices(1))
