"""What SAEs do on vLLM, beside the same model in transformers, and beside plain hooks in vLLM's own model.

python check_vllm.py FAMILY: prints one JSON object; test_vllm.py says what must be in it. Needs vLLM (make vllm) and a
process for each model, for vLLM keeps what it was first set up with.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

# in this process, so that plain hooks can be put on vLLM's model; one thread, as for transformers
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
sys.path.insert(0, str(Path(__file__).parents[1]))

import attach_oracle as oracle
import torch
import vllm
from torch import Tensor
from vllm_models import ENGLISH, GATES, LAYERS, WORDS, edits, embedded, made, saved

from hsae_hub.attach import Attached, SteeringSpec, attach
from hsae_hub.attach.vllm_cpu import CPUVLLM

PUSHED, ABLATED = {"12/3": 1.5, "5": -0.7}, {"20": 0.0}


class Pair:
    """The same SAEs on vLLM and, through plain hooks, on transformers."""

    def __init__(self, here: Attached, there: Attached, texts: Sequence[str]) -> None:
        self.here = here
        self.there = there
        self.texts = list(texts)

    @torch.no_grad()
    def compare(self, opened: Any, new: int = 8) -> dict[str, Any]:
        """How far logits are apart, and whether the greedy tokens are the same."""
        made = []
        for lm in (self.there, self.here):
            with opened(lm):
                logits = oracle.logits_of(lm, self.texts)
                made.append((logits, oracle.tokens_of(lm, self.texts, new)))
        return apart(self.here, self.texts, *made)


def apart(lm: Attached, texts: Sequence[str], found: Any, known: Any) -> dict[str, Any]:
    mask = oracle.batch_of(lm.lm, texts)["attention_mask"].bool()
    return {
        "logits": float((found[0] - known[0])[mask].abs().max()),
        "tokens": bool(torch.equal(found[1], known[1])),
    }


@contextmanager
def inside(lm: Attached, change: oracle.Change) -> Iterator[None]:
    """A plain hook on vLLM's own layer, written from what vLLM's layers give; no nnsight."""
    runner: Any = lm._engine._runner
    seen: dict[str, Tensor] = {}
    special = torch.tensor(sorted(lm.lm.special_ids))

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        hidden, residual = output if isinstance(output, tuple) else (output, None)
        stream = hidden if residual is None else hidden + residual
        ordinary = ~torch.isin(seen["ids"], special)[:, None]
        new = torch.where(ordinary, change(stream), stream)
        return new if residual is None else (new - residual, residual)

    def install(model: Any) -> list[Any]:
        return [
            model.register_forward_pre_hook(
                lambda _m, _args, kwargs: seen.update(ids=kwargs["input_ids"]), with_kwargs=True
            ),
            model.get_submodule(lm.hookpoint.full_path(lm.lm.hf)).register_forward_hook(hook),
        ]

    (handles,) = runner.model.vllm_entrypoint.apply_model(install)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def steering(pair: Pair) -> dict[str, Any]:
    """Every mode behind every gate, by greedy tokens and by the logits of the prompts."""
    found = {}
    for gate_name, gate in GATES.items():
        for edit in edits(pair.there.lm, gate):
            spec = SteeringSpec(edits=[edit])
            name = f"{edit.mode if edit.feature else 'direction'}, {gate_name}"
            found[name] = pair.compare(lambda lm, spec=spec: lm.steer(spec))
    return found


def against_hooks_inside(lm: Attached, texts: Sequence[str]) -> dict[str, Any]:
    """nnsight's engine and plain hooks, both in vLLM: the same model, so the same numbers."""
    sae = lm.sae
    cases: dict[str, tuple[AbstractContextManager[Any], oracle.Change]] = {
        "pushed": (lm.steer(PUSHED), oracle.steer(sae, PUSHED)),
        "ablated": (lm.steer(ABLATED), oracle.steer(sae, ABLATED)),
        "spliced": (lm.splice(), oracle.splice(sae)),
    }
    found = {}
    for name, (opened, change) in cases.items():
        with opened:
            ours = oracle.logits_of(lm, texts), oracle.tokens_of(lm, texts, 8)
        with inside(lm, change):
            hooked = oracle.logits_of(lm, texts), oracle.tokens_of(lm, texts, 8)
        found[name] = apart(lm, texts, ours, hooked)
    return found


