"""Turns what pydantic finds wrong with a user's config into one line a problem, with the nearest known key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError


class Problem(NamedTuple):
    """One thing that is wrong with a config."""

    loc: tuple[str, ...]
    """Keys from the root to the value."""
    message: str
    """What was given and what was expected, without the place."""

    def __str__(self) -> str:
        return f"{'.'.join(self.loc)}: {self.message}" if self.loc else self.message


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, else nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def key_paths(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key a config knows, as paths from its root, nested configs included."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel) and part is not model:
                yield from key_paths(part, (*prefix, name))


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    if get_origin(annotation) is dict:  # its keys are names that anybody chooses
        return
    for argument in get_args(annotation):
        yield from _parts(argument)


def unknown_key(loc: tuple[str, ...], known: Iterable[tuple[str, ...]]) -> str:
    """What to say of a key nobody knows: the nearest one beside it, else the same name somewhere else."""
    paths = list(known)
    section = tuple(
        part for part in loc[:-1] if not part.isdecimal()
    )  # places in a list are no keys
    beside = [path[-1] for path in paths if path[:-1] == section]
    close = get_close_matches(loc[-1], beside, n=1, cutoff=0.6)
    meant = [(*section, close[0])] if close else [path for path in paths if path[-1] == loc[-1]]
    if meant:
        return f"unknown key; did you mean {'.'.join(meant[0])!r}?"
    return f"unknown key; known: {', '.join(beside)}"


def problems_of(
    error: ValidationError, known: Iterable[tuple[str, ...]], prefix: tuple[str, ...] = ()
) -> tuple[Problem, ...]:
    """Every problem of a validation error; `known` are the key paths there are, `prefix` the keys above the config."""
    paths = list(known)
    return tuple(_problem(dict(details), paths, prefix) for details in error.errors())


def _problem(
    details: dict[str, Any], known: list[tuple[str, ...]], prefix: tuple[str, ...]
) -> Problem:
    loc = (*prefix, *(str(part) for part in details["loc"]))
    if details["type"] == "extra_forbidden":
        return Problem(loc, unknown_key(loc, known))
    if details["type"] == "missing":
        return Problem(loc, "required, but not given")
    message = str(details["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = details["input"]
    if loc and not isinstance(given, dict | list):
        message = f"{message[:1].lower()}{message[1:]}, got {given!r}"
    return Problem(loc, message)
