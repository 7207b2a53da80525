"""Whether the values of a weight file are finite, from their bits: no type of number has to be known for it."""

from __future__ import annotations

import json
import math
from pathlib import Path

from hsae_hub.errors import CorruptError
from hsae_hub.hub.header import read_header

_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
}
"""Of each type its bits as an integer, and those of the exponent: all of them are set in nan and infinities alone."""
_AT_ONCE = 1 << 18  # values that are looked at together: they stay in a core's cache


def count_values(path: Path) -> tuple[int, dict[str, int]]:
    """How many values a safetensors file holds, and how many of each tensor are not finite, where any is.

    Raises:
        CorruptError: it is no safetensors file.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):  # compares what the header says with the file
            pass
    except SafetensorError as error:
        raise CorruptError(f"{path.name} cannot be read: {error}") from None
    count, wrong = 0, {}
    header = read_header(path, str(path))
    starts, data = json.loads(header.text), 8 + len(header.text)
    with path.open("rb") as file:
        for tensor in header.tensors:
            left = math.prod(tensor.shape)
            count += left
            if tensor.dtype not in _EXPONENTS:
                continue
            bits, exponent = _EXPONENTS[tensor.dtype]
            file.seek(data + starts[tensor.name]["data_offsets"][0])
            bad = 0
            while left > 0:
                part = np.fromfile(file, bits, min(left, _AT_ONCE))
                if not len(part):
                    raise CorruptError(f"{path.name} was cut while it was read")
                bad += int(((part & exponent) == exponent).sum())
                left -= len(part)
            if bad:
                wrong[tensor.name] = bad
    return count, wrong
