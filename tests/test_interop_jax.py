"""Weights of the H-SAE authors' JAX code: a checkpoint that Orbax wrote (see peers/make_hsae_jax.py)."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hsae_numpy import forward
from safetensors.numpy import load_file

from hsae_hub.errors import CorruptError, ResourceError, UsageError
from hsae_hub.interop import read_foreign

FOLDER = Path(__file__).parent / "data" / "interop_jax"
OFFSET = "top_level_autoencoder.offset"


@pytest.fixture
def step(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER / "5", tmp_path / "5"))


def set_sizes(step: Path, **sizes: object) -> None:
    path = step / "hyperparameters" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes))


def test_the_arrays_become_an_hsae_that_computes_what_the_algorithm_says() -> None:
    pytest.importorskip("tensorstore")
    theirs = {
        n.split(".")[-1]: a.astype(float)
        for n, a in load_file(FOLDER / "golden.safetensors").items()
    }
    weights = {
        "W_enc": theirs["encoder"].T,
        "W_dec": theirs["decoder"].T,
        "W_down": theirs["W_down"],
        "W_up": theirs["W_up"],
        "child_W_enc": theirs["encoder_weights"],
        "child_W_dec": theirs["decoder_weights"],
    }
    imported = read_foreign(FOLDER / "5")
    sae = imported.sae
    assert sae.config.architecture == "hsae" and sae.config.variant == "released"
    for name, tensor in sae.weights().items():
        np.testing.assert_array_equal(tensor.numpy(), weights[name].astype(np.float32))
    x = np.random.default_rng(1).standard_normal((20, 8))
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    _, wanted, codes = forward(weights, x / norms, 3)
    out = sae(torch.from_numpy(x).float())
    np.testing.assert_allclose(out.sae_out.numpy(), wanted * norms, rtol=1e-4, atol=1e-5)
    assert 0 < sum(act > 0 for code in codes for _, act, _, _ in code) < 3 * len(x)
    assert imported.config.imported is not None
    assert any("explained variance" in note for note in imported.config.imported.notes)
    assert any(name.startswith("model/d/") for name in imported.config.imported.files)


def test_sizes_that_the_arrays_do_not_have_are_refused(step: Path) -> None:
    pytest.importorskip("tensorstore")
    set_sizes(step, num_experts=5)
    with pytest.raises(CorruptError, match=r"encoder has shape \[6, 8\], but its hyperparameters"):
        read_foreign(step)
    set_sizes(step, num_experts=6, use_bias=True)
    with pytest.raises(CorruptError, match="lacks array 'bias'"):
        read_foreign(step)
    set_sizes(step, num_experts=1 << 40, use_bias=False)
    with pytest.raises(CorruptError, match="would unpack to"):
        read_foreign(step)


def test_a_folder_an_array_as_orbax_once_wrote_is_read_and_a_threshold_of_its_own_refused(
    step: Path,
) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    arrays = load_file(FOLDER / "golden.safetensors")
    for offset, message in ((8**-0.5, None), (0.5, r"its threshold is 0.5, expected 1/√d_in")):
        shutil.rmtree(step / "model")
        for name, array in (arrays | {OFFSET: np.float32(offset)}).items():
            store = {"driver": "file", "path": f"{step / 'model' / name}/"}
            spec = {"driver": "zarr", "kvstore": store}
            tensorstore.open(
                spec, create=True, dtype=tensorstore.float32, shape=np.shape(array)
            ).result().write(array).result()
        if message is None:
            read = read_foreign(step).sae.weights()["W_down"].numpy()
            np.testing.assert_array_equal(read, arrays["W_down"])
        else:
            with pytest.raises(UsageError, match=message):
                read_foreign(step)


def test_the_extra_that_reads_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ResourceError, match="is read with tensorstore") as caught:
        read_foreign(FOLDER / "5")
    assert caught.value.fix == "pip install 'hsae-hub[jax]'"
