"""What is measured while reconstructions are in the activations' place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Int64
from torch import Tensor

from hsae_hub.attach.batches import check_length, encode_texts
from hsae_hub.attach.engine import Engine
from hsae_hub.attach.losses import Losses, OnRead, Site, SpliceReport, Subject, measure_losses
from hsae_hub.attach.running import Placed
from hsae_hub.attach.splicing import Splice
from hsae_hub.attach.token_losses import TokenLoss, token_losses
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

if TYPE_CHECKING:
    from hsae_hub.attach.attached import Attached


class Spliced:
    """What `splice` gives inside its block."""

    def __init__(
        self,
        engine: Engine,
        sites: Mapping[str, Site],
        placed: Sequence[Placed],
        stack: Callable[[], Sequence[Placed]],
    ) -> None:
        self._engine = engine
        self._sites = sites
        self._placed = placed
        self._stack = stack

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
        stack = self._stack()
        if any(each not in stack for each in self._placed):
            raise UsageError("loss belongs inside its own `with lm.splice()` block")
        reports = measure_losses(
            self._engine,
            {"": Subject(self._sites, list(stack))},
            rows_of(self._engine.lm, texts),
            lambda instead: [
                Placed(each.hookpoint, instead[each.hookpoint]) if each in self._placed else each
                for each in stack
            ],
            on_progress,
        )
        return reports[""].report

    def token_losses(self, text: str) -> list[TokenLoss]:
        """Where in a text the loss is: every token's, clean and with everything that is in place now.

        Raises:
            UsageError: the text has no token, or more than the model can read.
        """
        (ids,) = rows_of(self._engine.lm, [text])
        return token_losses(self._engine, ids, list(self._stack()))


def splice_losses(
    several: Mapping[str, Attached],
    texts: Sequence[str] | Int64[Tensor, "n s"] | Sequence[Int64[Tensor, " _"]],
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_read: OnRead | None = None,
) -> dict[str, Losses]:
    """`Spliced.loss` of several SAEs attached to one place of one model; what no SAE has a part in is run once.

    Raises:
        UsageError: nothing to measure on, a text longer than the model can read, or SAEs of several places or of an
            embedding.
    """
    first = check_one_place(several.values())
    for each in several.values():
        each._check_intervenes()
    subjects = {
        name: Subject(each.sites, [Placed(each.hookpoint, Splice(each.sae, error_term=False))])
        for name, each in several.items()
    }
    return measure_losses(
        first._engine,
        subjects,
        rows_of(first.lm, texts),
        lambda instead: [Placed(hookpoint, change) for hookpoint, change in instead.items()],
        on_progress,
        on_read,
    )


def check_one_place(several: Iterable[Attached]) -> Attached:
    """Returns the first of several, which have to be attached to one place of one model.

    Raises:
        UsageError: they are not.
    """
    first, *others = several
    for each in others:
        if each.lm is not first.lm or each.hookpoint != first.hookpoint:
            raise UsageError(f"{each!r} and {first!r} are not at one place of one model")
    return first


def rows_of(
    lm: LanguageModel, texts: Sequence[str] | Int64[Tensor, "n s"] | Sequence[Int64[Tensor, " _"]]
) -> list[list[int]]:
    """Token ids of texts, or of windows that are ids already.

    Raises:
        UsageError: there is no text, or one is longer than the model can read.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Tensor) and all(isinstance(text, str) for text in texts):
        return encode_texts(lm, [str(text) for text in texts])
    rows = [[int(i) for i in window] for window in texts]
    for number, row in enumerate(rows):
        check_length(lm, len(row), f"window {number}")
    return rows
