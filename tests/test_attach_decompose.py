"""A text taken apart, against the definitions."""

import json
from collections.abc import Iterator
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, Feature, Token, attach
from hsae_hub.attach.decomposing import token_texts
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

TEXT = 'The corgi slept.\n<b>Ω & "x"</b>'


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> SAE[Any]:
    return oracle.saved_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return oracle.fresh_model()


@pytest.fixture(scope="module")
def lm(sae: SAE[Any], model: LanguageModel) -> Attached:
    return attach(sae, model)


@pytest.fixture(scope="module")
def residual(model: LanguageModel) -> Tensor:
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    twin = oracle.fresh_model().hf
    with torch.no_grad():
        return twin(ids, output_hidden_states=True).hidden_states[oracle.LAYER + 1][0]


def every(token: Token) -> Iterator[Feature]:
    for feature in token.features:
        yield feature
        if feature.child:
            yield feature.child


def terms_of(sae: SAE[Any], token: Token) -> dict[str, Tensor]:
    return {f.id: f.act * oracle.row_of(sae, f.id).double() for f in every(token)}


def test_the_tree_is_the_reconstruction(lm: Attached, sae: SAE[Any], residual: Tensor) -> None:
    found = lm.decompose(TEXT)
    acts = sae.encode(residual)
    x_hat = sae.decode(acts)
    assert (found.text, found.model) == (TEXT, "gemma2-tiny-en")
    assert found.hookpoint == "model.layers.3" and found.sae == sae.info.ref
    assert [t.special for t in found.tokens] == [True] + [False] * (len(found.tokens) - 1)
    assert found.tokens[0].features == ()
    for token in found.tokens[1:]:
        terms = terms_of(sae, token)
        total = sum(terms.values())
        assert isinstance(total, Tensor)
        torch.testing.assert_close(total.float(), x_hat[token.position], rtol=0, atol=1e-4)
        assert token.fired == len(token.features) == 8
        assert [f.act for f in token.features] == sorted([f.act for f in token.features])[::-1]
        for feature in token.features:
            assert feature.child is not None and feature.child.id.startswith(feature.id + "/")
            assert feature.runner_ups == () and feature.label is None


def test_shares_and_what_is_explained_are_their_definitions(
    lm: Attached, sae: SAE[Any], residual: Tensor
) -> None:
    for token in lm.decompose(TEXT).tokens[1:]:
        x = residual[token.position].double()
        terms = terms_of(sae, token)
        x_hat = torch.stack(list(terms.values())).sum(0)

        def explained(x_hat: Tensor, x: Tensor = x) -> float:
            return float(1 - (x - x_hat).square().sum() / x.square().sum())

        assert sum(f.share for f in every(token)) == pytest.approx(1)
        assert token.norm == pytest.approx(float(x.norm()), rel=1e-5)
        assert token.explained == pytest.approx(explained(x_hat), abs=1e-5)
        assert token.unexplained == 1 - token.explained and token.bias_share == 0
        parents = torch.stack([terms[f.id] for f in token.features]).sum(0)
        assert token.explained_by_parents == pytest.approx(explained(parents), abs=1e-5)
        for feature in every(token):
            term = terms[feature.id]
            share = float(term @ x_hat / x_hat.square().sum())
            assert feature.share == pytest.approx(share, abs=1e-5)
            gone = term + terms[feature.child.id] if feature.child else term
            lost = explained(x_hat) - explained(x_hat - gone)
            assert feature.leave_one_out == pytest.approx(lost, abs=1e-5)


def test_negative_shares_are_shown(lm: Attached) -> None:
    shares = [f.share for token in lm.decompose(TEXT * 4).tokens for f in every(token)]
    assert min(shares) < 0


def test_the_strongest_are_kept_and_the_rest_counted(lm: Attached) -> None:
    whole, cut = lm.decompose(TEXT), lm.decompose(TEXT, 3)
    for token, short in zip(whole.tokens, cut.tokens, strict=True):
        assert short.features == token.features[:3]
        assert (short.fired, short.explained) == (token.fired, token.explained)
    assert "5 more of 8 that fired" in str(cut) and "that fired" not in str(whole)


