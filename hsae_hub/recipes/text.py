"""YAML as recipes use it: every key with its line, and scalars that mean what they look like.

PyYAML follows YAML 1.1, in which `5e-4` is a string, `no` is false, `010` is 8, `1:30` is 90, `2023-11-01` is a date
and the second of two equal keys wins in silence. Here a plain scalar is null, true, false, a decimal number (also
`1k`, `10M`, `2B`), or a string.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import yaml

from hsae_hub.problems import Problem

Loc = tuple[str, ...]
Place = str
"""Where something was written: `r1.yaml:5`, or `--set train.lr=1e-3`."""

_NUMBER = re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?([eE][-+]?\d+|[kMB])?|[-+]?\.\d+([eE][-+]?\d+)?")
_VALUES = 100_000
_UNITS = {"k": 1_000, "M": 1_000_000, "B": 1_000_000_000}


class _TooLong(Exception):
    """Raised when a few lines repeat each other into millions of values."""


class Parsed(NamedTuple):
    """A YAML text as plain data, with where every key and list item stands."""

    data: Any
    places: dict[Loc, Place]
    problems: list[tuple[Place, Problem]]


class _Dumper(yaml.SafeDumper):
    pass


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    looks_otherwise = not isinstance(scalar(text), str)
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="'" if looks_otherwise else None
    )


_Dumper.add_representer(str, _represent_text)


def scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain YAML scalar."""
    if text in ("", "~", "null", "Null"):
        return None
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    if not _NUMBER.fullmatch(text):
        return text
    digits = text.replace("_", "")
    if re.fullmatch(r"[-+]?\d+", digits):
        return int(digits) if digits.lstrip("+-") == "0" or digits.lstrip("+-")[0] != "0" else text
    unit = _UNITS.get(digits[-1])
    if unit is None:
        number = float(digits)
        if not math.isfinite(number):
            return text
        return int(number) if number.is_integer() and "." not in digits else number  # 1e9 is whole
    product = float(digits[:-1]) * unit
    return int(product) if product.is_integer() else product


def parse(text: str, source: str, *, numbered: bool = True) -> Parsed:
    """Plain data of a YAML text; `source` names it in problems, with the line where `numbered`.

    What cannot be read is among the problems, never an exception.
    """
    parsed = Parsed(None, {}, [])
    place = _Places(source, numbered)
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except RecursionError:
        return parsed._replace(problems=[(source, Problem((), "not YAML: nested too deeply"))])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        found = Problem((), f"not YAML: {what}")
        return parsed._replace(problems=[(place.at(mark), found)])
    except yaml.YAMLError as error:  # characters that YAML forbids
        message = str(error).splitlines()[0]
        return parsed._replace(problems=[(source, Problem((), f"not YAML: {message}"))])
    if node is None:
        return parsed
    try:
        return parsed._replace(data=_build(node, (), place, parsed, frozenset()))
    except (RecursionError, _TooLong):
        told = f"nested too deeply, or more than {_VALUES:,} values"
        return parsed._replace(problems=[(source, Problem((), told))])


def dump(data: Any) -> str:
    """YAML that `parse` reads back to the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Places(NamedTuple):
    source: str
    numbered: bool

    def at(self, mark: Any) -> Place:
        return f"{self.source}:{mark.line + 1}" if self.numbered and mark else self.source


def _build(node: yaml.Node, loc: Loc, place: _Places, parsed: Parsed, above: frozenset[int]) -> Any:
    parsed.places.setdefault(loc, place.at(node.start_mark))
    if len(parsed.places) > _VALUES:
        raise _TooLong
    if id(node) in above:
        parsed.problems.append((place.at(node.start_mark), Problem(loc, "it contains itself")))
        return None
    if isinstance(node, yaml.ScalarNode):
        return scalar(node.value) if node.style is None else node.value
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(child, (*loc, str(i)), place, parsed, above)
            for i, child in enumerate(node.value)
        ]
    data: dict[str, Any] = {}
    for key_node, child in node.value:
        where = place.at(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            parsed.problems.append((where, Problem(loc, "a key must be a word")))
            continue
        key = (*loc, key_node.value)
        if key_node.value in data:
            first = parsed.places[key].rpartition(":")[2]
            told = f"given twice, first in line {first}" if place.numbered else "given twice"
            parsed.problems.append((where, Problem(key, told)))
            continue
        parsed.places[key] = where
        data[key_node.value] = _build(child, key, place, parsed, above)
    return data
