"""One hub: the same verbs and the same guarantees for Hugging Face and for a folder."""

from __future__ import annotations

import os
from pathlib import Path

from hsae_hub.errors import UsageError
from hsae_hub.hub.folder import FolderHub
from hsae_hub.hub.huggingface import HuggingFace
from hsae_hub.hub.listing import CachedSAE, ListedSAE, list_cached, list_hub
from hsae_hub.hub.places import Place, Search
from hsae_hub.hub.pull import OnProgress, Pulled, pull
from hsae_hub.hub.push import OnStep, Pushed, push
from hsae_hub.hub.refs import Ref, check_target
from hsae_hub.hub.show import Shown, show, show_folder


class Hub:
    """A hub by its address: a URL that speaks Hugging Face's protocol, or a folder.

    Without `location` it is the one that `$HSAE_HUB` names, else Hugging Face. `token` None means the saved one, which
    is sent only to the endpoint that huggingface_hub itself is set to. `cache_dir` takes the place of the standard
    cache: Hugging Face's own, or `$HSAE_HOME` for a folder.
    """

    def __init__(
        self,
        location: str | Path | None = None,
        *,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.location = location or os.environ.get("HSAE_HUB") or None
        self.token = token
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else None

    def __repr__(self) -> str:
        return f"Hub({str(self.location)!r})" if self.location else "Hub()"

    def place(self) -> Place:
        """What answers at the address. Each one waits for a hub that is down no longer than its own limit."""
        if self.location is None:
            return HuggingFace(token=self.token, cache_dir=self.cache_dir)
        if isinstance(self.location, str) and "://" in self.location:
            if not self.location.startswith(("https://", "http://")):
                raise UsageError(
                    f"{self.location!r} is no hub, expected a folder or an https address"
                )
            return HuggingFace(self.location, token=self.token, cache_dir=self.cache_dir)
        return FolderHub(Path(self.location), cache_dir=self.cache_dir)

    def pull(
        self, ref: str, *, features: bool = False, on_progress: OnProgress | None = None
    ) -> Pulled:
        """Brings the SAE `org/name[@revision][:subfolder]` to this machine, with every file checked.

        The tables of its index come only with `features`.

        Raises:
            UsageError: `ref` is a folder, or cannot be read.
            NotFoundError: no such repository, revision, or SAE in it.
            DeniedError: it may not be seen.
            CorruptError: a file is wrong, and was wrong again when it was fetched once more.
            NetworkError: the hub cannot be reached and the cache does not hold all of it.
        """
        parsed = Ref.parse(ref)
        if parsed.folder is not None:
            raise UsageError(f"{ref} is a folder; a pull takes org/name from a hub")
        return pull(self.place(), parsed, features=features, on_progress=on_progress)

    def push(
        self,
        folder: str | Path,
        repo: str,
        *,
        public: bool = False,
        tag: str | None = None,
        message: str | None = None,
        license: str | None = None,
        prune: bool = False,
        create_pr: bool = False,
        dry_run: bool = False,
        on_progress: OnStep | None = None,
    ) -> Pushed:
        """Publishes the folder of an SAE or a run, in one commit; private unless `public`; `tag` names it for good.

        A folder of several runs becomes a collection, or is added to the one that is there; `org/name:sae` adds one run
        to it under that name. Only files that belong to an SAE are published. What was published before and is not in
        the folder stays, unless `prune`. `create_pr` proposes the commit instead of making it. `dry_run` does
        everything but write.

        Raises:
            UsageError: `repo` is not `org/name[:sae]`, a symbolic link among the files, the repository is public, it
                holds something else, or something public has no licence.
            NotFoundError: the folder holds no SAE.
            CorruptError: a file is not what its config says, or a weight is not finite.
            CheckFailedError: the card lacks something.
            ConflictError: the repository changed meanwhile, or the tag names another commit.
            DeniedError: the token may not write there.
            NetworkError: the hub cannot be reached.
        """
        return push(
            self.place(),
            Path(folder).expanduser(),
            check_target(repo),
            public=public,
            tag=tag,
            message=message,
            license=license,
            prune=prune,
            create_pr=create_pr,
            dry_run=dry_run,
            on_progress=on_progress,
        )

    def show(self, ref: str | Path) -> Shown:
        """Looks at an SAE in a folder or on the hub, without pulling its weights.

        Raises:
            NotFoundError: no such folder, repository, revision, or SAE in it.
            DeniedError: it may not be seen.
            CorruptError: a file cannot be read, or is not what the hub says.
            NetworkError: the hub cannot be reached and the cache does not hold it.
        """
        parsed = Ref.parse(ref)
        if parsed.folder is not None:
            return show_folder(parsed.folder)
        return show(self.place(), parsed)

    def ls(self) -> list[CachedSAE]:
        """The SAEs of this hub that are on this machine; the hub is not asked."""
        return list_cached(self.place().cache)

    def search(
        self,
        query: str = "",
        *,
        model: str | None = None,
        layer: int | None = None,
        limit: int = 20,
    ) -> list[ListedSAE]:
        """The SAEs on the hub that fit, newest first, at most `limit`; without anything asked for, all.

        Each word of `query` is part of the repository's name or of a tag; `model` is the id of a language model, or its
        last part.

        Raises:
            NetworkError: the hub cannot be reached.
        """
        place = self.place()
        return list_hub(place.repos(Search(query, model, layer), limit), place.cache)
