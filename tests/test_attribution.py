"""Effects of latents on a target, against finite differences and real ablation by plain hooks."""

import json
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from torch import Tensor

from hsae_hub.architectures import SAE, build
from hsae_hub.attach import Attached, Effect, attach
from hsae_hub.cli.main import run
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

pytest_plugins = ("attach_fixtures",)

TEXT = "The history of the town began in 1871, when the first railway was opened."
PAIR = (" the", " a")


def target_of(plain: LanguageModel, logits: Tensor, target: Any) -> float:
    if target is None:
        ids = torch.tensor(plain.tokenizer(TEXT)["input_ids"])
        return float(torch.nn.functional.cross_entropy(logits[1:-1], ids[2:]))
    words = target if isinstance(target, tuple) else (target,)
    at = [plain.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    if len(at) == 1:
        return float(logits[-1].log_softmax(-1)[at[0]])
    return float(logits[-1, at[0]] - logits[-1, at[1]])


def moved(sae: SAE[Any], one: Effect, times: float) -> oracle.Change:
    """More of what a latent adds to its token."""

    def change(h: Tensor) -> Tensor:
        out = h.clone()
        out[:, one.position] += times * one.act * oracle.row_of(sae, one.feature)
        return out

    return change


@pytest.mark.parametrize("target", [None, " the", PAIR])
def test_gradient_times_act_is_the_slope(
    target: Any, lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    found = lm.attribute(TEXT, target, top=6)
    clean = target_of(plain, oracle.logits(plain, [TEXT])[0], target)
    assert found.value == pytest.approx(clean, abs=1e-4)
    assert [abs(e.effect) for e in found.effects] == sorted(
        (abs(e.effect) for e in found.effects), reverse=True
    )
    for one in found.effects:
        ends = [
            target_of(plain, oracle.logits(plain, [TEXT], [moved(sae, one, step)])[0], target)
            for step in (0.05, -0.05)
        ]
        slope = (ends[0] - ends[1]) / 0.1
        assert one.effect == pytest.approx(slope, rel=0.05, abs=2e-3)
        assert one.position > 0 and one.ablated is None
    assert any("/" in e.feature for e in lm.attribute(TEXT, target, top=60).effects)


def test_integrated_gradients_add_up(lm: Attached, plain: LanguageModel, sae: SAE[Any]) -> None:
    found = lm.attribute(TEXT, PAIR, method="integrated", steps=24, top=5)
    without = oracle.logits(plain, [TEXT], [lambda h: h - sae.decode(sae.encode(h))])[0]
    whole = found.value - target_of(plain, without, PAIR)
    (total,) = found.totals.values()
    assert total == pytest.approx(whole, rel=0.03, abs=0.02)
    (rough,) = lm.attribute(TEXT, PAIR, top=5).totals.values()
    assert abs(total - whole) < abs(rough - whole)


def test_effects_are_those_of_real_ablation(
    lm: Attached, plain: LanguageModel, sae: SAE[Any]
) -> None:
    found = lm.attribute(TEXT, PAIR, top=14, check=12)
    assert [one.ablated is None for one in found.effects] == [False] * 12 + [True] * 2
    for one in found.effects[:12]:
        after = oracle.logits(plain, [TEXT], [moved(sae, one, -1.0)])[0]
        assert one.ablated == pytest.approx(found.value - target_of(plain, after, PAIR), abs=1e-4)
    pairs = torch.tensor([[one.effect, one.ablated] for one in found.effects[:12]])
    assert torch.corrcoef(pairs.T)[0, 1] > 0.9


def test_open_blocks_count(lm: Attached, plain: LanguageModel, sae: SAE[Any]) -> None:
    with lm.steer({"12/3": 1.5}):
        found = lm.attribute(TEXT, PAIR, top=3, check=1)
    change = oracle.steer(sae, {"12/3": 1.5})
    steered = target_of(plain, oracle.logits(plain, [TEXT], [change])[0], PAIR)
    assert found.value == pytest.approx(steered, abs=1e-4)
    one = found.effects[0]
    after = oracle.logits(plain, [TEXT], [change, moved(sae, one, -1.0)])[0]
    assert one.ablated == pytest.approx(found.value - target_of(plain, after, PAIR), abs=1e-4)


def test_the_graph_of_two_layers(plain: LanguageModel) -> None:
    first, last = build(oracle.HSAE, seed=3), build(oracle.TOPK, seed=4)
    lm = attach({"layers.1": first, "layers.4": last}, oracle.fresh_model())
    found = lm.attribute(TEXT, PAIR, top=12)
    assert {one.sae for one in found.effects} == {"layers.1", "layers.4"} and found.edges
    alone = attach(last, lm.lm, hookpoint="layers.4").attribute(TEXT, PAIR, top=1)
    strongest = next(one for one in found.effects if one.sae == "layers.4")
    assert strongest.effect == pytest.approx(alone.effects[0].effect, rel=1e-3)
    for edge in found.edges[:3]:
        source, sink = found.effects[edge.source], found.effects[edge.sink]
        assert (source.sae, sink.sae) == ("layers.1", "layers.4")
        assert source.position <= sink.position
        acts = []
        for step in (0.03, -0.03):
            with oracle.hooked(plain, [moved(first, source, step)], layer=1), torch.no_grad():
                states = plain.hf(
                    **oracle.batch_of(plain, [TEXT]), output_hidden_states=True
                ).hidden_states[5]
            found_acts = last.encode(states[0]).dense().detach()
            acts.append(float(found_acts[sink.position, int(sink.feature)]))
        slope = (acts[0] - acts[1]) / 0.06
        assert edge.effect == pytest.approx(slope * sink.effect / sink.act, rel=0.05, abs=1e-3)
    assert " → " in str(found) and "all latents: layers.1" in str(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": " corgi and cat"}, "tokens, expected 1"),
        ({"top": 0}, "must be at least 1"),
        ({"steps": 0}, "must be at least 1"),
    ],
)
def test_what_cannot_be_asked(arguments: dict[str, Any], said: str, lm: Attached) -> None:
    with pytest.raises(UsageError, match=said):
        lm.attribute(TEXT, **arguments)
    with pytest.raises(UsageError, match="no token that follows another"):
        lm.attribute("")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle.saved_sae(tmp_path / "sae")
    args = ["attribute", str(tmp_path / "sae"), TEXT, "--top", "3", "--check", "1"]
    assert run([*args, "--target", " the", "--against", " a", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "hsae.attribute/1" and len(data["effects"]) == 3
    assert data["target"] == "logit ' the' − logit ' a'"
    assert run(args) == 0
    assert capsys.readouterr().out.startswith("loss: ")
    assert run([*args, "--against", " a"]) == 2
