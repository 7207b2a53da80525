"""What was measured, from the JSON files of `eval/`: whatever else stands in them is left alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from hsae_hub.errors import CorruptError

_LARGEST = 10_000_000  # bytes
_MOST = 200  # numbers of one report in a card


class Value(NamedTuple):
    """A number, with its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""


class Report(NamedTuple):
    """One task's numbers of one SAE, and of those beside it."""

    name: str
    command: str
    tokens: int | None
    contexts: int | None
    seed: Any
    model: dict[str, Any]
    data: list[str]
    saes: dict[str, dict[str, Value]]
    """By the names of the SAEs; the one that it is about is `sae`."""

    def of(self, name: str = "sae") -> dict[str, Value]:
        """The numbers of an SAE; none if it was not measured."""
        return self.saes.get(name, {})


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; empty if there is none.

    Raises:
        CorruptError: it is not JSON, or too large.
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > _LARGEST:
        raise CorruptError(f"{path} has {path.stat().st_size} bytes, expected at most 10 MB")
    try:
        return dict_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not JSON: {error}") from None


def dict_of(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def alone(data: dict[str, Any], name: str, sha256: str) -> dict[str, Any]:
    """A report's content as if it were about the SAE that it calls `name`; empty if it is not about these weights.

    `saes` and `weights` are how hsae.eval.core/1 began; `results` and `beside` are how every report goes on.
    """
    other = data if name == "sae" else dict_of(dict_of(data.get("beside")).get(name))
    measured = dict_of(data.get("weights")).get(name, other.get("sha256"))
    if measured != sha256:
        return {}
    if name == "sae":
        return data
    found = dict(data)
    for key in ("saes", "weights"):
        if key in data:
            found[key] = {"sae": dict_of(data[key]).get(name)}
    if "results" in data:
        found |= {"sha256": sha256, "results": other.get("results", []), "beside": {}}
        found["details"] = other.get("details", {})
    return found


def parse_report(data: dict[str, Any], name: str) -> Report | None:
    """A report's content, taken apart; None if it holds no number of an SAE."""
    saes = {
        str(key): {str(k): Value(float(v)) for k, v in dict_of(each).items() if _is_number(v)}
        for key, each in dict_of(data.get("saes")).items()
    }
    for key, each in {**dict_of(data.get("beside")), "sae": data}.items():
        saes[str(key)] = saes.get(str(key), {}) | _values(dict_of(each))
    if not saes["sae"]:
        return None
    contexts = data.get("contexts", dict_of(data.get("details")).get("contexts"))
    return Report(
        name=name,
        command=str(data.get("command") or "not recorded"),
        tokens=_whole(data.get("tokens")),
        contexts=_whole(contexts),
        seed=data.get("seed", "not recorded"),
        model=dict_of(data.get("model")),
        data=[str(line) for line in list_of(data.get("data"))],
        saes=saes,
    )


def _values(data: dict[str, Any]) -> dict[str, Value]:
    found = {}
    for each in map(dict_of, list_of(data.get("results"))[:_MOST]):
        if _is_number(each.get("value")) and isinstance(each.get("name"), str):
            low, high = _number(each.get("low")), _number(each.get("high"))
            found[each["name"]] = Value(
                float(each["value"]), low, high, str(each.get("unit") or "")
            )
    return found


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
