"""Which SAEs a server shows: the ones it was started with and those in the cache, a few of them loaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from hsae_hub.artifact import CONFIG, config_of, read_artifact
from hsae_hub.attach import attach
from hsae_hub.demo.exhibit import Exhibit
from hsae_hub.errors import NotFoundError
from hsae_hub.hub import Hub, Ref
from hsae_hub.models import LanguageModel

_LOADED = 2
"""SAEs in memory at once; a visitor's own stays until they turn to another."""


class Shelf:
    """Opens SAEs by name. A visitor can only name what was offered, never a path of this machine."""

    def __init__(
        self, refs: Sequence[str], hub: Hub, *, model: str | None, device: str | None
    ) -> None:
        self.offered = tuple(refs)
        self.hub = hub
        self.model = model
        self.device = device
        self._open: OrderedDict[str, Exhibit] = OrderedDict()
        self._models: dict[str, LanguageModel] = {}
        self._lock = threading.Lock()

    def start(self) -> str:
        """What is shown first: the first that the server was started with, else the first in the cache.

        Raises:
            NotFoundError: there is none.
        """
        found = self.refs()
        if not found:
            raise NotFoundError(
                "there is no SAE to show", fix="hsae demo org/name\nhsae quickstart"
            )
        return found[0]

    def refs(self) -> list[str]:
        """What can be opened: what the server was started with, then what is in the cache."""
        cached = [each.ref for each in self.hub.ls()]
        return [*self.offered, *(ref for ref in cached if ref not in self.offered)]

    def open(self, ref: str) -> Exhibit:
        """The SAE, loaded if it is not yet.

        Raises:
            NotFoundError: it is not on this shelf.
            HSAEError: whatever loading and attaching raise.
        """
        with self._lock:
            if ref not in self._open:
                if ref not in self.refs():
                    raise NotFoundError(
                        f"{ref!r} is not shown here", fix="pull it first: the Hub tab"
                    )
                self._open[ref] = self._load(ref)
            self._open.move_to_end(ref)
            while len(self._open) > _LOADED:
                self._open.popitem(last=False)
            return self._open[ref]

    def folder(self, ref: str) -> Path:
        """Where an SAE of this shelf lies, pulled if it does not yet.

        Raises:
            HSAEError: whatever a pull raises.
        """
        return Ref.parse(ref).folder or self.hub.pull(ref).folder

    def _load(self, ref: str) -> Exhibit:
        folder = self.folder(ref)
        sae = read_artifact(folder, verify=Ref.parse(ref).folder is not None, ref=ref).sae
        config = config_of(sae)
        made_for = config.model.id if config is not None and config.model else ""
        known = self._models.get(self.model or made_for)
        attached = attach(sae, known or self.model, device=None if known else self.device)
        self._models = {self.model or made_for: attached.lm}  # one language model in memory
        name = config.baseline if config is not None else None
        if not name or not (folder / name / CONFIG).is_file():
            return Exhibit(ref, folder, attached, None, "")
        named = str(folder / name) if Path(ref).is_dir() else f"{ref}:{name}"
        baseline = attach(read_artifact(folder / name, ref=named).sae, attached.lm)
        return Exhibit(ref, folder, attached, baseline, named)
