"""SAEs attached to a language model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, overload

import torch

from hsae_hub.architectures import SAE, Acts
from hsae_hub.artifact import ArtifactInfo
from hsae_hub.attach.batches import encode_texts, pad_left
from hsae_hub.attach.decomposing import Decomposition, Token, take_apart, token_texts
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.generating import continue_texts, greedy
from hsae_hub.attach.losses import Site
from hsae_hub.attach.probing import warn_if_far_below
from hsae_hub.attach.running import Placed
from hsae_hub.attach.spliced import Spliced
from hsae_hub.attach.splicing import Splice, chosen_latents
from hsae_hub.attach.steering import EditSpec, Mode, Units, make_steering, parse_edits
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.models import Hookpoint, LanguageModel, read_activations
from hsae_hub.problems import nearest


class Attached:
    """What `attach` gives: decompose, steer, splice, generate and trace.

    With several SAEs `lm["name"]` is the same with that one alone; its blocks count everywhere. Interventions hold
    inside their `with` block and in the thread that opened it, on every token that is read or generated; padding and
    special tokens are never touched. Of nested blocks the outer one acts first. Nothing is stored on the model, so
    nothing is left behind.
    """

    def __init__(
        self,
        lm: LanguageModel,
        sites: Mapping[str, Site],
        engine: Engine,
        whole: Attached | None = None,
    ) -> None:
        self.lm = lm
        self.sites = dict(sites)
        self._engine = engine
        self._whole = whole
        self._local = threading.local()
        self._probed: set[str] = set()
        self._points = {name: engine.point("latents") for name in sites} if whole is None else {}

    def __repr__(self) -> str:
        names = ", ".join(_sae_name(site.sae) for site in self.sites.values())
        places = ", ".join(_full_place(self.lm, site.hookpoint) for site in self.sites.values())
        return f"Attached({names} to {self.lm.id}, {places}, {self.lm.device})"

    def __getitem__(self, name: str) -> Attached:
        """One of several SAEs; its blocks are blocks of the whole.

        Raises:
            NotFoundError: none has this name.
        """
        if name not in self.sites:
            raise NotFoundError(
                f"no SAE {name!r} is attached{nearest(name, self.sites)}",
                fix=f"one of {', '.join(self.sites)}",
            )
        return Attached(self.lm, {name: self.sites[name]}, self._engine, self._whole or self)

    @property
    def sae(self) -> SAE[Any]:
        """The only SAE.

        Raises:
            UsageError: there are several.
        """
        return self._only()[1].sae

    @property
    def hookpoint(self) -> Hookpoint:
        """The place of the only SAE.

        Raises:
            UsageError: there are several SAEs.
        """
        return self._only()[1].hookpoint

    def decompose(self, text: str, top: int | None = None, *, runner_ups: int = 0) -> Decomposition:
        """Takes a text apart, as the model reads it without any intervention.

        An SAE of an embedding takes each token's row apart, which is the same in every text.

        `top` keeps each token's parents with the strongest acts; `runner_ups` shows so many children beside the kept
        one.

        Raises:
            UsageError: the text has no token, or more than the model can read.
        """
        self._first_use()
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
        place = _full_place(self.lm, self.hookpoint)
        return Decomposition(text, _sae_name(self.sae), self.lm.id, place, tokens)

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
        steering = make_steering(self.sae, parse_edits(edits, mode=mode, units=units), stats)
        with self._using(Placed(self.hookpoint, steering)):
            yield self

    @contextmanager
    def splice(
        self, *, error_term: bool = False, latents: Sequence[str | int] | None = None
    ) -> Iterator[Spliced]:
        """Puts each SAE's reconstruction in the activations' place inside the block, with the error added to it or not.

        `latents` are the only ones to take part in it, parents with all their children; with the error term the
        others are thus taken out.

        Raises:
            UsageError: an SAE is one of an embedding's rows, or two are of one place.
            NotFoundError: the SAE has no such latent.
        """
        self._check_intervenes()
        used = [site.hookpoint for site in self.sites.values()]
        twice = next((str(each) for each in used if used.count(each) > 1), None)
        if twice is not None:
            first = next(n for n, site in self.sites.items() if str(site.hookpoint) == twice)
            raise UsageError(
                f"two SAEs read {twice}, and only one can take its place",
                fix=f"lm[{first!r}].splice()",
            )
        placed = [
            Placed(site.hookpoint, Splice(site.sae, error_term, chosen_latents(site.sae, latents)))
            for site in self.sites.values()
        ]
        with self._using(*placed):
            yield Spliced(self._engine, self.sites, placed, self._stack)

    def trace(self, texts: str | Sequence[str], *, max_new_tokens: int | None = None) -> Any:
        """nnsight's tracer for a `with` block of your own, over one forward or a greedy generation.

        Inside, `lm.model` is nnsight's wrapper of the model, under the interventions of the open blocks, and
        `lm.latents.output` the acts of the SAE: what is written to them goes on into the model. Texts are padded on
        the left.

        Raises:
            UsageError: a text without a token, too many tokens, or the engine is not nnsight's.
        """
        self._first_use()
        rows = encode_texts(self.lm, [texts] if isinstance(texts, str) else list(texts))
        batch = pad_left(self.lm, rows)
        config = None if max_new_tokens is None else greedy(self.lm, max_new_tokens)
        return self._engine.trace(batch, self._pointed(), config)

    @property
    def model(self) -> Any:
        """nnsight's wrapper of the model, for use inside `trace`.

        Raises:
            UsageError: the engine is not nnsight's.
        """
        return self._engine.model

    @property
    def latents(self) -> Any:
        """Where a trace finds the acts of the only SAE: `lm.latents.output` is an `Acts`, which may be replaced.

        Raises:
            UsageError: there are several SAEs.
        """
        return (self._whole or self)._points[self._only()[0]]

    def _pointed(self) -> list[Placed]:
        """The open blocks, with every SAE's latents on the way: in its splice, else in one that changes nothing."""
        placed = list(self._stack())
        whole = self._whole or self
        for name, site in whole.sites.items():
            if site.hookpoint.side == "weight":
                continue
            splice = Splice(site.sae, error_term=True)
            at = len(placed)
            for i, (hookpoint, change) in enumerate(placed):
                if isinstance(change, Splice) and (hookpoint, change.sae) == site[::-1]:
                    at, splice = i, change
            placed[at : at + 1] = [
                Placed(
                    site.hookpoint, replace(splice, point=partial(_through, whole._points[name]))
                )
            ]
        return placed

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

    def _only(self) -> tuple[str, Site]:
        if len(self.sites) != 1:
            raise UsageError(
                f"{len(self.sites)} SAEs are attached: {', '.join(self.sites)}",
                fix=f"say which: lm[{next(iter(self.sites))!r}]",
            )
        return next(iter(self.sites.items()))

    def _first_use(self) -> None:
        probed = (self._whole or self)._probed
        for name, site in self.sites.items():
            if name not in probed and not self.lm.remote:
                probed.add(name)
                warn_if_far_below(site.sae, self.lm, site.hookpoint)

    def _check_intervenes(self) -> None:
        self._first_use()
        for site in self.sites.values():
            if site.hookpoint.side == "weight":
                raise UsageError(
                    f"this SAE reads the rows of {_full_place(self.lm, site.hookpoint)}; "
                    "there are no activations to steer or splice",
                    why="rows of an embedding are the same in every text",
                    fix="decompose shows the rows of a text's tokens",
                )

    def _stack(self) -> list[Placed]:
        """Interventions of this thread's open blocks, outermost first."""
        local = (self._whole or self)._local
        if not hasattr(local, "stack"):
            local.stack = []
        stack: list[Placed] = local.stack
        return stack

    @contextmanager
    def _using(self, *placed: Placed) -> Iterator[None]:
        stack = (
            self._stack()
        )  # a block that is closed from another thread still leaves the stack it is on
        stack.extend(placed)
        try:
            yield
        finally:
            for each in placed:
                stack.remove(each)


def _through(point: Any, acts: Acts) -> Acts:
    passed: Acts = point(acts, hook=True)
    return passed


def _sae_name(sae: SAE[Any]) -> str:
    if isinstance(sae.info, ArtifactInfo):
        return sae.info.ref
    n_parents, n_children = sae.shape
    size = f"{n_parents} × {n_children}" if n_children else str(n_parents)
    return f"{sae.config.architecture} {size}"


def _full_place(lm: LanguageModel, hookpoint: Hookpoint) -> str:
    return str(hookpoint._replace(path=hookpoint.full_path(lm.hf)))
