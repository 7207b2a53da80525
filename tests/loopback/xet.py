"""The Xet protocol's storage service, by its published description: huggingface.co/docs/xet, "api" and "auth".

Version 1 of its routes; of version 2 and of grants it knows nothing, as a server may, and the client falls back.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from loopback.state import Answer
from loopback.xorbs import Run, chunks_of, files_of, made_up_hash, make_xorb

if TYPE_CHECKING:
    from loopback.server import Handler, Route


class XetStore:
    """Xorbs, and files as runs of their chunks, by the hashes that clients give them."""

    def __init__(self) -> None:
        self.xorbs: dict[str, bytes] = {}
        self.files: dict[str, list[Run]] = {}
        self.by_sha256: dict[str, str] = {}

    def hash_of(self, sha256: str, content: bytes) -> str:
        """Name of a content, which is stored if no client has uploaded it over this protocol."""
        if sha256 not in self.by_sha256:
            self.by_sha256[sha256] = made_up_hash("file", content)
            self.put(self.by_sha256[sha256], content)
        return self.by_sha256[sha256]

    def put(self, name: str, content: bytes) -> None:
        """Stores a content under a name, uncompressed."""
        xorb = made_up_hash("xorb", content)
        self.xorbs[xorb] = make_xorb(content)
        self.files[name] = [Run(xorb, 0, len(chunks_of(self.xorbs[xorb])))]

    def content(self, name: str) -> bytes:
        return b"".join(
            chunk.content
            for run in self.files[name]
            for chunk in chunks_of(self.xorbs[run.xorb])[run.start : run.end]
        )


def token(at: Handler, name: str, kind: str, revision: str) -> Answer:
    at.repo(name, write=kind == "write" and not at.proposes, files=True)
    until = int(time.time()) + 3600
    url = f"http://localhost:{at.hub.port}/cas"
    named = {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": f"xet_{kind}",
        "X-Xet-Token-Expiration": str(until),
    }
    return Answer(200, {"casUrl": url, "accessToken": f"xet_{kind}", "exp": until}, headers=named)


def not_offered(at: Handler) -> Answer:
    return Answer(404, message="not offered")


def xorb(at: Handler, name: str) -> Answer:
    check(at, "write")
    chunks_of(at.body)
    inserted = name not in at.hub.xet.xorbs
    at.hub.xet.xorbs[name] = at.body
    return Answer(200, {"was_inserted": inserted})


def shard(at: Handler) -> Answer:
    check(at, "write")
    store = at.hub.xet
    for file in files_of(at.body):
        if any(run.xorb not in store.xorbs for run in file.runs):
            raise Answer(400, message="the shard names a xorb that was not uploaded")
        store.files[file.hash] = file.runs
        content = store.content(file.hash)
        if at.hub.store(content) != file.sha256:
            raise Answer(400, message="the content is not what its sha256 says")
        store.by_sha256[file.sha256] = file.hash
    return Answer(200, {"result": 1})


def reconstruction(at: Handler, name: str) -> Answer:
    check(at, "read")
    store = at.hub.xet
    if name not in store.files:
        raise Answer(404, message="no such file")
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", at.headers.get("Range", ""))
    first = int(asked[1]) if asked else 0
    last = int(asked[2]) if asked and asked[2] else None
    terms: list[dict[str, Any]] = []
    needed: dict[str, set[int]] = {}
    offset = position = 0
    for run in store.files[name]:
        chunks = chunks_of(store.xorbs[run.xorb])
        wanted = []
        for index in range(run.start, run.end):
            begin, position = position, position + len(chunks[index].content)
            if position > first and (last is None or begin <= last):
                offset = max(first - begin, 0) if not terms and not wanted else offset
                wanted.append(index)
        if wanted:
            length = sum(len(chunks[index].content) for index in wanted)
            part = {"start": wanted[0], "end": wanted[-1] + 1}
            terms.append({"hash": run.xorb, "unpacked_length": length, "range": part})
            needed.setdefault(run.xorb, set()).update(wanted)
    if not terms and first:
        raise Answer(416, message="beyond the end")
    fetch = {xorb: lies(at, xorb, indices) for xorb, indices in needed.items()}
    data = {"offset_into_first_range": offset, "terms": terms, "fetch_info": fetch}
    return Answer(200, data)


def lies(at: Handler, xorb: str, indices: set[int]) -> list[dict[str, Any]]:
    """Where chunks of a xorb are fetched: each stretch of neighbours at once."""
    chunks = chunks_of(at.hub.xet.xorbs[xorb])
    starts = [index for index in sorted(indices) if index - 1 not in indices]
    ends = [index + 1 for index in sorted(indices) if index + 1 not in indices]
    return [
        {
            "range": {"start": start, "end": end},
            "url": f"{at.hub.cdn}/xorbs/{xorb}",
            "url_range": {"start": chunks[start].start, "end": chunks[end - 1].end - 1},
        }
        for start, end in zip(starts, ends, strict=True)
    ]


def stored_xorb(at: Handler, name: str) -> Answer:
    if name not in at.hub.xet.xorbs:
        raise Answer(404, message="no such xorb")
    return at.part(at.hub.xet.xorbs[name])


def check(at: Handler, right: str) -> None:
    given = at.headers.get("Authorization", "").removeprefix("Bearer ")
    if given not in ("xet_write", f"xet_{right}"):
        raise Answer(401, message="no token of this service")


HASH = r"([0-9a-f]{64})"
ROUTES: list[Route] = [
    (r"GET /api/models/([^/]+/[^/]+)/xet-(read|write)-token/(.+)", token),
    (r"GET /cas/v1/chunks/[^/]+/[0-9a-f]{64}", not_offered),
    (r"(?:GET|POST) /cas/(?:v2/.+|v1/xorb-grants/.+)", not_offered),
    (rf"POST /cas/v1/xorbs/[^/]+/{HASH}", xorb),
    (r"POST /cas/v1/shards", shard),
    (rf"GET /cas/v1/reconstructions/{HASH}", reconstruction),
    (rf"GET /cdn/xorbs/{HASH}", stored_xorb),
]
