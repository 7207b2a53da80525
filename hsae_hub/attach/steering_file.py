"""Steering specs as files, YAML or JSON, with every problem told at once with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hsae_hub.artifact import write_atomic
from hsae_hub.attach.steering_spec import SteeringSpec, told
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.problems import Problem, key_paths, problems_of
from hsae_hub.recipes.refusing import place_of, refusal
from hsae_hub.recipes.text import Parsed, dump, parse

_LIMIT = 1 << 24
"""Largest file that is read, in bytes."""


def read_steering(path: str | Path) -> SteeringSpec:
    """Reads a spec from a file: JSON if its name ends in `.json`, else YAML.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it cannot be meant; `problems` has one line for each problem, with file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"no steering spec {path}", fix="hsae steer … --save steer.yaml")
    if path.stat().st_size > _LIMIT:
        raise UsageError(f"{path} has {path.stat().st_size} bytes, expected at most 16 MiB")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}") from None
    parsed = _parse_json(text, str(path)) if path.suffix == ".json" else parse(text, str(path))
    found = list(parsed.problems)
    if not isinstance(parsed.data, dict):
        given = "nothing" if parsed.data is None else repr(parsed.data)
        problem = Problem((), f"a steering spec must have the key `edits:`, got {given}")
        raise refusal("steering spec", found or [(str(path), problem)])
    try:
        spec = SteeringSpec.model_validate(parsed.data)
    except ValidationError as error:
        known = [("schema",), *key_paths(SteeringSpec)]
        found += [
            (place_of(problem.loc, parsed.places) or str(path), told(problem))
            for problem in problems_of(error, known)
        ]
    if found:
        raise refusal("steering spec", found)
    return spec


def write_steering(spec: SteeringSpec, path: str | Path) -> None:
    """Writes a spec that `read_steering` reads back to the same: JSON if the name ends in `.json`, else YAML."""
    path = Path(path)
    data = steering_data(spec)
    is_json = path.suffix == ".json"
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n" if is_json else dump(data)
    write_atomic(path, text)


def steering_data(spec: SteeringSpec) -> dict[str, Any]:
    """A spec as JSON can hold it, defaults left out."""
    data = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {"schema": spec.schema_, **data}


def steering_schema() -> dict[str, Any]:
    """The JSON Schema of a spec's file, published as `steering.schema.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | (
        SteeringSpec.model_json_schema(by_alias=True)
    )


def _parse_json(text: str, source: str) -> Parsed:
    parsed = parse(text.expandtabs(1), source)  # for the lines: YAML takes no tabs between tokens
    try:
        return parsed._replace(data=json.loads(text))
    except json.JSONDecodeError as error:
        problem = Problem((), f"not JSON: {error.msg}")
        return Parsed(None, {}, [(f"{source}:{error.lineno}", problem)])
