"""Several SAEs in one repository: what its manifest says is what the hub has, before any weight is fetched."""

from __future__ import annotations

from hsae_hub.artifact import CONFIG, FileInfo, Manifest, Member
from hsae_hub.errors import CorruptError, NotFoundError
from hsae_hub.hub.places import Entry


def check_manifest(
    manifest: Manifest, subfolder: str | None, tree: dict[str, Entry], at: str
) -> None:
    """Compares what a manifest says of the wanted SAE with the files that the hub lists; `at` names the repository.

    Raises:
        NotFoundError: no SAE of the collection is named, or one that is not in it.
        CorruptError: they differ.
    """
    name = (subfolder or "").partition("/")[0]
    if name not in manifest.saes:
        names = list(manifest.saes)
        raise NotFoundError(
            f"no SAE {subfolder} in {at}"
            if subfolder
            else f"{at} is a collection of {len(names)} SAEs",
            why=f"its SAEs: {', '.join(names)}",
            fix="\n".join(f"hsae pull {at}:{name}" for name in names[:3]),
        )
    for path, info in files_of(manifest.saes[name]).items():
        found = tree.get(f"{name}/{path}")
        if not agrees(found, info):
            raise CorruptError(
                f"{name}/{path} of {at} is not the file that the manifest was written for",
                why=f"manifest: {info.size} bytes, sha256 {info.sha256[:12]}…; hub: {_said(found)}",
                fix="its author has to push it again",
            )


def files_of(member: Member) -> dict[str, FileInfo]:
    """Every file that a manifest answers for, by path in the SAE's folder."""
    return {CONFIG: member.config, **member.files}


def agrees(entry: Entry | None, info: FileInfo) -> bool:
    """Whether a file of the hub is the one that a manifest names, as far as the hub tells."""
    return entry is not None and entry.size == info.size and entry.sha256 in (None, info.sha256)


def _said(entry: Entry | None) -> str:
    if entry is None:
        return "no such file"
    return f"{entry.size} bytes, sha256 {str(entry.sha256)[:12]}…"
