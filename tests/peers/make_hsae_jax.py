"""Golden file of the H-SAE authors' format for `tests/test_interop_jax.py`: a checkpoint that Orbax writes.

Run by hand at the root of the checkout, in an environment of its own:

    python3 -m venv .venv/jax && .venv/jax/bin/pip install jax equinox orbax-checkpoint safetensors
    .venv/jax/bin/python tests/peers/make_hsae_jax.py

The module has the leaves, names and shapes of the authors' own, and is saved as theirs is: step folder, item `model`
with the arrays, item `hyperparameters` as JSON. `golden.safetensors` has its arrays as they were before that.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import save_file

N, D, M, S, K = 6, 8, 3, 2, 3
FOLDER = Path(__file__).parent.parent / "data" / "interop_jax"


class TopLevel(eqx.Module):
    encoder: jax.Array
    decoder: jax.Array
    offset: jax.Array


class Model(eqx.Module):
    top_level_autoencoder: TopLevel
    W_down: jax.Array
    W_up: jax.Array
    encoder_weights: jax.Array
    decoder_weights: jax.Array
    bias: jax.Array | None


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), dtype=jnp.float32)

    top = TopLevel(draw(N, D), draw(D, N), jnp.asarray(D**-0.5, dtype=jnp.float32))
    model = Model(top, draw(N, S, D), draw(N, D, S), draw(N, M, S), draw(N, S, M), None)
    sizes = {
        "input_dim": D,
        "subspace_dim": S,
        "atoms_per_subspace": M,
        "num_experts": N,
        "k": K,
        "use_bias": False,
    }
    items = ocp.args.Composite(
        model=ocp.args.StandardSave(eqx.filter(model, eqx.is_array)),
        hyperparameters=ocp.args.JsonSave(sizes),
    )
    with TemporaryDirectory() as made:
        with ocp.CheckpointManager(made, item_names=("model", "hyperparameters")) as manager:
            manager.save(5, args=items)
            manager.wait_until_finished()
        # Orbax notes there in which folder it wrote
        left_out = shutil.ignore_patterns("commit_success.txt", "_sharding", "array_metadatas")
        shutil.copytree(Path(made) / "5", folder / "5", ignore=left_out, dirs_exist_ok=True)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(model)
    }
    save_file(arrays, folder / "golden.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
