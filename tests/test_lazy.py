"""Weights that stay on disk until they are touched."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

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

def run(folder, lazy):
    sae = load(folder, lazy=lazy)
    sae(torch.randn(16, sae.d_in, generator=torch.Generator().manual_seed(0)))
    return sae

run(sys.argv[1], False)  # whatever is imported on the way
before = own()
sae = run(sys.argv[2], sys.argv[3] == "lazy")
print(own() - before)
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lazy")
    save_sae(build(WIDE, seed=0), folder)
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


def test_a_wide_tree_gives_the_same_bits(wide: Path) -> None:
    whole, mapped = load(wide), load(wide, lazy=True)
    x = random_input(whole)
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

    # the encoder, which every token needs whole, is 5 % of this file; of 1,024 experts at most 32 act
    assert taken("lazy") < 0.2
    assert taken("whole") > 0.95


def test_what_cannot_stay_on_disk_is_told(wide: Path) -> None:
    with pytest.raises(UsageError, match="lazy leaves weights as they lie on disk, float32"):
        load(wide, lazy=True, dtype=torch.bfloat16)


def test_a_cut_file_is_seen_before_it_is_mapped(wide: Path, tmp_path: Path) -> None:
    for path in wide.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.truncate(1 << 20)
    with pytest.raises(CorruptError, match="bytes, expected"):
        load(tmp_path, lazy=True)
