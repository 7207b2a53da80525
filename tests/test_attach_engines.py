"""Both engines do what plain hooks do: batches, padding, caches, beams, several SAEs at once."""

from typing import Any

import attach_oracle as oracle
import pytest
import torch
from attach_oracle import PROMPTS
from torch import Tensor
from transformers import GenerationConfig

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.batches import Reading, TokenBatch, encode_texts, pad_left
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.running import Placed
from hsae_hub.errors import MisfitError, NotFoundError, UsageError
from hsae_hub.models import Hookpoint, LanguageModel

pytest_plugins = ("attach_fixtures",)

EDITS = {"12/3": 1.5, "5": -0.7, "20": 0.0}
ENGINES = ("nnsight", "hooks")


@pytest.fixture(scope="module", params=ENGINES)
def either(request: pytest.FixtureRequest, sae: SAE[Any], lm: Attached) -> Attached:
    return lm if request.param == "nnsight" else attach(sae, lm.lm, engine="hooks")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("texts", [PROMPTS, PROMPTS[1:2]])
def test_padding_on_either_side(
    side: str, texts: list[str], either: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    rows = [plain.tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    marks = [[1] * len(row) for row in rows]
    if side == "left":
        rows = [pad + row for pad, row in zip(pads, rows, strict=True)]
        marks = [pad + mark for pad, mark in zip(pads, marks, strict=True)]
    else:
        rows = [row + pad for pad, row in zip(pads, rows, strict=True)]
        marks = [mark + pad for pad, mark in zip(pads, marks, strict=True)]
    batch = TokenBatch(torch.tensor(rows), torch.tensor(marks))
    positions = (batch.mask.cumsum(-1) - 1).clamp_min(0)
    with either.steer(EDITS):
        found = either._engine.logits(batch, either._stack())
    with torch.no_grad(), oracle.hooked(plain, [oracle.steer(sae, EDITS)]):
        wanted = plain.hf(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions
        ).logits
    real = batch.mask.bool()
    torch.testing.assert_close(found[real], wanted[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        {"cache_implementation": "dynamic"},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2, "use_cache": False},
    ],
)
def test_every_cache_and_beams_are_right(
    kind: dict[str, Any], either: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0, **kind)
    batch = pad_left(either.lm, encode_texts(either.lm, PROMPTS))
    with either.splice(error_term=True), either.steer(EDITS):
        found = either._engine.generate(batch, config, either._stack())
    with oracle.hooked(plain, [oracle.steer(sae, EDITS)]):
        wanted = plain.hf.generate(**oracle.batch_of(plain, PROMPTS), generation_config=config)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [{}, {"use_cache": False}, {"num_beams": 3}])
def test_an_intervention_knows_what_is_read(
    engine: str, kind: dict[str, Any], lm: Attached
) -> None:
    model, place = lm.lm, Hookpoint("layers.3")
    read: list[tuple[Reading, Tensor]] = []

    def look(h: Tensor, reading: Reading) -> Tensor:
        read.append((reading, h))
        return h

    batch = pad_left(model, encode_texts(model, PROMPTS))
    config = GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=0, **kind)
    ids = Engine(model, [place], engine).generate(batch, config, [Placed(place, look)])
    width, copies = batch.ids.shape[1], kind.get("num_beams", 1)
    assert [reading.step for reading, _ in read] == [0, 1, 2, 3]
    for step, (reading, h) in enumerate(read):
        assert reading.ordinary.shape == h.shape[:2] and reading.prompt == width
        assert reading.ids.shape == (3 * copies, width + step)
        assert torch.equal(reading.ids[:, :width], batch.ids.repeat_interleave(copies, 0))
        assert int(reading.generated.sum()) == (step if "use_cache" in kind else min(step, 1))
        alone = model.hf(
            input_ids=reading.ids,
            attention_mask=reading.mask.long(),
            position_ids=(reading.mask.long().cumsum(-1) - 1).clamp_min(0),
        )
        assert alone.logits.shape[:2] == reading.ids.shape
        last = [row[mask].shape[0] - 1 for row, mask in zip(reading.ids, reading.mask, strict=True)]
        assert reading.positions[:, -1].tolist() == last
        assert not reading.ordinary[:, 0].any() or h.shape[1] == 1  # padding or BOS
    if copies == 1:
        assert torch.equal(read[-1][0].ids, ids[:, :-1])


