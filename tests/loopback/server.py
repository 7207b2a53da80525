"""The loopback hub itself: connections, who asks, which route answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import api, files, xet
from loopback.faults import Fault, reset, send
from loopback.state import Answer, File, Repo

OWNER, STRANGER = "hf_owner_token", "hf_stranger_token"
USERS = {OWNER: "org", STRANGER: "somebody"}

Route = tuple[str, Callable[..., Answer]]
"""Pattern of `METHOD /path`, and what answers; its groups are the arguments."""


class LoopbackHub:
    """The server, as a context manager. `repos` is its state and `requests` its log, one `METHOD /path` a line.

    Uploads come over LFS or Xet, as the client likes; `offers_xet` False hides Xet from those who download.
    """

    def __init__(self, *, offers_xet: bool = True) -> None:
        self.offers_xet = offers_xet
        self.page = 1000
        """Files, or repositories, in one answer."""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.xet = xet.XetStore()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.unknown: list[str] = []
        """Requests for which there is no route."""
        self.sent = 0
        """Bytes of all bodies that went out."""
        self.tokens: list[tuple[str, str]] = []
        """Path and Authorization header of every request that carried one."""
        self.lock = threading.RLock()
        self.stop = threading.Event()
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
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def store(self, content: bytes) -> str:
        """Keeps the content of a large file; its sha256."""
        oid = File(content, True).sha256
        self.objects.setdefault(oid, content)
        return oid

    def put(self, repo: str, files: dict[str, bytes], message: str = "seed") -> str:
        """Commits files as somebody else would."""
        with self.lock:
            if repo not in self.repos:
                self.create(repo, private=False)
            at = self.repos[repo]
            made = {p: File(c, p.endswith(".safetensors")) for p, c in files.items()}
            for file in made.values():
                if file.lfs:
                    self.store(file.content)
            return at.add_commit({**at.commits[at.head], **made}, message)

    def create(self, repo: str, *, private: bool) -> None:
        attributes = File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)
        self.repos[repo] = Repo(repo, private)
        self.repos[repo].add_commit({".gitattributes": attributes}, "initial commit")

    def damage(self, repo: str, path: str, spoil: Callable[[bytes], bytes]) -> None:
        """Changes the stored bytes of a large file of the newest commit, but not what is said of them."""
        with self.lock:
            at = self.repos[repo]
            file = at.commits[at.head][path]
            self.objects[file.sha256] = spoil(file.content)
            self.xet.put(self.xet.hash_of(file.sha256, file.content), self.objects[file.sha256])

    def fault(
        self,
        pattern: str,
        kind: str,
        times: int | None = 1,
        *,
        seconds: float = 0.0,
        drop: str = "",
        **headers: str,
    ) -> None:
        """Makes requests go wrong as `Fault` says; `_` in the name of a header stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, kind, times, seconds, drop, named))

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
        with suppress(ConnectionError):  # a client that was killed
            self.handle_any()
            return
        self.close_connection = True

    def finish(self) -> None:
        with suppress(ConnectionError):
            super().finish()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def handle_any(self) -> None:
        self.body = self.read_body()
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = unquote(parts.path)
        request = f"{self.command} {path}"
        token = self.headers.get("Authorization", "")
        self.user = USERS.get(token.removeprefix("Bearer "))
        with self.hub.lock:
            self.hub.requests.append(request)
            if token:
                self.hub.tokens.append((f"{self.headers['Host']}{path}", token))
            fault = next((f for f in self.hub.faults if f.due(request)), None)
        if fault is not None and fault.kind == "reset":
            reset(self)
            return
        if fault is not None and fault.kind == "delay":
            self.hub.stop.wait(fault.seconds)
        if fault is not None and fault.kind == "norange":
            del self.headers["Range"]
        if fault is not None and fault.kind.isdecimal():
            answer = Answer(int(fault.kind), {}, headers=fault.headers)
        else:
            with self.hub.lock:
                answer = self.answer(request)
        count = send(self, answer, fault, self.hub.stop)
        with self.hub.lock:
            self.hub.sent += count

    def answer(self, request: str) -> Answer:
        try:
            for pattern, respond in ROUTES:
                if found := re.fullmatch(f"(?:{pattern})", request):
                    return respond(self, *found.groups())
        except Answer as answer:
            return answer
        self.hub.unknown.append(request)
        return Answer(404, message=f"no route for {request}")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def proposes(self) -> bool:
        """Whether a pull request is asked for, for which reading is enough."""
        return self.query.get("create_pr") == ["1"]

    def part(self, content: bytes, headers: dict[str, str] | None = None) -> Answer:
        """A content, or the range of it that is asked for."""
        given = {"Accept-Ranges": "bytes", **(headers or {})}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return Answer(200, body=content, headers=given)
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            return Answer(416, body=b"", headers={"Content-Range": f"bytes */{len(content)}"})
        given["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Answer(206, body=content[first : last + 1], headers=given)

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


ROUTES: list[Route] = [*api.ROUTES, *files.ROUTES, *xet.ROUTES]
