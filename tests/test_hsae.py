"""`hsae` against an independent NumPy implementation of the paper, in float64."""

import hsae_numpy as oracle
import numpy as np
import pytest
import torch

from hsae_hub.architectures import TrainStep, build
from hsae_hub.architectures.hsae import HSAE

SHAPE = {"architecture": "hsae", "d_in": 12, "n_parents": 20, "n_children": 5, "d_subspace": 3}


def make(**settings: object) -> HSAE:
    """A double-precision SAE moved away from its initial, tied weights."""
    sae = build({**SHAPE, "k": 4, **settings}, seed=3).double()
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    sae.after_update(TrainStep(0, 1), torch.optim.SGD(sae.parameters()))
    assert isinstance(sae, HSAE)
    return sae


def batch(rows: int = 40) -> torch.Tensor:
    return 7 * torch.randn(
        rows, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )


def as_numpy(sae: HSAE) -> oracle.Weights:
    return {name: tensor.numpy().copy() for name, tensor in sae.weights().items()}


@pytest.mark.parametrize("k", [1, 4, 20])
def test_forward_agrees_with_the_paper(k: int) -> None:
    sae, x = make(k=k), batch()
    norms = np.linalg.norm(x.numpy(), axis=1, keepdims=True) + 1e-6
    _, full, codes = oracle.forward(as_numpy(sae), x.numpy() / norms, k)
    out = sae(x)
    np.testing.assert_allclose(out.sae_out.detach().numpy(), full * norms, rtol=1e-6, atol=1e-9)
    dense = np.zeros((len(x), sae.d_sae))
    for t, code in enumerate(codes):
        for j, act, best, children in code:
            if act > 0:
                dense[t, j] = act * norms[t, 0]
                dense[t, 20 + 5 * j + best] = children[best] * norms[t, 0]
    np.testing.assert_allclose(out.acts.dense().detach().numpy(), dense, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_loss_and_one_optimiser_step_agree_with_the_paper(variant: str) -> None:
    sae, x = make(variant=variant, penalty_warmup_steps=10, lambda_l1=0.02), batch()
    unit = x.numpy() / (np.linalg.norm(x.numpy(), axis=1, keepdims=True) + 1e-6)
    before = as_numpy(sae)
    settings = oracle.Settings(k=4, lambda_l1=0.02, ramp=0.7, released=variant == "released")
    loss, gradients = oracle.loss_and_gradients(before, unit, settings)
    wanted = oracle.step(before, gradients, lr=5e-4, clip=0.75)

    optimizer = torch.optim.Adam(sae.parameters(), lr=5e-4)
    now = TrainStep(7, 100)
    losses = sae.losses(x, now)
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(loss, rel=1e-9)
    for name, parameter in sae.named_parameters():
        gradient = gradients[name.removesuffix("_T")]
        found = parameter.grad.mT if name.endswith("_T") else parameter.grad
        np.testing.assert_allclose(found.numpy(), gradient, rtol=1e-6, atol=1e-12)
    sae.before_update()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 0.75)
    optimizer.step()
    sae.after_update(now, optimizer)
    for name, value in as_numpy(sae).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_two_variants_differ() -> None:
    x, now = batch(), TrainStep(2000, 3000)
    paper, released = (make(variant=v).losses(x, now) for v in ("paper", "released"))
    assert released["ortho"] > 1.5 * paper["ortho"]


def test_penalties_grow_with_the_warm_up_and_probes_estimate_the_exact_one() -> None:
    x = batch()
    start, later = (make().losses(x, TrainStep(s, 3000)) for s in (0, 5000))
    plain = start["reconstruction"] + 0.1 * start["parents_only"]
    assert torch.equal(start["loss"], plain)
    penalised = plain + 0.1 * later["ortho"] + 0.001 * later["l1"]
    torch.testing.assert_close(later["loss"], penalised)
    squares = [make(ortho="probes").losses(x, TrainStep(s, 1))["ortho"] ** 2 for s in range(1, 200)]
    assert torch.stack(squares).mean().sqrt().item() == pytest.approx(
        later["ortho"].item(), rel=0.03
    )


def test_penalty_every_keeps_the_penalty_s_weight() -> None:
    x, every = batch(), make(penalty_every=4, penalty_warmup_steps=0)
    with_penalty, without = every.losses(x, TrainStep(8, 9)), every.losses(x, TrainStep(9, 9))
    plain = make(penalty_warmup_steps=0).losses(x, TrainStep(8, 9))
    penalty = plain["loss"] - without["loss"]
    torch.testing.assert_close(with_penalty["loss"], without["loss"] + 4 * penalty)
    assert "l1" not in without


def test_l1_over_active_counts_what_is_decoded() -> None:
    sae, x = make(l1_over="active", normalize="none"), batch()
    expected = sae.encode(x).values.abs().sum(-1).mean()
    torch.testing.assert_close(sae.losses(x, TrainStep(1, 2))["l1"], expected)


def test_a_token_without_parents_above_the_threshold_is_reconstructed_as_zero() -> None:
    sae = make()
    with torch.no_grad():
        sae.W_enc.abs_().neg_()
    out = sae(batch().abs())
    assert not out.sae_out.any() and not out.acts.l0().any()


def test_runner_ups_hold_the_kept_child_and_nothing_stronger() -> None:
    sae, x = make(), batch().view(4, 10, 12)
    acts = sae.encode(x)
    children = sae.runner_ups(x, acts)
    assert children.shape == (4, 10, 4, 5)
    active = acts.values[..., :4] > 0
    assert active.any() and not active.all()
    torch.testing.assert_close(children.max(-1).values[active], acts.values[..., 4:][active])
    assert not acts.values[..., 4:][~active].any()


def test_training_steps_keep_decoder_rows_and_child_atoms_at_norm_one() -> None:
    sae, x = make(), batch()
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.05)
    for i in range(3):
        optimizer.zero_grad()
        loss = sae.losses(x, TrainStep(i, 3))["loss"]
        loss.backward()
        sae.before_update()
        along = (sae.W_dec.grad * sae.W_dec).sum(-1)
        assert along.abs().max() < 1e-12
        optimizer.step()
        sae.after_update(TrainStep(i, 3), optimizer)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(sae.child_W_dec.norm(dim=1), torch.ones(20, 5, dtype=torch.float64))


def test_the_bias_is_taken_away_before_and_added_after() -> None:
    sae, x = make(bias=True, normalize="none"), batch()
    plain = make(normalize="none")
    plain.load_state_dict({n: p for n, p in sae.state_dict().items() if n != "b_dec"})
    torch.testing.assert_close(sae(x).sae_out, plain(x - sae.b_dec).sae_out + sae.b_dec)
