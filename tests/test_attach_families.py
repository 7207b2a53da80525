"""Every family, place and engine: steering and splicing are what plain hooks at that place do."""

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from tiny_models import MODULES, WIDTH, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.batches import encode_texts, pad_left
from hsae_hub.attach.generating import greedy
from hsae_hub.errors import MisfitError
from hsae_hub.models import (
    Hookpoint,
    LanguageModel,
    in_order_of_execution,
    load_language_model,
)

TEXTS = ["the history of a town", "rain", "it was over then"]
LENS = {
    "layers.1": "blocks.1.hook_resid_post",
    "layers.1.input": "blocks.1.hook_resid_pre",
    "layers.1.attn_out": "blocks.1.hook_attn_out",
    "layers.1.mlp_out": "blocks.1.hook_mlp_out",
}


@pytest.fixture(scope="module", params=list(MODULES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def models(family: str) -> tuple[LanguageModel, LanguageModel]:
    return tiny_model(family), tiny_model(family)


@pytest.fixture(scope="module")
def sae() -> SAE[Any]:
    shape = {"d_in": WIDTH, "n_parents": 12, "n_children": 2, "d_subspace": 2, "k": 4}
    return build({"architecture": "hsae", **shape}, seed=0)


def hooked(
    plain: LanguageModel, family: str, place: str, change: Callable[[Tensor], Tensor]
) -> Callable[[], None]:
    """Changes what passes a place, on every token but padding, BOS and EOS; gives what takes it away again."""
    layers, attention, mlp = MODULES[family]
    below = {"layers.1.attn_out": f".{attention}", "layers.1.mlp_out": f".{mlp}"}.get(place, "")
    module = plain.hf.get_submodule(f"{layers}.1{below}")
    seen: dict[str, Tensor] = {}

    def changed(h: Tensor) -> Tensor:
        return torch.where(seen["ids"][..., None] > 2, change(h), h)

    def note(_m: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen["ids"] = kwargs["input_ids"]

    def after(_m: Any, _args: Any, out: Any) -> Any:
        return (changed(out[0]), *out[1:]) if isinstance(out, tuple) else changed(out)

    def before(_m: Any, args: Any) -> Any:
        return (changed(args[0]), *args[1:])

    handles = [plain.hf.register_forward_pre_hook(note, with_kwargs=True)]
    if place.endswith(".input"):
        handles.append(module.register_forward_pre_hook(before))
    else:
        handles.append(module.register_forward_hook(after))
    return lambda: [handle.remove() for handle in handles] and None


@pytest.mark.parametrize("place", list(LENS))
def test_every_place_of_every_family(
    place: str, family: str, models: tuple[LanguageModel, LanguageModel], sae: SAE[Any]
) -> None:
    model, plain = models
    batch = pad_left(model, encode_texts(model, TEXTS))
    positions = (batch.mask.cumsum(-1) - 1).clamp_min(0)
    engines = [attach(sae, model, hookpoint=place, engine=name) for name in ("nnsight", "hooks")]
    row = 3.0 * sae.W_dec[5].detach()

    def check(block: Callable[[Attached], Any], change: Callable[[Tensor], Tensor]) -> None:
        remove = hooked(plain, family, place, change)
        with torch.no_grad():
            wanted = plain.hf(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions
            ).logits
            ids = plain.hf.generate(
                batch.ids, attention_mask=batch.mask, generation_config=greedy(plain, 6)
            )
        remove()
        results = []
        for lm in engines:
            with block(lm):
                results.append(lm._engine.logits(batch, lm._stack()))
                found = lm._engine.generate(batch, greedy(model, 6), lm._stack())
            assert torch.equal(found, ids)
        real = batch.mask.bool()
        torch.testing.assert_close(results[0][real], wanted[real], rtol=0, atol=1e-5)
        assert torch.equal(*results), "both engines, bit for bit"

    check(lambda lm: lm.steer({"5": 3.0}, units="raw"), lambda h: h + row)
    check(lambda lm: lm.splice(), lambda h: sae(h).sae_out.detach())


def test_a_place_is_called_the_same_by_transformer_lens(
    family: str, models: tuple[LanguageModel, LanguageModel]
) -> None:
    model, _ = models
    layers, attention, mlp = MODULES[family]
    modules = {"layers.1.attn_out": f".{attention}", "layers.1.mlp_out": f".{mlp}"}
    for place, alias in LENS.items():
        named = Hookpoint.parse(alias)
        assert named == Hookpoint.parse(place) == Hookpoint.parse(str(named))
        config = named.config(model)
        assert config.path == f"{layers}.1" + modules.get(place, "")
        assert config.transformer_lens == alias and named.width(model) == WIDTH
        again = Hookpoint.from_config(config)
        assert again.full_path(model.hf) == config.path and again.config(model) == config


def test_a_layer_without_attention_is_refused() -> None:
    model = tiny_model("llama")
    for layer in model.hf.model.layers:
        layer.renamed = layer._modules.pop("self_attn")
    with pytest.raises(MisfitError, match="LlamaDecoderLayer has none of self_attn"):
        Hookpoint.parse("layers.1.attn_out").module(model.hf)


@pytest.mark.parametrize("engine", ["nnsight", "hooks"])
def test_weights_that_accelerate_brings_when_they_are_needed(engine: Any, sae: SAE[Any]) -> None:
    here, there = tiny_model("gemma2"), tiny_model("gemma2")
    batch = pad_left(here, encode_texts(here, TEXTS))
    accelerate.cpu_offload(there.hf, execution_device=torch.device("cpu"))
    assert there.hf.device.type == "meta" and there.device.type == "cpu"
    found = []
    for model in (here, there):
        lm = attach(sae, model, hookpoint="layers.1", engine=engine)
        assert lm.sae is sae and sae.device.type == "cpu"
        with lm.splice(error_term=True), lm.steer({"5": 2.0, "3": 0}, units="raw"):
            found.append(lm._engine.logits(batch, lm._stack()))
    assert torch.equal(*found)


def test_a_model_is_spread_over_what_there_is() -> None:
    lm = load_language_model(device="auto")
    assert lm.device == (torch.device("cuda", 0) if torch.cuda.is_available() else lm.hf.device)
    assert not lm.hf.training and lm.dtype == torch.float32


def test_places_of_a_model_without_weights(
    family: str, models: tuple[LanguageModel, LanguageModel]
) -> None:
    here = models[0]
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(here.hf.config)
    away = LanguageModel(hf, here.tokenizer, here.id, remote=True)
    places = [Hookpoint.parse(place) for place in LENS]
    assert [place.width(away) for place in places] == [WIDTH] * len(places)
    # as the engines that run it elsewhere need to know it
    assert in_order_of_execution(away, places) == in_order_of_execution(here, places)
