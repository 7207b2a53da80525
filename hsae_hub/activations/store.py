"""A store of activations on disk: what `store.json` says, and what has to fit before a training reads from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hsae_hub import __version__
from hsae_hub.activations.batches import Origin
from hsae_hub.artifact import HookpointConfig, ModelConfig, TokensConfig, read_object, sha256_file
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.models import Hookpoint
from hsae_hub.problems import key_paths, problems_of
from hsae_hub.recipes import DataSource, ModelSection, Recipe, differing, keys_of

STORE = "store.json"
WORK = ".harvest"
"""Folder in the store's, with what a harvest has done so far; it is gone once the store is whole."""
STATE = "state.json"
FORMAT_VERSION = 1
_LARGEST = 1 << 26  # bytes of a store.json: room for half a million shards

StoreDtype = Literal["float32", "bfloat16", "float16"]


def shard_name(number: int) -> str:
    """Name of a shard's file."""
    return f"shard-{number:05d}.safetensors"


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class PlanData(_Part):
    """The part of a recipe's `data` that its activations follow from."""

    train: list[DataSource]
    heldout_fraction: float
    """Share of the documents that is left out; 0 where a recipe names other text to measure on."""
    windows: Literal["all", "first"]
    context_length: int
    bos: bool
    skip_special: bool


class Plan(_Part):
    """What a store was asked to hold: that part of a recipe, and how it is kept."""

    model: ModelSection
    hookpoint: str
    data: PlanData
    seed: NonNegativeInt
    """The recipe's: text that is sampled and the order of the rows follow from it."""
    dtype: StoreDtype
    tokens: PositiveInt | None
    """Activations that were asked for; None for all of the data, once."""
    shard_tokens: PositiveInt | None
    """Activations of a shard, on average; None for about 1 GB."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        *,
        tokens: int | None = None,
        dtype: StoreDtype | None = None,
        shard_tokens: int | None = None,
    ) -> Plan:
        """The plan for a recipe; without `dtype` the type that the language model runs in, which loses nothing.

        Raises:
            UsageError: the hookpoint cannot be meant, or it is a weight of the model.
        """
        data = recipe.data
        if data.vocabulary is not None:
            raise UsageError(
                f"{recipe.hookpoint} is a weight of the model; its rows need no store",
                why="only activations of text are harvested",
            )
        return cls(
            model=recipe.model,
            hookpoint=str(Hookpoint.parse(recipe.hookpoint)),
            data=PlanData(
                train=data.train,
                heldout_fraction=0.0 if data.heldout else data.heldout_fraction,
                windows=data.windows,
                context_length=data.context_length,
                bos=data.bos,
                skip_special=data.skip_special,
            ),
            seed=recipe.seed,
            dtype=dtype or recipe.model.dtype,
            tokens=tokens,
            shard_tokens=shard_tokens,
        )


class ShardInfo(_Part):
    """What a shard has to be; it is a file with one tensor, `acts [rows, d_in]`."""

    rows: PositiveInt
    size: PositiveInt
    """Of the file, in bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoreStatistics(_Part):
    """What is known of all rows as they are stored; norms are ‖x‖."""

    norm_mean: float
    norm_std: float
    norm_min: float
    norm_max: float
    norm_quantiles: dict[str, float]
    """By the share of rows below, to 0.1 %."""
    outlier_above: float
    """Six times the median norm, to 0.1 %."""
    outliers: NonNegativeInt
    """Rows whose norm is at least that; they are in the store like all others."""
    mean: list[float]
    """Of each dimension."""
    std: list[float]
    """Of each dimension, about its mean."""


