"""Steering, splicing and generating: the same as plain hooks, and nothing left behind."""

import contextlib
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from attach_oracle import PROMPTS, assert_same, logits_of, tokens_of
from torch import Tensor
from transformers import GenerationConfig

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.batches import Reading, encode_texts, pad_left, read_now
from hsae_hub.attach.running import Placed
from hsae_hub.attach.splicing import Splice
from hsae_hub.attach.writing import Draw
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.models import LanguageModel, load_language_model

pytest_plugins = ("attach_fixtures",)

EDITS = {"12/3": 1.5, "5": -0.7, "20": 0.0, "33/1": 0.0}


def reading(mask: Tensor) -> Reading:
    """A batch without special tokens, read in one forward."""
    ids = torch.full(mask.shape, 50)
    return read_now(ids, mask.bool(), ids.shape[1], ids.shape[1], torch.tensor([0, 1, 2]))


def test_without_intervention_the_model_is_itself(lm: Attached, plain: LanguageModel) -> None:
    assert_same(lm, plain, [])


@pytest.mark.parametrize(
    "edits", [{"12/3": 1.5}, {"5": -0.7}, {"20": 0.0}, {"33/1": 0.0}, {"12": 0.3, "12/2": 0}, EDITS]
)
def test_steering_is_what_hooks_do(
    edits: dict[str, float], lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    with lm.steer(edits):
        assert_same(lm, plain, [oracle.steer(sae, edits)])
    assert_same(lm, plain, [])


def test_a_child_is_pushed_alone_where_that_is_asked_for(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    edits = {"12/3": 2.0, "9": 0.5}
    with lm.steer(edits, mode="relative"):
        assert_same(lm, plain, [oracle.steer(sae, edits, mode="relative")])


def test_raw_strengths_are_acts(lm: Attached, plain: LanguageModel, sae: SAE[Any]) -> None:
    row = 3.0 * oracle.row_of(sae, "7") - 2.0 * (
        oracle.row_of(sae, "9") + oracle.row_of(sae, "9/1")
    )
    with lm.steer({"7": 3.0, "9/1": -2.0}, units="raw"):  # 7 is dead, which does not matter here
        assert_same(lm, plain, [lambda h: h + row])


def test_a_flat_index_is_a_name_too(lm: Attached, sae: SAE[Any]) -> None:
    with lm.steer({"12/3": 1.5}):
        expected = logits_of(lm, PROMPTS)
    with lm.steer({sae.shape.index_of("12/3"): 1.5}):
        assert torch.equal(logits_of(lm, PROMPTS), expected)


@pytest.mark.parametrize("error_term", [False, True])
def test_splicing_is_what_hooks_do(
    error_term: bool, lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    with lm.splice(error_term=error_term):
        assert_same(lm, plain, [] if error_term else [oracle.splice(sae)])


def test_blocks_nest_with_the_outer_one_first(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    steer, splice = oracle.steer(sae, EDITS), oracle.splice(sae)
    with lm.steer(EDITS), lm.splice():
        assert_same(lm, plain, [steer, splice])
    with lm.splice():
        with lm.steer(EDITS):
            assert_same(lm, plain, [splice, steer])
        assert_same(lm, plain, [splice])
    with lm.steer({"5": 1.0}), lm.steer({"5": 1.0}):  # alike, and both count
        assert_same(lm, plain, [oracle.steer(sae, {"5": 1.0})] * 2)


def test_the_error_term_does_not_cancel_an_edit(lm: Attached) -> None:
    # what users of other libraries meet: an in-place edit of latents that the error was computed from
    with lm.splice(error_term=True):
        before = logits_of(lm, PROMPTS)
        with lm.steer({"12": 0.0, "5": 1.0}):
            assert (logits_of(lm, PROMPTS) - before).abs().max() > 0.1


def test_the_error_term_leaves_the_gradient_alone(sae: SAE[Any]) -> None:
    twin = copy.deepcopy(sae).requires_grad_(True)
    x = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0))
    out = Splice(twin, True)(x, reading(torch.ones(2, 3)))
    torch.testing.assert_close(out, x, rtol=0, atol=1e-5)
    out.square().sum().backward()
    assert twin.W_enc.grad is not None and twin.W_enc.grad.abs().max() > 1e-3


def test_edits_hold_on_every_generated_token(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    change = oracle.steer(sae, EDITS)
    prompt_only = oracle.tokens(plain, PROMPTS, [change], prompt_only=True)
    with lm.steer(EDITS):
        steered = tokens_of(lm, PROMPTS)
    assert torch.equal(steered, oracle.tokens(plain, PROMPTS, [change]))
    assert not torch.equal(steered, prompt_only)


def test_padding_and_bos_stay_as_they_are(lm: Attached) -> None:
    batch = pad_left(lm.lm, encode_texts(lm.lm, PROMPTS))
    residual: list[Tensor] = []

    def see(h: Tensor, _reading: Reading) -> Tensor:
        residual.append(h.clone())
        return h

    look = Placed(lm.hookpoint, see)
    lm._engine.logits(batch, [look])
    for block in (lm.steer(EDITS), lm.splice()):
        with block:
            lm._engine.logits(batch, [*lm._stack(), look])
        kept = (batch.mask == 0) | (batch.ids == lm.lm.tokenizer.bos_token_id)
        assert torch.equal(residual[-1][kept], residual[0][kept])
        assert not (residual[-1][~kept] == residual[0][~kept]).all(-1).any()


def test_texts_in_a_batch_are_read_as_if_alone(lm: Attached) -> None:
    with lm.steer(EDITS):
        together = logits_of(lm, PROMPTS)
        for i, text in enumerate(PROMPTS):
            alone = logits_of(lm, [text])[0]
            torch.testing.assert_close(together[i, -len(alone) :], alone, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "kind", [{"cache_implementation": "static"}, {"use_cache": False}, {"num_beams": 3}]
)
def test_every_cache_and_beams_are_right(
    kind: dict[str, Any], lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, **kind)
    batch = pad_left(lm.lm, encode_texts(lm.lm, PROMPTS))
    with lm.steer(EDITS):
        found = lm._engine.generate(batch, config, lm._stack())
    with oracle.hooked(plain, [oracle.steer(sae, EDITS)]):
        wanted = plain.hf.generate(**oracle.batch_of(plain, PROMPTS), generation_config=config)
    assert torch.equal(found, wanted)


def test_callers_need_no_source_of_their_own(lm: Attached) -> None:
    # nnsight reads the source of a `with` block; ours is in the package, so a line typed anywhere will do
    with lm.steer({"5": 2.0}):
        expected = lm.generate("Rain", max_new_tokens=4)
    scope = {"lm": lm}
    exec("with lm.steer({'5': 2.0}): text = lm.generate('Rain', max_new_tokens=4)", scope)
    assert scope["text"] == expected


def test_rows_that_end_early_lose_nothing(sae: SAE[Any], plain: LanguageModel) -> None:
    change = oracle.steer(sae, {"12": 0.2})
    free = oracle.tokens(plain, PROMPTS, [change])
    width = oracle.batch_of(plain, PROMPTS)["input_ids"].shape[1]
    stop = int(free[0, width + 4])  # the first row ends here, and others later or never
    ending, other = copy.deepcopy(plain), oracle.fresh_model()
    for model in (ending, other):
        model.hf.generation_config.eos_token_id = [1, stop]
    lm = attach(sae, other)
    with lm.steer({"12": 0.2}):
        found = tokens_of(lm, PROMPTS)
    assert torch.equal(found, oracle.tokens(ending, PROMPTS, [change]))
    assert (found[0, width + 6 :] == 0).all()
    with lm.steer({"12": 0.2}):
        assert torch.equal(tokens_of(lm, PROMPTS), found)


def test_generated_text_is_the_continuation(lm: Attached, plain: LanguageModel) -> None:
    ids = oracle.tokens(plain, PROMPTS[:1], new=8)[0]
    whole = plain.tokenizer.decode(ids, skip_special_tokens=True)
    assert PROMPTS[0] + lm.generate(PROMPTS[0], max_new_tokens=8) == whole
    assert lm.generate(PROMPTS[:1], max_new_tokens=8) == [whole.removeprefix(PROMPTS[0])]


def test_the_same_seed_writes_the_same_text(lm: Attached) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = lm.generate(PROMPTS[0], max_new_tokens=12, temperature=1.0, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert lm.generate(PROMPTS[0], max_new_tokens=12, temperature=1.0, seed=5) == one
    assert lm.generate(PROMPTS[0], max_new_tokens=12, temperature=1.0, seed=6) != one
    both = lm.generate([PROMPTS[1], PROMPTS[0]], max_new_tokens=12, temperature=1.0, seed=4)
    assert both[1] == one
    assert lm.generate(PROMPTS[0], max_new_tokens=12, temperature=1e-4) == lm.generate(
        PROMPTS[0], max_new_tokens=12
    )


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    scores = torch.tensor([2.0, 0.0, -torch.inf, 1.0]).repeat(4000, 1)
    drawn = Draw(0.5, range(4000))(torch.zeros(4000, 1).long(), scores).argmax(-1)
    rates = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(rates, (scores[0] / 0.5).softmax(-1), rtol=0, atol=0.025)
    assert rates[2] == 0


def test_a_model_with_sampling_settings_still_generates_greedily(
    sae: SAE[Any], plain: LanguageModel, capfd: pytest.CaptureFixture[str]
) -> None:
    model = oracle.fresh_model()
    vars(model.hf.generation_config).update(do_sample=True, temperature=0.6, top_p=0.9, top_k=40)
    before = model.hf.generation_config.to_dict()
    lm = attach(sae, model)
    assert torch.equal(tokens_of(lm, PROMPTS), oracle.tokens(plain, PROMPTS))
    assert model.hf.generation_config.to_dict() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["model.layers.2.input", "model.layers.1.mlp", "layers.0"])
def test_any_place_can_be_written_to(place: str, plain: LanguageModel) -> None:
    sae = build(oracle.HSAE, seed=1)
    lm = attach(sae, oracle.fresh_model(), hookpoint=place)
    module = lm.hookpoint.module(plain.hf)
    batch = oracle.batch_of(plain, ["The history of the town began"])
    row = 4.0 * oracle.row_of(sae, "3")
    keep = (batch["input_ids"] != 2).float()[..., None]
    if place.endswith("input"):
        handle = module.register_forward_pre_hook(lambda _m, args: (args[0] + row * keep,))
    else:
        handle = module.register_forward_hook(lambda _m, _a, out: out + row * keep)
    with torch.no_grad():
        expected = plain.hf(**batch).logits
    handle.remove()
    with lm.steer({"3": 4.0}, units="raw"):
        found = logits_of(lm, ["The history of the town began"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_half_precision_models_keep_their_type(sae: SAE[Any]) -> None:
    lm = attach(sae, load_language_model(dtype="bfloat16", device="cpu"))
    assert sae.dtype == torch.float32
    before = logits_of(lm, PROMPTS)
    with lm.steer(EDITS), lm.splice(error_term=True):
        after = logits_of(lm, PROMPTS)
    assert before.dtype == after.dtype == torch.bfloat16 and not torch.equal(before, after)
    assert isinstance(lm.generate("Rain", max_new_tokens=3), str)


def test_flat_saes_are_steered_and_spliced(
    tmp_path: Path, plain: LanguageModel, lm: Attached
) -> None:
    flat = oracle.saved_sae(tmp_path, oracle.TOPK)
    attached = attach(flat, lm.lm)
    direction = 2 * flat.W_dec[5].detach() * float(flat.info.stats.p999[5])
    with attached.steer({"5": 2}):
        assert_same(attached, plain, [lambda h: h + h.norm(dim=-1, keepdim=True) * direction])
    with attached.steer({"11": 0}):
        row = flat.W_dec[11].detach()
        assert_same(attached, plain, [lambda h: h - flat.encode(h).dense()[..., 11, None] * row])
    with attached.splice():
        assert_same(attached, plain, [lambda h: flat(h).sae_out.detach()])


@pytest.mark.parametrize(
    ("edits", "error", "said"),
    [
        ({"64": 1.0}, None, ""),
        ({"999": 1.0}, NotFoundError, "999"),
        ({"12/4": 1.0}, NotFoundError, "12/4"),
        ({"7": 1.0}, UsageError, "feature 7 is dead"),
        ({"7/2": 1.0}, UsageError, "feature 7 is dead"),
        ({"7": 0}, None, ""),
    ],
)
def test_features_that_cannot_be_pushed_are_refused(
    edits: dict[str, float], error: type[Exception] | None, said: str, lm: Attached
) -> None:
    expectation = pytest.raises(error, match=said) if error else contextlib.nullcontext()
    with expectation, lm.steer(edits):
        pass
    assert lm._stack() == []


def test_every_feature_that_cannot_be_pushed_is_named(lm: Attached, sae: SAE[Any]) -> None:
    with pytest.raises(UsageError) as error, lm.steer({"7": 1.0, "63/3": 1.0}, mode="relative"):
        pass
    assert len(error.value.problems) == 2 and "units='raw'" in error.value.fix


def test_without_statistics_only_raw_strengths_and_ablation_work(tmp_path: Path) -> None:
    lm = attach(oracle.saved_sae(tmp_path, stats=False), oracle.fresh_model())
    with (
        pytest.raises(UsageError, match=r"without stats\.safetensors") as error,
        lm.steer({"5": 1}),
    ):
        pass
    assert "units='raw'" in error.value.fix
    with lm.steer({"5": 1}, units="raw"), lm.steer({"5": 0}):
        lm.generate("Rain", max_new_tokens=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 5000}, "reads at most 1024"),
    ],
)
def test_generation_that_cannot_be_meant_is_refused(
    arguments: dict[str, Any], said: str, lm: Attached
) -> None:
    with pytest.raises(UsageError, match=said):
        lm.generate("Rain", **arguments)
    with pytest.raises(UsageError, match="no text"):
        lm.generate([])


def test_training_goes_without_nnsight() -> None:
    code = "import hsae_hub.models, hsae_hub.activations, sys; print('nnsight' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
