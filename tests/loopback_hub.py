"""A hub on loopback, in memory, that the real huggingface_hub client pushes to and pulls from; standard library only.

Written from what the client sends and expects (2.4, plain LFS) and from the published Git LFS batch API. It models what
is known of the Hub; nobody has compared it with the real one. Faults are put in by `Fault`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_state import Answer, Fault, File, Repo

OWNER, STRANGER = "hf_owner_token", "hf_stranger_token"
USERS = {OWNER: "org", STRANGER: "somebody"}


class LoopbackHub:
    """The server, as a context manager. `repos` is its state and `requests` its log, one `METHOD /path` a line."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.tokens: list[tuple[str, str]] = []
        """Path and Authorization header of every request that carried one."""
        self.lock = threading.RLock()
        hub = self

        class BoundHandler(Handler):
            pass

        BoundHandler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}/cdn"  # another host, as the real one
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> LoopbackHub:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def put(self, repo: str, files: dict[str, bytes], message: str = "seed") -> str:
        """Commits files as somebody else would."""
        with self.lock:
            if repo not in self.repos:
                self.create(repo, private=False)
            at = self.repos[repo]
            made = {p: File(c, p.endswith(".safetensors")) for p, c in files.items()}
            self.objects |= {f.sha256: f.content for f in made.values() if f.lfs}
            return at.add_commit({**at.commits[at.head], **made}, message)

    def create(self, repo: str, *, private: bool) -> None:
        attributes = File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)
        self.repos[repo] = Repo(repo, private)
        self.repos[repo].add_commit({".gitattributes": attributes}, "initial commit")

    def fault(self, pattern: str, kind: str, times: int | None = 1, **headers: str) -> None:
        self.faults.append(Fault(pattern, kind, times, headers))

    def wrote(self) -> list[str]:
        """The requests of the log that ask for a change."""
        asked = ("/validate-yaml", "/preupload/")
        return [
            r for r in self.requests if r[:3] in ("POS", "PUT") and not any(a in r for a in asked)
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    wbufsize = -1
    hub: LoopbackHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_any()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_any(self) -> None:
        self.body = self.read_body()
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = unquote(parts.path)
        request = f"{self.command} {path}"
        token = self.headers.get("Authorization", "")
        with self.hub.lock:
            self.hub.requests.append(request)
            if token:
                self.hub.tokens.append((f"{self.headers['Host']}{path}", token))
            self.user = USERS.get(token.removeprefix("Bearer "))
            self.fault = next((f.kind for f in self.hub.faults if f.due(request)), "")
            headers = next((f.headers for f in self.hub.faults if f.kind == self.fault), {})
            if self.fault.isdecimal():
                self.reply(
                    int(self.fault),
                    b"{}",
                    headers={k.replace("_", "-"): v for k, v in headers.items()},
                )
                return
            if self.fault == "reset":
                self.reset()
                return
            try:
                self.route(path)
            except Answer as answer:
                if self.fault == "lost":
                    self.reset()
                    return
                named = {"X-Error-Code": answer.code, "X-Error-Message": answer.message}
                self.reply(answer.status, answer.body, {k: v for k, v in named.items() if v})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reset(self) -> None:
        """Ends the connection as a crash does: no answer, RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if self.fault == "flip" and body:
            body = (
                bytes([body[0] ^ 1]) + body[1:]
                if len(body) < 2
                else body[:-1] + bytes([body[-1] ^ 1])
            )
        self.send_response(status)
        given = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.fault == "short" else body)
            if self.fault == "short":
                self.wfile.flush()
                self.reset()

    def json(self) -> Any:
        return json.loads(self.body)

    def route(self, path: str) -> None:
        for pattern, handler in ROUTES:
            found = re.fullmatch(f"(?:{pattern})", f"{self.command} {path}")
            if found:
                handler(self, *found.groups())
                return
        raise Answer(404, message=f"no route for {self.command} {path}")

    def repo(self, name: str, *, write: bool = False, files: bool = False) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.user != name.partition("/")[0]):
            raise Answer(
                404 if self.user else 401, code="RepoNotFound", message="Repository not found"
            )
        if write and self.user != name.partition("/")[0]:
            raise Answer(403, message="You don't have the rights to write here")
        if files and repo.gated:
            raise Answer(403, code="GatedRepo", message=f"Access to model {name} is restricted")
        return repo

    def commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.find(revision)
        if commit is None:
            raise Answer(404, code="RevisionNotFound", message=f"Invalid rev id: {revision}")
        return commit


def whoami(at: Handler) -> None:
    if at.user is None:
        raise Answer(401, message="Invalid username or password.")
    raise Answer(200, {"type": "user", "name": at.user, "orgs": []})


def create(at: Handler) -> None:
    asked = at.json()
    if at.user is None or asked.get("organization") not in (at.user, None):
        raise Answer(401 if at.user is None else 403, message="You may not create here")
    name = f"{asked.get('organization') or at.user}/{asked['name']}"
    if name in at.hub.repos:
        raise Answer(
            409, {"url": f"{at.hub.url}/{name}"}, message="You already created this model repo"
        )
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    at.hub.create(name, private=private)
    raise Answer(200, {"url": f"{at.hub.url}/{name}", "name": name})


def validate_yaml(at: Handler) -> None:
    text = at.json()["content"]
    if not re.match(r"---\n.*?\n---\n", text, re.S):
        raise Answer(200, {"errors": [], "warnings": [{"message": "empty metadata"}]})
    raise Answer(200, {"errors": [], "warnings": []})


def info(at: Handler, name: str, revision: str | None = None) -> None:
    repo = at.repo(name)
    commit = at.commit_of(repo, revision or "main")
    data = {
        "id": name,
        "sha": commit,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "tags": tags_of(repo),
        "siblings": [{"rfilename": path} for path in repo.commits[commit]],
    }
    raise Answer(200, data)


def tags_of(repo: Repo) -> list[str]:
    """What the Hub derives from the front matter, as far as it is simple."""
    card = repo.commits[repo.head].get("README.md")
    front = card.content.decode().split("---")[1] if card else ""
    return re.findall(r"^- ([\w-]+)$", front, re.M)


def models(at: Handler) -> None:
    wanted = set(at.query.get("filter", []))
    found = [
        r for r in at.hub.repos.values() if not r.private or at.user == r.name.partition("/")[0]
    ]
    data = [
        {
            "id": r.name,
            "sha": r.head,
            "private": r.private,
            "lastModified": "2026-01-01T00:00:00.000Z",
        }
        for r in found
        if wanted <= set(tags_of(r))
    ]
    raise Answer(200, data)


def tree(at: Handler, name: str, revision: str) -> None:
    repo = at.repo(name)
    files = repo.commits[at.commit_of(repo, revision)]
    data = []
    for path, file in sorted(files.items()):
        item: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content)}
        item["oid"] = File(file.content, False).oid
        if file.lfs:
            item["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
        data.append(item)
    raise Answer(200, data)


def refs(at: Handler, name: str) -> None:
    repo = at.repo(name)
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}
    tags = [
        {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
        for tag, commit in repo.tags.items()
    ]
    raise Answer(200, {"branches": [main], "converts": [], "tags": tags})


def tag(at: Handler, name: str, revision: str) -> None:
    repo = at.repo(name, write=True)
    commit = at.commit_of(repo, revision)
    wanted = at.json()["tag"]
    if wanted in repo.tags:
        raise Answer(409, message=f"Tag {wanted} exists already")
    repo.tags[wanted] = commit
    raise Answer(200, {})


def preupload(at: Handler, name: str, revision: str) -> None:
    repo = at.repo(name, write=True)
    now = repo.commits[at.commit_of(repo, revision)]
    answer = []
    for asked in at.json()["files"]:
        path = asked["path"]
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        oid = now[path].oid if path in now else None
        answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    raise Answer(200, {"files": answer})


def lfs_batch(at: Handler, name: str) -> None:
    at.repo(name, write=True)
    objects = []
    for asked in at.json()["objects"]:
        item: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in at.hub.objects:
            item["actions"] = {
                "upload": {"href": f"{at.hub.cdn}/{asked['oid']}"},
                "verify": {"href": f"{at.hub.url}/{name}.git/info/lfs/verify"},
            }
        objects.append(item)
    raise Answer(200, {"transfer": "basic", "objects": objects})


def lfs_put(at: Handler, oid: str) -> None:
    if hashlib.sha256(at.body).hexdigest() != oid:
        raise Answer(400, message="content does not match its oid")
    at.hub.objects[oid] = at.body
    raise Answer(200, {})


def lfs_verify(at: Handler, name: str) -> None:
    at.repo(name, write=True)
    asked = at.json()
    if len(at.hub.objects.get(asked["oid"], b"")) != asked["size"]:
        raise Answer(404, message="no such object")
    raise Answer(200, {})


def commit(at: Handler, name: str, revision: str) -> None:
    repo = at.repo(name, write=True)
    lines = [json.loads(line) for line in at.body.splitlines()]
    header = lines[0]["value"]
    if header.get("parentCommit") not in (None, repo.head):
        raise Answer(412, message="A commit has happened since. Please refresh and try again.")
    files = dict(repo.commits[repo.head])
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = File(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in at.hub.objects:
                raise Answer(400, message=f"LFS object {value['oid']} was not uploaded")
            files[value["path"]] = File(at.hub.objects[value["oid"]], True)
        elif files.pop(value["path"], None) is None:
            raise Answer(404, code="EntryNotFound", message="A file with this name doesn't exist")
    made = repo.add_commit(files, header["summary"])
    raise Answer(
        200, {"commitOid": made, "commitUrl": f"{at.hub.url}/{name}/commit/{made}", "success": True}
    )


def resolve(at: Handler, name: str, revision: str, path: str) -> None:
    repo = at.repo(name, files=True)
    made = at.commit_of(repo, revision)
    file = repo.commits[made].get(path)
    if file is None:
        raise Answer(404, code="EntryNotFound", message="Entry not found")
    common = {"X-Repo-Commit": made, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if not file.lfs:
        send(at, file.content, common)
        return
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    at.reply(302, headers={**common, **linked, "Location": f"{at.hub.cdn}/{file.sha256}"})


def cdn(at: Handler, oid: str) -> None:
    if oid not in at.hub.objects:
        raise Answer(404, message="no such object")
    send(at, at.hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def send(at: Handler, content: bytes, headers: dict[str, str]) -> None:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", at.headers.get("Range", ""))
    if asked is None:
        at.reply(200, content, headers)
        return
    first = int(asked[1])
    if first >= len(content):
        at.reply(416, headers={"Content-Range": f"bytes */{len(content)}"})
        return
    last = min(int(asked[2] or len(content) - 1), len(content) - 1)
    part = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
    at.reply(206, content[first : last + 1], {**headers, **part})


REPO = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"GET /api/whoami-v2", whoami),
    (r"POST /api/repos/create", create),
    (r"POST /api/validate-yaml", validate_yaml),
    (r"GET /api/models", models),
    (rf"GET /api/models/{REPO}", info),
    (rf"GET /api/models/{REPO}/revision/(.+)", info),
    (rf"GET /api/models/{REPO}/tree/([^/]+)", tree),
    (rf"GET /api/models/{REPO}/refs", refs),
    (rf"POST /api/models/{REPO}/tag/(.+)", tag),
    (rf"POST /api/models/{REPO}/preupload/(.+)", preupload),
    (rf"POST /api/models/{REPO}/commit/(.+)", commit),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    (rf"POST /{REPO}\.git/info/lfs/verify", lfs_verify),
    (r"PUT /cdn/([0-9a-f]{64})", lfs_put),
    (r"(?:GET|HEAD) /cdn/([0-9a-f]{64})", cdn),
    (rf"(?:GET|HEAD) /{REPO}/resolve/([^/]+)/(.+)", resolve),
]
