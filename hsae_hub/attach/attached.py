"""SAEs attached to a language model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

from hsae_hub.architectures import SAE
from hsae_hub.artifact import info_of
from hsae_hub.attach.attribution import Asked, Attribution, Method, Target, attribute
from hsae_hub.attach.batches import encode_texts, pad_left
from hsae_hub.attach.beside import Beside, BesideStep, gather, stream_beside
from hsae_hub.attach.decomposing import decompose_ids, decompose_windows, place_name, sae_name
from hsae_hub.attach.decomposition import Decomposition
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.generating import continue_texts, greedy
from hsae_hub.attach.losses import Site
from hsae_hub.attach.pointing import pointed
from hsae_hub.attach.probing import warn_if_far_below
from hsae_hub.attach.prompts import Chat, as_strings, is_one
from hsae_hub.attach.running import Placed
from hsae_hub.attach.spliced import Spliced
from hsae_hub.attach.splicing import Splice, chosen_latents
from hsae_hub.attach.steering import make_steering
from hsae_hub.attach.steering_spec import EditSpec, Gate, SteeringSpec, Units, parse_edits
from hsae_hub.attach.streaming import Stream, stream_text
from hsae_hub.attach.writing import Writing
from hsae_hub.errors import NotFoundError, UsageError
from hsae_hub.models import Hookpoint, LanguageModel
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
        names = ", ".join(sae_name(site.sae) for site in self.sites.values())
        places = ", ".join(place_name(self.lm, site.hookpoint) for site in self.sites.values())
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
        tokens = decompose_ids(self.lm, self.sae, self.hookpoint, ids, top, runner_ups)
        place = place_name(self.lm, self.hookpoint)
        return Decomposition(text, sae_name(self.sae), self.lm.id, place, tokens)

    def decompose_windows(
        self,
        text: str | Iterable[str],
        top: int | None = None,
        *,
        runner_ups: int = 0,
        window: int | None = None,
    ) -> Iterator[Decomposition]:
        """Takes a document of any length apart, in the memory of one window of at most 1024 tokens.

        A document may come in pieces, such as the chapters of a file; each is made into tokens on its own. Positions go
        on from window to window; what came before a window is not read again.

        Raises:
            UsageError: `window` has no room for a token, or is longer than the model can read.
        """
        self._first_use()
        return decompose_windows(self.lm, self.sae, self.hookpoint, text, top, runner_ups, window)

    @contextmanager
    def steer(
        self,
        edits: EditSpec,
        *,
        mode: str = "full",
        units: Units = "p999",
        gate: Gate | str | Sequence[str] = "always",
    ) -> Iterator[Attached]:
        """Steers inside the block, by a `SteeringSpec` or a short form such as `{"4121/3": +1.5, "588": 0}`.

        A strength is in multiples of the feature's own 99.9th-percentile act at the token's residual norm, in the
        direction of its decoder row; `units="raw"` takes it as the act itself. 0 takes out what the feature adds to
        this token, a parent together with its children. `mode`, `units` and `gate` hold for short forms: see `Edit`
        and `Gate`. What several edits come to does not depend on their order: see `SteeringSpec`.

        Raises:
            UsageError: an edit cannot be read, its feature is dead or was never measured, or the SAE is one of an
                embedding's rows.
            NotFoundError: the SAE has no such feature.
        """
        spec = parse_edits(edits, mode=mode, units=units, gate=gate)
        with self._using(self._steering(spec)):
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
        whole = self._whole or self
        return self._engine.trace(batch, pointed(self._stack(), whole.sites, whole._points), config)

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

    @overload
    def generate(
        self,
        prompt: str | Chat,
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
        num_beams: int = 1,
        stop: Sequence[str] = (),
    ) -> str: ...
    @overload
    def generate(
        self,
        prompt: list[str] | Sequence[Chat],
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
        num_beams: int = 1,
        stop: Sequence[str] = (),
    ) -> list[str]: ...
    def generate(
        self,
        prompt: str | Chat | list[str] | Sequence[Chat],
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
        num_beams: int = 1,
        stop: Sequence[str] = (),
    ) -> str | list[str]:
        """What the model writes after a prompt, or after each of several, under the interventions of the open blocks.

        A prompt is a text, or a chat as a list of messages `{"role": …, "content": …}`; it is not repeated. Temperature
        0 is greedy; above, prompt `i` is drawn with seed `seed + i`, whatever else is in its batch or runs beside it.
        A text ends with the first of the strings in `stop`.

        Raises:
            UsageError: an empty prompt without BOS, a chat without a template, no new tokens, a negative temperature,
                drawn beams, too many tokens.
        """
        prompts: Any = [prompt] if is_one(prompt) else prompt
        writing = Writing(max_new_tokens, temperature, seed, num_beams, as_strings(stop))
        texts = continue_texts(self._engine, prompts, self._stack(), writing)
        return texts[0] if is_one(prompt) else texts

    def stream(
        self,
        prompt: str | Chat,
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Stream[str]:
        """The same text as `generate`, piece by piece while it is written; any thread may `stop()` it.

        Raises:
            UsageError: as for `generate`.
        """
        writing = Writing(max_new_tokens, temperature, seed, stop=as_strings(stop))
        return stream_text(self._engine, prompt, list(self._stack()), writing)

    def stream_beside(
        self,
        prompt: str | Chat,
        ways: Sequence[SteeringSpec | None] | None = None,
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Stream[BesideStep]:
        """Text without interventions and with those of the open blocks, side by side in one batch, as it is written.

        Each of several `ways` is steered on top of the open blocks; None is nothing on top. All have one seed.

        Raises:
            UsageError: as for `generate` and `steer`.
            NotFoundError: the SAE has no such feature.
        """
        writing = Writing(max_new_tokens, temperature, seed, stop=as_strings(stop))
        return self._beside(prompt, ways, writing)

    def generate_beside(
        self,
        prompt: str | Chat,
        ways: Sequence[SteeringSpec | None] | None = None,
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Beside:
        """`stream_beside` to its end: the texts, and how far each token went from the model without interventions."""
        writing = Writing(max_new_tokens, temperature, seed, stop=as_strings(stop))
        steps = self._beside(prompt, ways, writing)
        return gather(steps, 1 if ways is None else len(ways))

    def attribute(
        self,
        text: str,
        target: Target = None,
        *,
        method: Method = "gradient",
        steps: int = 16,
        top: int = 20,
        check: int = 0,
    ) -> Attribution:
        """Which latents do most to the mean loss of a text, to `log p` of its next token, or to a difference of logits.

        `target` is None, a token such as `" corgi"`, or two. The method is gradient × act, or integrated gradients in
        so many steps; `check` tries so many of the strongest for real. Several SAEs give a graph.

        Raises:
            UsageError: the target is not one token, the text too short or too long, an SAE of an embedding's rows.
        """
        self._check_intervenes()
        ids = encode_texts(self.lm, [text])[0]
        asked = Asked(self._engine, ids, target)
        return attribute(asked, self.sites, self._stack(), method, steps, top, check)

    def _beside(
        self, prompt: str | Chat, ways: Sequence[SteeringSpec | None] | None, writing: Writing
    ) -> Stream[BesideStep]:
        placed = [
            [*self._stack(), *([] if way is None else [self._steering(way)])]
            for way in ([None] if ways is None else ways)
        ]
        return stream_beside(self._engine, prompt, placed, writing)

    def _steering(self, spec: SteeringSpec) -> Placed:
        self._check_intervenes()
        info = info_of(self.sae)
        stats = None if info is None else info.stats
        return Placed(self.hookpoint, make_steering(self.sae, spec, stats, self.lm))

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
            if name not in probed and self.lm.readable:
                probed.add(name)
                warn_if_far_below(site.sae, self.lm, site.hookpoint)

    def _check_intervenes(self) -> None:
        self._first_use()
        for site in self.sites.values():
            if site.hookpoint.side == "weight":
                raise UsageError(
                    f"this SAE reads the rows of {place_name(self.lm, site.hookpoint)}; "
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
        # a block that is closed from another thread still leaves the stack it is on
        stack = self._stack()
        stack.extend(placed)
        try:
            yield
        finally:
            for each in placed:
                stack.remove(each)
