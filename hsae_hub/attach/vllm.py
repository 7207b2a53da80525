"""Runs a language model with interventions on vLLM, through nnsight's engine for it.

What is to be done is left with vLLM for the time of one call. Every request gets its own copy of it, which follows it
from step to step: first all tokens of its prompt, then one at a time, whatever other requests are read in the same
step. What is needed of the activations and logits comes back with the request's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import nnsight
import torch
from jaxtyping import Float, Int64
from nnsight.intervention.errors import raise_deferred
from torch import Tensor
from transformers import PreTrainedModel

from hsae_hub.attach.running import Intervention, Run
from hsae_hub.attach.shipping import lean
from hsae_hub.attach.splicing import Record
from hsae_hub.attach.vllm_work import Part, Request, Work, take_step
from hsae_hub.attach.writing import Draw, Ends, eos_ids
from hsae_hub.errors import MisfitError, UsageError
from hsae_hub.models import Hookpoint, model_lock
from hsae_hub.problems import nearest


def _leave(model: Any, work: Work) -> Any:
    """The block that nnsight leaves with vLLM; nothing may follow it in its function but what it gives."""
    with model.edit() as (tracer, edit):
        home = nnsight.save({"steps": 0, "kept": []})
        request = Request(work)
        for _ in tracer.iter[:]:
            take_step(model, request, home)
    return edit


class VLLMRunner:
    """The engine `vllm`: every row of a batch is a request, and vLLM reads them together as it sees fit."""

    def __init__(self, model: Any, hf: PreTrainedModel) -> None:
        self.model = model
        self._hf = hf

    def check(self, hookpoint: Hookpoint) -> None:
        """Raises MisfitError when vLLM's own model has no such module."""
        path = hookpoint.full_path(self._hf)
        names = dict(self.model._module.named_modules())
        if path not in names:
            raise MisfitError(
                f"vLLM's {type(self.model._module).__name__} has no module {path!r}{nearest(path, names)}",
                fix="attach(sae) without engine='vllm'",
            )

    def call(self, function: Callable[..., Any] | None, arguments: dict[str, Any], run: Run) -> Any:
        """A forward, of which only the logits come back, or a generation, of which the ids do."""
        placed = [each for changes in run.changes.values() for each in changes]
        records = [each for each in placed if isinstance(each, Record)]
        parts = [self._part(each, changes) for each, changes in run.changes.items()]
        rows = _rows(run.batch.ids, run.batch.mask)
        if function is None:
            outputs = self._run(
                rows, Work(parts, run.special, True), [{"max_tokens": 1}] * len(rows)
            )
            for number, record in enumerate(records):
                found = [output.saves["home"]["kept"][number] for output in outputs]
                ordinary = [~torch.isin(torch.tensor(row), run.special) for row in rows]
                record.seen.append(
                    torch.cat([x[on] for x, on in zip(found, ordinary, strict=True)])
                )
            logits = [output.saves["home"]["logits"] for output in outputs]
            return SimpleNamespace(logits=_padded(logits, run.batch.mask))
        settings = _settings(arguments, len(rows), eos_ids(self._hf))
        outputs = self._run(rows, Work(parts, run.special, False), settings)
        pad = arguments["generation_config"].pad_token_id
        new = [torch.tensor(list(output.outputs[0].token_ids)) for output in outputs]
        longest = max(map(len, new))
        filled = [torch.cat([each, each.new_full((longest - len(each),), pad)]) for each in new]
        return torch.cat([run.batch.ids.cpu(), torch.stack(filled)], 1)

    def read(
        self, hookpoint: Hookpoint, ids: Int64[Tensor, "b s"], mask: Int64[Tensor, "b s"]
    ) -> Float[Tensor, "b s d"]:
        """Raw activations at a place, 0 on padding."""
        self.check(hookpoint)
        work = Work([self._part(hookpoint, [Record([])])], torch.zeros(0, dtype=torch.int64), False)
        rows = _rows(ids, mask)
        outputs = self._run(rows, work, [{"max_tokens": 1}] * len(rows))
        return _padded([output.saves["home"]["kept"][0] for output in outputs], mask)

    def _part(self, hookpoint: Hookpoint, changes: Sequence[Intervention]) -> Part:
        return Part(
            hookpoint.full_path(self._hf),
            hookpoint.side == "output",
            hookpoint.is_residual,
            tuple(None if isinstance(change, Record) else lean(change) for change in changes),
        )

    def _run(
        self, rows: Sequence[Sequence[int]], work: Work, settings: Sequence[dict[str, Any]]
    ) -> list[Any]:
        from vllm import SamplingParams

        greedy = {"temperature": 0.0, "detokenize": False}
        params = [SamplingParams(**{**greedy, **each}) for each in settings]
        prompts = [{"prompt_token_ids": list(row)} for row in rows]
        at_work = bool(work.parts(torch.device("cpu"))) or work.keeps_logits
        with model_lock(self.model._module):
            edit = _leave(self.model, work) if at_work else None
            try:
                outputs: list[Any] = self.model.vllm_entrypoint.generate(
                    prompts, params, use_tqdm=False
                )
            finally:
                if edit is not None:
                    edit.clear()
        for output in outputs:
            raise_deferred(getattr(output, "nnsight_error", None))
            steps = len(output.outputs[0].token_ids)
            if at_work and output.saves["home"]["steps"] < steps:
                raise RuntimeError(
                    f"interventions were made in {output.saves['home']['steps']} of {steps} steps"
                )
        return outputs


def _rows(ids: Int64[Tensor, "b s"], mask: Int64[Tensor, "b s"]) -> list[list[int]]:
    return [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]


def _padded(
    values: Sequence[Float[Tensor, "_ d"]], mask: Int64[Tensor, "b s"]
) -> Float[Tensor, "b s d"]:
    found = values[0].new_zeros(*mask.shape, values[0].shape[-1])
    found[mask.bool().cpu()] = torch.cat(list(values))
    return found


def _settings(arguments: dict[str, Any], rows: int, eos: list[int]) -> list[dict[str, Any]]:
    """What vLLM is told of each row's generation.

    Raises:
        UsageError: vLLM cannot do it while it is steered.
    """
    config = arguments["generation_config"]
    processors = list(arguments["logits_processor"] or ())
    stopping = list(arguments["stopping_criteria"] or ())
    draws = [each for each in processors if isinstance(each, Draw)]
    ends = [each for each in stopping if isinstance(each, Ends)]
    if (
        len(draws) < len(processors)
        or len(ends) < len(stopping)
        or arguments["streamer"]
        or config.num_beams not in (None, 1)
    ):
        raise UsageError(
            "on vLLM a text comes back as a whole: no stream, no beams, nothing beside it",
            fix="attach(sae) runs the model here, and does all of them",
        )
    stop = [string for each in ends for string in each.stop]
    told: dict[str, Any] = {"max_tokens": config.max_new_tokens}
    # else vLLM ends at the tokenizer's EOS too, which need not be the model's
    told |= {"ignore_eos": True, "stop_token_ids": eos}
    if stop:
        told |= {"stop": stop, "include_stop_str_in_output": True, "detokenize": True}
    seeds = draws[0].seeds if draws else [0] * rows
    drawn = {"temperature": draws[0].temperature} if draws else {}
    return [{**told, **drawn, "seed": seed} for seed in seeds]
