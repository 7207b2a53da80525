"""A few tokens are encoded without the whole product: the same latents, never of weights that are gone."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hsae_hub.architectures import SAE, TrainStep, build
from hsae_hub.ops import FewTokens, few_tokens
from hsae_hub.recipes import TrainSection
from hsae_hub.training.row_adam import RowAdam

pytest.importorskip("numba")
WIDTH, N, K = 96, 2048, 8


@pytest.fixture(autouse=True)
def small_weights_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(few_tokens, "_WORTH_IT", 1)
    yield


def weights(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(WIDTH, N, generator=g) * torch.rand(N, generator=g)
    return W, torch.randn(N, generator=g), torch.randn(WIDTH, generator=g)


def tokens(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def ready(W: Tensor) -> FewTokens:
    found = FewTokens()
    found.top_k(tokens(1), W, K)
    return found


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("biased", [False, True])
def test_the_choice_is_that_of_the_whole_product(n: int, biased: bool) -> None:
    W, bias, centre = weights()
    few = ready(W)
    for seed in range(50):
        x = tokens(n, seed)
        given = {"bias": bias, "centre": centre} if biased else {}
        found = few.top_k(x, W, K, **given)
        whole = torch.addmm(bias, x - centre, W) if biased else x @ W
        wanted = whole.topk(K)
        assert found is not None
        assert torch.equal(found[1], wanted.indices)
        torch.testing.assert_close(found[0], wanted.values, rtol=1e-5, atol=1e-5)


def test_values_are_those_of_float64_within_1e_6() -> None:
    W, _, _ = weights()
    x = tokens(4)
    found = ready(W).top_k(x, W, K)
    assert found is not None
    exact = (x.double() @ W.double()).gather(1, found[1])
    assert ((found[0] - exact).abs() / exact.abs()).max() < 1e-6


@pytest.mark.parametrize("kind", ["zeros", "twins", "nan", "inf", "huge"])
def test_what_rounding_could_decide_is_left_to_the_whole_product(kind: str) -> None:
    W, _, _ = weights()
    x = tokens(1)
    if kind == "zeros":
        x.zero_()
    elif kind == "twins":  # the last that is chosen, and one that is not
        last = int((x @ W).topk(K).indices[0, -1])
        W[:, (last + 1) % N] = W[:, last]
    elif kind == "nan":
        x[0, 3] = torch.nan
    elif kind == "inf":
        x[0, 3] = torch.inf
    elif kind == "huge":
        W[3, 5] = torch.inf
    assert ready(W).top_k(x, W, K) is None


def test_nothing_is_made_for_one_call_nor_kept_of_weights_that_changed() -> None:
    W, _, _ = weights()
    x = tokens(1)
    few = FewTokens()
    assert few.top_k(x, W, K) is None
    assert few.top_k(x, W, K) is not None
    W[:, 7] = 3 * x[0]
    assert few.top_k(x, W, K) is None
    found = few.top_k(x, W, K)
    assert found is not None and 7 in found[1]
    other = W.clone()
    assert few.top_k(x, other, K) is None


def test_weights_that_learn_and_many_tokens_are_left_alone() -> None:
    W, _, _ = weights()
    few = ready(W)
    assert few.top_k(tokens(few_tokens.MOST_TOKENS + 1), W, K) is None
    assert few.top_k(tokens(1).requires_grad_(), W, K) is None
    with torch.no_grad():
        assert few.top_k(tokens(1).requires_grad_(), W, K) is not None
    assert few.top_k(tokens(1), W.clone().requires_grad_(), K) is None
    with torch.inference_mode():
        assert few.top_k(tokens(1), W.clone(), K) is None  # its version is not counted


SAES: list[dict[str, Any]] = [
    {"architecture": "topk", "d_sae": N, "k": K},
    {"architecture": "topk", "d_sae": N, "k": K, "pre_encoder_bias": False},
    {"architecture": "hsae", "n_parents": N, "n_children": 3, "d_subspace": 2, "k": K},
    {
        "architecture": "hsae",
        "n_parents": N,
        "n_children": 3,
        "d_subspace": 2,
        "k": K,
        "bias": True,
    },
]


def made(config: dict[str, Any]) -> SAE[Any]:
    sae = build({**config, "d_in": WIDTH}, seed=0).requires_grad_(False)
    for name, parameter in sae.named_parameters():
        if name.startswith("b_"):
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    return sae


@pytest.mark.parametrize("config", SAES)
def test_an_sae_encodes_one_token_as_it_encodes_many(config: dict[str, Any]) -> None:
    sae = made(config)
    x = tokens(20)
    many = sae.encode(x).dense()
    sae.encode(x[:1])
    for token in range(20):
        one = sae.encode(x[token : token + 1]).dense()
        assert torch.equal(one != 0, many[token : token + 1] != 0)
        torch.testing.assert_close(one, many[token : token + 1], rtol=1e-5, atol=1e-6)
    assert sae.few_tokens._columns is not None


def test_copies_and_files_hold_nothing_of_it() -> None:
    sae = made(SAES[0])
    before = set(sae.state_dict()), set(sae.weights())
    for _ in range(2):
        sae.encode(tokens(1))
    assert (set(sae.state_dict()), set(sae.weights())) == before
    assert copy.deepcopy(sae).few_tokens._columns is None


def test_the_authors_order_of_empty_slots_is_kept() -> None:
    sae = made({**SAES[2], "variant": "released"})
    for _ in range(3):
        sae.encode(tokens(1))
    assert sae.few_tokens._columns is None


def test_training_in_between_is_seen() -> None:
    x = tokens(64)
    sae = made({**SAES[0], "aux_weight": 0.0})
    for _ in range(2):
        sae.encode(x[:1])
    sae.requires_grad_(True)
    optimizer = RowAdam(sae, TrainSection(steps=1, batch_size=64, lr=0.01, warmup_steps=0))
    with optimizer.following():
        sae.losses(x, TrainStep(0, 1))["loss"].backward()
        assert sae.W_enc.grad is None  # its gradient was handed over
    optimizer.clip(None)
    optimizer.step()
    sae.requires_grad_(False)
    sae.encode(x[:1])
    assert sae.few_tokens._columns is None
