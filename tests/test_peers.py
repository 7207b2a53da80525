"""Our architectures against sae-lens and eai-sparsify, from golden files that those wrote (see peers/make_golden.py).

Everything is in float64 and agrees to rounding, but for sae-lens' thresholds, which it keeps in float32. Where a
definition of a peer is another one, the test says in what, and compares after exactly that.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from hsae_hub.architectures import SAE, TrainStep, build

HERE = Path(__file__).parent
FOLDER = HERE / "data" / "peers"
SAE_LENS = "standard topk topk_few_positive batch_topk matryoshka jumprelu gated".split()
NOW = TrainStep(20_000, 1_000_000)
"""After every warm-up of a penalty, and of the running average of a threshold."""

ARCHITECTURES = {
    "StandardTrainingSAE": "l1",
    "TopKTrainingSAE": "topk",
    "BatchTopKTrainingSAE": "batch_topk",
    "MatryoshkaBatchTopKTrainingSAE": "matryoshka",
    "JumpReLUTrainingSAE": "jumprelu",
    "GatedTrainingSAE": "gated",
    "SparseCoder": "topk",
}
SETTINGS = {
    "aux_loss_coefficient": "aux_weight",
    "topk_threshold_lr": "threshold_rate",
    "matryoshka_widths": "prefixes",
    "jumprelu_bandwidth": "bandwidth",
    "l0_coefficient": "lambda_l0",
    "l1_coefficient": "lambda_l1",
}
PARTS = {
    "mse_loss": "reconstruction",
    "inner_mse_loss_4": "prefix_4",
    "inner_mse_loss_12": "prefix_12",
    "auxiliary_reconstruction_loss": "aux",
    "l0_loss": "l0",
    "l1_loss": "l1",
}
WEIGHTS = {"aux": "aux_weight", "l0": "lambda_l0", "l1": "lambda_l1"}


class Golden(NamedTuple):
    about: dict[str, str]
    tensors: dict[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a prefix, by the rest of their name."""
        start = f"{prefix}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}


def read(path: Path) -> Golden:
    with safe_open(path, framework="pt") as file:
        return Golden(file.metadata(), {name: file.get_tensor(name) for name in file.keys()})


def sae_lens(name: str) -> Golden:
    return read(FOLDER / f"sae_lens_{name}.safetensors")


def ours(golden: Golden, weights: dict[str, Tensor]) -> SAE[Any]:
    """Our SAE with a peer's settings, weights and dead latents."""
    settings = json.loads(golden.about["settings"])
    config = {SETTINGS.get(name, name): value for name, value in settings.items()}
    sae = build({"architecture": ARCHITECTURES[golden.about["class"]], **config}).double()
    assert {n for n, _ in sae.named_parameters()} == set(weights)
    for name, parameter in sae.named_parameters():
        parameter.data.copy_(weights[name])
    if len(golden.tensors["dead"]):
        sae.tokens_since_fired[golden.tensors["dead"]] = 10**9
    return sae


def grads(sae: SAE[Any], loss: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*sae.named_parameters(), strict=True)
    if not loss.requires_grad:
        return {name: torch.zeros_like(w) for name, w in zip(names, weights, strict=True)}
    found = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def agree(found: Tensor, wanted: Tensor, what: str) -> None:
    single = wanted.dtype == torch.float32
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if single else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(
        found, wanted.to(found.dtype), **tolerance, msg=lambda text: f"{what}: {text}"
    )


