"""What a recipe's run will take, in numbers and as the text that `hsae recipes check` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hsae_hub.cli.common import pairs, size_text, table

if TYPE_CHECKING:
    from hsae_hub.recipes import Recipe


def needs(recipe: Recipe) -> dict[str, Any]:
    """Parameters, bytes, FLOPs, tokens; nothing is downloaded, and nothing as large as the run is made.

    Raises:
        UsageError: the hookpoint cannot be meant.
        MisfitError: the embedded model has no such place, or another width there.
    """
    import torch

    from hsae_hub.training.checkpoints import KEPT
    from hsae_hub.training.cost import step_cost

    _check_hookpoint(recipe)
    train, data = recipe.train, recipe.data
    saes = recipe.saes()
    costs = {
        key: step_cost(
            config,
            batch_size=-(-train.batch_size // train.accumulate),
            dtype=getattr(torch, train.dtype),
            matmul=getattr(torch, train.matmul),
        )
        for key, config in saes.items()
    }
    row = recipe.sae.d_in * (4 if recipe.model.dtype == "float32" else 2)
    buffer = data.buffer_tokens * row
    read_ahead = data.batch_contexts * data.context_length * row
    order = 8 * data.buffer_tokens
    sampled = 4 * sum(source.sample or 0 for source in data.train)
    if data.vocabulary is not None:  # batches are taken from the model's own rows
        buffer = read_ahead = order = sampled = 0
    checkpoint = sum(cost.checkpoint_bytes for cost in costs.values())
    checkpoint += buffer + order + read_ahead + sampled
    saved = sum(cost.saved_bytes for cost in costs.values())
    # SAEs take their steps one after the other: all gradients stay, the rest of a step goes
    stays = sum(cost.resident_bytes for cost in costs.values())
    passing = max(cost.peak_bytes - cost.weights_bytes for cost in costs.values())
    return {
        "steps": train.n_steps,
        "tokens": train.n_tokens,
        "tokens_a_step": train.batch_size,
        "saes": {
            key: {
                "architecture": saes[key].architecture,
                "d_sae": saes[key].shape().d_sae,
                "parameters": cost.parameters,
                "weights_bytes": cost.weights_bytes,
                "memory_bytes": cost.resident_bytes - cost.weights_bytes + cost.peak_bytes,
                "flops_a_step": train.accumulate * cost.flops,
            }
            for key, cost in costs.items()
        },
        "buffer_bytes": buffer,
        "checkpoint_bytes": checkpoint,
        "saved_bytes": saved,
        "disk_bytes": (KEPT + 1) * checkpoint + saved,
        "memory_bytes": buffer + read_ahead + stays + passing,
        "flops_a_step": train.accumulate * sum(cost.flops for cost in costs.values()),
    }


def needs_text(name: str, recipe: Recipe, data: dict[str, Any]) -> str:
    """The same for people."""
    from hsae_hub.training.checkpoints import KEPT

    head = ("", "latents", "parameters", "weights", "in training", "FLOPs a step")
    rows = [
        (
            f"{key} ({sae['architecture']})",
            f"{sae['d_sae']:,}",
            f"{sae['parameters']:,}",
            size_text(sae["weights_bytes"]),
            size_text(sae["memory_bytes"]),
            f"{sae['flops_a_step']:.1e}",
        )
        for key, sae in data["saes"].items()
    ]
    run = f"{data['steps']:,} steps of {data['tokens_a_step']:,} tokens: {data['tokens']:,}"
    flops = data["steps"] * data["flops_a_step"]
    checkpoints = f"{KEPT} checkpoints of {size_text(data['checkpoint_bytes'])} and a third while it is written"
    rest = pairs(
        [
            ("model", f"{recipe.model.id}, {recipe.model.dtype}, {recipe.hookpoint}"),
            ("text", "; ".join(source.describe() for source in recipe.data.train)),
            ("run", f"{run}, {flops:.1e} FLOPs"),
            (
                "memory",
                f"{size_text(data['memory_bytes'])}, {size_text(data['buffer_bytes'])} of it for the buffer",
            ),
            (
                "disk",
                f"{size_text(data['disk_bytes'])}: {checkpoints}, {size_text(data['saved_bytes'])} saved",
            ),
        ]
    )
    notes = (
        "Memory is the most that a step on a GPU can take; the language model comes on top.\n"
        "FLOPs are those of matrix products, forward and backward, penalties included; the language model's are not."
    )
    return f"{name} can be run\n\n{table(head, rows)}\n\n{rest}\n\n{notes}"


def _check_hookpoint(recipe: Recipe) -> None:
    from hsae_hub.assets import EMBEDDED_MODEL
    from hsae_hub.errors import MisfitError
    from hsae_hub.models import Hookpoint, load_language_model

    hookpoint = Hookpoint.parse(recipe.hookpoint)
    if recipe.model.id != EMBEDDED_MODEL:
        return  # a check loads no large model and asks no network
    width = hookpoint.width(load_language_model(EMBEDDED_MODEL, device="cpu"))
    if width != recipe.sae.d_in:
        raise MisfitError(
            f"sae.d_in is {recipe.sae.d_in}, but {recipe.hookpoint} of {EMBEDDED_MODEL} has width {width}",
            fix=f"--set sae.d_in={width}"
            + (f" --set baseline.d_in={width}" if recipe.baseline else ""),
        )
