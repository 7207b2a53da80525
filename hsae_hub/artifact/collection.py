"""What the `config.json` at the root of a collection says, version 1: several SAEs in one repository, a folder each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from hsae_hub.artifact.config import ArtifactConfig, FileInfo
from hsae_hub.errors import CorruptError
from hsae_hub.problems import key_paths, problems_of

MANIFEST_VERSION = 1
"""Version that is written, and the newest one that is read."""
MOST_SAES = 1000
"""SAEs of one collection, at most."""
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,78}[A-Za-z0-9_+])?"
"""What the folder of one of its SAEs may be called."""
_Weights = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*\.safetensors$")
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Part):
    """One SAE of a collection: what it is, and what its files have to be."""

    architecture: str
    d_in: PositiveInt
    d_sae: PositiveInt
    model: str | None = None
    """Id of the language model."""
    hookpoint: str | None = None
    """Module path in transformers."""
    config: FileInfo
    """Its `config.json`."""
    files: Annotated[dict[_Weights, FileInfo], Field(min_length=1, max_length=8)]
    """Its weight files and those of its baseline, by their paths in its folder."""

    @classmethod
    def of(cls, config: ArtifactConfig, own: FileInfo, files: dict[str, FileInfo]) -> Member:
        """What a manifest says of an SAE; `own` is its `config.json`."""
        return cls(
            architecture=config.sae.architecture,
            d_in=config.sae.d_in,
            d_sae=config.sae.shape().d_sae,
            model=config.model.id if config.model else None,
            hookpoint=config.hookpoint.path if config.hookpoint else None,
            config=own,
            files=files,
        )


class Manifest(_Part):
    """The SAEs of a collection, by the names of their folders."""

    format_version: Literal[1] = 1
    kind: Literal["collection"] = "collection"
    saes: Annotated[
        dict[Annotated[str, Field(pattern=f"^{NAME}$")], Member],
        Field(min_length=1, max_length=MOST_SAES),
    ]

    def to_json(self) -> str:
        """The text of `config.json`, the same for the same SAEs."""
        ordered = Manifest(saes=dict(sorted(self.saes.items())))
        return ordered.model_dump_json(indent=1, exclude_none=True) + "\n"


def is_manifest(data: dict[str, Any]) -> bool:
    """Whether the content of a `config.json` is that of a collection, not of one SAE."""
    return data.get("kind") == "collection"


def manifest_from_data(data: dict[str, Any], where: str) -> Manifest:
    """Checks the parsed content of a collection's `config.json`; `where` names the file in errors.

    Raises:
        CorruptError: a newer format, unknown or missing keys, or values out of range.
    """
    version = data.get("format_version")
    if isinstance(version, int) and version > MANIFEST_VERSION:
        raise CorruptError(
            f"{where} has format_version {version}; this hsae-hub reads up to {MANIFEST_VERSION}",
            why="it was written by a newer hsae-hub",
            fix="pip install --upgrade hsae-hub",
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        found = problems_of(error, key_paths(Manifest))
        told = [str(problem) for problem in found[:3]]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise CorruptError(f"{where}: {'; '.join(told)}{more}") from None
