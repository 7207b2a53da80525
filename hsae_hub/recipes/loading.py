"""From a recipe's file and the changes on a command line to a checked `Recipe`, with every problem told at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from hsae_hub.architectures import SAEConfig, config_class, list_architectures
from hsae_hub.problems import Problem, key_paths, nearest, problems_of
from hsae_hub.recipes.refusing import place_of, refusal
from hsae_hub.recipes.schema import Recipe
from hsae_hub.recipes.shipped import RecipeFile, find_recipe
from hsae_hub.recipes.text import Loc, Parsed, dump, parse

_SAES = ("sae", "baseline")
_UNKNOWN = SAEConfig.model_construct(architecture="?", d_in=1)


class LoadedRecipe(NamedTuple):
    """A recipe with where it comes from."""

    recipe: Recipe
    name: str
    """`gemma2-tiny-en/l3_hsae` for a shipped recipe, else the file's name without its ending."""
    text: str
    """The file as written, comments included."""
    overrides: tuple[str, ...]
    """`key=value` as given, in order."""


def load_recipe(ref: str | Path, *, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Reads a recipe by path or shipped name; `overrides` (`train.lr=1e-3`) win over it, and it wins over the defaults.

    Raises:
        NotFoundError: there is no such recipe.
        UsageError: the recipe or an override cannot be meant; `problems` has one line for each.
    """
    file = find_recipe(ref)
    merged = _read(file, may_extend=True)
    for override in overrides:
        merged = _override(merged, override)
    recipe = _validate(merged)
    return LoadedRecipe(recipe, file.name, file.text(), tuple(overrides))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML that `load_recipe` reads back to the same recipe."""
    return dump(recipe.model_dump(mode="json"))


def _read(file: RecipeFile, *, may_extend: bool) -> Parsed:
    parsed = parse(file.text(), str(file.path))
    if not isinstance(parsed.data, dict):
        given = "nothing" if parsed.data is None else repr(parsed.data)
        problem = Problem((), f"a recipe must have keys such as `sae:` and `train:`, got {given}")
        raise refusal("recipe", parsed.problems or [(str(file.path), problem)])
    base = parsed.data.pop("extends", None)
    if base is None:
        return parsed
    place = parsed.places[("extends",)]
    if not isinstance(base, str) or not may_extend:
        told = (
            f"must be a recipe's file or name, got {base!r}"
            if may_extend
            else "the recipe that another one extends must stand on its own"
        )
        parsed.problems.append((place, Problem(("extends",), told)))
        return parsed
    below = _read(find_recipe(base, beside=_beside(base, file)), may_extend=False)
    return Parsed(
        _merge(below.data, parsed.data),
        {**below.places, **parsed.places},
        [*below.problems, *parsed.problems],
    )


def _beside(base: str, file: RecipeFile) -> Path | None:
    folder = file.path.parent
    return folder if (folder / base).is_file() else None


def _merge(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if change.get("architecture", base.get("architecture")) != base.get("architecture"):
        return change  # another architecture has other keys
    return {**base, **{key: _merge(base.get(key), value) for key, value in change.items()}}


def _override(parsed: Parsed, override: str) -> Parsed:
    place = f"--set {override}"
    path, equals, value = override.partition("=")
    keys: Loc = tuple(path.strip().split("."))
    change = parse(value, place, numbered=False)
    problems = [*parsed.problems]
    problems += [(place, Problem(keys + p.loc, p.message)) for _, p in change.problems]
    if not equals or not all(keys):
        problems.append((place, Problem((), "must be written key=value, such as train.lr=1e-3")))
    if len(problems) > len(parsed.problems):
        return parsed._replace(problems=problems)
    try:
        data = _with(parsed.data, keys, change.data)
    except LookupError as error:
        problems.append((place, Problem(keys, str(error.args[0]))))
        return parsed._replace(problems=problems)
    kept = {loc: old for loc, old in parsed.places.items() if loc[: len(keys)] != keys}
    new = {keys + loc: place for loc in change.places} | {keys: place}
    above = {keys[:i]: place for i in range(1, len(keys)) if keys[:i] not in kept}
    return Parsed(data, {**kept, **above, **new}, problems)


def _with(data: Any, keys: Loc, value: Any) -> Any:
    if not keys:
        return value
    first, rest = keys[0], keys[1:]
    if isinstance(data, list):
        if not first.isdecimal() or int(first) >= len(data):
            raise LookupError(f"{first!r} is no place in a list of {len(data)}; count from 0")
        at = int(first)
        return [*data[:at], _with(data[at], rest, value), *data[at + 1 :]]
    if not isinstance(data, dict | None):
        raise LookupError(f"{data!r} stands there, which has no keys")
    return {**(data or {}), first: _with((data or {}).get(first), rest, value)}


def _validate(merged: Parsed) -> Recipe:
    found = list(merged.problems)
    known = list(key_paths(Recipe))
    data = dict(merged.data)

    def checked(given: Any, loc: Loc) -> SAEConfig:
        config, problems = _sae(given, loc)
        found.extend((place_of(problem.loc, merged.places), problem) for problem in problems)
        known.extend((*loc, name) for name in type(config).model_fields)
        return config

    first = data.get("sae")
    for key in _SAES:
        if data.get(key) is not None:
            data[key] = checked(data[key], (key,))
    if isinstance(data.get("also"), dict):
        data["also"] = {
            name: checked(_merge(first, change), ("also", name))
            for name, change in data["also"].items()
        }
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        own = problems_of(error, known)
        if found:
            own = tuple(
                p for p in own if p.loc
            )  # whether parts fit together is asked of good parts
        found += [(place_of(problem.loc, merged.places), _quoted(problem)) for problem in own]
    if found:
        raise refusal("recipe", found)
    return recipe


def _sae(data: Any, at: Loc) -> tuple[SAEConfig, list[Problem]]:
    names = list_architectures()
    if not isinstance(data, dict):
        return _UNKNOWN, [Problem(at, f"must have keys such as `architecture:`, got {data!r}")]
    name = data.get("architecture")
    loc = (*at, "architecture")
    if name is None:
        return _UNKNOWN, [Problem(loc, f"required, but not given; known: {', '.join(names)}")]
    if name not in names:
        hint = nearest(str(name), names) or f"; known: {', '.join(names)}"
        return _UNKNOWN, [Problem(loc, f"unknown architecture {name!r}{hint}")]
    config = config_class(name)
    try:
        return config.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        known = [*key_paths(config, at), *key_paths(Recipe)]
        problems = problems_of(error, known, prefix=at)
        return config.model_construct(d_in=0), [_quoted(problem) for problem in problems]


def _quoted(problem: Problem) -> Problem:
    """Says of a word where true or false was wanted, or of a number where text was, how to write it."""
    message = problem.message
    if "valid boolean" in message:
        return Problem(problem.loc, f"{message}; write true or false")
    if "valid string" in message:
        return Problem(problem.loc, f"{message}; put it in quotes")
    return problem
