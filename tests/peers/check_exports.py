"""Run by `tests/test_interop_exports.py` in an environment that has the peers: each toolkit reads what we wrote for it.

A folder holds what `hsae export` wrote and `expected.safetensors` with tokens `x`, `acts` and `sae_out`; its name
begins with the format's. Prints the largest difference of each, relative to the largest value, as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock, patch

import sae_lens
import torch
from safetensors.torch import load_file
from sparsify import SparseCoder
from torch import Tensor

# dictionary_learning asks for an nnsight that no other package goes with; reading and writing SAEs needs none.
sys.modules.update({name: MagicMock() for name in ("nnsight", "zstandard")})
load_dictionary = import_module("dictionary_learning.utils").load_dictionary
AutoEncoder = import_module("dictionary_learning.dictionary").AutoEncoder


def of_sae_lens(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    sae = sae_lens.SAE.load_from_disk(folder)
    assert sae.cfg.metadata.model_name == "google/gemma-2-2b"
    assert sae.cfg.metadata.hook_name == "blocks.20.hook_resid_post"
    acts = sae.encode(x)
    return acts, sae.decode(acts)


def of_sparsify(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    sae = SparseCoder.load_from_disk(folder)
    found = sae.encode(x)
    acts = x.new_zeros(len(x), sae.num_latents).scatter(1, found.top_indices, found.top_acts)
    return acts, sae.decode(found.top_acts, found.top_indices)


def of_dictionary_learning(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    with patch.object(AutoEncoder, "normalize_decoder"):  # which it does unless told not to
        sae, _ = load_dictionary(str(folder), "cpu")
    acts = sae.encode(x)
    return acts, sae.decode(acts)


READERS = {
    "sae-lens": of_sae_lens,
    "sparsify": of_sparsify,
    "dictionary-learning": of_dictionary_learning,
}


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


@torch.no_grad()
def check(folder: Path) -> dict[str, float]:
    expected = load_file(folder / "expected.safetensors")
    read = READERS[folder.name.split("_")[0]]
    acts, sae_out = read(folder, expected["x"])
    return {"acts": apart(acts, expected["acts"]), "sae_out": apart(sae_out, expected["sae_out"])}


if __name__ == "__main__":
    print(json.dumps({path.name: check(path) for path in sorted(Path(sys.argv[1]).iterdir())}))
