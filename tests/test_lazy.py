"""Weights that stay on disk until they are touched."""

import copy
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hsae_hub.architectures import SAE, build, list_architectures
from hsae_hub.artifact import WEIGHTS, read_artifact, save_sae
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.hub import load

WIDE = {
    "architecture": "hsae",
    "d_in": 2304,
    "n_parents": 1024,
    "n_children": 16,
    "d_subspace": 8,
    "k": 2,
}
FROZEN = Path(__file__).parent / "data" / "format_v1"
DECOMPOSE = """
import re, sys, torch
torch.set_num_threads(1)
from hsae_hub.hub import load

def own():  # bytes of this process alone: pages of a file are the system's, which takes them back when it needs to
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def run(folder, lazy, tokens):
    sae = load(folder, lazy=lazy)
    sae(torch.randn(tokens, sae.d_in, generator=torch.Generator().manual_seed(0)))
    return sae

run(sys.argv[1], False, 30_000)  # whatever is imported on the way, compiled kernels for large work among it
before = own()
sae = run(sys.argv[2], sys.argv[3] == "lazy", 16)
print(own() - before)
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lazy")
    save_sae(build(WIDE, seed=0), folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    save_sae(build({**WIDE, "d_in": 256, "n_parents": 128}, seed=0), folder)
    return folder


def random_input(sae: SAE, n: int = 20) -> torch.Tensor:
    return 3 * torch.randn(n, sae.d_in, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", list_architectures())
def test_every_architecture_gives_the_same_bits(name: str) -> None:
    folder = FROZEN / name
    whole, mapped = read_artifact(folder).sae, read_artifact(folder, lazy=True).sae
    x = random_input(whole)
    ours, theirs = whole(x), mapped(x)
    assert torch.equal(ours.sae_out, theirs.sae_out)
    assert torch.equal(ours.acts.values, theirs.acts.values)
    assert torch.equal(
        whole.decoder_rows(ours.acts.indices), mapped.decoder_rows(theirs.acts.indices)
    )
    assert {k: v.shape for k, v in whole.weights().items()} == {
        k: v.shape for k, v in mapped.weights().items()
    }


@pytest.mark.parametrize("tokens", [1, 20, 300])  # plain and compiled kernels
def test_a_wide_tree_gives_the_same_bits(tokens: int, wide: Path) -> None:
    whole, mapped = load(wide), load(wide, lazy=True)
    x = random_input(whole, tokens)
    assert torch.equal(whole(x).sae_out, mapped(x).sae_out)
    acts = mapped.encode(x)
    assert torch.equal(whole.runner_ups(x, acts), mapped.runner_ups(x, acts))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_a_few_tokens_touch_a_small_part_of_the_file(wide: Path) -> None:
    def taken(how: str) -> float:
        found = subprocess.run(
            [sys.executable, "-c", DECOMPOSE, str(FROZEN / "hsae"), str(wide), how],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(found.stdout) / (wide / WEIGHTS).stat().st_size

    # of 1,024 experts at most 32 act; the encoder, 5 % of the file, is used where it lies
    assert taken("lazy") < 0.1
    assert taken("whole") > 0.95


def test_what_cannot_stay_on_disk_is_told(wide: Path) -> None:
    with pytest.raises(UsageError, match="lazy leaves weights on disk, for the CPU; got meta"):
        load(wide, lazy=True, device="meta")


@pytest.mark.parametrize("name", list_architectures())
def test_weights_stored_in_another_type_give_the_same_bits(name: str, tmp_path: Path) -> None:
    save_sae(read_artifact(FROZEN / name).sae.bfloat16(), tmp_path)
    whole, mapped = (load(tmp_path, dtype=torch.float32, lazy=lazy) for lazy in (False, True))
    x = random_input(whole)
    ours, theirs = whole(x), mapped(x)
    assert mapped.dtype == theirs.sae_out.dtype == torch.float32
    assert torch.equal(ours.sae_out, theirs.sae_out)
    found = mapped.decoder_rows(theirs.acts.indices)
    assert torch.equal(whole.decoder_rows(ours.acts.indices), found)


def test_what_is_aligned_is_not_copied(wide: Path) -> None:
    sae = load(wide, lazy=True)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("reads Linux' /proc")
    spans = [
        line.split()[0].split("-") for line in maps.read_text().splitlines() if WEIGHTS in line
    ]
    for parameter in sae.parameters():
        at = parameter.data_ptr()
        assert any(int(start, 16) <= at < int(end, 16) for start, end in spans)


def test_blocks_that_go_and_come_again_give_the_same_bits(small: Path) -> None:
    whole, mapped = load(small), load(small, lazy=True)
    for stored in mapped._stored.values():
        stored._capacity = 5  # of the 40 that 20 tokens need
    for x in (random_input(whole), random_input(whole)[:3], random_input(whole, 7)):
        assert torch.equal(whole(x).sae_out, mapped(x).sae_out)
    assert all(len(stored._chunks) <= 5 for stored in mapped._stored.values())


def test_several_threads_share_what_is_kept(small: Path) -> None:
    whole, mapped = load(small), load(small, lazy=True)
    for stored in mapped._stored.values():
        stored._capacity = 9
    x = random_input(whole, 24)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: mapped(x[i % 24, None]).sae_out, range(72)))
    for i, out in enumerate(found):
        assert torch.equal(out, whole(x[i % 24, None]).sae_out)


def test_a_copy_is_in_memory(small: Path) -> None:
    mapped = load(small, lazy=True)
    x = random_input(mapped)
    for other in (copy.deepcopy(mapped), load(small, lazy=True).double().float()):
        assert not other._stored
        assert torch.equal(mapped(x).sae_out, other(x).sae_out)


def test_a_lazy_one_is_saved_as_it_was(small: Path, tmp_path: Path) -> None:
    save_sae(load(small, lazy=True), tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (small / WEIGHTS).read_bytes()


def damaged(small: Path, folder: Path, name: str, place: int, value: float) -> Path:
    """A copy of the same size, in which one value of a tensor is another."""
    shutil.copytree(small, folder)
    with safe_open(small / WEIGHTS, "pt") as file:
        at = file.get_tensor(name).data_ptr() - file.get_tensor("W_enc").data_ptr()
    with (folder / WEIGHTS).open("r+b") as opened:
        start = 8 + int.from_bytes(opened.read(8), "little")
        opened.seek(start + at + 4 * place)
        opened.write(struct.pack("<f", value))
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_encoder_that_is_not_finite_is_refused_when_it_is_opened(
    value: float, small: Path, tmp_path: Path
) -> None:
    folder = damaged(small, tmp_path / "copy", "W_enc", 10_003, value)
    with pytest.raises(CorruptError, match="W_enc has 1 of 32768 values that are not finite"):
        load(folder, lazy=True)


@pytest.mark.parametrize("name", ["W_dec", "W_down", "W_up", "child_W_enc", "child_W_dec"])
def test_a_row_that_is_not_finite_never_gets_into_a_result(
    name: str, small: Path, tmp_path: Path
) -> None:
    acts = load(small).encode(random_input(load(small)))
    parents = acts.indices[0].tolist()[:2]
    block = load(small).weights()[name][0].numel()
    folder = damaged(small, tmp_path / "copy", name, parents[0] * block + 5, float("nan"))
    sae = load(folder, lazy=True)
    others = [i for i in range(20) if parents[0] not in acts.indices[i].tolist()]
    sae(random_input(sae)[others])
    for _ in range(2):  # what was refused is not kept
        with pytest.raises(CorruptError, match=f"{name} has 1 of .* not finite"):
            sae(random_input(sae)[:1])


def test_a_cut_file_is_seen_before_it_is_mapped(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / WEIGHTS, 1 << 16)
    with pytest.raises(CorruptError, match="bytes, expected"):
        load(tmp_path, lazy=True)


@pytest.mark.parametrize("left", [1 << 16, 1 << 20])  # within the encoder, and within a table
def test_a_file_that_is_cut_while_it_is_in_use_is_an_error(
    left: int, small: Path, tmp_path: Path
) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    sae = load(tmp_path, lazy=True)
    x = random_input(sae)
    acts = sae.encode(x[:1])
    os.truncate(tmp_path / WEIGHTS, left)
    with pytest.raises(CorruptError, match=f"has {left} bytes, but had .* when it was opened"):
        sae.encode(x)
    with pytest.raises(CorruptError, match="when it was opened"):
        sae.decoder_rows(torch.arange(sae.d_sae - 9, sae.d_sae))
    assert sae.decoder_rows(torch.tensor([], dtype=torch.int64)).shape == (0, sae.d_in)
    assert acts.values.isfinite().all()