def several(pair: Pair) -> dict[str, Any]:
    """Every kind of place, alone and all together, opened from the last to the first."""
    found = {
        name: pair.compare(lambda lm, name=name: lm[name].splice(error_term=False))
        for name in pair.there.sites
    }

    @contextmanager
    def all_of(lm: Attached) -> Iterator[None]:
        with ExitStack() as stack:
            for name in reversed(list(lm.sites)):
                stack.enter_context(lm[name].steer({"3": 1.0, "9": 0.0}))
            yield

    return {**found, "together": pair.compare(all_of)}


def reading(pair: Pair) -> dict[str, Any]:
    """Trees and losses."""
    name = next(iter(pair.there.sites))
    trees = [lm[name].decompose(pair.texts[0]) for lm in (pair.there, pair.here)]
    norms, unexplained = (
        [[getattr(token, what) for token in tree.tokens if not token.special] for tree in trees]
        for what in ("norm", "explained")
    )
    losses = []
    for lm in (pair.there, pair.here):
        with lm[name].splice() as spliced:
            losses.append(spliced.loss(pair.texts).numbers())
    return {
        "norm": max(abs(a / b - 1) for a, b in zip(*norms, strict=True)),
        "explained": max(abs(a - b) for a, b in zip(*unexplained, strict=True)),
        "losses": {k: abs(losses[0][k] - losses[1][k]) for k in losses[0]},
    }


def drawing(lm: Attached) -> dict[str, Any]:
    """Drawn texts, by seed."""
    name = next(iter(lm.sites))
    draw: Any = {"max_new_tokens": 12, "temperature": 1.0}
    with lm[name].steer(PUSHED):
        together = lm.generate(["rain", "a town", "rain"], seed=3, **draw)
        alone = [lm.generate("rain", seed=seed, **draw) for seed in (3, 5)]
    return {"together": together, "alone": alone}


def left_behind(lm: Attached) -> dict[str, Any]:
    """What is still with vLLM."""
    runner: Any = lm._engine._runner
    core = runner.model.vllm_entrypoint.llm_engine
    return {
        "edits": len(runner.model._installed_edits),
        "requests": core.collective_rpc("nnsight_request_count"),
    }


def count_preemptions(lm: Attached) -> list[Any]:
    """Grows by the requests that vLLM takes out of the batch, to read them from the start later."""
    runner: Any = lm._engine._runner
    scheduler = runner.model.vllm_entrypoint.llm_engine.engine_core.engine_core.scheduler
    preempt, seen = scheduler._preempt_request, []

    def counted(request: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(request.num_tokens)
        return preempt(request, *args, **kwargs)

    scheduler._preempt_request = counted
    return seen


def main(family: str) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    if family == "embedded":
        lm, texts, model = embedded(), ENGLISH, None
        own: Any = {"engine": "vllm"}
    else:
        lm, texts = made(family, folder / "model"), WORDS
        # three requests at a time, and room for fewer tokens than they come to: some wait, some begin again
        model = CPUVLLM(
            str(folder / "model"),
            dispatch=True,
            dtype="float32",
            max_model_len=64,
            max_num_seqs=3,
            block_size=32,
            num_gpu_blocks_override=9 if family == "gemma2" else 5,
        )
        own = {"model": model}
    places = [f"layers.{LAYERS - 2}", "layers.1.attn_out", "layers.1.mlp_out", "layers.2.input"]
    saes = {str(place): saved(folder / place, lm, place) for place in places}
    there = attach(saes, **own)
    pair = Pair(attach(saes, lm, engine="hooks"), there, texts)
    stream = Pair(pair.here[places[0]], there[places[0]], texts)
    before = oracle.tokens_of(there, texts, 8)
    again = count_preemptions(there)
    found = {
        "versions": {"vllm": vllm.__version__, "torch": torch.__version__},
        "unsteered": pair.compare(lambda _: nullcontext()),
        "long": stream.compare(lambda lm: lm.steer(PUSHED, gate=GATES["generated"]), new=45),
        "steering": steering(stream),
        "inside": against_hooks_inside(stream.there, texts),
        "places": several(pair),
        "reading": reading(pair),
        "drawing": drawing(there),
        "begun_again": again,
        "after": bool(torch.equal(oracle.tokens_of(there, texts, 8), before)),
        "left": left_behind(there),
    }
    if family == "embedded":
        stop: Any = {"max_new_tokens": 30, "stop": ["the"]}
        found["stopped"] = [lm.generate("Rain", **stop) for lm in (there, pair.here)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
