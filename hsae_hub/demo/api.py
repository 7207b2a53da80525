"""The same for programs: named endpoints with JSON in and out, for `gradio_client` and MCP."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import gradio as gr
from pydantic import ValidationError

from hsae_hub.attach import SteeringSpec, parse_edits
from hsae_hub.demo.desk import MODEL, checked
from hsae_hub.demo.shelf import Shelf
from hsae_hub.errors import HSAEError, UsageError
from hsae_hub.problems import key_paths, problems_of

P = ParamSpec("P")
_NEW_LIMIT = 256
_TOP_LIMIT = 1024


def endpoints(shelf: Shelf) -> None:
    """Adds `decompose`, `steer`, `splice` and `feature` to the page that is being built.

    Each takes the name of an SAE of the shelf last; empty is the first one.
    """

    def decompose(text: str, top: int = 8, sae: str = "") -> dict:  # type: ignore[type-arg]
        """Takes a text apart: for every token its parents, each with its one child."""
        found = shelf.open(sae or shelf.start()).attached.decompose(
            checked(text), _within("top", top, _TOP_LIMIT)
        )
        return {"schema": "hsae.decompose/1", **found.to_dict()}

    def steer(
        prompt: str,
        edits: dict,  # type: ignore[type-arg]
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        seed: int = 0,
        sae: str = "",
    ) -> dict:  # type: ignore[type-arg]
        """Continues a prompt with and without edits: {"4121/3": 1.5}, or a whole steering spec."""
        lm = shelf.open(sae or shelf.start()).attached
        found = lm.generate_beside(
            checked(prompt),
            [_spec(edits)],
            max_new_tokens=_within("max_new_tokens", max_new_tokens, _NEW_LIMIT),
            temperature=temperature,
            seed=seed,
        )
        return {"schema": "hsae.steer/1", **found.to_dict()}

    def splice(text: str, sae: str = "") -> dict:  # type: ignore[type-arg]
        """What the model loses on a text with the reconstruction in place."""
        with shelf.open(sae or shelf.start()).attached.splice() as spliced:
            return {"schema": "hsae.splice/1", **spliced.loss([checked(text)]).to_dict()}

    def feature(feature: str, sae: str = "") -> dict:  # type: ignore[type-arg]
        """What is known of a feature."""
        return shelf.open(sae or shelf.start()).feature(feature)

    for function in (decompose, steer, splice):
        gr.api(
            _told(function), api_name=function.__name__, concurrency_id=MODEL, concurrency_limit=1
        )
    gr.api(_told(feature), api_name="feature")


def _told(function: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        try:
            return function(*args, **kwargs)
        except HSAEError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return call


def _within(name: str, value: int, limit: int) -> int:
    if not 1 <= value <= limit:
        raise UsageError(f"{name} (={value}) must be 1 to {limit}")
    return value


def _spec(edits: dict[str, Any]) -> SteeringSpec:
    if "edits" not in edits:
        return parse_edits(edits)
    try:
        return SteeringSpec.model_validate(edits)
    except ValidationError as error:
        found = [str(each) for each in problems_of(error, key_paths(SteeringSpec), ())]
        raise UsageError("; ".join(found)) from None