def test_several_saes_at_several_places(plain: LanguageModel) -> None:
    saes = {f"layers.{i}": build(oracle.HSAE, seed=i) for i in (4, 1)}
    saes["mlp"] = build(oracle.HSAE, seed=7)
    saes["mlp"].info = None
    model = oracle.fresh_model()
    with pytest.raises(UsageError, match="names no place"):
        attach({"what is it": saes["mlp"]}, model)
    saes["layers.2.mlp_out"] = saes.pop("mlp")
    texts = PROMPTS
    found, found_ids = {}, {}
    for engine in ENGINES:
        lm = attach(saes, model, engine=engine)
        assert list(lm.sites) == ["layers.4", "layers.1", "layers.2.mlp_out"]
        with lm.splice(), lm["layers.1"].steer({"3": 2.0}, units="raw"):
            found[engine] = oracle.logits_of(lm, texts)
            found_ids[engine] = oracle.tokens_of(lm, texts, 5)
    batch = oracle.batch_of(plain, texts)
    keep = (batch["attention_mask"] == 1) & (batch["input_ids"] != 2)
    layers = plain.hf.model.layers
    modules = {
        "layers.4": layers[4],
        "layers.1": layers[1],
        "layers.2.mlp_out": layers[2].post_feedforward_layernorm,
    }

    def hook(name: str) -> Any:
        def change(_m: Any, _a: Any, out: Tensor) -> Tensor:
            y = saes[name](out).sae_out.detach()
            if name == "layers.1":
                y = y + 2.0 * oracle.row_of(saes[name], "3")
            return torch.where(keep[..., None], y, out) if out.shape[1] > 1 else y

        return change

    handles = [module.register_forward_hook(hook(n)) for n, module in modules.items()]
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        wanted = plain.hf(**batch, position_ids=positions).logits
        ids = plain.hf.generate(**batch, max_new_tokens=5, do_sample=False, pad_token_id=0)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found["nnsight"], wanted, rtol=0, atol=1e-5)
    assert torch.equal(found["nnsight"], found["hooks"])
    assert torch.equal(found_ids["nnsight"], ids) and torch.equal(found_ids["hooks"], ids)


def test_several_are_asked_for_by_name(sae: SAE[Any]) -> None:
    model = oracle.fresh_model()
    flat = build(oracle.TOPK, seed=0)
    lm = attach({"hsae": sae, "layers.3": flat}, model)
    assert lm["hsae"].sae is sae and lm["layers.3"].hookpoint == lm["hsae"].hookpoint
    with pytest.raises(UsageError, match=r"2 SAEs are attached: hsae, layers\.3") as caught:
        lm.decompose("Rain")
    assert caught.value.fix == "say which: lm['hsae']"
    with pytest.raises(NotFoundError, match=r"no SAE 'hsea' .* did you mean 'hsae'"):
        lm["hsea"]
    with pytest.raises(UsageError, match=r"two SAEs read layers\.3, and only one"), lm.splice():
        pass
    with lm["hsae"].splice() as spliced:
        alone = spliced.loss(PROMPTS)
        with lm["layers.3"].splice():  # of the reconstruction, not of the residual
            assert spliced.loss(PROMPTS).ce_spliced != alone.ce_spliced
    with pytest.raises(UsageError, match=r"two SAEs read layers\.3, so that is no name"):
        attach([sae, sae], model)
    with pytest.raises(UsageError, match="hookpoint is for one SAE"):
        attach([sae], model, hookpoint="layers.3")


def test_saes_of_different_models_are_refused(sae: SAE[Any], tmp_path: Any) -> None:
    other = oracle.saved_sae(tmp_path)
    config = other.info.config.model_copy(
        update={"model": other.info.config.model.model_copy(update={"id": "org/else"})}
    )
    other.info = other.info._replace(config=config)
    with pytest.raises(MisfitError, match=r"different models: gemma2-tiny-en and org/else"):
        attach({"one": sae, "two": other})


def test_what_goes_by_without_its_intervention_is_an_error(lm: Attached) -> None:
    batch = pad_left(lm.lm, encode_texts(lm.lm, PROMPTS))
    elsewhere = Placed(Hookpoint("layers.1"), lambda h, _reading: h)
    with pytest.raises(RuntimeError, match=r"layers\.1 was reached in 0 of 1 forwards"):
        lm._engine.logits(batch, [elsewhere])
