"""An SAE attached to a language model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Int64
from torch import Tensor

from hsae_hub.architectures import SAE
from hsae_hub.artifact import ArtifactInfo
from hsae_hub.attach.batches import check_length, encode_texts
from hsae_hub.attach.decomposing import Decomposition, Token, take_apart, token_texts
from hsae_hub.attach.engine import Engine, Intervention
from hsae_hub.attach.fitting import check_fit, choose_hookpoint
from hsae_hub.attach.generating import continue_texts
from hsae_hub.attach.splicing import Splice, SpliceReport, measure_losses
from hsae_hub.attach.steering import EditSpec, Mode, Units, make_steering, parse_edits
from hsae_hub.errors import UsageError
from hsae_hub.models import Hookpoint, LanguageModel, load_language_model, read_activations
from hsae_hub.models.loading import Dtype, ModelSource


def attach(
    sae: SAE[Any],
    model: ModelSource | None = None,
    *,
    hookpoint: str | None = None,
    device: str | torch.device | None = None,
    dtype: Dtype | None = None,
) -> Attached:
    """Attaches an SAE to a language model: by default the one it was trained on, in the type that it was read in.

    `model` is a repository on the hub, a folder, a `LanguageModel` or `(model, tokenizer)`. `device` and `dtype` are
    the model's; the SAE itself is moved to the model's device and keeps its type. `hookpoint` is for an SAE that does
    not say where it belongs. A model that only goes by another name is attached with a warning.

    Raises:
        MisfitError: width, layer or tokenizer are not those that the SAE was trained with.
        UsageError: neither the SAE nor the call says which model or place.
        HSAEError: whatever `load_language_model` raises.
    """
    if not isinstance(sae, SAE):
        raise UsageError(
            f"attach takes an SAE, not {sae!r}", fix="attach(hsae_hub.load('org/name'))"
        )
    config = sae.info.config if isinstance(sae.info, ArtifactInfo) else None
    place = choose_hookpoint(config, hookpoint)
    made_for = None if config is None else config.model
    if model is None:
        if made_for is None:
            raise UsageError(
                "this SAE does not say which model it was trained on", fix="attach(sae, model)"
            )
        lm = load_language_model(
            made_for.id, revision=made_for.revision, dtype=dtype or made_for.dtype, device=device
        )
    else:
        loaded = not isinstance(model, str | Path)
        wanted = dtype if loaded or made_for is None else dtype or made_for.dtype
        lm = load_language_model(model, dtype=wanted, device=device)
    check_fit(sae, lm, place, made_for)
    return Attached(sae.to(lm.device), lm, place)


class Attached:
    """What `attach` gives: decompose, steer, splice and generate.

    Interventions hold inside their `with` block and in the thread that opened it, on every token that is read or
    generated; padding and special tokens are never touched. Of nested blocks the outer one acts first. Nothing is
    stored on the model, so nothing is left behind.
    """

    def __init__(self, sae: SAE[Any], lm: LanguageModel, hookpoint: Hookpoint) -> None:
        self.sae = sae
        self.lm = lm
        self.hookpoint = hookpoint
        self._place = str(hookpoint._replace(path=hookpoint.full_path(lm.hf)))
        self._engine = Engine(lm, hookpoint)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"Attached({self._sae_name()} to {self.lm.id}, {self._place}, {self.lm.device})"

    def decompose(self, text: str, top: int | None = None, *, runner_ups: int = 0) -> Decomposition:
        """Takes a text apart, as the model reads it without any intervention.

        An SAE of an embedding takes each token's row apart, which is the same in every text.

        `top` keeps each token's parents with the strongest acts; `runner_ups` shows so many children beside the kept
        one.

        Raises:
            UsageError: the text has no token, or more than the model can read.
        """
        ids = encode_texts(self.lm, [text])[0]
        row = torch.tensor([ids], device=self.lm.device)
        x = read_activations(self.lm, self.hookpoint, row, torch.ones_like(row))[0]
        ordinary = [i for i, token in enumerate(ids) if token not in self.lm.special_ids]
        numbers = dict(
            zip(ordinary, take_apart(self.sae, x[ordinary], top, runner_ups), strict=True)
        )
        tokens = tuple(
            Token(i, ids[i], word, i not in numbers, **numbers.get(i, {}))
            for i, word in enumerate(token_texts(self.lm, ids))
        )
        return Decomposition(text, self._sae_name(), self.lm.id, self._place, tokens)

    @contextmanager
    def steer(
        self, edits: EditSpec, *, mode: Mode = "full", units: Units = "p999"
    ) -> Iterator[Attached]:
        """Steers inside the block, by `{"4121/3": +1.5, "588": 0}`.

        A strength is in multiples of the feature's own 99.9th-percentile act at the token's residual norm, in the
        direction of its decoder row; `units="raw"` takes it as the act itself. 0 takes out what the feature adds to
        this token, a parent together with its children. `mode="full"` pushes a child together with its parent,
        `relative` alone. All edits of one block read the same activations.

        Raises:
            UsageError: an edit cannot be read, its feature is dead or was never measured, or the SAE is one of an
                embedding's rows.
            NotFoundError: the SAE has no such feature.
        """
        self._check_intervenes()
        info = self.sae.info
        stats = info.stats if isinstance(info, ArtifactInfo) else None
        with self._using(
            make_steering(self.sae, parse_edits(edits, mode=mode, units=units), stats)
        ):
            yield self

    @contextmanager
    def splice(self, *, error_term: bool = False) -> Iterator[Spliced]:
        """Puts the reconstruction in the residual's place inside the block, with or without the error added to it.

        Raises:
            UsageError: the SAE is one of an embedding's rows.
        """
        self._check_intervenes()
        splice = Splice(self.sae, error_term)
        with self._using(splice):
            yield Spliced(self, splice)

    @overload
    def generate(
        self, prompt: str, *, max_new_tokens: int = 50, temperature: float = 0.0, seed: int = 0
    ) -> str: ...
    @overload
    def generate(
        self,
        prompt: list[str],
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]: ...
    def generate(
        self,
        prompt: str | list[str],
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str | list[str]:
        """What the model writes after a prompt, or after each of several, under the interventions of the open blocks.

        The prompt is not repeated. Temperature 0 is greedy; above, prompt `i` is drawn with seed `seed + i`, whatever
        else is in its batch or runs beside it.

        Raises:
            UsageError: an empty prompt without BOS, no new tokens, a negative temperature, too many tokens.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        texts = continue_texts(
            self._engine,
            prompts,
            self._stack(),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        return texts[0] if isinstance(prompt, str) else texts

    def _check_intervenes(self) -> None:
        if self.hookpoint.side == "weight":
            raise UsageError(
                f"this SAE reads the rows of {self._place}; there are no activations to steer or splice",
                why="rows of an embedding are the same in every text",
                fix="decompose shows the rows of a text's tokens",
            )

    def _sae_name(self) -> str:
        if isinstance(self.sae.info, ArtifactInfo):
            return self.sae.info.ref
        n_parents, n_children = self.sae.shape
        size = f"{n_parents} × {n_children}" if n_children else str(n_parents)
        return f"{self.sae.config.architecture} {size}"

    def _stack(self) -> list[Intervention]:
        """Interventions of this thread's open blocks, outermost first."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[Intervention] = self._local.stack
        return stack

    @contextmanager
    def _using(self, intervention: Intervention) -> Iterator[None]:
        stack = (
            self._stack()
        )  # a block that is closed from another thread still leaves the stack it is on
        stack.append(intervention)
        try:
            yield
        finally:
            stack.remove(intervention)


class Spliced:
    """What `splice` gives inside its block."""

    def __init__(self, attached: Attached, splice: Splice) -> None:
        self._attached = attached
        self._splice = splice

    def loss(
        self,
        texts: Sequence[str] | Int64[Tensor, "n s"] | Sequence[Int64[Tensor, " _"]],
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> SpliceReport:
        """What the model loses: cross-entropies, KL, explained variance and L0 over texts or windows of token ids.

        `spliced` is measured with all interventions of the open blocks, `clean` without any. `on_progress` is told how
        many forwards are done, and of how many.

        Raises:
            UsageError: nothing to measure on, a text longer than the model can read, or the block is over.
        """
        attached = self._attached
        stack = attached._stack()
        if self._splice not in stack:
            raise UsageError("loss belongs inside its own `with lm.splice()` block")
        reports = measure_losses(
            attached._engine,
            {"sae": (attached.sae, stack)},
            _rows(attached.lm, texts),
            lambda instead: [instead if i is self._splice else i for i in stack],
            on_progress,
        )
        return reports["sae"]


def splice_losses(
    several: Mapping[str, Attached],
    texts: Sequence[str] | Int64[Tensor, "n s"] | Sequence[Int64[Tensor, " _"]],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, SpliceReport]:
    """`Spliced.loss` of several SAEs attached to one place of one model; what no SAE has a part in is run once.

    Raises:
        UsageError: nothing to measure on, a text longer than the model can read, or SAEs of several places or of an
            embedding.
    """
    first = next(iter(several.values()))
    for each in several.values():
        each._check_intervenes()
        if each.lm is not first.lm or each.hookpoint != first.hookpoint:
            raise UsageError(f"{each!r} and {first!r} are not at one place of one model")
    return measure_losses(
        first._engine,
        {name: (each.sae, [Splice(each.sae, error_term=False)]) for name, each in several.items()},
        _rows(first.lm, texts),
        lambda instead: [instead],
        on_progress,
    )


def _rows(
    lm: LanguageModel, texts: Sequence[str] | Int64[Tensor, "n s"] | Sequence[Int64[Tensor, " _"]]
) -> list[list[int]]:
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Tensor) and all(isinstance(text, str) for text in texts):
        return encode_texts(lm, [str(text) for text in texts])
    rows = [[int(i) for i in window] for window in texts]
    for number, row in enumerate(rows):
        check_length(lm, len(row), f"window {number}")
    return rows
