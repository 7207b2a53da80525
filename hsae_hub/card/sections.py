"""The parts of a card, from what is known of a run; nothing is said that its files do not say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hsae_hub.architectures import architecture
from hsae_hub.architectures.base import NORMALIZE
from hsae_hub.artifact import ArtifactConfig
from hsae_hub.assets import EMBEDDED_MODEL
from hsae_hub.card.run import Run, dict_of

_MEANINGS = {
    "explained_variance": "1 - sum of squared errors / variance about the mean; 1 is perfect",
    "explained_variance_whitened": "the same where the rows seen are white: by the causal inner product",
    "seen_tokens": "rows it was trained on",
    "seen_explained_variance": "explained variance of the rows it was trained on",
    "seen_explained_variance_whitened": "the same where they are white",
    "mse": "squared error of a token, summed over the width",
    "cosine": "mean cosine between activation and reconstruction",
    "l0": "non-zero latents a token",
    "l0_parents": "non-zero parents a token",
    "l0_children": "non-zero children a token",
    "strong_children": "share of acting parents whose child acts at least a tenth as strongly",
    "dead_latents": "latents that were zero on every one of these tokens",
    "dead_parents": "parents among them",
    "ce_clean": "cross-entropy of the language model in nats, untouched",
    "ce_spliced": "the same with the reconstruction in the activation's place",
    "ce_zero": "the same with zeros in its place",
    "ce_mean": "the same with the mean activation in its place",
    "ce_score": "(ce_zero - ce_spliced) / (ce_zero - ce_clean); 1 loses nothing",
    "kl": "mean KL of the next-token distribution, clean from spliced, in nats",
}
_OF_ROWS = {
    "mse": "squared error of a row, summed over the width",
    "cosine": "mean cosine between row and reconstruction",
    "dead_latents": "latents that were zero on every row, those it was trained on included",
}
_SOFTWARE = """@software{hsae_hub,
  title = {hsae-hub: hierarchical sparse autoencoders, trained, published and attached},
  year = {2026}
}"""

Rows = list[tuple[str, str]]


class Metric(NamedTuple):
    name: str
    sae: str
    baseline: str
    meaning: str


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


def metrics(
    measured: dict[str, float], flat: dict[str, float], *, is_of_rows: bool
) -> list[Metric]:
    """What was measured, in the order of `_MEANINGS`."""
    meanings = {**_MEANINGS, **(_OF_ROWS if is_of_rows else {})}
    names = [name for name in _MEANINGS if name in measured]
    names += [name for name in measured if name not in _MEANINGS]
    return [
        Metric(
            name,
            _number(measured[name]),
            _number(flat[name]) if name in flat else "-",
            meanings.get(name, ""),
        )
        for name in names
    ]


def measured_on(run: Run) -> str:
    """On what it was measured."""
    model = dict_of(run.core.get("model"))
    at = f" at {model['revision']}" if model.get("revision") else ""
    what = "held-out rows" if run.is_of_rows else "held-out tokens"
    text = f"{count(run.core.get('tokens'))} {what} of {model.get('id', 'the model')}{at}"
    if run.core.get("contexts"):
        text += f" in {count(run.core['contexts'])} contexts"
    return f"{text}, seed {run.core.get('seed', 'not recorded')}"


def training(run: Run) -> Rows:
    """How it was trained; nothing if that is not known."""
    told = run.config.training
    if told is None:
        return []
    section = dict_of(run.recipe.get("train"))
    rows: Rows = [
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


def limits(run: Run, measured: dict[str, float]) -> Iterator[str]:
    """What it cannot do, as far as that follows from the files."""
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
    dead = measured.get("dead_latents")
    if dead is not None:
        d_sae = run.config.sae.shape().d_sae
        share = f"{dead / d_sae:.1%} of {d_sae:,}"
        if run.is_of_rows:
            yield f"{dead:,.0f} latents ({share}) never fired on any row."
        else:
            yield f"{dead:,.0f} latents ({share}) never fired on the tokens measured; more tokens may wake some."
    else:
        yield "How many latents are dead was not measured."
    if "ce_score" in measured and measured["ce_score"] < 1:
        yield (
            f"The reconstruction in the model's place keeps {measured['ce_score']:.1%} of the loss between zeros and "
            "the real activations; what the SAE leaves out matters to the model."
        )
    if not measured:
        yield "Nothing about its quality was measured."
    if run.is_of_rows:
        yield "It knows tokens, not texts: there is nothing to steer or to splice."
    yield "Features have no labels here, and a label is a guess about a direction, not a fact about the model."
    yield "Absorption, splitting and behaviour on text unlike the training text were not measured."


def citations(run: Run) -> list[str]:
    """BibTeX of the architectures and of this package."""
    configs = [run.config] + ([run.baseline] if run.baseline else [])
    names = dict.fromkeys(config.sae.architecture for config in configs)
    return [text for name in names if (text := architecture(name).citation)] + [_SOFTWARE]


def files(run: Run) -> Iterator[dict[str, str]]:
    """Every weight file with its size and hash."""
    for prefix, config in (("", run.config), (f"{run.config.baseline}/", run.baseline)):
        for name, info in (config.files if config else {}).items():
            yield {"path": prefix + name, "size": f"{info.size:,}", "sha256": info.sha256}


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def count(value: Any) -> str:
    """A whole number for people."""
    return f"{value:,}" if isinstance(value, int) else "an unrecorded number of"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
