"""What `config.json` says, version 1."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
)

from hsae_hub.architectures import SAEConfig, config_class, list_architectures, parse_config
from hsae_hub.errors import CorruptError, UsageError
from hsae_hub.problems import key_paths, problems_of

FORMAT_VERSION = 1
"""Version that is written. Every version up to it is read, for ever (see `migrations`)."""

Dtype = Literal["float64", "float32", "bfloat16", "float16"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HookpointConfig(_Part):
    """The one place of the language model whose activations, or whose rows, the SAE reads."""

    path: str
    """Module path in transformers, such as `model.layers.20`."""
    side: Literal["input", "output", "weight"] = "output"
    """Whether the module's input, its output or, of an embedding, the rows of its weight are read."""
    transformer_lens: str | None = None
    """TransformerLens' name of the same place, such as `blocks.20.hook_resid_post`."""
    hidden_states: int | None = None
    """Index into transformers' `hidden_states`, if the place is one of them."""


class ModelConfig(_Part):
    """The language model that the SAE was trained on."""

    id: str
    revision: str | None = None
    """Commit on the hub; None for the embedded model and for local folders."""
    dtype: Dtype = "float32"
    """Type the model ran in while its activations were read."""
    tokenizer_sha256: str | None = None
    """Hash of the tokenizer's serialised form."""


class TokensConfig(_Part):
    """Which tokens the SAE has seen."""

    context_length: PositiveInt
    bos: bool = True
    """Whether every context began with the tokenizer's BOS."""
    skip_special: bool = True
    """Whether activations of special tokens (BOS, EOS, padding) were left out."""


class VocabularyConfig(_Part):
    """Which rows of an embedding the SAE was made for; special tokens and rows without a token are in none of them."""

    total: PositiveInt
    """Rows of the weight."""
    trained: PositiveInt
    """Rows that it was trained on."""
    heldout: NonNegativeInt
    """Rows that were held out, chosen by a hash of their tokens."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)]
    """Their expected share."""
    min_count: NonNegativeInt
    """How often a token had to occur in the text; rarer ones were left out."""
    counted_tokens: NonNegativeInt
    """Tokens of text in which they were counted."""


class TrainingConfig(_Part):
    """Where the weights come from."""

    recipe: str | None = None
    seed: int
    steps: int
    tokens: int
    """Activations or rows seen, repeats counted."""
    data: list[str]
    """One line a source."""
    written_by: str


class FileInfo(_Part):
    """What a file has to be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: PositiveInt
    """In bytes."""


class ImportedConfig(_Part):
    """What an SAE was, before it was read from the format of another toolkit."""

    format: str
    """Name of the format, as `hsae import --format` takes it."""
    source: str
    """Repository, commit and folder on a hub, or the last names of a path."""
    files: dict[str, FileInfo]
    """The files that it was read from."""
    notes: list[str]
    """What was changed, and what the files did not say."""
    written_by: str


class ArtifactConfig(_Part):
    """An SAE's `config.json`. In the file the architecture's own keys and `d_sae` stand at the top level."""

    format_version: int = FORMAT_VERSION
    sae: SerializeAsAny[SAEConfig]
    dtype: Dtype = "float32"
    """Type of the weights on disk."""
    model: ModelConfig | None = None
    hookpoint: HookpointConfig | None = None
    tokens: TokensConfig | None = None
    """For an SAE of activations."""
    vocabulary: VocabularyConfig | None = None
    """For an SAE of an embedding's rows."""
    training: TrainingConfig | None = None
    imported: ImportedConfig | None = None
    """For an SAE that another toolkit trained."""
    baseline: Annotated[str, Field(pattern=r"^\w[\w.+-]*$")] | None = None
    """Folder, relative to this one, of a flat SAE trained on the same batches."""
    files: dict[str, FileInfo]

    def to_json(self) -> str:
        """The text of `config.json`."""
        data = self.model_dump(mode="json", exclude={"sae"}, exclude_none=True)
        sae = self.sae.model_dump(mode="json")
        head = {"format_version": data.pop("format_version"), **sae}
        return json.dumps({**head, "d_sae": self.sae.shape().d_sae, **data}, indent=2) + "\n"


def config_from_data(data: dict[str, Any], where: str) -> ArtifactConfig:
    """Checks the parsed, migrated content of a `config.json`; `where` names the file in errors.

    Raises:
        CorruptError: an unknown architecture, unknown or missing keys, values out of range, or a `d_sae` that the
            architecture's own numbers do not give.
    """
    own = {name for name in ArtifactConfig.model_fields if name != "sae"}
    sae_data = {key: value for key, value in data.items() if key not in own}
    try:
        known = config_class(str(sae_data.get("architecture"))).model_fields
        d_sae = sae_data.get("d_sae")
        if "d_sae" not in known:
            sae_data.pop("d_sae", None)
        sae = parse_config(sae_data)
    except UsageError as error:
        raise CorruptError(f"{where}: {error}", fix=error.fix) from None
    if d_sae != sae.shape().d_sae:
        raise CorruptError(f"{where}: d_sae is {d_sae}, but its shape gives {sae.shape().d_sae}")
    rest = {key: value for key, value in data.items() if key in own}
    try:
        return ArtifactConfig.model_validate({**rest, "sae": sae})
    except ValidationError as error:
        found = problems_of(error, key_paths(ArtifactConfig))
        raise CorruptError(f"{where}: {'; '.join(str(p) for p in found)}") from None


def config_schema() -> dict[str, Any]:
    """JSON Schema of `config.json`, one alternative for each registered architecture."""
    common = ArtifactConfig.model_json_schema()
    definitions = common.pop("$defs")
    definitions.pop("SAEConfig", None)
    properties = {key: value for key, value in common["properties"].items() if key != "sae"}
    alternatives = []
    for name in list_architectures():
        own = config_class(name).model_json_schema()
        definitions.update(own.pop("$defs", {}))
        d_sae = {"d_sae": {"type": "integer", "exclusiveMinimum": 0}}
        required = ["format_version", "architecture", "d_sae", "files", *own.get("required", [])]
        alternatives.append(
            {
                "title": name,
                "description": own.get("description", ""),
                "type": "object",
                "properties": {**properties, **d_sae, **own["properties"]},
                "required": list(dict.fromkeys(required)),
                "additionalProperties": False,
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.json of an SAE saved by hsae-hub",
        "oneOf": alternatives,
        "$defs": definitions,
    }
