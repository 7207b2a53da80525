"""`matryoshka` against NumPy, in float64 (Bussmann et al. 2025, arXiv 2503.17547)."""

from typing import Any

import numpy as np
import pytest
import torch
from batch_topk_numpy import Arrays, quiet_bias, running_average, train_step, unit

from hsae_hub.architectures import SAE, TrainStep, build
from hsae_hub.errors import UsageError

PREFIXES = [5, 11, 24]
CONFIG = {
    "architecture": "matryoshka",
    "d_in": 10,
    "d_sae": 24,
    "prefixes": PREFIXES,
    "k": 3,
    "normalize": "unit_norm",
}


def make(**settings: object) -> SAE[Any]:
    sae = build({**CONFIG, **settings}, seed=1).double()
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return sae


def batch(seed: int = 3) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(30, 10, generator=noise, dtype=torch.float64)


def arrays(sae: SAE[Any]) -> Arrays:
    return {name: p.detach().numpy().copy() for name, p in sae.named_parameters()}


@pytest.mark.parametrize("n_dead", [0, 2])
@pytest.mark.parametrize("prefixes", [PREFIXES, [24], [1, 2, 3, 24]])
def test_losses_and_gradients_agree_with_the_formula(prefixes: list[int], n_dead: int) -> None:
    sae, x = make(prefixes=prefixes, aux_weight=0.5), batch()
    normal, dead = unit(x.numpy()), [3, 20][:n_dead]
    sae.b_enc.data = torch.from_numpy(quiet_bias(arrays(sae), normal, dead, 0.1))
    sae.tokens_since_fired[dead] = 3000
    wanted = train_step(arrays(sae), normal, 3, prefixes, dead, 0.5)
    assert not wanted.kept[:, dead].any()
    losses = sae.losses(x, TrainStep(1, 1000))
    losses["loss"].backward()
    names = [f"prefix_{n}" for n in prefixes[:-1]]
    assert list(losses) == ["loss", "reconstruction", *names, "aux"]
    got = [losses[name].item() for name in [*names, "reconstruction"]]
    assert got == pytest.approx(wanted.squared, rel=1e-9)
    assert losses["aux"].item() == pytest.approx(wanted.aux, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(wanted.loss, rel=1e-9)
    for name, parameter in sae.named_parameters():
        grad = parameter.grad.numpy()
        np.testing.assert_allclose(grad, wanted.grads[name], rtol=1e-6, atol=1e-12)


def test_forward_is_that_of_batch_topk() -> None:
    sae = make()
    flat = build(
        {k: v for k, v in CONFIG.items() if k != "prefixes"} | {"architecture": "batch_topk"}
    )
    flat.double().load_state_dict(sae.state_dict())
    smallest = []
    for i in range(4):
        for each in (sae, flat):
            each.losses(batch(i), TrainStep(i, 1000))
        kept = train_step(arrays(sae), unit(batch(i).numpy()), 3, [24], [], 0).kept
        smallest.append(kept[kept > 0].min())
    np.testing.assert_allclose(sae.threshold, running_average(smallest, 0.01), rtol=1e-6)
    assert torch.equal(sae.threshold, flat.threshold)
    assert torch.equal(sae.tokens_since_fired, flat.tokens_since_fired)
    assert torch.equal(sae(batch()).sae_out, flat(batch()).sae_out)
    assert set(sae.weights()) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}


def test_decoder_rows_stay_unit() -> None:
    sae = make()
    sae.losses(batch(), TrainStep(0, 10))["loss"].backward()
    grad, rows = sae.W_dec.grad.numpy().copy(), arrays(sae)["W_dec"]
    sae.before_update()
    wanted = grad - (grad * rows).sum(1, keepdims=True) * rows
    np.testing.assert_allclose(sae.W_dec.grad.numpy(), wanted, rtol=1e-6, atol=1e-12)
    sae.after_update(TrainStep(0, 10), torch.optim.SGD(sae.parameters()))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(arrays(sae)["W_dec"], rows, rtol=1e-6)


@pytest.mark.parametrize("prefixes", [[5, 11], [5, 5, 24], [11, 5, 24], [5, 30], [24, 48]], ids=str)
def test_prefixes_are_cumulative_and_end_at_d_sae(prefixes: list[int]) -> None:
    with pytest.raises(UsageError, match=r"must rise and end at d_sae \(=24\)"):
        make(prefixes=prefixes)


def test_a_latent_learns_from_the_prefixes_that_hold_it() -> None:
    """The first latents' gradients add up over all prefixes; the last group's come from the whole dictionary alone."""
    x = batch()
    nested, flat = make(), make(prefixes=[24])
    for sae in (nested, flat):
        sae.losses(x, TrainStep(0, 10))["loss"].backward()
    torch.testing.assert_close(nested.W_dec.grad[11:], flat.W_dec.grad[11:])
    assert not torch.allclose(nested.W_dec.grad[:11], flat.W_dec.grad[:11])