class StoreConfig(_Part):
    """A store's `store.json`."""

    format_version: int = FORMAT_VERSION
    written_by: str = f"hsae-hub {__version__}"
    plan: Plan
    model: ModelConfig
    hookpoint: HookpointConfig
    tokens: TokensConfig
    d_in: PositiveInt
    activations: PositiveInt
    """Rows in all."""
    contexts: PositiveInt
    """Contexts that they come from."""
    special_dropped: NonNegativeInt
    """Special tokens of those contexts whose activations were left out."""
    shards: list[ShardInfo]
    statistics: StoreStatistics

    @model_validator(mode="after")
    def _adds_up(self) -> StoreConfig:
        if sum(shard.rows for shard in self.shards) != self.activations:
            raise ValueError("the rows of its shards are not as many as its activations")
        if {len(self.statistics.mean), len(self.statistics.std)} != {self.d_in}:
            raise ValueError("its statistics are of another width than d_in")
        return self

    @property
    def origin(self) -> Origin:
        """What an SAE that was trained on it says of its activations."""
        data = [source.describe() for source in self.plan.data.train]
        return Origin(self.model, self.hookpoint, [*data, self.describe()], self.tokens)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the stored values."""
        found: torch.dtype = getattr(torch, self.plan.dtype)
        return found

    @property
    def row_bytes(self) -> int:
        """Bytes of one activation."""
        return self.d_in * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Names the store by its content: a hash of its shards' hashes."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def describe(self) -> str:
        """One line for people, as the card prints it; local paths are not in it."""
        return f"of it {self.activations:,} activations, stored once in {self.plan.dtype} and read from there"

    def to_json(self) -> str:
        """The text of `store.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def read_store(folder: Path) -> StoreConfig:
    """Reads and checks `store.json`.

    Raises:
        NotFoundError: the folder has none, or its harvest is not finished.
        CorruptError: it is not what this release writes, or reads.
    """
    path = folder / STORE
    if not path.is_file():
        begun = (folder / WORK / STATE).is_file()
        raise NotFoundError(
            f"{folder} holds no {'finished ' * begun}store of activations",
            why="its harvest was stopped before its end" if begun else f"there is no {STORE} in it",
            fix="the same `hsae cache make` again goes on" * begun or "hsae cache make -h",
        )
    data = read_object(path, _LARGEST)
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise CorruptError(
            f"{path} has format_version {version}; this hsae-hub reads {FORMAT_VERSION}",
            fix="pip install --upgrade hsae-hub" if isinstance(version, int) else "",
        )
    try:
        return StoreConfig.model_validate(data)
    except ValidationError as error:
        found = problems_of(error, key_paths(StoreConfig))
        raise CorruptError(f"{path}: {'; '.join(str(problem) for problem in found[:3])}") from None


def check_cache(recipe: Recipe) -> None:
    """Makes sure that the store of `data.cache`, if one is given, holds what the recipe reads; its seed may differ.

    Raises:
        NotFoundError: there is no store.
        CorruptError: its `store.json` is damaged.
        UsageError: model, hookpoint or data differ; `problems` has a line for each key.
    """
    if recipe.data.cache is None:
        return
    folder = Path(recipe.data.cache).expanduser()
    store = read_store(folder)
    kept, wanted = store.plan, Plan.of(recipe)
    if (commit := wanted.model.revision) == store.model.revision:  # instead of the branch's name
        model = kept.model.model_copy(update={"revision": commit})
        kept = kept.model_copy(update={"model": model})
    parts = {"model", "hookpoint", "data"}
    found = differing(
        kept.model_dump(mode="json", include=parts),
        wanted.model_dump(mode="json", include=parts),
        where="in the store",
        here="in the recipe",
    )
    if found:
        raise UsageError(
            f"the store {folder} does not hold this recipe's activations; they differ in {keys_of(found)}",
            fix="hsae cache make with this recipe and another --out\nor change the recipe with --set",
            problems=found,
        )


def verify_store(folder: Path, *, on_bytes: Callable[[int, int], None] | None = None) -> None:
    """Compares every byte of the shards with the hashes in `store.json`; `on_bytes` is told how many are done.

    Raises:
        NotFoundError: there is no store, or a shard is missing.
        CorruptError: a shard is not the one that was written.
    """
    store = read_store(folder)
    done, wrong = 0, []
    for number, shard in enumerate(store.shards):
        path = folder / shard_name(number)
        if not path.is_file():
            raise NotFoundError(f"{path} is missing")
        if path.stat().st_size != shard.size or sha256_file(path) != shard.sha256:
            wrong.append(path.name)
        done += shard.size
        if on_bytes:
            on_bytes(done, store.size)
    if wrong:
        raise CorruptError(
            f"{len(wrong)} of {len(store.shards)} shards of {folder} are not what was written: {', '.join(wrong[:5])}",
            why="their bytes changed on the disk or on the way here",
            fix="copy them again, or harvest into another folder",
        )
