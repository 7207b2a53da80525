"""What a training step takes: an architecture's own losses and their gradients, traced on tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.fx.experimental import _config as tracing
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hsae_hub.architectures import SAEConfig, TrainStep, architecture
from hsae_hub.ops import products_in

_LATE = TrainStep(720_720, 720_721)
"""When every tier takes part, and every penalty that comes each 1 to 16 steps."""

aten = torch.ops.aten


class StepCost(NamedTuple):
    """What one SAE takes in training; bytes and FLOPs are of whole steps, not of tokens."""

    parameters: int
    weights_bytes: int
    saved_bytes: int
    """The tensors of the saved SAE, with a percentile and a density of each latent."""
    checkpoint_bytes: int
    """Weights, counters and both moments."""
    peak_bytes: int
    """Most that a step holds at once beside weights and moments: batch, what the loss keeps, gradients, on a GPU."""
    flops: int
    """Matrix products and sums of rows, forward and backward; work on single elements is left out."""

    @property
    def resident_bytes(self) -> int:
        """What stays between steps: weights, gradients, both moments."""
        return 4 * self.weights_bytes


def step_cost(
    config: SAEConfig, *, batch_size: int, dtype: torch.dtype, matmul: torch.dtype = torch.float32
) -> StepCost:
    """Traces a step of `batch_size` tokens; it takes milliseconds and no memory, whatever the sizes.

    What depends on values is taken at its most: all latents that might be dead are.
    """
    with torch.device("meta"):
        sae = architecture(config.architecture)(config).to(dtype)
    weights = _bytes(sae.parameters())
    flops = FlopCounterMode(display=False, custom_mapping=_ROW_FLOPS)
    assumed = tracing.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
    live = LiveBytes([*sae.parameters(), *sae.buffers()])
    with assumed, flops, live, products_in(matmul):
        x = torch.empty(batch_size, config.d_in, device="meta")
        torch.autograd.backward(sae.losses(x, _LATE)["loss"])
    return StepCost(
        parameters=sum(parameter.numel() for parameter in sae.parameters()),
        weights_bytes=weights,
        saved_bytes=_bytes(sae.weights().values()) + 8 * sae.d_sae,
        checkpoint_bytes=_bytes(sae.state_dict().values()) + 2 * weights,
        peak_bytes=live.peak,
        flops=flops.get_total_flops(),
    )


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors made while it is entered, those of `known` storages left out."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known = {id(tensor.untyped_storage()) for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = _AS_WITHOUT_A_MODE.get(func, func)(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        workspace = row_gradient_workspace(args[1], result) if func in _ROW_GRADIENTS else 0
        self.peak = max(self.peak, self._now + workspace)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._known:
            self._known.add(id(storage))
            self._now += storage.nbytes()
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self._now -= size


_ROW_GRADIENTS = {aten._embedding_bag_backward.default, aten._embedding_bag_dense_backward.default}
# autograd fills a tensor of zeros in place, but makes a second one while a mode is entered
_AS_WITHOUT_A_MODE = {
    aten.scatter.src: aten.scatter_.src,
    aten.index_put.default: aten.index_put_.default,
}


def row_gradient_workspace(
    indices: Int64[Tensor, " uses"], gradient: Float[Tensor, "rows width"]
) -> int:
    """Bytes that a GPU takes beside the gradient of a table of rows.

    It adds up ten uses of a row at a time, then those sums, beside three more copies of the indices
    (PyTorch, `aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu`).
    """
    uses, (rows, width) = len(indices), gradient.shape
    return 4 * width * (uses // 10 + min(uses, rows)) + 3 * indices.itemsize * uses


def _row_flops(table: int, rows: int) -> Callable[..., int]:
    """Two FLOPs for each number of each row that is used; arguments are told by their place."""

    def count(*shapes: Any, **_: Any) -> int:
        return 2 * int(prod(shapes[rows])) * int(shapes[table][-1])

    return count


_ROW_FLOPS = {
    aten._embedding_bag: _row_flops(0, 1),
    aten._embedding_bag_backward: _row_flops(0, 1),
    aten._embedding_bag_dense_backward: _row_flops(0, 1),
    aten._embedding_bag_per_sample_weights_backward: _row_flops(1, 2),
}
