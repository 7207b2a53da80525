"""The Triton kernels without a GPU: what they compute, by Triton's interpreter, and that they compile for Hopper."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="no triton here (it has Linux wheels): not tested")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process: see triton_kernels.py", True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from hsae_hub.ops.kernels import cuda, cuda_blocks, cuda_steps, cuda_top_k, cuda_update  # noqa: E402
from hsae_hub.ops.kernels.uses import AdamStep, BlockGradient, Learned, Uses  # noqa: E402

ROOT = Path(__file__).parents[1]
SHARED = 232_448
"""Bytes of shared memory that one program can have on an H100 or H200."""
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}


class Compiled:
    """Stands in for a kernel: compiles for Hopper what would be launched."""

    def __init__(self, kernel: Any, found: list[Any]) -> None:
        self.kernel = kernel
        self.found = found

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.launch

    def launch(self, *given: Any, num_warps: int = 4, **constants: Any) -> None:
        names = self.kernel.arg_names
        types = {}
        aligned = {}
        for at, (name, value) in enumerate(zip(names, given, strict=False)):
            if value is None or (isinstance(value, int) and value == 1):
                constants[name] = value
            elif isinstance(value, Tensor):
                types[name] = TYPES[value.dtype]
            else:
                types[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
                aligned[(at,)] = [["tt.divisibility", 16]]
        types |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(
            self.kernel,
            {name: types[name] for name in names},
            {(names.index(name),): value for name, value in constants.items()},
            aligned,
        )
        hopper = GPUTarget("cuda", 90, 32)
        self.found.append(triton.compile(source, hopper, {"num_warps": num_warps}))


@pytest.mark.parametrize("cases", ["triton_kernels.py", "triton_updates.py"])
def test_kernels_agree_with_plain_torch(cases: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", f"tests/{cases}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What is launched inside the test."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found: list[Any] = []
    for module in (cuda_blocks, cuda_steps, cuda_top_k):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Compiled(getattr(module, name), found))
    return found


def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*size, dtype=dtype, device="meta")


def test_kernels_compile_for_a_gpu(compiled: list[Any]) -> None:
    x = empty(4096, 2304, dtype=torch.bfloat16)
    table, values = x.new_empty(16_384, 8, 2304), x.new_empty(4096, 32, 8)
    index = empty(4096, 32, dtype=torch.int64)
    cuda.block_dot(x, table, index)
    cuda.block_dot(x, table[:, :1].contiguous(), index)
    cuda.block_sum(values, index, table)
    cuda.block_gradient(*BlockGradient.of(x, values, index)[:4], len(table))
    cuda.top_k(x, 8)
    assert len(compiled) == 5 and all(each.asm["cubin"] for each in compiled)
    assert max(each.metadata.shared for each in compiled) < SHARED
    assert "mma" in compiled[0].asm["ptx"]  # the grouped product is made by matrix instructions


def test_updates_compile_for_a_gpu(compiled: list[Any]) -> None:
    n, width, whole = 16_384, 2304, torch.int64
    starts, blocks = empty(n + 1, dtype=whole), empty(n, dtype=whole)
    tokens = empty(4096 * 32, dtype=whole)
    uses = Uses(empty(4096, width), tokens, empty(len(tokens), 1), blocks, starts)
    rows = Learned(*(empty(n, 1, width) for _ in range(3)))
    columns = Learned(*(empty(width, n) for _ in range(3)))
    adam = AdamStep(1e-3, 1e-8, 0.9, 0.999, 1.0)
    cuda_update.adam_blocks_(rows, uses, adam, unit=True, only_used=True)
    few = uses._replace(blocks=blocks[:0], starts=starts[:1])
    cuda_update.adam_columns_(columns, few, adam)
    assert len({each.name for each in compiled}) == 5
    assert all(each.asm["cubin"] for each in compiled)
    assert max(each.metadata.shared for each in compiled) < SHARED
