"""An ONNX graph node by node, and a folder of graphs; large weights go into one file that the graphs share."""

from __future__ import annotations

from collections.abc import Mapping
from io import BufferedWriter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from jaxtyping import Float, Shaped
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from hsae_hub import __version__

WEIGHTS = "weights.bin"
_DOMAIN = "ai.onnx"
_PAGE = 1 << 16  # offsets that every system can map into memory (onnx's notes on external data)

Size = int | str
"""A number, or the name of a size that only a call knows."""


class Value(NamedTuple):
    """An input or output of a graph."""

    name: str
    dtype: str
    """`float32` or `int64`."""
    shape: tuple[Size, ...]


class Place(NamedTuple):
    """Where a weight lies in the file of weights, in bytes."""

    offset: int
    length: int


class Graph:
    """A graph under construction: values are known by their names, weights are kept until it is written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.weights: dict[str, Tensor] = {}
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def input(self, value: Value) -> str:
        """Declares an input."""
        self.inputs.append(value)
        return value.name

    def output(self, value: Value, of: str) -> None:
        """Gives a value out, under the name of the output."""
        self.nodes.append(helper.make_node("Identity", [of], [value.name]))
        self.outputs.append(value)

    def weight(self, name: str, tensor: Float[Tensor, ...]) -> str:
        """A tensor of the SAE, by its name there."""
        self.weights[name] = tensor
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self._constant(np.asarray(value, np.float32))

    def index(self, value: int) -> str:
        """An int64 scalar."""
        return self._constant(np.asarray(value, np.int64))

    def indices(self, *values: int) -> str:
        """An int64 vector, such as a shape or a list of axes."""
        return self._constant(np.asarray(values, np.int64))

    def op(self, kind: str, *inputs: str, **attributes: int | float) -> str:
        """Adds a node of ONNX's operator `kind` with the standard's attributes; the name of its output."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: int | float) -> list[str]:
        """The same for a node of several outputs."""
        number = len(self.nodes)
        names = [f"{kind}_{number}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names

    def model(self, opset: int, weights: Mapping[str, Place] | None) -> onnx.ModelProto:
        """The finished model: with its weights inside, or pointing to their places in the file of weights."""
        initializers = list(self._constants.values())
        for name, tensor in self.weights.items():
            if weights is None:
                initializers.append(numpy_helper.from_array(_array(tensor), name))
            else:
                initializers.append(_pointer(name, tensor, weights[name]))
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [_declared(value) for value in self.inputs],
            [_declared(value) for value in self.outputs],
            initializers,
        )
        imports = [helper.make_opsetid(_DOMAIN, opset)]
        return helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=helper.find_min_ir_version_for(imports),
            producer_name="hsae-hub",
            producer_version=__version__,
        )

    def _constant(self, array: Shaped[np.ndarray, "..."]) -> str:
        values = "_".join(str(value) for value in array.reshape(-1).tolist())
        name = f"{array.dtype}_{'x'.join(map(str, array.shape)) or 'scalar'}_{values}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name


def write_graphs(graphs: list[Graph], folder: Path, *, opset: int, external_above: int) -> None:
    """Writes `NAME.onnx` for each graph; weights inside, or in one file if any graph has more bytes of them."""
    every = {name: tensor for graph in graphs for name, tensor in graph.weights.items()}
    largest = max(sum(map(_size, graph.weights.values())) for graph in graphs)
    places = None
    if largest > external_above:
        with (folder / WEIGHTS).open("wb") as file:
            places = {name: _append(file, tensor) for name, tensor in every.items()}
    for graph in graphs:
        model = graph.model(opset, places).SerializeToString()
        (folder / f"{graph.name}.onnx").write_bytes(model)


def _append(file: BufferedWriter, tensor: Tensor) -> Place:
    file.write(bytes(-file.tell() % _PAGE))
    offset = file.tell()
    _array(tensor).tofile(file)
    return Place(offset, _size(tensor))


def _array(tensor: Tensor) -> Shaped[np.ndarray, "..."]:
    """As the standard stores it: float32, little-endian."""
    array: Shaped[np.ndarray, "..."] = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return array.astype("<f4", copy=False)


def _size(tensor: Tensor) -> int:
    return 4 * tensor.numel()


def _pointer(name: str, tensor: Tensor, place: Place) -> onnx.TensorProto:
    proto = TensorProto(
        name=name,
        data_type=TensorProto.FLOAT,
        dims=tensor.shape,
        data_location=TensorProto.EXTERNAL,
    )
    where = {"location": WEIGHTS, "offset": place.offset, "length": place.length}
    for key, value in where.items():
        proto.external_data.add(key=key, value=str(value))
    return proto


def _declared(value: Value) -> onnx.ValueInfoProto:
    kind = TensorProto.FLOAT if value.dtype == "float32" else TensorProto.INT64
    return helper.make_tensor_value_info(value.name, kind, value.shape)
