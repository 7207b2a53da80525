"""What a recipe says. Keys that are not here are refused, and values are taken as written, never converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from zlib import crc32

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    model_serializer,
    model_validator,
)

from hsae_hub.architectures import (
    SAEConfig,
    architecture,
    config_class,
    list_architectures,
    parse_config,
)
from hsae_hub.assets import EMBEDDED_MODEL
from hsae_hub.errors import MisfitError

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$", max_length=80)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

_BELONGS_TO = {
    "config": "dataset",
    "split": "dataset",
    "column": "dataset",
    "revision": "dataset",
    "temperature": "sample",
}
TAKEN = ("sae", "baseline", "checkpoints", "eval")
"""Names that an SAE of `also` cannot have: its folder lies among these in the run's."""


def _parse_sae(value: Any) -> Any:
    return parse_config(dict(value)) if isinstance(value, Mapping) else value


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors: one alternative of `sae` for each registered architecture."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    configs = {name: config_class(name) for name in list_architectures()}
    for name, config in configs.items():
        own = config.model_json_schema()
        definitions.update(own.pop("$defs", {}))
        required = dict.fromkeys(["architecture", *own.get("required", [])])
        definitions[name] = {**own, "required": list(required)}
    definitions["SAEConfig"] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in configs]}
    extends = {"type": "string", "description": "A recipe, by file or name, that this one changes."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": {"extends": extends, **schema["properties"]},
        "required": [],  # `extends` may bring every section
    }


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class ModelSection(_Section):
    """The language model whose activations are read."""

    id: Text = EMBEDDED_MODEL
    """Repository on the hub, local folder, or the name of the embedded model."""
    revision: Text | None = None
    """Commit, tag or branch on the hub."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type the language model runs in."""


