"""What steering is to do, as data: the one form that Python, the command line and files share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hsae_hub.errors import UsageError
from hsae_hub.problems import Problem, key_paths, problems_of

Schema = Literal["hsae.steering/1"]
Units = Literal["p999", "raw"]
PUSHES = ("full", "relative")
_WITH_STRENGTH = (*PUSHES, "set", "scale")
_FOR_DIRECTIONS = ("full", "project_out")
_MODE = r"^(full|relative|set|scale|ablate|project_out|swap:\d+(/\d+)?)$"
_MODES = "full, relative, set, scale, ablate, project_out, or swap:4121/7"
_SPELLING = "write 4121/3=+1.5, or 588=0 to take a feature out"
_GATES = "always, parent, feature, prompt, generated, after:WORDS or positions:0,5,-1"


def _numbers(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


class Gate(BaseModel):
    """Which tokens an edit holds on: those that meet every condition given; without any, all.

    BOS, other special tokens and padding are never among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fires: Literal["parent", "feature"] | None = None
    """Only where the feature acts before any edit, or its parent does; of a parent these are the same."""
    after: Annotated[str, Field(min_length=1)] | None = None
    """Only from the last token of these words on, at their first place in the text: it is the first token that has read
    them, and what it says comes after them. They are found as tokens, with or without a blank before them."""
    positions: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    """Only these tokens: 0 is the first of the text, BOS where there is one; -1 is the last of the prompt."""
    part: Literal["prompt", "generated"] | None = None
    """Only tokens of the prompt, or only those that the model wrote."""


class Edit(BaseModel):
    """What is done to one feature, or along one direction."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, use_attribute_docstrings=True
    )

    feature: Annotated[str, Field(min_length=1)] | None = None
    """`4121` for a parent, `4121/3` for its child, or a flat index."""
    direction: (
        Annotated[
            tuple[Annotated[float, Field(allow_inf_nan=False)], ...], BeforeValidator(_numbers)
        ]
        | None
    ) = None
    """Instead of a feature: as many numbers as the activations are wide."""
    mode: Annotated[str, Field(pattern=_MODE)] = "full"
    """`full` pushes along the feature, a child together with its parent; `relative` pushes a child alone. `set` makes
    the feature act at `strength`. `scale` multiplies what the feature adds to the token, a parent together with its
    children, by `strength`; `ablate` takes it out. `swap:4121/7` gives a child's act to its sibling. `project_out`
    takes out whatever lies along its direction. A direction can be pushed (`full`) and projected out."""
    strength: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """In `units`; below 0 pushes away. Of `scale` a factor. `swap`, `ablate` and `project_out` have none."""
    units: Units = "p999"
    """`p999`: multiples of its 99.9th-percentile act at the token's residual norm, of a direction multiples of that
    norm along its unit vector. `raw`: the act itself, of a direction multiples of the vector as it is."""
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _can_be_meant(self) -> Edit:
        found = "; ".join(self._problems())
        if found:
            raise ValueError(found)
        return self

    def _problems(self) -> Iterator[str]:
        if (self.feature is None) == (self.direction is None):
            yield "give a feature or a direction, one of them"
        elif self.direction is not None:
            if self.mode not in _FOR_DIRECTIONS:
                yield f"mode {self.mode} needs a feature; a direction has {' and '.join(_FOR_DIRECTIONS)}"
            if self.gate.fires is not None:
                yield "a direction never fires: leave gate.fires out"
            if not any(self.direction):
                yield "direction is zero everywhere"
        if self.mode in _WITH_STRENGTH:
            if self.strength is None:
                yield f"strength: required with mode {self.mode}, but not given"
            elif self.strength == 0 and self.mode in PUSHES:
                yield f"strength 0 pushes nowhere; mode: ablate takes {self.name} out"
        elif self.strength is not None:
            yield f"mode {self.mode} has no strength, got {self.strength:g}"

    @property
    def name(self) -> str:
        """The feature as it was given, or `direction`."""
        return "direction" if self.feature is None else self.feature

    @property
    def sibling(self) -> str | None:
        """The child that `swap` puts in the feature's place."""
        return self.mode.removeprefix("swap:") if self.mode.startswith("swap:") else None

    def __str__(self) -> str:
        told = self.name if self.strength is None else f"{self.name}={self.strength:+g}"
        return f"{told} ({self.mode})"


