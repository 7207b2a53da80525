"""The parts of a card, from what is known of a run; nothing is said that its files do not say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hsae_hub.architectures import NORMALIZE, architecture
from hsae_hub.artifact import ArtifactConfig, HookpointConfig
from hsae_hub.assets import EMBEDDED_MODEL
from hsae_hub.card.reports import dict_of
from hsae_hub.card.run import Run

_SOFTWARE = """@software{hsae_hub,
  title = {hsae-hub: hierarchical sparse autoencoders, trained, published and attached},
  year = {2026}
}"""

Rows = list[tuple[str, str]]


def what(run: Run) -> str:
    """What it is, in one sentence."""
    text = described(run.config)
    model, hookpoint = run.config.model, run.config.hookpoint
    if model is not None and hookpoint is not None:
        text += f", reading the {hookpoint.side} of {hookpoint.path} in {model.id}"
    if run.is_tiny:
        text += ", the small language model that hsae-hub carries inside for tests and teaching"
    return text + "."


def described(config: ArtifactConfig) -> str:
    """Architecture and size of an SAE."""
    kind = architecture(config.sae.architecture).title
    shape = config.sae.shape()
    if shape.n_children:
        size = f"{shape.n_parents:,} parents x {shape.n_children:,} children"
    else:
        size = f"{shape.d_sae:,} latents"
    return f"{kind}; {size}, width {config.sae.d_in:,}"


def shape(config: ArtifactConfig) -> Rows:
    """Its hyper-parameters."""
    shape = config.sae.shape()
    rows = [
        ("architecture", config.sae.architecture),
        ("width of the input", f"{config.sae.d_in:,}"),
    ]
    if shape.n_children:
        rows += [("parents", f"{shape.n_parents:,}"), ("children of each", f"{shape.n_children:,}")]
    rows.append(("latents in all", f"{shape.d_sae:,}"))
    shown = {"architecture", "d_in", "n_parents", "n_children", "d_sae", "normalize"}
    own = config.sae.model_dump(mode="json").items()
    rows += [(key, _value(value)) for key, value in own if key not in shown]
    return [*rows, ("type of the weights", config.dtype)]


def reads(config: ArtifactConfig) -> Rows:
    """Which activations of which language model it reads."""
    model, hookpoint, tokens = config.model, config.hookpoint, config.tokens
    rows: Rows = []
    if model is not None:
        rows.append(("language model", model.id))
        shipped = "shipped inside hsae-hub" if model.id == EMBEDDED_MODEL else "not recorded"
        rows.append(("its revision", model.revision or shipped))
        rows.append(("type it ran in", model.dtype))
        if model.tokenizer_sha256:
            rows.append(("sha256 of its tokenizer", model.tokenizer_sha256))
    if hookpoint is not None:
        part = "weight, row by row" if hookpoint.side == "weight" else hookpoint.side
        rows.append(("module in transformers", f"{hookpoint.path}, its {part}"))
        if hookpoint.side != "weight":
            rows.append(("name in nnsight", _nnsight(hookpoint)))
        rows.append(("name in TransformerLens", hookpoint.transformer_lens or "none"))
        index = hookpoint.hidden_states
        rows.append(("index in hidden_states", "none" if index is None else str(index)))
    if tokens is not None:
        rows.append(("context", f"{tokens.context_length:,} tokens"))
        rows.append(("BOS", "every context begins with it" if tokens.bos else "not used"))
        left_out = "left out of training" if tokens.skip_special else "trained on like others"
        rows.append(("special tokens", left_out))
    vocabulary = config.vocabulary
    if vocabulary is not None:
        kept = f"{vocabulary.trained:,} trained on, {vocabulary.heldout:,} held out"
        rows.append(("rows", f"{vocabulary.total:,}: {kept}, the rest left out"))
    return rows


def _nnsight(hookpoint: HookpointConfig) -> str:
    """How nnsight's `LanguageModel`, called lm, spells it; the first of a module's outputs where it has several."""
    return "lm." + re.sub(r"\.(\d+)", r"[\1]", hookpoint.path) + f".{hookpoint.side}"


def input(config: ArtifactConfig) -> str:
    """What is done to them first; follows `raw activation` or `raw row`."""
    steps = ["(x - mean) Σ^(-1/2), Σ the covariance of a sample"] if config.sae.whiten else []
    if config.sae.normalize != "none":
        steps.append(NORMALIZE[config.sae.normalize])
    if not steps:
        return "; nothing is scaled."
    return (
        f"; the SAE takes {', then '.join(steps)}, and undoes it after decoding. Do not scale it."
    )


def training(run: Run) -> Rows:
    """How it was trained; nothing if that is not known."""
    rows: Rows
    told, imported = run.config.training, run.config.imported
    if imported is not None:
        rows = [("trained by", "another toolkit"), ("read from the format", imported.format)]
        rows += [("source", imported.source), *(("note", note) for note in imported.notes)]
        return [*rows, ("written by", imported.written_by)]
    if told is None:
        return []
    section = dict_of(run.recipe.get("train"))
    rows = [
        ("recipe", told.recipe or "not named"),
        ("activations seen", f"{told.tokens:,}, repeats counted"),
        ("steps", f"{told.steps:,}"),
        ("seed", str(told.seed)),
    ]
    keys = ("batch_size", "lr", "betas", "warmup_steps", "final_lr", "clip_norm", "dtype")
    rows += [(key, _value(section[key])) for key in keys if key in section]
    seconds = run.summary.get("seconds")
    if isinstance(seconds, int | float):
        rows.append(("time", f"{seconds / 60:,.1f} min, reading activations included"))
    device = run.environment.get("device_name") or run.environment.get("device")
    if device:
        rows.append(("device", str(device)))
    versions = dict_of(run.environment.get("versions"))
    named = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    rows.append(("written by", ", ".join([told.written_by, *named])))
    commit = run.environment.get("git_commit")
    if commit:
        dirty = ", with changes" if run.environment.get("git_dirty") else ""
        rows.append(("commit of the code", f"{commit}{dirty}"))
    return rows


def intended(run: Run) -> list[str]:
    """What it is for."""
    if run.is_tiny:
        return [
            "Learning how hierarchical SAEs work, and testing what works with them, on any machine."
        ]
    model = _model_id(run.config)
    if run.is_of_rows:
        return [
            f"Research on how {model} arranges its tokens: which rows share a direction, and what sets them apart."
        ]
    return [
        f"Research on what {model} computes at this place: taking its activations apart into features, looking at "
        "what a feature answers to, steering by it, and measuring what is lost when the reconstruction takes the "
        "activation's place.",
        "Comparing SAE architectures, with the recipe and the numbers below.",
    ]


def out_of_scope(run: Run) -> list[str]:
    """What it is not for."""
    return [
        f"Any other model, or any other place in {_model_id(run.config)}.",
        "Deciding anything about people, or guarding a system on its own: a feature that is silent proves nothing.",
        "Claims about a feature that rest on its label or its strongest examples alone.",
    ]


def limits(run: Run) -> Iterator[str]:
    """What it cannot do, as far as that follows from the files."""
    measured = run.metrics()
    if run.is_tiny:
        yield (
            "The language model has 5.8M parameters and writes no sense: this SAE shows how things work, "
            "its features say nothing about larger models."
        )
    elif run.config.model is not None:
        yield (
            f"It fits {run.config.model.id} at this place only; another model of the same width is another model, "
            "its fine-tuned versions included."
        )
    yield dead_latents(run)
    if measured.get("ce_score", 1) < 0:
        yield "The reconstruction in the model's place costs more than zeros there do: it is of no use yet."
    elif measured.get("ce_score", 1) < 1:
        yield (
            f"The reconstruction in the model's place keeps {measured['ce_score']:.1%} of the loss between zeros and "
            "the real activations; what the SAE leaves out matters to the model."
        )
    if not measured:
        yield "Nothing about its quality was measured."
    if run.is_of_rows:
        yield "It knows tokens, not texts: there is nothing to steer or to splice."
    if not run.gallery:
        yield "Features have no labels here, and a label is a guess about a direction, not a fact about the model."
    if "absorption" not in run.reports:
        yield "Absorption and splitting of features were not measured."
    yield "Behaviour on text unlike the training text was not measured."


def dead_latents(run: Run) -> str:
    """How many of its latents never acted."""
    dead, d_sae = run.metrics().get("dead_latents"), run.config.sae.shape().d_sae
    if dead is None:
        return "How many latents are dead was not measured."
    share = f"{dead / d_sae:.1%} of {d_sae:,}"
    if run.is_of_rows:
        return f"{dead:,.0f} latents ({share}) never fired on any row."
    return f"{dead:,.0f} latents ({share}) never fired on the tokens measured; more tokens may wake some."


def licences(run: Run, license: str | None) -> Iterator[str]:
    """Under what terms its parts stand."""
    yield f"These weights: {license}." if license else "These weights: not stated by its author."
    if run.is_tiny:
        yield "The language model and the code, hsae-hub: Apache-2.0."
        return
    model = run.config.model
    if model is not None:
        terms = (
            f"see https://huggingface.co/{model.id}"
            if is_repo(model.id)
            else "see where it is from"
        )
        yield f"The language model, {model.id}, is not part of this and has its own: {terms}."
    yield "The training text is not part of this; its sources are named under Data. The code, hsae-hub: Apache-2.0."


def citations(runs: Sequence[Run]) -> list[str]:
    """BibTeX of the architectures and of this package."""
    configs = [config for run in runs for config in (run.config, run.baseline) if config]
    names = dict.fromkeys(config.sae.architecture for config in configs)
    return [text for name in names if (text := architecture(name).citation)] + [_SOFTWARE]


def files(run: Run) -> Iterator[dict[str, str]]:
    """Every weight file with its size and hash."""
    for prefix, config in (("", run.config), (f"{run.config.baseline}/", run.baseline)):
        for name, info in (config.files if config else {}).items():
            yield {"path": prefix + name, "size": f"{info.size:,}", "sha256": info.sha256}


def layer_of(config: ArtifactConfig) -> int | None:
    """Number of the decoder layer that it reads, or reads in; None outside of them."""
    path = config.hookpoint.path if config.hookpoint else ""
    found = re.search(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)(?:\.|$)", path)
    return int(found[1]) if found else None


def is_repo(model_id: str) -> bool:
    """Whether a model is known by the name of a repository."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", model_id) is not None and not model_id.startswith(".")


def _model_id(config: ArtifactConfig) -> str:
    return config.model.id if config.model else "the language model it was trained on"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