class DataSource(_Section):
    """Where text comes from: exactly one of text, dataset, builtin, sample and lines."""

    text: Annotated[list[Text], Field(min_length=1)] | None = None
    """Text files, as paths or globs; long files are divided into documents at blank lines."""
    dataset: Text | None = None
    """A data set on the hub, read as a stream."""
    config: Text | None = None
    """Configuration of the data set."""
    split: Text = "train"
    """Split of the data set."""
    column: Text = "text"
    """Column of the data set that holds the text."""
    revision: Text | None = None
    """Commit, tag or branch of the data set."""
    builtin: Literal["python-docs"] | None = None
    """Text that every Python carries: `pydoc_data.topics`."""
    sample: PositiveInt | None = None
    """Tokens of text that the language model itself writes."""
    temperature: PositiveFloat = 1.0
    """Temperature at which `sample` is drawn; 1 is the model's own distribution."""
    lines: Annotated[list[str], Field(min_length=1)] | None = None
    """The documents themselves."""

    @model_validator(mode="after")
    def _one_kind(self) -> DataSource:
        kinds = ("text", "dataset", "builtin", "sample", "lines")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(kinds)}; given: {', '.join(given) or 'none'}"
            )
        for key in sorted(self.model_fields_set & _BELONGS_TO.keys()):
            if _BELONGS_TO[key] != given[0] and getattr(self, key) is not None:
                raise ValueError(f"{key} goes with {_BELONGS_TO[key]}, not with {given[0]}")
        return self

    @model_serializer(mode="wrap")
    def _only_its_kind(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        kind = self.kind
        return {
            key: value
            for key, value in handler(self).items()
            if value is not None and _BELONGS_TO.get(key, kind) == kind
        }

    @property
    def kind(self) -> Literal["text", "dataset", "builtin", "sample", "lines"]:
        """Which of the five it is."""
        if self.text is not None:
            return "text"
        if self.dataset is not None:
            return "dataset"
        if self.builtin is not None:
            return "builtin"
        return "lines" if self.sample is None else "sample"

    def describe(self) -> str:
        """One line for people, as the card prints it; local paths are not in it."""
        if self.text is not None:
            return "text files"
        if self.dataset is not None:
            config = f" ({self.config})" if self.config else ""
            at = f"@{self.revision}" if self.revision else ""
            return f"{self.dataset}{config}{at}, split {self.split}"
        if self.builtin is not None:
            return "documentation that Python carries (pydoc_data.topics)"
        if self.lines is not None:
            return f"{len(self.lines)} given lines"
        return f"{self.sample:,} tokens sampled from the model, temperature {self.temperature:g}"


class VocabularySection(_Section):
    """Which rows of an embedding's weight are read: those of tokens that the training text has often enough."""

    min_count: NonNegativeInt = 1
    """Times that a token has to occur; 0 takes every row but those of special, unused and missing tokens."""
    count_tokens: PositiveInt = 10_000_000
    """Tokens of the training text in which they are counted, or all of it where there are fewer."""


class DataConfig(_Section):
    """Text, and how it becomes batches of activations."""

    train: Annotated[list[DataSource], Field(min_length=1)]
    """Sources that are trained on, mixed document by document."""
    heldout: Annotated[list[DataSource], Field(min_length=1)] | None = None
    """Sources to measure on; without them a part of the training documents is held out."""
    heldout_fraction: Fraction = 0.05
    """Share of the training documents held out, chosen by a hash of their text, when `heldout` is not given; of an
    embedding's rows likewise, by their tokens."""
    context_length: Annotated[int, Field(ge=2)] = 256
    """Tokens of a context, BOS included."""
    windows: Literal["all", "first"] = "all"
    """Whether a document gives all of its contexts or only its first one."""
    bos: bool = True
    """Whether every context begins with the tokenizer's BOS."""
    skip_special: bool = True
    """Whether activations of special tokens (BOS, EOS, padding) are left out."""
    buffer_tokens: PositiveInt = 65_536
    """Activations that are shuffled together, at least `train.batch_size`."""
    batch_contexts: PositiveInt = 16
    """Contexts that the language model reads at once."""
    vocabulary: VocabularySection | None = None
    """For a hookpoint such as `lm_head.weight`: which of its rows are trained on; the text is for counting tokens."""
    cache: Text | None = None
    """Folder that `hsae cache make` filled with this recipe's activations, to be read instead of the language model."""


class TrainSection(_Section):
    """How the SAE, and its baseline on the same batches, is trained."""

    steps: PositiveInt | None = None
    """Length of the run in optimiser steps; or give `tokens`."""
    tokens: PositiveInt | None = None
    """Length of the run in activations, repeats counted; or give `steps`."""
    batch_size: PositiveInt
    """Activations a step."""
    lr: PositiveFloat
    """Peak learning rate."""
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """Adam's decay rates of the two moments."""
    adam: Literal["deferred", "dense"] = "deferred"
    """`dense` updates all weights in each step. `deferred` takes the steps in which decoder rows or a parent's subspace
    have no gradient when they are next read (on a CPU, in one process): the same within 1e-4, and faster."""
    warmup_steps: NonNegativeInt = 1000
    """Steps over which the learning rate grows linearly to `lr`."""
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of `lr` that the cosine ends at."""
    clip_norm: PositiveFloat | None = 0.75
    """Largest global norm of the gradient; null does not clip."""
    accumulate: PositiveInt = 1
    """Parts of a batch that take their turn before each update: less memory, the same step. Only for architectures
    whose loss is a mean over tokens; penalties of weights alone are computed for every part, and the dead latents of
    `topk` are counted part by part."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints."""
    log_every: PositiveInt = 50
    """Steps between lines in metrics.jsonl."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the SAE's weights."""
    matmul: Literal["float32", "bfloat16"] = "float32"
    """What the dense products of a step are taken in; with bfloat16 weights, moments and losses stay as they are."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.steps is None) == (self.tokens is None):
            both = "given: both; null takes one away" if self.steps else "given: none"
            raise ValueError(f"give exactly one of steps and tokens; {both}")
        if self.warmup_steps > self.n_steps:
            raise ValueError(
                f"warmup_steps (={self.warmup_steps}) must be at most the run's {self.n_steps} steps"
            )
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate (={self.accumulate}) must be at most batch_size (={self.batch_size})"
            )
        return self

    @property
    def n_steps(self) -> int:
        """Steps of the run; `tokens` are rounded up to whole batches."""
        return self.steps if self.steps is not None else -(-(self.tokens or 0) // self.batch_size)

    @property
    def n_tokens(self) -> int:
        """Activations of the run."""
        return self.n_steps * self.batch_size


class EvalSection(_Section):
    """What is measured after training, on held-out text."""

    tokens: PositiveInt = 50_000
    """Activations for the core metrics and, from training's text, for the statistics of latents."""


class Recipe(_Section):
    """One training run, whole: model, place, text, SAE, optimiser and seed."""

    model: ModelSection = ModelSection()
    hookpoint: Text
    """Place in the language model, such as `model.layers.3`: the residual stream after layer 3. `lm_head.weight` stands
    for the rows of the unembedding."""
    data: DataConfig
    sae: Annotated[SerializeAsAny[SAEConfig], BeforeValidator(_parse_sae)]
    """The SAE's hyper-parameters."""
    baseline: Annotated[SerializeAsAny[SAEConfig], BeforeValidator(_parse_sae)] | None = None
    """A second SAE, usually flat, trained on the same batches to compare with."""
    also: dict[Name, Annotated[SerializeAsAny[SAEConfig], BeforeValidator(_parse_sae)]] = {}
    """Further SAEs, by name, trained on the same batches; in a file each says only how it differs from `sae`."""
    train: TrainSection
    eval: EvalSection = EvalSection()
    seed: NonNegativeInt = 0
    """Everything random follows from it; `seed_for` gives each use its own."""

    @model_validator(mode="after")
    def _rows_or_activations(self) -> Recipe:
        is_weight = self.hookpoint.endswith(".weight")
        if is_weight and self.data.vocabulary is None:
            raise ValueError(
                f"hookpoint {self.hookpoint} is read row by row: give data.vocabulary, such as {{min_count: 1}}"
            )
        if not is_weight and self.data.vocabulary is not None:
            raise ValueError(
                f"data.vocabulary goes with a hookpoint such as lm_head.weight, not with {self.hookpoint}"
            )
        if is_weight and self.data.cache is not None:
            raise ValueError(f"data.cache holds activations, not the rows of {self.hookpoint}")
        if is_weight and self.data.heldout is not None:
            raise ValueError(
                "data.heldout is text; of rows data.heldout_fraction are held out, so leave it out"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.data.buffer_tokens < self.train.batch_size:
            raise ValueError(
                f"data.buffer_tokens (={self.data.buffer_tokens}) must be at least train.batch_size "
                f"(={self.train.batch_size})"
            )
        if self.train.accumulate > 1:
            used = {config.architecture for config in self.saes().values()}
            whole = sorted(name for name in used if not architecture(name).can_accumulate)
            if whole:
                raise ValueError(
                    f"train.accumulate (={self.train.accumulate}) must be 1 for {', '.join(whole)}: "
                    "what one token gives there depends on the rest of its batch"
                )
        for name in self.also.keys() & set(TAKEN):
            raise ValueError(f"also.{name}: the name is taken, as {', '.join(TAKEN)} are")
        for name, config in self.saes().items():
            if config.d_in != self.sae.d_in:
                raise ValueError(
                    f"{name}.d_in (={config.d_in}) must be sae.d_in (={self.sae.d_in})"
                )
        return self

    def saes(self) -> dict[str, SAEConfig]:
        """The SAEs of the run: `sae`, `baseline` where there is one, and those of `also` by their names."""
        baseline = {"baseline": self.baseline} if self.baseline is not None else {}
        return {"sae": self.sae, **baseline, **self.also}

    def check_width(self, width: int) -> None:
        """Refuses SAEs of another width than that of the activations.

        Raises:
            MisfitError: they read another one.
        """
        if width != self.sae.d_in:
            raise MisfitError(
                f"the SAE reads width {self.sae.d_in} but {self.hookpoint} of {self.model.id} has width {width}",
                fix=f"--set sae.d_in={width}"
                + (f" --set baseline.d_in={width}" if self.baseline else ""),
            )

    def seed_for(self, use: Literal["init", "data", "sample"]) -> int:
        """Seed of the initial weights, of the order of the data, or of the text that the model writes."""
        return crc32(f"{self.seed}/{use}".encode())
