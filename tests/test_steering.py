"""Every mode on every gate, padding side, cache and number of beams, against plain hooks; and what is refused."""

from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import steering_oracle as plainly
import torch
from attach_oracle import PROMPTS
from transformers import GenerationConfig

from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached, Edit, Gate, SteeringSpec, attach
from hsae_hub.attach.batches import TokenBatch, read_now
from hsae_hub.attach.steering import make_steering
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

pytest_plugins = ("attach_fixtures",)

PHRASE = "the first"
GATES = [
    Gate(),
    Gate(fires="parent"),
    Gate(fires="feature"),
    Gate(after=PHRASE),
    Gate(positions=(1, 3, -1)),
    Gate(part="prompt"),
    Gate(part="generated"),
    Gate(fires="parent", after="The history", part="prompt"),
]
MODES = ["full", "relative", "set", "scale", "ablate", "swap", "project_out", "direction"]
DIRECTION = tuple(torch.randn(256, generator=torch.Generator().manual_seed(3)).tolist())


@pytest.fixture(scope="module")
def child(sae: SAE[Any], plain: LanguageModel) -> str:
    """A child that is kept on some of the tokens, though not on all where its parent fires."""
    given = plainly.batch(plain, PROMPTS)
    with torch.no_grad():
        h = plain.hf(**given, output_hidden_states=True).hidden_states[oracle.LAYER + 1]
    fired = sae.encode(h[given["attention_mask"].bool()]).dense() != 0
    counts = fired.sum(0)
    latents = range(sae.shape.n_parents, sae.d_sae)
    apart = [
        i for i in latents if 2 <= counts[i] < counts[sae.shape.parent_of(i) or 0] < len(fired) - 4
    ]
    return sae.shape.name(max(apart, key=lambda i: int(counts[i])))


def edit_of(mode: str, child: str, gate: Gate) -> Edit:
    parent, _, number = child.partition("/")
    strengths = {"full": 1.5, "relative": 2.0, "set": 1.2, "scale": -0.5}
    if mode == "direction":
        own = gate.model_copy(update={"fires": None})
        return Edit(direction=DIRECTION, strength=0.4, gate=own)
    name = parent if mode in ("scale", "ablate") else child
    told = f"swap:{parent}/{(int(number) + 1) % 4}" if mode == "swap" else mode
    return Edit(feature=name, mode=told, strength=strengths.get(mode), gate=gate)


def several(child: str) -> SteeringSpec:
    """Edits of every kind that meet on some tokens, each behind another gate."""
    parent = child.partition("/")[0]
    edits = [
        edit_of("project_out", "20/1", Gate(part="generated")),
        Edit(feature="20", strength=1.0, gate=Gate(after="of")),
        edit_of("scale", child, Gate(fires="parent")),
        edit_of("swap", child, Gate(part="generated")),
        Edit(feature=child, mode="set", strength=0.7, gate=Gate(positions=(2, -1, -2))),
        Edit(feature=child, mode="set", strength=4.0, units="raw", gate=Gate(positions=(2,))),
        Edit(feature=parent, strength=-0.4, units="p999"),
        edit_of("direction", child, Gate(after=PHRASE)),
        Edit(direction=DIRECTION[::-1], mode="project_out"),
    ]
    return SteeringSpec(edits=tuple(edits))


def assert_logits(lm: Attached, plain: LanguageModel, spec: SteeringSpec, side: str) -> float:
    """That they are the same; returns how much they differ from those of the model as it is."""
    given = plainly.batch(plain, PROMPTS, side)
    kept = given["attention_mask"].bool()
    batch = TokenBatch(given["input_ids"], given["attention_mask"])
    with lm.steer(spec):
        found = lm._engine.logits(batch, lm._stack())
    wanted = plainly.logits(plain, lm.sae, spec, given)
    torch.testing.assert_close(found[kept], wanted[kept], rtol=0, atol=1e-5)
    return float((found - lm._engine.logits(batch))[kept].abs().max())


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_on_every_gate_is_what_hooks_do(
    mode: str, lm: Attached, plain: LanguageModel, child: str
) -> None:
    for number, gate in enumerate(GATES):
        spec = SteeringSpec(edits=(edit_of(mode, child, gate),))
        change = assert_logits(lm, plain, spec, ("left", "right")[number % 2])
        assert (change > 1e-3) == (gate.part != "generated"), gate