class SteeringSpec(BaseModel):
    """Edits that hold together; `read_steering` and `write_steering` are its files.

    The order of the list does not matter, with one exception. All edits read the activation as it comes in: its acts,
    its norm, where features fire. Then features are scaled and ablated, then swapped, then set (of two edits that set
    one feature on one token the later holds), then pushes are added, then directions are projected out of the sum.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )

    schema_: Annotated[Schema, Field(alias="schema")] = "hsae.steering/1"
    sae: str | None = None
    """The SAE that features are numbered by, for whoever reads the file."""
    edits: Annotated[tuple[Edit, ...], Field(json_schema_extra={"minItems": 1})]

    @model_validator(mode="after")
    def _does_something(self) -> SteeringSpec:
        if not self.edits:
            raise ValueError("no edit was given")
        return self

    def scaled(self, factor: float) -> SteeringSpec | None:
        """The same with every strength times a factor; None where nothing is left to be done.

        Raises:
            UsageError: no edit has a strength.
        """
        if all(edit.strength is None for edit in self.edits):
            raise UsageError("no edit has a strength that could be varied", fix=_SPELLING)
        edits = []
        for edit in self.edits:
            if edit.strength is not None:
                if factor == 0 and edit.mode in PUSHES:
                    continue
                edit = edit.model_copy(update={"strength": edit.strength * factor})
            edits.append(edit)
        return self.model_copy(update={"edits": tuple(edits)}) if edits else None


EditSpec = SteeringSpec | Mapping[Any, float | int] | Sequence[Edit | str] | str


def parse_edits(
    spec: EditSpec,
    *,
    mode: str = "full",
    units: Units = "p999",
    gate: Gate | str | Sequence[str] = "always",
) -> SteeringSpec:
    """Reads `{"4121/3": 1.5, "588": 0}`, a text such as `4121/3=+1.5`, or a list of texts and of `Edit`.

    `mode`, `units` and `gate` hold for edits that do not bring their own. A push of 0 is `ablate`.

    Raises:
        UsageError: an edit cannot be read, or there is none; every problem is in `problems`.
    """
    if isinstance(spec, SteeringSpec):
        return spec
    where = gate if isinstance(gate, Gate) else parse_gate(gate)
    edits: list[Edit] = []
    problems: list[str] = []
    for item in _items(spec):
        if isinstance(item, Edit):
            edits.append(item)
            continue
        is_ablation = mode in PUSHES and _is_zero(item.get("strength"))
        own = {"mode": "ablate", "strength": None} if is_ablation else {"mode": mode}
        try:
            edits.append(Edit.model_validate({**item, "units": units, "gate": where, **own}))
        except ValidationError as error:
            found = problems_of(error, key_paths(Edit), (str(item.get("feature")),))
            problems += [str(told(problem)) for problem in found]
    if problems or not edits:
        problems = problems or ["no edit was given"]
        raise UsageError(problems[0], fix=_SPELLING, problems=tuple(problems))
    return SteeringSpec(edits=tuple(edits))


def told(problem: Problem) -> Problem:
    """The problem in words, where pydantic shows a pattern."""
    said = problem.message.replace(f"string should match pattern '{_MODE}'", f"must be {_MODES}")
    return problem._replace(message=said)


def _is_zero(strength: Any) -> bool:
    try:
        return strength is not None and float(strength) == 0
    except (TypeError, ValueError):
        return False


def _items(spec: EditSpec) -> Iterator[Edit | dict[str, Any]]:
    if isinstance(spec, Mapping):
        yield from ({"feature": name, "strength": value} for name, value in spec.items())
        return
    for item in [spec] if isinstance(spec, str) else spec:
        if isinstance(item, Edit):
            yield item
        else:
            name, equals, strength = str(item).partition("=")
            yield {"feature": name.strip(), "strength": strength.strip() if equals else None}


def parse_gate(words: str | Sequence[str]) -> Gate:
    """Reads `parent`, `generated`, `after:once upon`, `positions:0,5,-1`, or several that must all hold.

    Raises:
        UsageError: one cannot be read, or two are of one kind.
    """
    found: dict[str, Any] = {}
    for word in [words] if isinstance(words, str) else words:
        name, colon, value = word.partition(":")
        name = name.strip()
        key: str
        if name == "always" and not colon:
            continue
        if name in ("parent", "feature") and not colon:
            key, given = "fires", name
        elif name in ("prompt", "generated") and not colon:
            key, given = "part", name
        elif name == "after" and value:
            key, given = "after", value
        elif name == "positions" and all(_is_whole(p) for p in value.split(",")):
            key, given = "positions", [int(p) for p in value.split(",")]  # type: ignore[assignment]
        else:
            raise UsageError(f"no gate {word!r}", fix=_GATES)
        if key in found:
            raise UsageError(f"two gates of one kind: {word!r} and {found[key]!r}", fix=_GATES)
        found[key] = given
    return Gate(**found)


def _is_whole(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()
