"""Dense products of training: oneDNN's and bfloat16's against float64, by themselves and in every architecture."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_architectures import TINY
from test_training import RECIPE
from torch import Tensor

from hsae_hub.architectures import list_architectures
from hsae_hub.artifact import read_artifact
from hsae_hub.ops import product, products_in, topk_linear
from hsae_hub.recipes import load_recipe
from hsae_hub.training import Trainer, train

SMALL, LARGE = (3, 5, 7), (48, 300, 200)
"""Rows and both widths of a product; the larger one is for oneDNN."""
COARSE = 2**-8
"""What is lost at most by rounding a number to bfloat16."""


def operands(shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    rows, a, b = shape
    g = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=g, dtype=torch.float64) for s in ((rows, a), (a, b), (b,))]
    return [x.to(dtype).requires_grad_() for x in drawn]


def values_and_gradients(found: Tensor, given: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view(found.shape)
    gradients = torch.autograd.grad((found * weights).sum(), given)
    return [found.detach(), *gradients]


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_product_and_its_gradients_are_those_of_float64(shape, precision):
    exact = operands(shape, torch.float64)
    expected = values_and_gradients(torch.addmm(exact[2], exact[0], exact[1]), exact)
    given = operands(shape, torch.float32)
    with products_in(precision):
        found = product(*given)
    # backward runs outside of the block, as it does in a thread of its own on a GPU
    for one, other in zip(values_and_gradients(found, given), expected, strict=True):
        assert one.dtype == torch.float32
        away = float((one.double() - other).norm() / other.norm())
        assert away < (1e-5 if precision == torch.float32 else COARSE)
        is_bias = other.shape == exact[2].shape
        assert is_bias or precision == torch.float32 or away > 1e-4  # it was rounded


LAYOUTS = {
    "rows": lambda W: W.contiguous(),
    "columns": lambda W: W.T.contiguous().T,
    "rows of more": lambda W: W.repeat(2, 1)[: len(W)],
    "parts of rows": lambda W: W.repeat(1, 2)[:, : W.shape[1]],
    "parts of columns": lambda W: W.T.repeat(1, 2)[:, : len(W)].T,
    "every other": lambda W: W.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("of_W", LAYOUTS)
def test_a_large_float32_product_is_onednns_where_it_has_a_kernel(of_x, of_W):
    """Of a matrix with gaps between its rows it takes the product number by number, thousands of times slower."""
    x, W, _ = operands(LARGE, torch.float32)
    given = LAYOUTS[of_x](x.detach()), LAYOUTS[of_W](W.detach())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        found = product(*given)
    is_onednns = "mkldnn::_linear_pointwise" in {event.key for event in seen.key_averages()}
    assert is_onednns == (of_W in ("rows", "columns", "rows of more"))
    assert torch.allclose(found, x @ W, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_onednn_has_a_kernel_for_every_product_that_it_is_given():
    program = """
import torch
from test_products import LARGE, LAYOUTS, operands
from hsae_hub.ops import product
x, W, _ = operands(LARGE, torch.float32)
for of_x in LAYOUTS.values():
    for of_W in LAYOUTS.values():
        product(of_x(x.detach()), of_W(W.detach()))
"""
    environment = os.environ | {"ONEDNN_VERBOSE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    used = [line for line in done.stdout.splitlines() if ",exec,cpu,inner_product," in line]
    assert len(used) == 3 * len(LAYOUTS)
    assert not [line for line in used if ",ref:" in line]


def test_kept_values_are_the_rounded_ones_that_were_chosen():
    x, W, _ = operands(LARGE, torch.float32)
    with products_in(torch.bfloat16):
        pre, values, indices = topk_linear(x, W, lambda pre: pre.topk(4).indices)
    assert torch.equal(pre, pre.bfloat16().float())
    assert torch.equal(values, pre.gather(-1, indices))
    assert torch.equal(values, pre.topk(4).values)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of every architecture in bfloat16, and of what type its last checkpoint was."""
    saes = {
        name: {"architecture": name, "d_in": 256, **TINY[name]} for name in list_architectures()
    }
    saes["compositional"]["starts"] = [0, 0.01]
    recipe = RECIPE | {
        "data": RECIPE["data"] | {"train": [{"builtin": "python-docs"}]},
        "sae": saes.pop("hsae"),
        "baseline": None,
        "also": saes,
        "train": {"steps": 40, "batch_size": 32, "lr": 1e-2, "warmup_steps": 0, "log_every": 10}
        | {"matmul": "bfloat16"},
    }
    folder = tmp_path_factory.mktemp("bfloat16")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    types = {}
    checkpoint = Trainer.checkpoint

    def watched(trainer):
        found = checkpoint(trainer)
        for name, tensors in found.tensors.items():
            types[name] = {x.dtype for x in tensors.values() if x.is_floating_point()}
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "checkpoint", watched)
        train(load_recipe(folder / "recipe.yaml"), folder / "out", device="cpu")
    return folder / "out", types


@pytest.mark.parametrize("name", list_architectures())
def test_every_architecture_learns_in_bfloat16_and_keeps_float32(run, name):
    out, types = run
    key, folder = ("sae", out) if name == "hsae" else (name, out / name)
    assert types[f"weights.{key}"] == types[f"optimizer.{key}"] == {torch.float32}
    saved = load_file(folder / "sae.safetensors")
    assert {x.dtype for x in saved.values()} == {torch.float32}
    assert saved.keys() == read_artifact(folder).sae.weights().keys()
    lines = [json.loads(line)[key] for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["reconstruction"] for line in lines]
    assert losses[-1] < 0.9 * max(losses)  # a second tier, as it comes in, adds to it
