"""Text that is written while steering: streamed, stopped, side by side, chats, beams, stop strings."""

import copy
import gc
import threading
import time
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from attach_oracle import PROMPTS, hooks_on

from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached, SteeringSpec, attach, parse_edits
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

pytest_plugins = ("attach_fixtures",)

EDITS = {"12/3": 1.5, "5": -0.7}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ('user', 'model') %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}<{{ m.role }}> {{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)
CHAT = [{"role": "user", "content": "Where is the town?"}]


def streams() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hsae-stream"]


def assert_free(lm: Attached) -> None:
    """That nobody writes any more, and nothing was left behind."""
    for thread in streams():
        thread.join(60)
    assert streams() == [] and hooks_on(lm.lm.hf) == 0 and lm._stack() == []
    assert "prepare_inputs_for_generation" not in vars(lm.lm.hf)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_is_the_same_text_in_pieces(temperature: float, lm: Attached) -> None:
    with lm.steer(EDITS):
        whole = lm.generate(PROMPTS[0], max_new_tokens=12, temperature=temperature, seed=3)
        stream = lm.stream(PROMPTS[0], max_new_tokens=12, temperature=temperature, seed=3)
    pieces = list(stream)  # the block is over; what was open when it began counts
    assert "".join(pieces) == whole and len(pieces) > 6
    assert list(stream) == []
    assert whole != lm.generate(PROMPTS[0], max_new_tokens=12, temperature=temperature, seed=3)
    assert_free(lm)


def test_a_stream_tells_of_a_character_once_it_is_whole(lm: Attached) -> None:
    from hsae_hub.attach.streaming import Text

    ids = lm.lm.tokenizer("Rain")["input_ids"]
    new = lm.lm.tokenizer(" über Ω", add_special_tokens=False)["input_ids"]
    text = Text(lm.lm, ids)
    pieces = [text.add(token) for token in new]
    assert "".join(pieces) == " über Ω" and "" in pieces and text.rest() == ""
    half = Text(lm.lm, ids)
    assert half.add(new[-1]) == "" or len(new) == 1
    assert half.rest() != ""


def test_any_thread_may_stop_a_stream(lm: Attached) -> None:
    with lm.steer(EDITS):
        stream = lm.stream("Rain", max_new_tokens=900)
    first = next(stream)
    timer = threading.Timer(0.05, stream.stop)
    timer.start()
    text = first + "".join(stream)
    timer.join()
    assert len(lm.lm.tokenizer(text)["input_ids"]) < 890
    with lm.steer(EDITS):
        assert lm.generate("Rain", max_new_tokens=5).startswith(first)
    assert_free(lm)


@pytest.mark.parametrize("how", ["close", "block", "let go", "break"])
def test_a_stream_that_is_left_early_leaves_nothing(how: str, lm: Attached) -> None:
    before = oracle.logits_of(lm, PROMPTS[:1])
    with lm.steer(EDITS):
        stream = lm.stream("Rain", max_new_tokens=900)
    if how == "close":
        next(stream)
        stream.close()
        assert streams() == []
    elif how == "block":
        with stream:
            next(stream)
        assert streams() == [] and list(stream) == []
    elif how == "break":
        for _ in stream:
            break
        del stream
    else:
        del stream
    gc.collect()
    begun = time.monotonic()
    assert_free(lm)
    assert time.monotonic() - begun < 30
    assert torch.equal(oracle.logits_of(lm, PROMPTS[:1]), before)


def test_what_fails_in_a_stream_is_raised_where_it_is_read(
    sae: SAE[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = attach(sae, oracle.fresh_model())
    calls = []

    def fail(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise KeyError("in the middle")
        return real(*args)

    real = sae.encode
    monkeypatch.setattr(sae, "encode", fail)
    with lm.steer({"5": 0.0}):
        stream = lm.stream("Rain", max_new_tokens=9)
    with pytest.raises(KeyError, match="in the middle"):
        list(stream)
    assert_free(lm)
    with pytest.raises(UsageError, match="max_new_tokens"):
        lm.stream("Rain", max_new_tokens=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_side_by_side_are_those_written_alone(
    temperature: float, lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 8, "temperature": temperature, "seed": 7}
    spec = parse_edits(EDITS)
    with lm.steer({"20": 1.0}):
        found = lm.generate_beside(PROMPTS[0], [spec, None, spec.scaled(2.0)], **settings)
    assert found.unsteered == lm.generate(PROMPTS[0], **settings)
    for way, steered in zip([EDITS, {}, {"12/3": 3.0, "5": -1.4}], found.steered, strict=True):
        with lm.steer({"20": 1.0}):
            if way:
                with lm.steer(way):
                    alone = lm.generate(PROMPTS[0], **settings)
            else:
                alone = lm.generate(PROMPTS[0], **settings)
        assert steered.text == alone and len(steered.kl) == len(steered.loss) == 8
        changes = [oracle.steer(sae, {"20": 1.0}), oracle.steer(sae, way)]
        whole = [PROMPTS[0] + steered.text]
        p = oracle.logits(plain, whole, changes)[0].log_softmax(-1)
        q = oracle.logits(plain, whole)[0].log_softmax(-1)
        ids = plain.tokenizer(whole[0])["input_ids"]
        if len(ids) != len(plain.tokenizer(PROMPTS[0])["input_ids"]) + 8:
            continue  # the text reads as other tokens than it was written in
        at = torch.arange(len(ids) - 9, len(ids) - 1)
        kl = (p[at].exp() * (p[at] - q[at])).sum(-1)
        torch.testing.assert_close(torch.tensor(steered.kl), kl, rtol=1e-3, atol=1e-4)
        loss = -q[at, torch.tensor(ids[-8:])]
        torch.testing.assert_close(torch.tensor(steered.loss), loss, rtol=1e-3, atol=1e-4)
        assert steered.mean_kl == pytest.approx(float(kl.mean()), rel=1e-3)
    assert found.to_dict()["steered"][0]["mean_loss"] == found.steered[0].mean_loss


def test_without_interventions_both_sides_are_one_text(lm: Attached) -> None:
    steps = list(lm.stream_beside(PROMPTS[0], max_new_tokens=6))
    assert [step.unsteered for step in steps] == [step.steered[0] for step in steps]
    assert max(kl for step in steps for kl in step.kl if kl is not None) < 1e-6
    with lm.stream_beside(PROMPTS[0], max_new_tokens=900) as stream:
        next(stream)
    assert_free(lm)


def test_each_side_ends_where_it_ends(sae: SAE[Any], plain: LanguageModel) -> None:
    model = oracle.fresh_model()
    lm = attach(sae, model)
    with lm.steer(EDITS):
        ids = oracle.tokens_of(lm, PROMPTS[:1], new=8)[0]
    model.hf.generation_config.eos_token_id = [1, int(ids[-4])]
    with lm.steer(EDITS):
        found = lm.generate_beside(PROMPTS[0], max_new_tokens=8)
        assert found.steered[0].text == lm.generate(PROMPTS[0], max_new_tokens=8)
    first = ids[-8:].tolist().index(int(ids[-4])) + 1
    assert len(found.steered[0].kl) == first < 8
    assert found.unsteered == lm.generate(PROMPTS[0], max_new_tokens=8)


def test_a_text_ends_with_a_stop_string(lm: Attached, plain: LanguageModel, sae: SAE[Any]) -> None:
    with lm.steer(EDITS):
        whole = lm.generate(PROMPTS[0], max_new_tokens=12)
        stop = whole.split()[2]
        found = lm.generate(list(PROMPTS), max_new_tokens=12, stop=stop)
        streamed = "".join(lm.stream(PROMPTS[0], max_new_tokens=12, stop=[stop]))
    with oracle.hooked(plain, [oracle.steer(sae, EDITS)]):
        ids = plain.hf.generate(
            **oracle.batch_of(plain, PROMPTS), max_new_tokens=12, do_sample=False, pad_token_id=0,
            stop_strings=[stop], tokenizer=plain.tokenizer,
        )  # fmt: skip
    texts = plain.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [p + f for p, f in zip(PROMPTS, found, strict=True)] == texts
    assert streamed == found[0] and len(found[0]) < len(whole)
    with pytest.raises(UsageError, match="stop string is empty"):
        lm.generate("Rain", stop=[""])


def test_beams_are_those_of_transformers(lm: Attached, plain: LanguageModel, sae: SAE[Any]) -> None:
    with lm.steer(EDITS):
        found = lm.generate(list(PROMPTS), max_new_tokens=6, num_beams=3)
    with oracle.hooked(plain, [oracle.steer(sae, EDITS)]):
        ids = plain.hf.generate(
            **oracle.batch_of(plain, PROMPTS), max_new_tokens=6, num_beams=3, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    texts = plain.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [p + f for p, f in zip(PROMPTS, found, strict=True)] == texts
    with pytest.raises(UsageError, match="beams are greedy"):
        lm.generate("Rain", num_beams=2, temperature=1.0)
    with pytest.raises(UsageError, match="num_beams"):
        lm.generate("Rain", num_beams=0)


def test_chats_are_written_in_the_template_of_the_model(sae: SAE[Any], lm: Attached) -> None:
    model = oracle.fresh_model()
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = TEMPLATE
    chatty = attach(sae, LanguageModel(model.hf, tokenizer, model.id))
    text = "<user> Where is the town?\n<model>"
    with lm.steer(EDITS), chatty.steer(EDITS):
        alone = lm.generate(text, max_new_tokens=6)
        assert chatty.generate(CHAT, max_new_tokens=6) == alone
        longer = [*CHAT, {"role": "model", "content": "There."}, *CHAT]
        both = chatty.generate([longer, CHAT], max_new_tokens=6)
        assert both[1] == alone and len(both) == 2
        assert "".join(chatty.stream(CHAT, max_new_tokens=6)) == alone
    for bad in ([{"role": "wizard", "content": "x"}], [{"content": "x"}]):
        with pytest.raises(UsageError, match="does not fit the template of gemma2"):
            chatty.generate(bad)
    with pytest.raises(UsageError, match="has no chat template"):
        lm.generate(CHAT)


def test_a_spec_without_short_forms_is_steered_by_too(lm: Attached) -> None:
    spec = SteeringSpec(edits=parse_edits(EDITS).edits)
    with lm.steer(spec):
        found = lm.generate(PROMPTS[0], max_new_tokens=6)
    with lm.steer(EDITS):
        assert lm.generate(PROMPTS[0], max_new_tokens=6) == found