def test_runner_ups_are_the_next_children(lm: Attached, sae: SAE[Any], residual: Tensor) -> None:
    weights = sae.weights()
    token = lm.decompose(TEXT, runner_ups=2).tokens[2]
    x = residual[token.position]
    unit = x / x.norm()
    for feature in token.features:
        j = int(feature.id)
        inner = weights["child_W_enc"][j] @ (weights["W_down"][j] @ unit)
        acts = torch.where(inner >= 1 / 16, inner, 0.01 * inner) * x.norm()
        order = acts.argsort(descending=True)[:3].tolist()
        assert feature.child is not None and feature.child.id == f"{j}/{order[0]}"
        assert [r.id for r in feature.runner_ups] == [f"{j}/{c}" for c in order[1:]]
        for other in feature.runner_ups:
            assert other.act == pytest.approx(float(acts[int(other.id.split("/")[1])]), abs=1e-4)


def test_flat_saes_and_biases_are_taken_apart_too(model: LanguageModel, residual: Tensor) -> None:
    flat = build(oracle.TOPK | {"bias": True}, seed=0)
    generator = torch.Generator().manual_seed(0)
    assert flat.b_dec is not None
    with torch.no_grad():
        flat.b_dec.normal_(generator=generator)
    lm = attach(flat, model, hookpoint="3")
    found = lm.decompose(TEXT)
    assert found.sae == "topk 96"
    x_hat = flat(residual).sae_out.detach()
    for token in found.tokens[1:]:
        assert all(f.child is None for f in token.features)
        assert token.explained_by_parents == token.explained
        assert sum(f.share for f in token.features) + token.bias_share == pytest.approx(1)
        x = residual[token.position]
        wanted = 1 - (x - x_hat[token.position]).square().sum() / x.square().sum()
        assert token.explained == pytest.approx(float(wanted), abs=1e-4)
    assert "explained" in str(found) and "children" not in str(found).partition("act:")[0]


def test_a_parent_that_does_not_fire_is_not_shown(model: LanguageModel) -> None:
    sae = build(oracle.HSAE, seed=0)
    with torch.no_grad():
        sae.W_enc[:, 1:] = 0
    for token in attach(sae, model, hookpoint="3").decompose(TEXT).tokens[1:]:
        assert [f.id for f in token.features] in ([], ["0"])
        if not token.features:
            assert (token.explained, token.bias_share) == (0, 0)


def test_tokens_are_readable(model: LanguageModel) -> None:
    ids = model.tokenizer("The corgi\nΩ")["input_ids"]
    assert token_texts(model, ids) == ["<bos>", "The", " cor", "g", "i", "\n", "\\xce", "\\xa9"]


def test_a_decomposition_is_stored_and_drawn(lm: Attached) -> None:
    found = lm.decompose(TEXT, top=2, runner_ups=1)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["tokens"][1]["features"][0]["child"]["id"] == found.tokens[1].features[0].child.id  # type: ignore[union-attr]
    lines = str(found).splitlines()
    assert lines[0] == 'The corgi slept.↵<b>Ω & "x"</b>'
    assert lines[1].startswith("gemma2-tiny-en · model.layers.3 · ")
    assert found.to_text(60).splitlines()[0] == lines[0]
    feature = found.tokens[1].features[0]
    assert any(feature.id in line and f"{feature.act:.2f}" in line for line in lines)
    html = found._repr_html_()
    assert "&lt;b&gt;Ω &amp; &quot;x&quot;&lt;/b&gt;" in html and "<b>" not in html


def test_only_special_tokens_give_an_empty_tree(lm: Attached) -> None:
    found = lm.decompose("")
    assert [t.text for t in found.tokens] == ["<bos>"]
    assert "special, not taken apart" in str(found) and found.to_html()


def test_a_text_that_is_too_long_is_refused(lm: Attached) -> None:
    with pytest.raises(UsageError, match="reads at most 1024"):
        lm.decompose("rain " * 2000)


def test_it_shows_the_model_as_it_is_also_while_steering(lm: Attached) -> None:
    with lm.steer({"12": 3.0}), lm.splice():
        assert lm.decompose(TEXT) == lm.decompose(TEXT)
        inside = lm.decompose(TEXT)
    assert inside == lm.decompose(TEXT)
