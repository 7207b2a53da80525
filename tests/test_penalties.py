"""The penalties of `hsae`: orthogonality by its full matrix, its estimates, and l1 by few or by all gradients."""

import pytest
import torch

import hsae_hub.architectures.hsae as hsae
from hsae_hub.architectures import TrainStep, build
from hsae_hub.ops import cross_orthogonality, penalties


def drawn(n: int = 30, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(d, n, generator=generator, dtype=torch.float64)
    W_enc = shared + 0.5 * torch.randn(d, n, generator=generator, dtype=torch.float64)
    return W_enc.requires_grad_(), (2 * shared.T).clone().requires_grad_()


def by_full_matrix(W_enc: torch.Tensor, W_dec: torch.Tensor, variant: str) -> torch.Tensor:
    M = (W_dec / (W_dec.norm(dim=1, keepdim=True) + 1e-6)) @ (W_enc / (W_enc.norm(dim=0) + 1e-6))
    off = M - (torch.diag(M.diag()) if variant == "paper" else M.diag()[None])
    return off.norm() / (len(M) ** 2 - len(M))


def gradients(value: torch.Tensor, *of: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, of))


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_orthogonality_and_its_gradient_are_those_of_the_full_matrix(variant: str) -> None:
    weights = drawn()
    found, wanted = (
        cross_orthogonality(*weights, variant=variant),
        by_full_matrix(*weights, variant),
    )
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        gradients(3 * found, *weights), gradients(3 * wanted, *weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("d", [1, 5, 64, 300, 1100])
def test_strips_of_a_gram_matrix_fit_together(d: int) -> None:
    weights = drawn(20, d)
    torch.testing.assert_close(cross_orthogonality(*weights), by_full_matrix(*weights, "paper"))


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("probed", [False, True])
def test_so_many_latents_at_once_as_one_likes(
    probed: bool, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[torch.Tensor]:
        weights = drawn()
        probes = torch.Generator().manual_seed(0) if probed else None
        value = cross_orthogonality(*weights, variant=variant, probes=probes)
        return [value, *gradients(value, *weights)]

    wanted = found()
    monkeypatch.setattr(penalties, "_SUMMED", 7)
    monkeypatch.setattr(penalties, "_TURNED", 4)
    for one, other in zip(found(), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_large_products_are_onednns_and_gram_matrices_are_half_computed() -> None:
    n, d = 1024, 512
    weights = [w.detach().float().requires_grad_() for w in drawn(n, d)]
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], record_shapes=True) as seen:
        gradients(cross_orthogonality(*weights), *weights)
    events = seen.key_averages(group_by_input_shape=True)
    assert "aten::mm" not in {event.key for event in events}
    work = 0
    for event in events:
        if event.key == "mkldnn::_linear_pointwise":
            (rows, inner), (columns, _) = event.input_shapes[:2]
            work += event.count * rows * inner * columns
    strips = 4
    assert work == (2 + (strips + 1) / strips) * n * d * d


def test_rounded_products_change_little() -> None:
    weights = [w.detach().float().requires_grad_() for w in drawn(400, 100)]
    exact = cross_orthogonality(*weights)
    rounded = cross_orthogonality(*weights, products=torch.bfloat16)
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-3) and rounded != exact
    for ours, theirs in zip(gradients(rounded, *weights), gradients(exact, *weights), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_probes_estimate_the_square_and_its_gradient_without_bias(variant: str) -> None:
    weights = drawn()
    pairs, times = 30 * 29, 600
    exact = cross_orthogonality(*weights, variant=variant)
    squares, total = [], [torch.zeros_like(w) for w in weights]
    for seed in range(times):
        probes = torch.Generator().manual_seed(seed)
        found = cross_orthogonality(*weights, variant=variant, probes=probes)
        squares.append((found * pairs).square())
        for sum_, each in zip(total, gradients((found * pairs).square(), *weights), strict=True):
            sum_ += each / times
    values = torch.stack(squares).detach()
    wanted = (exact * pairs).square()
    assert abs(values.mean() - wanted) < 4 * values.std() / times**0.5
    for ours, theirs in zip(total, gradients(wanted, *weights), strict=True):
        assert (ours - theirs).norm() < 0.15 * theirs.norm()
    # the root of an estimate is too low, by an eighth of the square's variance
    bias = 1 - values.sqrt().mean() / values.mean().sqrt()
    assert bias.item() == pytest.approx((values.var() / values.mean() ** 2 / 8).item(), rel=0.1)


def penalised(scale: float, variant: str) -> tuple[hsae.HSAE, torch.Tensor]:
    shape = {"d_in": 32, "n_parents": 640, "n_children": 3, "d_subspace": 2, "k": 3}
    options = {"lambda_l1": 0.5, "penalty_warmup_steps": 0, "variant": variant, "bias": True}
    sae = build({"architecture": "hsae", **shape, **options}, seed=0).double()
    with torch.no_grad():
        sae.W_enc.mul_(scale)
        sae.b_dec.normal_(0, 0.01, generator=torch.Generator().manual_seed(2))
    return sae, torch.randn(24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(("scale", "most"), [(0.2, 3), (0.28, 10), (1.0, 640)])
def test_l1_over_all_has_the_dense_gradient_however_few_are_above(
    scale: float, most: int, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x = penalised(scale, variant)
    normal, _, _ = sae.normalize(x)
    above = ((normal - sae.b_dec) @ sae.W_enc >= sae.theta).sum(-1).max()
    assert most / 4 < above <= most
    step = TrainStep(5, 10)
    ours = sae.losses(x, step)
    found = gradients(ours["loss"], *sae.parameters())
    monkeypatch.setattr(hsae, "_FEW", 1 << 30)
    monkeypatch.setattr(hsae.HSAE, "_largest_and_above", hsae.HSAE._largest)
    theirs = sae.losses(x, step)
    expected = sae._above((normal - sae.b_dec) @ sae.W_enc).sum(-1).mean()
    assert ours["l1"] >= expected
    torch.testing.assert_close(ours["l1"], theirs["l1"])
    torch.testing.assert_close(ours["loss"], theirs["loss"])
    for one, other in zip(found, gradients(theirs["loss"], *sae.parameters()), strict=True):
        torch.testing.assert_close(one, other)


def test_few_parents_above_the_threshold_need_no_dense_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae, x = penalised(0.28, "paper")
    seen = []
    ours = hsae.topk_linear
    monkeypatch.setattr(hsae, "topk_linear", lambda *a, **k: seen.append(ours(*a, **k)) or seen[0])
    loss = sae.losses(x, TrainStep(5, 10))["loss"]
    pre, values, _ = seen[0]
    pre.retain_grad()
    values.retain_grad()
    loss.backward()
    assert pre.grad is None and values.grad is not None and values.shape[1] > 3
