"""SAEs with dense acts, as SAEBench and SAELens hold them."""

import json
from typing import Any

import pytest
import torch
from test_architectures import batch, every, normalizing, tiny

from hsae_hub.architectures import SAE
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, read_artifact, save_sae
from hsae_hub.errors import UsageError
from hsae_hub.interop.dense import DenseSAE
from hsae_hub.interop.saebench import SAEBenchSAE, for_saebench

NAMES = {"model_name": "gemma-2-2b", "hook_name": "blocks.20.hook_resid_post"}
close = torch.testing.assert_close


def fitted(name: str, **settings: Any) -> SAE[Any]:
    sae = tiny(name, **settings).requires_grad_(False)
    sae.fit_normalization(1 + batch(5, rows=100))
    return sae


@every
def test_dense_acts_and_their_decoding_are_those_of_the_sae(name: str) -> None:
    sae, x = fitted(name), batch().view(4, 8, 8)
    dense, out = DenseSAE(sae), sae(x)
    acts = dense.encode(x)
    close(acts, out.acts.dense(), rtol=0, atol=0)
    close(dense.decode(acts), out.sae_out)
    close(dense(x), out.sae_out)
    assert dense.W_enc.shape == (8, sae.d_sae) and dense.W_dec.shape == (sae.d_sae, 8)
    # one product and what silent latents give
    silent = dense.decode(torch.zeros_like(acts))
    close(dense.decode(acts), acts @ dense.W_dec + silent)
    dense.fold_norms()
    close(dense.encode(x) @ dense.W_dec + silent, out.sae_out)
    close(dense(x), out.sae_out)
    close(dense.W_dec.norm(dim=-1), torch.ones(sae.d_sae))


@normalizing
def test_every_way_of_normalising(normalize: str, whiten: bool) -> None:
    """Acts are linear in raw units: a row of the decoder, and one of the encoder, are those of raw activations."""
    sae = fitted("hsae", normalize=normalize, whiten=whiten, bias=True)
    dense, x = DenseSAE(sae), batch()
    acts = dense.encode(x)
    close(dense.decode(acts), sae(x).sae_out)
    close(dense.decode(acts), dense.decode(acts), rtol=0, atol=0)
    parents = DenseSAE(sae, "parents")
    only = sae.encode(x).keep(sae.encode(x).indices < 12)
    close(parents.encode(x), acts[:, :12], rtol=0, atol=0)
    close(parents.decode(parents.encode(x)), sae.decode(only))


def test_an_encoder_column_is_the_gradient_of_its_latent() -> None:
    sae = fitted("hsae", normalize="none", whiten=True)
    dense, x = DenseSAE(sae), batch(rows=1).requires_grad_()
    acts = dense.encode(x)[0]
    found = [int(i) for i in acts.nonzero()]
    assert min(found) < 12 <= max(found)  # a parent and a child
    for latent in found:
        (grad,) = torch.autograd.grad(acts[latent], x, retain_graph=True)
        ratio = grad[0] / dense.W_enc[:, latent]
        assert torch.allclose(ratio, torch.ones(8)) or torch.allclose(ratio, torch.full((8,), 0.01))


def test_tokens_normalised_one_by_one_are_those_last_encoded() -> None:
    dense = DenseSAE(fitted("group"))  # layer_norm
    with pytest.raises(ValueError, match=r"3 tokens, but the last encode\(\) saw 0"):
        dense.decode(torch.zeros(3, 20))
    dense.encode(batch(rows=3))
    assert dense.decode(torch.zeros(3, 20)).shape == (3, 8)
    with pytest.raises(ValueError, match=r"2 tokens, but the last encode\(\) saw 3"):
        dense.decode(torch.zeros(2, 20))
    assert DenseSAE(fitted("hsae")).decode(torch.zeros(5, 48)).shape == (5, 8)


def test_gradients_reach_tokens_and_acts() -> None:
    dense, x = DenseSAE(fitted("hsae")), batch().requires_grad_()
    acts = dense.encode(x).detach().requires_grad_()
    dense.decode(acts).sum().backward()
    close(acts.grad, dense.W_dec.sum(-1).expand_as(acts))  # silent latents too
    dense(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("view", ["flat", "parents"])
def test_saebench_finds_what_it_asks_for(view: Any) -> None:
    """The attributes of `peers.md`, section 3.1: what its evaluations use and set."""
    sae = fitted("hsae")
    bench = for_saebench(sae, view=view, **NAMES)
    width = 12 if view == "parents" else 48
    x = batch().view(4, 8, 8)
    for tokens in (x, x[0]):
        acts = bench.encode(tokens)
        assert acts.shape == (*tokens.shape[:-1], width)
        close(bench.decode(acts), acts @ bench.W_dec)
        close(bench(tokens), bench.decode(acts))
    close(bench.W_dec.data.norm(dim=1), torch.ones(width))
    assert (bench.W_enc.norm(dim=0) > 0).all() and bench.W_enc.shape == (8, width)
    assert bench.b_dec.shape == (8,) and not hasattr(bench, "b_enc")
    assert (bench.cfg.d_in, bench.cfg.d_sae, bench.cfg.hook_layer) == (8, width, 20)
    assert bench.cfg.architecture == "hsae" and bench.cfg.normalize_activations == "none"
    bench.cfg.hook_layer = bench.cfg.context_size = 7  # as its standardisation does
    bench.cfg.metadata = object()
    assert json.loads(json.dumps(bench.cfg.to_dict()))["context_size"] == 7
    half = bench.to(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert half is bench and bench.dtype == bench.W_enc.dtype == torch.bfloat16
    assert bench.cfg.dtype == "bfloat16" and str(bench.device) == bench.cfg.device == "cpu"
    close(bench.W_dec.float().norm(dim=1), torch.ones(width), rtol=0, atol=2e-2)
    assert bench.encode(x.bfloat16()).dtype == torch.bfloat16


def test_names_come_from_what_is_known_of_a_saved_sae(tmp_path: Any) -> None:
    save_sae(
        tiny("topk"),
        tmp_path,
        model=ModelConfig(id="google/gemma-2-2b"),
        hookpoint=HookpointConfig(
            path="model.layers.5", transformer_lens="blocks.5.hook_resid_post"
        ),
        tokens=TokensConfig(context_length=64, bos=False),
    )
    bench = for_saebench(read_artifact(tmp_path).sae)
    assert isinstance(bench, SAEBenchSAE)
    assert (bench.cfg.model_name, bench.cfg.hook_layer) == ("gemma-2-2b", 5)
    assert (bench.cfg.context_size, bench.cfg.prepend_bos) == (64, False)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"hook_name": "blocks.2.hook_resid_post"}, "model_name of the SAE is not known"),
        ({"model_name": "gemma-2-2b"}, "hook_name of the SAE is not known"),
        ({"model_name": "gemma-2-2b", "hook_name": "hook_embed"}, "names no layer"),
    ],
)
def test_saebench_cannot_do_without_names(names: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        for_saebench(tiny("topk"), **names)