@pytest.mark.parametrize("side", ["left", "right"])
def test_several_edits_come_to_what_their_order_says(
    side: str, lm: Attached, plain: LanguageModel, child: str
) -> None:
    spec = several(child)
    assert assert_logits(lm, plain, spec, side) > 0.1
    apart = [e for e in spec.edits if e.mode != "set" and e.mode != "project_out"]
    turned = SteeringSpec(edits=(*apart[::-1], *(e for e in spec.edits if e not in apart)))
    given = plainly.batch(plain, PROMPTS, side)
    batch = TokenBatch(given["input_ids"], given["attention_mask"])
    with lm.steer(turned):
        found = lm._engine.logits(batch, lm._stack())
    with lm.steer(spec):
        torch.testing.assert_close(found, lm._engine.logits(batch, lm._stack()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [{}, {"cache_implementation": "static"}, {"use_cache": False}, {"num_beams": 3}]
)
def test_generation_is_what_hooks_do_without_a_cache(
    kind: dict[str, Any], lm: Attached, plain: LanguageModel, child: str
) -> None:
    spec = several(child)
    given = plainly.batch(plain, PROMPTS)
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, **kind)
    with lm.steer(spec):
        batch = TokenBatch(given["input_ids"], given["attention_mask"])
        found = lm._engine.generate(batch, config, lm._stack())
    own = {key: value for key, value in kind.items() if key == "num_beams"}
    wanted = plainly.tokens(plain, lm.sae, spec, PROMPTS, max_new_tokens=8, **own)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "gate", [Gate(part="generated"), Gate(after="PHRASE"), Gate(positions=(0, -1))]
)
def test_a_gate_holds_from_step_to_step(
    gate: Gate, lm: Attached, plain: LanguageModel, child: str
) -> None:
    if gate.after is not None:  # a word that the model writes itself
        gate = Gate(after=lm.generate(PROMPTS[0], max_new_tokens=6).split()[1])
    edit = Edit(feature="20", strength=4.0, gate=gate)
    spec = SteeringSpec(edits=(edit,))
    with lm.steer(spec):
        found = oracle.tokens_of(lm, PROMPTS[:1], new=10)
    assert torch.equal(found, plainly.tokens(plain, lm.sae, spec, PROMPTS[:1], max_new_tokens=10))
    prompt = Edit(feature="20", strength=4.0, gate=gate.model_copy(update={"part": "prompt"}))
    with lm.steer(SteeringSpec(edits=(prompt,))):
        alone = oracle.tokens_of(lm, PROMPTS[:1], new=10)
    assert torch.equal(found, alone) == (gate.positions is not None)


def test_an_ablated_feature_adds_nothing_and_a_set_one_what_was_said(
    lm: Attached, sae: SAE[Any], child: str
) -> None:
    x = torch.randn(1, 40, 256, generator=torch.Generator().manual_seed(1))
    ordinary = torch.ones(1, 40, dtype=torch.bool)
    reading = read_now(torch.full((1, 40), 50), ordinary, 40, 40, torch.tensor([0]))
    stats = sae.info.stats
    edits = (Edit(feature="3", mode="project_out"), Edit(feature="3", strength=2.0))
    for turn in (edits, edits[::-1]):
        out = make_steering(sae, SteeringSpec(edits=turn), stats, lm.lm)(x, reading)
        assert (out @ oracle.row_of(sae, "3")).abs().max() < 1e-4
    same = SteeringSpec(edits=(Edit(feature="9", mode="scale", strength=1),))
    nothing = make_steering(sae, same, stats, lm.lm)
    assert torch.equal(nothing(x, reading), x)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit(feature="3/1", mode="swap:4/1"), "3/1 and 4/1 are not two children of one parent"),
        (Edit(feature="3/1", mode="swap:3/1"), "not two children"),
        (Edit(feature="3", mode="swap:3/1"), "not two children"),
        (
            Edit(direction=(1.0, 2.0), strength=1),
            "direction has 2 numbers, the activations have width 256",
        ),
        (Edit(feature="7", mode="set", strength=1), "feature 7 is dead"),
    ],
)
def test_what_cannot_be_done_with_this_sae(edit: Edit, said: str, lm: Attached) -> None:
    with pytest.raises(UsageError, match=said), lm.steer([edit]):
        pass
    assert lm._stack() == []


def test_flat_saes_have_every_mode_but_swap(tmp_path: Path, plain: LanguageModel) -> None:
    flat = oracle.saved_sae(tmp_path, oracle.TOPK)
    lm = attach(flat, plain)
    row = flat.W_dec[11].detach()
    unit = float(flat.info.stats.p999[11])
    with lm.steer({"11": 1.5}, mode="set", gate=["feature", "prompt"]):
        found = oracle.logits_of(lm, PROMPTS)

    def change(h: torch.Tensor) -> torch.Tensor:
        act = flat.encode(h).dense()[..., 11, None]
        held = 1.5 * unit * h.norm(dim=-1, keepdim=True)
        return torch.where(act != 0, h + (held - act) * row, h).detach()

    wanted = oracle.logits(plain, PROMPTS, [change])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="not two children"), lm.steer("11", mode="swap:12"):
        pass