def all_agree(found: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    assert set(found) == set(wanted), what
    for name, value in wanted.items():
        agree(found[name], value, f"{what} of {name}")


def wanted_grads(golden: Golden, term: str) -> dict[str, Tensor]:
    """The gradients of sae-lens for a term of the loss, as ours are by the papers."""
    found, w, x = golden.under(f"grad.{term}"), golden.under("weight"), golden.tensors["x"]
    gated = golden.about["class"] == "GatedTrainingSAE"
    if term == "l1_loss":
        # sae-lens multiplies an act by the norm of its decoder row. Ours is 1 at every step, by its constraint,
        # which takes away what a gradient has along the row: this term then has nothing else for W_dec.
        found["W_dec"] -= (found["W_dec"] * w["W_dec"]).sum(1, keepdim=True) * w["W_dec"]
    elif term == "auxiliary_reconstruction_loss" and gated:
        # The paper's auxiliary task decodes with frozen copies of W_dec and b_dec (Rajamanoharan et al. 2024, section
        # 3.2); sae-lens' moves them too (its issue 539). This is what that adds.
        gate = ((x - w["b_dec"]) @ w["W_enc"] + w["b_gate"]).relu()
        pull = 2 * (gate @ w["W_dec"] + w["b_dec"] - x) / len(x)
        found["W_dec"] -= gate.T @ pull
        found["b_dec"] -= pull.sum(0)
    return found


@pytest.mark.parametrize("name", SAE_LENS)
def test_acts_and_reconstruction_are_those_of_sae_lens(name: str) -> None:
    golden = sae_lens(name)
    sae, wanted = ours(golden, golden.under("weight")), golden.tensors
    if "threshold" in wanted:
        sae.threshold.copy_(wanted["threshold"])
    out = sae(wanted["x"])
    agree(out.acts.dense(), wanted["acts"], "acts")
    agree(out.sae_out, wanted["sae_out"], "reconstruction")
    assert 0 < (wanted["acts"] > 0).double().mean() < 1


@pytest.mark.parametrize("name", SAE_LENS)
def test_losses_and_gradients_are_those_of_sae_lens(name: str) -> None:
    golden = sae_lens(name)
    sae = ours(golden, golden.under("weight"))
    losses = sae.losses(golden.tensors["x"], NOW)
    terms = golden.under("loss")
    agree(losses["loss"], terms.pop("total"), "total")
    assert {PARTS[term] for term in terms} == set(losses) - {"loss"}

    total: dict[str, Tensor] = {}
    for term, value in terms.items():
        part = PARTS[term]
        weighted = getattr(sae.config, WEIGHTS.get(part, ""), 1.0) * losses[part]
        agree(weighted, value, part)
        wanted, found = wanted_grads(golden, term), grads(sae, weighted)
        all_agree(found, wanted, f"{part}: gradient")
        total = {n: total[n] + g if total else g for n, g in wanted.items()}
    all_agree(grads(sae, losses["loss"]), total, "gradient")


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka"])
def test_aux_is_compared_where_that_of_sae_lens_is_the_papers(name: str) -> None:
    """The authors of AuxK apply relu to dead latents' pre-activations and do not scale the loss (Gao et al. 2024).

    sae-lens leaves out that relu, and multiplies by `dead / k_aux` where that is below 1: so its golden files have
    enough dead latents, all of positive pre-activation. Other signs and numbers are compared with eai-sparsify below.
    """
    golden = sae_lens(name)
    w, x, dead = golden.under("weight"), golden.tensors["x"], golden.tensors["dead"]
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    assert len(dead) >= x.shape[1] // 2
    assert (pre[:, dead] > 0).all()
    assert golden.tensors["loss.auxiliary_reconstruction_loss"] > 0


def test_some_tokens_have_fewer_positive_pre_activations_than_k() -> None:
    acts = sae_lens("topk_few_positive").tensors["acts"]
    assert set((acts > 0).sum(1).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka"])
def test_the_threshold_is_that_which_sae_lens_saves(name: str) -> None:
    """sae-lens' running average starts from 0; ours is a plain mean first, of 1 / rate batches, which are over by NOW.

    A mean is the paper's definition (Bussmann et al. 2024): from 0 on, a threshold is too low at first.
    """
    golden = sae_lens(name)
    sae = ours(golden, golden.under("weight"))
    assert not sae.threshold.any()
    for x in [*golden.tensors["earlier"], golden.tensors["x"]]:
        sae.losses(x, NOW)
    agree(sae.threshold, golden.tensors["threshold"], "threshold")
    assert (golden.tensors["threshold"] > 0.01).all()


def test_topk_is_that_of_eai_sparsify() -> None:
    golden = read(FOLDER / "eai_sparsify_topk.safetensors")
    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}

    def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {names[n]: t.T if names[n] == "W_enc" else t for n, t in tensors.items()}

    wanted, x = golden.tensors, golden.tensors["x"]
    sae = ours(golden, renamed(golden.under("weight")))
    out = sae(x)
    agree(out.acts.dense(), wanted["acts"], "acts")
    agree(out.sae_out, wanted["sae_out"], "reconstruction")

    # Its losses are sums over the batch in units of the batch's variance; ours are means over tokens.
    variance = (x - x.mean(0)).square().sum()
    unit = variance / len(x)
    losses = sae.losses(x, NOW)
    reconstruction = losses["reconstruction"]
    agree(reconstruction, wanted["loss.fvu"] * unit, "reconstruction's loss")
    fvu = {n: g * unit for n, g in renamed(golden.under("grad.fvu")).items()}
    all_agree(grads(sae, reconstruction), fvu, "reconstruction: gradient")

    # Like sae-lens it gives AuxK less weight where there are fewer dead latents than may take part; the paper does not.
    share = len(wanted["dead"]) / (x.shape[1] // 2)
    assert share < 1
    agree(losses["aux"], wanted["loss.auxk_loss"] * unit / share, "aux")
    aux = {n: g * unit / share for n, g in renamed(golden.under("grad.auxk_loss")).items()}
    found = grads(sae, losses["aux"])
    agree(found["W_dec"], aux["W_dec"], "aux: gradient of W_dec")
    # Its fused encoder passes on no gradient of the pre-activations, so there AuxK moves the decoder alone. Gao et
    # al. revive latents by moving both (A.2): so does ours, and sae-lens, which the test above compares with.
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    assert (pre[:, wanted["dead"]] < 0).any() and (pre[:, wanted["dead"]] > 0).any()
    for name in ("W_enc", "b_enc", "b_dec"):
        assert not aux[name].any() and found[name].any(), name


def test_the_golden_files_are_what_the_peers_write_today(tmp_path: Path) -> None:
    python = os.environ.get("HSAE_PEERS_PYTHON")
    if not python:
        pytest.skip("HSAE_PEERS_PYTHON names no Python that has the peers (peers/make_golden.py)")
    script = [python, HERE / "peers" / "make_golden.py", tmp_path]
    subprocess.run(script, check=True)
    paths = sorted(FOLDER.iterdir())
    assert [p.name for p in paths] == sorted(p.name for p in tmp_path.iterdir())
    for path in paths:
        committed, written = read(path), read(tmp_path / path.name)
        assert written.about == committed.about
        all_agree(written.tensors, committed.tensors, path.name)
