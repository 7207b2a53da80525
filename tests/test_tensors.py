"""Files that can be used where they lie, and whether other readers and checks take them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hsae_hub.architectures import build
from hsae_hub.artifact import WEIGHTS, save_sae
from hsae_hub.artifact.tensors import check_finite, is_aligned, write_tensors
from hsae_hub.errors import CorruptError
from hsae_hub.ops import ALIGNED


def drawn() -> dict[str, torch.Tensor]:
    return {
        "odd": torch.randn(33),
        "even": torch.randn(7, 16),
        "one": torch.tensor(2.5),
        "third": torch.randn(3, 2, 4),
        "wide": torch.randn(3, 32),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_huggingface_reads_what_is_written(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in drawn().items()}
    metadata = {"format_version": "1", "told": "größer als 0"}
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_tensors(ours, tensors, metadata)
    save_file(tensors, theirs, metadata)
    found = load_file(ours)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    with safe_open(ours, "pt") as file, safe_open(theirs, "pt") as other:
        assert file.metadata() == other.metadata() == metadata
        assert torch.equal(file.get_slice("wide")[1:], other.get_slice("wide")[1:])


def test_tensors_begin_where_torch_lets_its_own_begin(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in range(70):  # whatever the length of the header
        write_tensors(path, drawn(), {"padding": "x" * length})
        with safe_open(path, "pt") as file:
            mapped = {name: file.get_tensor(name) for name in drawn()}
        aligned = {name for name, tensor in mapped.items() if is_aligned(tensor)}
        assert aligned >= {"even", "wide", "third"}  # 448, 384 bytes, and 96 after them
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % ALIGNED == 0 and raw[8:9] == b"{"
    ends = [t["data_offsets"][1] for n, t in json.loads(raw[8 : 8 + length]).items() if n[0] != "_"]
    assert max(ends) == len(raw) - 8 - length


def test_every_matrix_of_a_tree_can_be_used_where_it_lies(tmp_path: Path) -> None:
    config = {"architecture": "hsae", "d_in": 48, "n_parents": 32, "n_children": 5, "k": 2}
    save_sae(build({**config, "d_subspace": 3, "bias": True}, seed=0), tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert all(is_aligned(file.get_tensor(name)) for name in file.keys())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 77, 99])
def test_one_value_that_is_not_finite_is_found(
    value: float, dtype: torch.dtype, place: int
) -> None:
    tensor = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
    check_finite("W", tensor)
    tensor[place] = value
    with pytest.raises(CorruptError, match="W has 1 of 100 values that are not finite"):
        check_finite("W", tensor)
