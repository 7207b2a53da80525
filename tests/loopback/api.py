"""The hub's own routes: who asks, repositories, their trees, branches, tags and commits."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from loopback.state import Answer, File, Repo

if TYPE_CHECKING:
    from loopback.server import Handler, Route


def whoami(at: Handler) -> Answer:
    if at.user is None:
        raise Answer(401, message="Invalid username or password.")
    return Answer(200, {"type": "user", "name": at.user, "orgs": []})


def create(at: Handler) -> Answer:
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
    return Answer(200, {"url": f"{at.hub.url}/{name}", "name": name})


def validate_yaml(at: Handler) -> Answer:
    text = at.json()["content"]
    if "license: not-a-licence" in text:
        raise Answer(400, {"errors": [{"message": '"license" must be one of [apache-2.0, mit]'}]})
    if not re.match(r"---\n.*?\n---\n", text, re.S):
        return Answer(200, {"errors": [], "warnings": [{"message": "empty metadata"}]})
    return Answer(200, {"errors": [], "warnings": []})


def info(at: Handler, name: str, revision: str | None = None) -> Answer:
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
    return Answer(200, data)


def tags_of(repo: Repo) -> list[str]:
    """What the Hub derives from the front matter, as far as it is simple."""
    card = repo.commits[repo.head].get("README.md")
    front = card.content.decode().split("---")[1] if card else ""
    bases = re.findall(r"^base_model: (\S+)$", front, re.M)
    return [*re.findall(r"^- ([\w.-]+)$", front, re.M), *(f"base_model:{base}" for base in bases)]


def models(at: Handler) -> Answer:
    wanted = set(at.query.get("filter", []))
    found = [
        r
        for r in reversed(at.hub.repos.values())
        if (not r.private or at.user == r.name.partition("/")[0]) and wanted <= set(tags_of(r))
    ]
    start = int(at.query.get("cursor", ["0"])[0])
    data = [
        {
            "id": r.name,
            "sha": r.head,
            "private": r.private,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "tags": tags_of(r),
        }
        for r in found[start : start + at.hub.page]
    ]
    headers = {}
    if start + at.hub.page < len(found):
        asked = "".join(f"&filter={tag}" for tag in wanted)
        headers["Link"] = (
            f'<{at.hub.url}/api/models?cursor={start + at.hub.page}{asked}>; rel="next"'
        )
    return Answer(200, data, headers=headers)


def tree(at: Handler, name: str, revision: str) -> Answer:
    repo = at.repo(name)
    files = sorted(repo.commits[at.commit_of(repo, revision)].items())
    start = int(at.query.get("cursor", ["0"])[0])
    data = [described(at, path, file) for path, file in files[start : start + at.hub.page]]
    headers = {}
    if start + at.hub.page < len(files):
        path = f"/api/models/{name}/tree/{revision}"
        query = f"recursive=true&cursor={start + at.hub.page}"
        headers["Link"] = f'<{at.hub.url}{path}?{query}>; rel="next"'
    return Answer(200, data, headers=headers)


def described(at: Handler, path: str, file: File) -> dict[str, Any]:
    size = len(file.content)
    item: dict[str, Any] = {"type": "file", "path": path, "size": size}
    item["oid"] = File(file.content, False).oid
    if file.lfs:
        item["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": 130}
        if at.hub.offers_xet:
            item["xetHash"] = at.hub.xet.hash_of(file.sha256, at.hub.objects[file.sha256])
    return item


def refs(at: Handler, name: str) -> Answer:
    repo = at.repo(name)
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}
    tags = [
        {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
        for tag, commit in repo.tags.items()
    ]
    return Answer(200, {"branches": [main], "converts": [], "tags": tags})


def tag(at: Handler, name: str, revision: str) -> Answer:
    repo = at.repo(name, write=True)
    commit = at.commit_of(repo, revision)
    wanted = at.json()["tag"]
    if wanted in repo.tags:
        raise Answer(409, message=f"Tag {wanted} exists already")
    repo.tags[wanted] = commit
    return Answer(200, {})


def preupload(at: Handler, name: str, revision: str) -> Answer:
    repo = at.repo(name, write=not at.proposes)
    now = repo.commits[at.commit_of(repo, revision)]
    answer = []
    for asked in at.json()["files"]:
        path = asked["path"]
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        oid = now[path].oid if path in now else None
        answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Answer(200, {"files": answer})


def commit(at: Handler, name: str, revision: str) -> Answer:
    repo = at.repo(name, write=not at.proposes)
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
    data = {"commitOid": made, "commitUrl": f"{at.hub.url}/{name}/commit/{made}", "success": True}
    if at.proposes:
        repo.pulls[made] = header["summary"]
        data["pullRequestUrl"] = f"{at.hub.url}/{name}/discussions/{len(repo.pulls)}"
    return Answer(200, data)


def discussions(at: Handler, name: str) -> Answer:
    repo = at.repo(name)
    found = [
        {
            "num": number,
            "title": title,
            "status": "open",
            "isPullRequest": True,
            "author": {"name": "somebody"},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "repo": {"name": name, "type": "model"},
        }
        for number, title in enumerate(repo.pulls.values(), 1)
    ]
    return Answer(200, {"discussions": found, "count": len(found), "start": 0})


REPO = r"([^/]+/[^/]+)"
ROUTES: list[Route] = [
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
    (rf"GET /api/models/{REPO}/discussions", discussions),
]
