"""Golden files for `tests/test_peers.py`: what sae-lens and eai-sparsify compute from given weights and tokens.

Run by hand at the root of the checkout, in the environment that `make peers` builds:

    .venv/peers/bin/python tests/peers/make_golden.py

Another folder than `tests/data/peers` may be named as its argument. A file holds, under the peer's own names:
`x`, the tokens; `weight.NAME`; `loss.TERM`, every term of the training loss, as it is added to the others, and
`loss.total`; `grad.TERM.NAME`, the gradients of each term; `acts` and `sae_out` of the SAE as it is saved for
inference. The metadata has the library, its version, the class and the settings that are not its defaults.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import sae_lens
import torch
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor, nn

D_IN, D_SAE, BATCH, K = 12, 24, 20, 3
FOLDER = Path(__file__).parent.parent / "data" / "peers"


class Case(NamedTuple):
    """A training class of sae-lens with its settings."""

    cls: str
    settings: dict[str, Any]
    dead: int = 0
    """How many latents, the last ones, count as dead."""
    b_enc: float = 0.0
    """Mean of the encoder's bias."""


AUX = {"k": K, "aux_loss_coefficient": 1 / 32}
SAE_LENS = {
    "standard": Case("StandardTrainingSAE", {"l1_coefficient": 0.3}),
    "topk": Case("TopKTrainingSAE", AUX, dead=8),
    "topk_few_positive": Case("TopKTrainingSAE", AUX, b_enc=-1.0),
    "batch_topk": Case("BatchTopKTrainingSAE", {**AUX, "topk_threshold_lr": 0.5}, dead=8),
    "matryoshka": Case(
        "MatryoshkaBatchTopKTrainingSAE", {**AUX, "matryoshka_widths": [4, 12, D_SAE]}, dead=8
    ),
    "jumprelu": Case("JumpReLUTrainingSAE", {"l0_coefficient": 0.02, "jumprelu_bandwidth": 0.4}),
    "gated": Case("GatedTrainingSAE", {"l1_coefficient": 0.3}),
}


def draw_weights(sae: nn.Module, rng: np.random.Generator, b_enc: float) -> None:
    """Decoder rows of norm 1, every other weight as it may be in the middle of training."""
    for name, weight in sae.named_parameters():
        value = rng.standard_normal(tuple(weight.shape))
        if name == "W_dec":
            value /= np.linalg.norm(value, axis=1, keepdims=True)
        elif name == "threshold":
            value = 0.3 * np.exp(0.3 * value)
        elif weight.ndim == 2:
            value /= D_IN**0.5
        else:
            value = 0.2 * value + b_enc * (name == "b_enc")
        weight.data.copy_(torch.from_numpy(value))


def dead_mask(n: int) -> Tensor:
    return torch.arange(D_SAE) >= D_SAE - n


def gradients(terms: Mapping[str, Tensor], sae: nn.Module) -> dict[str, Tensor]:
    """`grad.TERM.NAME` of every weight."""
    names, weights = zip(*sae.named_parameters(), strict=True)
    found = {}
    for term, value in terms.items():
        grads = tuple(torch.zeros_like(w) for w in weights)
        if value.requires_grad:
            grads = torch.autograd.grad(value, weights, retain_graph=True, materialize_grads=True)
        found |= {f"grad.{term}.{name}": g for name, g in zip(names, grads, strict=True)}
    return found


def tensors_of(
    sae: nn.Module, x: Tensor, dead: int, terms: dict[str, Tensor], total: Tensor
) -> dict[str, Tensor]:
    return {
        "x": x,
        "dead": dead_mask(dead).nonzero()[:, 0],
        **{f"weight.{name}": weight for name, weight in sae.named_parameters()},
        **{f"loss.{term}": value for term, value in terms.items()},
        "loss.total": total,
        **gradients(terms, sae),
    }


def of_sae_lens(case: Case) -> dict[str, Tensor]:
    rng = np.random.default_rng(1)
    config = getattr(sae_lens, f"{case.cls}Config")
    sae = getattr(sae_lens, case.cls)(
        config(d_in=D_IN, d_sae=D_SAE, dtype="float64", **case.settings)
    )
    draw_weights(sae, rng, case.b_enc)
    if case.dead:  # in sight on every token, and never among the kept ones
        sae.W_enc.data[:, -case.dead :] *= 0.01
        sae.b_enc.data[-case.dead :] = 0.05
    coefficients = {name: c.value for name, c in sae.get_coefficients().items()}

    def step(x: Tensor) -> Any:
        return sae.training_forward_pass(
            TrainStepInput(x, coefficients, dead_mask(case.dead), 0, False)
        )

    tensors = {}
    if hasattr(sae, "topk_threshold"):  # a running average, so that it takes more than one batch
        tensors["earlier"] = torch.from_numpy(rng.standard_normal((3, BATCH, D_IN)))
        for batch in tensors["earlier"]:
            step(batch)
    x = torch.from_numpy(rng.standard_normal((BATCH, D_IN)))
    out = step(x)
    tensors |= tensors_of(sae, x, case.dead, out.losses, out.loss)
    with TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        saved = sae_lens.SAE.load_from_disk(folder)
    if hasattr(sae, "topk_threshold"):
        tensors["threshold"] = saved.threshold
    acts = saved.encode(x)
    return {**tensors, "acts": acts, "sae_out": saved.decode(acts)}


def of_sparsify(settings: dict[str, Any], dead: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(2)
    sae = SparseCoder(D_IN, SparseCoderConfig(**settings), dtype=torch.float64)
    draw_weights(sae, rng, 0.0)
    sae.encoder.weight.data[-dead:] *= 0.1  # of both signs, and never among the kept ones
    sae.encoder.bias.data[-dead:] = 0.0
    x = torch.from_numpy(rng.standard_normal((BATCH, D_IN)))
    out = sae(x, dead_mask=dead_mask(dead))
    acts = torch.zeros(BATCH, D_SAE, dtype=torch.float64)
    acts.scatter_(1, out.latent_indices, out.latent_acts)
    terms = {"fvu": out.fvu, "auxk_loss": out.auxk_loss}
    tensors = tensors_of(sae, x, dead, terms, out.fvu + out.auxk_loss)
    return {**tensors, "acts": acts, "sae_out": out.sae_out}


def save(
    path: Path, tensors: Mapping[str, Tensor], library: str, cls: str, settings: dict[str, Any]
) -> None:
    metadata = {
        "library": library,
        "version": version(library),
        "class": cls,
        "settings": json.dumps({"d_in": D_IN, "d_sae": D_SAE, **settings}),
    }
    plain = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    save_file(plain, path, metadata)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in SAE_LENS.items():
        path = folder / f"sae_lens_{name}.safetensors"
        save(path, of_sae_lens(case), "sae-lens", case.cls, case.settings)
    settings = {"num_latents": D_SAE, "k": K}
    tensors = of_sparsify(settings, dead=4)
    path = folder / "eai_sparsify_topk.safetensors"
    save(path, tensors, "eai-sparsify", "SparseCoder", {"k": K})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
