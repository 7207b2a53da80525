"""One contract for every registered architecture."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from hsae_hub.architectures import (
    NORMALIZE,
    SAE,
    SAEConfig,
    TrainStep,
    TreeShape,
    architecture,
    build,
    config_class,
    list_architectures,
    parse_config,
    register,
    tensor_shapes,
)
from hsae_hub.errors import MisfitError, NotFoundError, UsageError

TINY: dict[str, dict[str, Any]] = {
    "batch_topk": {"d_sae": 20, "k": 3},
    "compositional": {"widths": [10, 7], "starts": [0, 0.2], "reallocate_every": 10},
    "hsae": {"n_parents": 12, "n_children": 3, "d_subspace": 2, "k": 3},
    "matryoshka": {"d_sae": 20, "k": 3, "prefixes": [4, 9, 20]},
    "switch": {"d_sae": 20, "k": 3, "n_experts": 2, "alpha": 0.1},
    "topk": {"d_sae": 20, "k": 3, "normalize": "unit_norm"},
    "gated": {"d_sae": 20, "lambda_l1": 0.1},
    "jumprelu": {"d_sae": 20, "lambda_l0": 0.1, "bandwidth": 0.5, "init_threshold": 0.5},
    "l1": {"d_sae": 20},
    "group": {"d_sae": 20, "n_groups": 3},
    "nested": {"d_sae": 20},
    "dynamic": {"d_sae": 20, "window": 10, "merge_every": 20},
}
"""Smallest sensible settings; an architecture without an entry fails the first test."""
OTHER_TENSORS: dict[str, list[dict[str, Any]]] = {
    "compositional": [{"tied": False}, {"widths": [3, 4, 5], "starts": [0, 0.1, 0.2]}],
    "hsae": [{"bias": True}],
    "nested": [{"shared": 0.0}],
    "topk": [{"bias": False}],
}
"""Settings that give other weights."""

BOTH = ("standardize", True)
every = pytest.mark.parametrize("name", list_architectures())
normalizing = pytest.mark.parametrize(
    ("normalize", "whiten"),
    [(way, whiten) for way in NORMALIZE for whiten in (False, True) if (way, whiten) != BOTH],
)
"""Every way of normalising, after whitening too."""


def tiny(name: str, **settings: Any) -> SAE[Any]:
    sae = build({"architecture": name, "d_in": 8, **TINY[name], **settings}, seed=1)
    with torch.no_grad():  # off the initial, tied weights
        for i, parameter in enumerate(sae.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
            parameter.add_(0.1 * noise)
    return sae


def white_and_back(sample: torch.Tensor) -> tuple[Any, Any]:
    """Whitening by the singular values of a sample, and its inverse."""
    mean = sample.double().numpy().mean(0)
    _, singular, axes = np.linalg.svd(sample.double().numpy() - mean, full_matrices=False)
    root = axes.T @ np.diag(singular / np.sqrt(len(sample) - 1)) @ axes

    def white(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy((x.double().numpy() - mean) @ np.linalg.inv(root)).to(x.dtype)

    def back(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().double().numpy() @ root + mean).to(x.dtype)

    return white, back


def batch(seed: int = 0, rows: int = 32) -> torch.Tensor:
    return 4 * torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


@every
def test_it_says_where_it_comes_from_and_has_tiny_settings(name: str) -> None:
    assert name in TINY
    module = __import__(architecture(name).__module__, fromlist=["_"])
    assert any(word in str(module.__doc__) for word in ("et al.", "anonymous", "Muchane", "papers"))


@every
def test_config_goes_to_json_and_back(name: str) -> None:
    config = tiny(name).config
    assert parse_config(json.loads(config.model_dump_json())) == config
    assert config_class(name).model_json_schema()["properties"]["architecture"]


@every
@normalizing
def test_its_config_tells_what_its_weight_file_holds(
    name: str, normalize: str, whiten: bool
) -> None:
    for also in ({}, *OTHER_TENSORS.get(name, [])):
        sae = tiny(name, normalize=normalize, whiten=whiten, **also)
        assert tensor_shapes(sae.config) == {k: tuple(w.shape) for k, w in sae.weights().items()}


@every
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    config = {"architecture": name, "d_in": 8, **TINY[name]}
    first, again, other = (build(config, seed=s).weights() for s in (5, 5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert all(torch.isfinite(value).all() for value in first.values())


@every
def test_decode_is_linear_and_keeps_no_state(name: str) -> None:
    sae, x = tiny(name), batch()
    acts = sae.encode(x)
    bias = sae.decode(acts.replace(torch.zeros_like(acts.values)))
    once = sae.decode(acts)
    sae.encode(batch(1))
    twice = sae.decode(acts.replace(2 * acts.values))
    torch.testing.assert_close(twice - bias, 2 * (once - bias))


@every
def test_encode_then_decode_is_the_forward_in_any_batch_shape(name: str) -> None:
    sae, x = tiny(name), batch().view(4, 8, 8)
    out = sae(x)
    assert torch.equal(out.sae_out, sae.decode(sae.encode(x)))
    torch.testing.assert_close(out.sae_out.view(-1, 8), sae(x.view(-1, 8)).sae_out)
    assert out.acts.values.shape == out.acts.indices.shape and out.acts.scale.shape == (4, 8)


@every
def test_no_tokens_give_no_acts(name: str) -> None:
    out = tiny(name)(torch.zeros(0, 8))
    assert out.sae_out.shape == (0, 8) and len(out.acts.values) == 0


@every
@normalizing
def test_raw_in_raw_out(name: str, normalize: str, whiten: bool) -> None:
    raw = batch() @ torch.diag(torch.logspace(-1, 1, 8)) + 3
    sae = tiny(name, normalize=normalize, whiten=whiten)
    sae.fit_normalization(raw)
    to_white, back = white_and_back(raw) if whiten else (lambda a: a, lambda a: a)
    x = to_white(raw)
    plain = tiny(name, normalize="none")
    plain.load_state_dict(sae.state_dict(), strict=False)
    mean, std = x.mean(0), x.std(0)
    token_mean, token_std = x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True)
    token_spread = x.std(1, keepdim=True)
    norms = x.norm(dim=1, keepdim=True)
    undone = {
        "none": lambda f: f(x),
        "unit_norm": lambda f: f(x / norms) * norms,
        "layer_norm": lambda f: f((x - token_mean) / token_std) * token_std + token_mean,
        "layer_norm_unbiased": lambda f: (
            f((x - token_mean) / token_spread) * token_spread + token_mean
        ),
        "standardize": lambda f: f((x - mean) / std) * std + mean,
        "mean_norm": lambda f: f(x / norms.mean() * 8**0.5) * norms.mean() / 8**0.5,
    }[normalize](lambda unit: plain(unit).sae_out)
    torch.testing.assert_close(sae(raw).sae_out, back(undone), rtol=1e-3, atol=3e-3)


@every
@normalizing
def test_the_dense_flat_view_gives_the_forward(name: str, normalize: str, whiten: bool) -> None:
    sae, x = tiny(name, normalize=normalize, whiten=whiten), batch()
    sae.fit_normalization(x)
    acts = sae.encode(x)
    rows = sae.decoder_rows(torch.arange(sae.d_sae))
    assert rows.shape == (sae.d_sae, 8)
    bias = sae.decode(acts.replace(torch.zeros_like(acts.values)))
    torch.testing.assert_close(acts.dense() @ rows + bias, sae(x).sae_out)


@every
def test_gradients_reach_every_weight_and_are_finite(name: str) -> None:
    sae, x = tiny(name), batch(rows=256)
    loss = sae.losses(x, TrainStep(5, 10))["loss"]
    loss.backward()
    for key, parameter in sae.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), key


@every
def test_training_lowers_the_loss(name: str) -> None:
    sae, x = tiny(name), batch(rows=256)
    optimizer = torch.optim.Adam(sae.parameters(), lr=5e-3)
    losses = []
    for i in range(60):
        optimizer.zero_grad()
        loss = sae.losses(x, TrainStep(i, 60))["reconstruction"]
        losses.append(loss.item())
        loss.backward()
        sae.before_update()
        optimizer.step()
        sae.after_update(TrainStep(i, 60), optimizer)
    assert losses[-1] < 0.8 * losses[0]


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_works_in_other_types_and_answers_in_the_caller_s(name: str, dtype: torch.dtype) -> None:
    sae = tiny(name).to(dtype)
    assert sae.dtype == dtype and sae(batch()).sae_out.dtype == torch.float32
    assert sae(batch().to(dtype)).sae_out.dtype == dtype


def test_latents_are_named_by_parent_and_child() -> None:
    shape = TreeShape(4, 3)
    assert shape.d_sae == 16
    assert [shape.name(i) for i in (0, 3, 4, 6, 15)] == ["0", "3", "0/0", "0/2", "3/2"]
    assert all(shape.index_of(shape.name(i)) == i for i in range(16))
    assert shape.index_of(6) == 6 and shape.parent_of(6) == 0 and shape.parent_of(3) is None


@pytest.mark.parametrize("name", ["16", "4/0", "0/3", "-1", "a", "", "1/", "1/2/3", "²"])
def test_a_latent_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(
        NotFoundError, match=r"no latent .* parents 0 to 3, of each children 0 to 2"
    ):
        TreeShape(4, 3).index_of(name)


@pytest.mark.parametrize("rows", [300, 5])
def test_whitening_agrees_with_numpy(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(8, 8, generator=generator, dtype=torch.float64) + 3
    sae = build({"architecture": "topk", "d_in": 8, "d_sae": 9, "k": 2, "whiten": True}).double()
    sae.fit_normalization(x)
    white, scale, shift = sae.normalize(x)
    numbers = x.numpy()
    covariance = np.cov(numbers, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    floored = np.maximum(values, 1e-6 * values.max())  # 5 rows vary in 4 directions of 8
    inverse_root = vectors @ np.diag(floored**-0.5) @ vectors.T
    expected = (numbers - numbers.mean(0)) @ inverse_root
    np.testing.assert_allclose(white.numpy(), expected, rtol=1e-6, atol=1e-6)
    if rows > 8:
        np.testing.assert_allclose(np.cov(white.numpy(), rowvar=False), np.eye(8), atol=1e-6)
    weights = {name: value.numpy() for name, value in sae.weights().items()}
    product = weights["norm_whiten"] @ weights["norm_unwhiten"]
    np.testing.assert_allclose(product, np.eye(8), atol=1e-6)
    square = weights["norm_unwhiten"] @ weights["norm_unwhiten"]
    np.testing.assert_allclose(square, covariance, atol=2e-6 * values.max())
    assert torch.equal(scale, torch.ones(rows)) and not shift.any()


@pytest.mark.parametrize("shape", [(3, 16), (3, 4), (3, 7), (0, 16)])
def test_activations_of_another_width_are_refused_with_both(shape: tuple[int, ...]) -> None:
    with pytest.raises(MisfitError, match=re.escape(f"{list(shape)}; this SAE reads [..., 8]")):
        tiny("hsae")(torch.zeros(shape))


def test_what_is_not_finite_whitens_to_no_number() -> None:
    sae = tiny("topk", whiten=True)
    sae.fit_normalization(batch() * torch.inf)
    assert bool(sae(batch()).sae_out.isnan().all())


def test_whitening_and_standardizing_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="both set mean and std"):
        tiny("topk", whiten=True, normalize="standardize")


def test_unknown_names_and_keys_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown architecture .hsea.; did you mean .hsae."):
        build({"architecture": "hsea"})
    with pytest.raises(UsageError, match="n_parents: required") as caught:
        build({"architecture": "hsae", "d_in": 8, "n_parent": 4, "k": 0})
    assert "n_parent: unknown key; did you mean 'n_parents'?" in caught.value.problems
    assert len(caught.value.problems) == 5
    with pytest.raises(UsageError, match=r"k \(=30\) must be at most d_sae \(=20\)"):
        build({"architecture": "topk", "d_in": 8, "d_sae": 20, "k": 30})


def test_a_name_can_be_registered_once() -> None:
    with pytest.raises(ValueError, match=r"'topk' is taken by hsae_hub\.architectures\.topk"):
        register(architecture("topk"))


def test_a_config_cannot_be_changed() -> None:
    config: SAEConfig = tiny("topk").config
    with pytest.raises(ValueError, match="frozen"):
        config.d_in = 3  # type: ignore[misc]
