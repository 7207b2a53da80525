"""One hub: the same verbs and the same guarantees for Hugging Face and for a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hsae_hub.errors import UsageError
from hsae_hub.hub.fetching import OnProgress
from hsae_hub.hub.folder import FolderHub
from hsae_hub.hub.huggingface import HuggingFace
from hsae_hub.hub.listing import CachedSAE, ListedSAE, list_cached, list_hub
from hsae_hub.hub.places import Place, Search
from hsae_hub.hub.pull import Pulled, PullPlan, plan_pull, pull
from hsae_hub.hub.refs import Ref, check_target
from hsae_hub.hub.removing import Removal, plan_removal, remove
from hsae_hub.hub.show import Shown, ShownCollection, show, show_folder

if TYPE_CHECKING:
    from hsae_hub.evaluation import CoreReport
    from hsae_hub.hub.push import OnStep, Pushed
    from hsae_hub.hub.verify import Verified


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
        self,
        ref: str,
        *,
        features: bool = False,
        verify: bool = False,
        offline: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Pulled:
        """Brings the SAE `org/name[@revision][:subfolder]` to this machine, with every file checked.

        The tables of its index come only with `features`. What was checked before, and not touched since, is hashed
        again only with `verify`. `offline` takes all of it from the cache.

        Raises:
            UsageError: `ref` is a folder, or cannot be read.
            NotFoundError: no such repository, revision, or SAE in it.
            DeniedError: it may not be seen, or the cache may not be written.
            CorruptError: a file is wrong, and was wrong again when it was fetched once more.
            ResourceError: the disk has no space for it.
            NetworkError: the hub is not reached and the cache does not hold all of it.
            ConflictError: another process holds on to a file of it.
        """
        return pull(
            self.place(),
            _on_hub(ref, "a pull takes"),
            features=features,
            verify=verify,
            offline=offline,
            on_progress=on_progress,
        )

    def plan_pull(self, ref: str, *, features: bool = False) -> PullPlan:
        """What `pull` would fetch; of a collection its manifest is, nothing else.

        Raises:
            UsageError: `ref` is a folder, or cannot be read.
            NotFoundError: no such repository, revision, or SAE in it.
            DeniedError: it may not be seen.
            NetworkError: the hub cannot be reached and the cache does not know the revision.
        """
        return plan_pull(self.place(), _on_hub(ref, "a pull takes"), features=features)

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
        from hsae_hub.hub.push import push  # writes cards

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

    def show(self, ref: str | Path) -> Shown | ShownCollection:
        """Looks at an SAE in a folder or on the hub, without pulling its weights.

        A reference to a collection that names none of its SAEs gives what the collection holds.

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

    def verify(
        self,
        ref: str | Path,
        *,
        report: CoreReport | None = None,
        on_progress: OnProgress | None = None,
    ) -> Verified:
        """Looks at every byte and every value of an SAE, which is pulled first if it is not here.

        `report`, what `hsae_hub.evaluate` measured, is compared with the report that came with the SAE. What is wrong
        is told by the result's `checks`, not raised.

        Raises:
            NotFoundError: no such folder, repository, revision, or SAE in it.
            DeniedError: it may not be seen.
            CorruptError: the config of a folder cannot be read.
            NetworkError: the hub cannot be reached and the cache does not hold all of it.
        """
        from hsae_hub.hub.verify import verify, verify_folder  # reads reports

        parsed = Ref.parse(ref)
        if parsed.folder is not None:
            return verify_folder(parsed.folder, report)
        return verify(self.place(), parsed, report, on_progress)

    def plan_rm(self, ref: str) -> Removal:
        """What of an SAE, of a revision, or of a repository is on this machine, and needed by nothing else there.

        Raises:
            UsageError: `ref` is a folder, or cannot be read.
            NotFoundError: nothing of it is here.
        """
        return plan_removal(self.place().cache, _on_hub(ref, "rm takes from this machine"))

    def rm(self, removal: Removal) -> None:
        """Removes from this machine what `plan_rm` found; the hub is not asked."""
        remove(self.place().cache, removal)

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


def place_of(hub: Hub | str | Path | None) -> Place:
    """What answers at a hub that is given, or at the address of one."""
    return (hub if isinstance(hub, Hub) else Hub(hub)).place()


def _on_hub(ref: str, what: str) -> Ref:
    parsed = Ref.parse(ref)
    if parsed.folder is not None:
        raise UsageError(f"{ref} is a folder; {what} org/name from a hub")
    return parsed
