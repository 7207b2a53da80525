"""Latents above a threshold, and weights of 16 bits: a few tokens are encoded as they are by the whole product."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.ops import FewTokens, few_tokens

pytest.importorskip("numba")
WIDTH, N = 96, 2048
HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def small_weights_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(few_tokens, "_WORTH_IT", 1)
    yield


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ready(W: Tensor) -> FewTokens:
    found = FewTokens()
    found.top_k(drawn(1, WIDTH).to(W.dtype), W, 8)
    return found


FLAT: dict[str, Any] = {"d_sae": N}
SAES: list[dict[str, Any]] = [
    {"architecture": "l1", **FLAT},
    {"architecture": "l1", **FLAT, "pre_encoder_bias": False, "normalize": "layer_norm"},
    {"architecture": "jumprelu", **FLAT, "lambda_l0": 0.1},
    {"architecture": "gated", **FLAT, "lambda_l1": 0.1},
    {"architecture": "batch_topk", **FLAT, "k": 8},
    {"architecture": "matryoshka", **FLAT, "prefixes": [N // 4, N], "k": 8},
    {"architecture": "group", **FLAT, "n_groups": 4},
    {"architecture": "dynamic", **FLAT},
]


def sparse(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> SAE[Any]:
    """About one latent in a hundred is above its threshold."""
    sae = build({**config, "d_in": WIDTH}, seed=0).requires_grad_(False)
    sae.b_dec.copy_(0.1 * drawn(WIDTH))
    for name in ("b_enc", "b_gate"):
        if hasattr(sae, name):
            getattr(sae, name).copy_(-2 + 0.2 * drawn(N, seed=1))
    if config["architecture"] == "gated":
        sae.b_mag.copy_(0.3 * drawn(N, seed=2))
        sae.r_mag.copy_(0.3 * drawn(N, seed=3))
    if hasattr(sae, "threshold"):
        sae.threshold.fill_(0.3)
    return sae.to(dtype)


def set_of(values: Tensor, indices: Tensor) -> set[int]:
    return set(indices[values != 0].tolist())


@pytest.mark.parametrize("config", SAES, ids=lambda config: config["architecture"])
def test_one_token_has_the_acts_that_it_has_among_many(config: dict[str, Any]) -> None:
    sae = sparse(config)
    x = drawn(40, WIDTH, seed=5)
    many = sae.encode(x).dense()
    counts = (many != 0).sum(-1)
    assert 5 < counts.float().mean() < N / 20
    for first in range(0, 40, 4):
        few = sae.encode(x[first : first + 4])
        assert torch.equal(few.dense() != 0, many[first : first + 4] != 0)
        torch.testing.assert_close(few.dense(), many[first : first + 4], rtol=1e-5, atol=1e-6)
    assert sae.few_tokens._columns is not None


def test_few_are_left_to_the_whole_product() -> None:
    W, bias = drawn(WIDTH, N), torch.full((N,), -25.0)
    few = ready(W)
    found = [few.above(drawn(1, WIDTH, seed=seed), W, None, bias=bias) for seed in range(200)]
    assert sum(each is None for each in found) <= 4
    for seed, each in enumerate(found):
        whole = (torch.addmm(bias, drawn(1, WIDTH, seed=seed), W))[0]
        if each is not None:
            assert set_of(*each) == set(torch.nonzero(whole > 0)[:, 0].tolist())


@pytest.mark.parametrize("kind", ["tie", "dense", "nan", "inf"])
def test_what_rounding_could_decide_or_is_not_sparse_is_left_to_the_whole_product(
    kind: str,
) -> None:
    W, x = drawn(WIDTH, N), drawn(1, WIDTH, seed=3)
    threshold = torch.full((N,), 25.0)
    assert ready(W).above(x, W, threshold) is not None
    if kind == "tie":
        threshold[7] = (x @ W)[0, 7]
    elif kind == "dense":
        threshold.zero_()
    else:
        x[0, 3] = float(kind)
    assert ready(W).above(x, W, threshold) is None


def test_a_threshold_that_nothing_reaches_leaves_one_empty_slot() -> None:
    W, x = drawn(WIDTH, N), drawn(2, WIDTH)
    found = ready(W).above(x, W, torch.full((N,), 1e3), empty=-1.0)
    assert found is not None
    assert found[0].tolist() == [[-1.0], [-1.0]]


@pytest.mark.parametrize("dtype", HALF)
def test_the_largest_of_products_that_are_rounded_to_16_bits(dtype: torch.dtype) -> None:
    W, bias, x = drawn(WIDTH, N).to(dtype), drawn(N, seed=1).to(dtype), drawn(80, WIDTH).to(dtype)
    few = ready(W)
    whole = (x.double() @ W.double() + bias).to(dtype)
    for token in range(80):
        found = few.top_k(x[token : token + 1], W, 8, bias=bias)
        assert found is not None and found[0].dtype == dtype
        # of those that are equal when rounded any may be chosen
        wanted = whole[token].topk(8).values
        assert torch.equal(found[0][0].sort(descending=True).values, wanted)
        assert torch.equal(whole[token][found[1][0]].sort(descending=True).values, wanted)


@pytest.mark.parametrize("dtype", HALF)
def test_what_is_above_a_threshold_when_it_is_rounded_to_16_bits(dtype: torch.dtype) -> None:
    W, threshold = drawn(WIDTH, N).to(dtype), torch.full((N,), 25.0).to(dtype)
    few, at = ready(W), 0
    for seed in range(200):
        x = drawn(1, WIDTH, seed=seed).to(dtype)
        exact = (x.double() @ W.double())[0]
        found = few.above(x, W, threshold)
        if found is not None:
            assert set_of(*found) == set(torch.nonzero(exact.to(dtype) > threshold)[:, 0].tolist())
            at += int(((exact > 25) & (exact.to(dtype) <= 25)).sum())
    assert at > 0, "none lay where only rounding keeps it out"


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("config", [SAES[2], SAES[3]], ids=lambda config: config["architecture"])
def test_an_sae_of_16_bits_encodes_one_token_as_it_does_many(
    config: dict[str, Any], dtype: torch.dtype
) -> None:
    sae = sparse(config, dtype)
    x = drawn(20, WIDTH, seed=5).to(dtype)
    many = sae.encode(x).dense()
    for token in range(20):
        one = sae.encode(x[token : token + 1]).dense()[0]
        # a whole product of 16 bits is not always the exact one rounded
        assert ((one != 0) != (many[token] != 0)).sum() <= 1
        both = (one != 0) & (many[token] != 0)
        torch.testing.assert_close(one[both], many[token][both], rtol=2e-2, atol=2e-2)
    assert sae.few_tokens._columns is not None
