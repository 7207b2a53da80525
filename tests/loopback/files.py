"""Contents of files: LFS uploads by the published batch API, and downloads over plain HTTP."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from loopback.state import Answer

if TYPE_CHECKING:
    from loopback.server import Handler, Route


def lfs_batch(at: Handler, name: str) -> Answer:
    at.repo(name)  # contents of a pull request come from readers
    objects = []
    for asked in at.json()["objects"]:
        item: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in at.hub.objects:
            item["actions"] = {
                "upload": {"href": f"{at.hub.cdn}/{asked['oid']}"},
                "verify": {"href": f"{at.hub.url}/{name}.git/info/lfs/verify"},
            }
        objects.append(item)
    return Answer(200, {"transfer": "basic", "objects": objects})


def lfs_put(at: Handler, oid: str) -> Answer:
    if hashlib.sha256(at.body).hexdigest() != oid:
        raise Answer(400, message="content does not match its oid")
    at.hub.objects[oid] = at.body
    return Answer(200, {})


def lfs_verify(at: Handler, name: str) -> Answer:
    at.repo(name)  # contents of a pull request come from readers
    asked = at.json()
    if len(at.hub.objects.get(asked["oid"], b"")) != asked["size"]:
        raise Answer(404, message="no such object")
    return Answer(200, {})


def resolve(at: Handler, name: str, revision: str, path: str) -> Answer:
    repo = at.repo(name, files=True)
    made = at.commit_of(repo, revision)
    file = repo.commits[made].get(path)
    if file is None:
        raise Answer(404, code="EntryNotFound", message="Entry not found")
    common = {"X-Repo-Commit": made, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if not file.lfs:
        return at.part(file.content, common)
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    if at.hub.offers_xet:
        route = f"{at.hub.url}/api/models/{name}/xet-read-token/{made}"
        linked["X-Xet-Hash"] = at.hub.xet.hash_of(file.sha256, at.hub.objects[file.sha256])
        linked["Link"] = f'<{route}>; rel="xet-auth"'
    location = {"Location": f"{at.hub.cdn}/{file.sha256}"}
    return Answer(302, body=b"", headers={**common, **linked, **location})


def cdn(at: Handler, oid: str) -> Answer:
    if oid not in at.hub.objects:
        raise Answer(404, message="no such object")
    return at.part(at.hub.objects[oid], {"ETag": f'"{oid}"'})


REPO = r"([^/]+/[^/]+)"
ROUTES: list[Route] = [
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    (rf"POST /{REPO}\.git/info/lfs/verify", lfs_verify),
    (r"PUT /cdn/([0-9a-f]{64})", lfs_put),
    (r"(?:GET|HEAD) /cdn/([0-9a-f]{64})", cdn),
    (rf"(?:GET|HEAD) /{REPO}/resolve/([^/]+)/(.+)", resolve),
]
