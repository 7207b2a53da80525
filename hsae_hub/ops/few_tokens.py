"""The few entries of `x W` that matter, for a few tokens at a time, of which most of the cost is to read `W`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.ops.kernels import compiles

MOST_TOKENS = 4
"""With more of them the whole product is as fast."""
_WORTH_IT = 2**22  # weights: fewer are in a cache
_ROOM = 16  # so many times fewer than all may be above a threshold: to look at more takes as long as the whole
_AT_ONCE = 1024  # columns
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Columns(NamedTuple):
    """Columns of a matrix as rows, in parts that are read apart (`kernels.certifying`)."""

    high: Any
    low: Any
    scale: Any
    norm: Any
    margin: Any

    @staticmethod
    def of(W: Tensor) -> _Columns:
        from hsae_hub.ops.kernels.certifying import divide
        from hsae_hub.ops.kernels.compiling import spread

        width, n = W.shape
        parts = np.empty((n, width), np.int8), np.empty((n, width), np.int16)
        found = _Columns(*parts, *(np.empty(n, np.float32) for _ in range(3)))

        def work(first: int, last: int) -> None:
            for start in range(first, last, _AT_ONCE):
                columns = slice(start, min(start + _AT_ONCE, last))
                some = W.detach()[:, columns].float().contiguous().numpy()
                divide(some, *(part[columns] for part in found))

        spread(work, n, torch.get_num_threads())
        return found


class _Proposed(NamedTuple):
    """Tokens and what the high parts of columns make of them."""

    tokens: Any
    products: Any
    bias: Any
    columns: _Columns


class FewTokens:
    """Finds the largest, or those above a threshold, in a fifth of the whole product's time, where numba is installed.

    It keeps `W`, transposed, in 3 bytes a weight (113 MB for 2304 × 16,384), made at the second call with the same
    weights in the same place, and made anew when they change. What tells is the tensor's version: whoever writes to its
    memory past torch calls `forget`. Weights that are being trained are left alone.

    The choice is that of the whole product, also of one that is rounded to 16 bits; where the rounding of float32 could
    decide it there is none. Values are those of the whole product within its rounding.
    """

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] | None = None
        self._columns: _Columns | None = None

    def top_k(
        self,
        x: Float[Tensor, "batch d_in"],
        W: Float[Tensor, "d_in n"],
        k: int,
        *,
        bias: Float[Tensor, " n"] | None = None,
        centre: Float[Tensor, " d_in"] | None = None,
    ) -> tuple[Float[Tensor, "batch k"], Int64[Tensor, "batch k"]] | None:
        """The `k` largest of `(x - centre) W + bias`, and where they are; None where that has to be computed whole."""
        proposed = self._propose(x, W, bias, centre) if k < W.shape[1] else None
        if proposed is None:
            return None
        from hsae_hub.ops.kernels.certifying import certify_largest

        values, places = torch.empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64)
        tokens, products, biases, columns = proposed
        for row in zip(tokens, products, values.numpy(), places.numpy(), strict=True):
            if not certify_largest(row[0], row[1], biases, *columns[1:], row[2], row[3]):
                return None
        return values.to(x.dtype), places

    def above(
        self,
        x: Float[Tensor, "batch d_in"],
        W: Float[Tensor, "d_in n"],
        threshold: Float[Tensor, " n"] | None,
        *,
        bias: Float[Tensor, " n"] | None = None,
        centre: Float[Tensor, " d_in"] | None = None,
        empty: float = 0.0,
    ) -> tuple[Float[Tensor, "batch a"], Int64[Tensor, "batch a"]] | None:
        """Those of `(x - centre) W + bias` above a threshold, or above 0, and where they are.

        A token with fewer than another has slots left, of the value `empty`. None where all has to be computed.
        """
        proposed = self._propose(x, W, bias, centre)
        if proposed is None:
            return None
        from hsae_hub.ops.kernels.certifying import certify_above

        room = len(x), max(W.shape[1] // _ROOM, 1)
        values, places = torch.full(room, empty), torch.zeros(room, dtype=torch.int64)
        limit = _array(None if threshold is None else _limit(threshold, x.dtype))
        tokens, products, biases, columns = proposed
        most = 1
        for row in zip(tokens, products, values.numpy(), places.numpy(), strict=True):
            found = certify_above(row[0], row[1], biases, *columns[1:], limit, row[2], row[3])
            if found < 0:
                return None
            most = max(most, found)
        return values[:, :most].to(x.dtype), places[:, :most]

    def forget(self) -> None:
        """Frees what is kept."""
        self._seen = self._columns = None

    def _propose(
        self, x: Tensor, W: Tensor, bias: Tensor | None, centre: Tensor | None
    ) -> _Proposed | None:
        if W.requires_grad:  # it may learn now, by steps that its version does not count
            self.forget()
            return None
        if not 0 < len(x) <= MOST_TOKENS or (x.requires_grad and torch.is_grad_enabled()):
            return None
        columns = self._of(W)
        if columns is None or x.dtype != W.dtype or x.device != W.device:
            return None
        from hsae_hub.ops.kernels.certifying import propose
        from hsae_hub.ops.kernels.compiling import spread, threads_for

        tokens = _array(x if centre is None else x - centre)
        n = W.shape[1]
        products = np.empty((len(x), n), np.float32)
        spread(
            lambda first, last: propose(tokens, columns.high, columns.scale, products, first, last),
            n,
            threads_for(len(x) * W.numel()),
        )
        return _Proposed(tokens, products, _array(bias), columns)

    def _of(self, W: Tensor) -> _Columns | None:
        if W.is_inference() or type(W) not in (Tensor, nn.Parameter) or W.numel() < _WORTH_IT:
            return None
        seen = (W.data_ptr(), W._version, W.shape, W.dtype)
        if seen != self._seen:
            self._seen, self._columns = seen, None
        elif self._columns is None and W.device.type == "cpu" and W.dtype in _TYPES and compiles():
            self._columns = _Columns.of(W)
        return self._columns


def _array(tensor: Tensor | None) -> Any:
    """In float32; nothing for None."""
    if tensor is None:
        return np.empty(0, np.float32)
    return tensor.detach().float().contiguous().numpy()


def _limit(threshold: Float[Tensor, " n"], dtype: torch.dtype) -> Float[Tensor, " n"]:
    """What a sum has to be above of, to be above the threshold when it is rounded to a type."""
    if dtype == torch.float32:
        return threshold
    next_ = torch.nextafter(threshold, threshold.new_full((), torch.inf))
    return (threshold.float() + next_.float()) / 2
