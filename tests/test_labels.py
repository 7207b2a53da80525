"""Labels from a language model behind a stub of OpenAI's API, and from and for Neuronpedia."""

import gzip
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hsae_hub.architectures import SAE
from hsae_hub.cli.main import run
from hsae_hub.errors import CorruptError, DeniedError, NetworkError, NotFoundError, UsageError
from hsae_hub.features import FeatureIndex, Indexed, endpoint
from hsae_hub.features.endpoint import TOKEN, Endpoint
from hsae_hub.features.gallery import features_of
from hsae_hub.features.interpreting import detection_score, explain, interpret, marked_tokens
from hsae_hub.features.labels import Label, read_labels, write_labels
from hsae_hub.features.neuronpedia import export_neuronpedia, import_labels
from hsae_hub.features.pages import Example

pytest_plugins = ["feature_fixtures"]


class Stub(ThreadingHTTPServer):
    """Answers as a model that knows one thing: whether a text says sheep."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[dict[str, Any], str | None]] = []
        self.fails: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((body, self.headers.get("Authorization")))
        if self.path != "/v1/chat/completions" or self.server.fails:
            self.send_response(self.server.fails.pop() if self.server.fails else 404)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            return
        system, user = (message["content"] for message in body["messages"])
        answer = "the word sheep"
        if "JSON list" in system:
            lines = re.findall(r"^\d+\. (.*)$", user, re.MULTILINE)
            answer = f"Here: {json.dumps([int('sheep' in line) for line in lines])}"
        content = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(endpoint.time, "sleep", lambda _: None)
    with Stub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(indexed: Indexed, tmp_path: Path) -> Path:
    """A copy of the index that may be changed."""
    return shutil.copytree(indexed.folder, tmp_path / "features")


def test_detection_is_balanced_accuracy() -> None:
    def says(*which: str) -> Any:
        def ask(system: str, user: str) -> str:
            lines = re.findall(r"^\d+\. (.*)$", user, re.MULTILINE)
            return str([int(any(word in line for word in which)) for line in lines])

        return ask

    active, silent = [f"sheep {i}" for i in range(12)], [f"goat {i}" for i in range(30)]
    assert detection_score("x", active, silent, says("sheep"), seed=1) == 1
    assert detection_score("x", active, silent, says("goat"), seed=1) == 0
    assert detection_score("x", active, silent, says(), seed=1) == 0.5
    # 3 with and 10 without: always yes is right on all of the first and none of the second
    assert detection_score("x", active[:3], silent, says(""), seed=1) == 0.5
    assert detection_score("x", [], silent, says(), seed=1) is None
    for answer in ("[1]", "yes", "[2, 0, 1, 0, 1]", '["1", 0, 0, 0, 0]'):
        with pytest.raises(CorruptError, match="expected a list of 5"):
            detection_score("x", active, silent, lambda *_, a=answer: a, seed=1)


def test_only_strong_tokens_are_marked() -> None:
    example = Example(0, 2.0, [" a", " b", " c", " d\n", " e"], [0.1, 2.0, 1.0, -3.0, 2.0], 1)
    assert marked_tokens(example) == "a<< b c>> d << e>>"
    with pytest.raises(CorruptError, match="empty"):
        explain([example], lambda *_: ' "" ')
    assert explain([example], lambda *_: "two\nlines " + "x" * 999).startswith("two lines x")


def test_a_feature_is_explained_and_scored(
    stub: Stub, folder: Path, sae: SAE[Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(TOKEN, "secret-of-mine")
    index = FeatureIndex.open(folder)
    name = index.find("town", by="token")[0]["feature"]
    options = ["--endpoint", stub.url, "--model", "m", "--index", str(folder)]
    assert run(["labels", "explain", sae.info.ref, name, *options, "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)["labels"]
    assert [(each["feature"], each["label"], each["source"]) for each in found] == [
        (name, "the word sheep", "m")
    ]
    assert 0 <= found[0]["score"] <= 1
    assert all(token == "Bearer secret-of-mine" for _, token in stub.seen) and len(stub.seen) > 1
    assert all(body["model"] == "m" and body["temperature"] == 0 for body, _ in stub.seen)
    written = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert b"secret-of-mine" not in written + (said.out + said.err).encode()
    page = FeatureIndex.open(folder).feature(name)
    assert page.label == "the word sheep" and "label by m, detection" in page.to_text(200)
    assert {h["feature"] for h in FeatureIndex.open(folder).find("the word SHEEP")} == {name}


def test_silent_windows_are_those_where_it_does_not_act(indexed: Indexed) -> None:
    index = FeatureIndex.open(indexed.folder)
    name = index.find("town", by="token")[0]["feature"]
    asked: list[str] = []

    def ask(system: str, user: str) -> str:
        asked.append(user)
        return "x" if "JSON" not in system else str([0] * len(re.findall(r"^\d+\.", user, re.M)))

    (found,) = interpret(index, [name], ask, source="s")
    assert found.label.score == 0.5 and found.label.source == "s"
    assert "<<" in asked[0] and not any("<<" in user for user in asked[1:])


def test_failures_of_an_endpoint(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Endpoint(stub.url, "m")
    stub.fails = [503, 429]
    assert asked.ask("s", "u") == "the word sheep"
    stub.fails = [500] * 9
    with pytest.raises(NetworkError, match="HTTP 500"):
        asked.ask("s", "u")
    for code, error in ((401, DeniedError), (404, NetworkError), (307, NetworkError)):
        before, stub.fails = len(stub.seen), [code]
        with pytest.raises(error, match=str(code)):
            asked.ask("s", "u")
        assert len(stub.seen) == before + 1
    with pytest.raises(NetworkError, match="no answer"):
        Endpoint("http://127.0.0.1:1/v1", "m").ask("s", "u")
    monkeypatch.setenv(TOKEN, "secret-of-mine")
    for url in (
        "file:///etc/passwd",
        "host/v1",
        "http://user:word@host/v1",
        "http://far.example/v1",
    ):
        with pytest.raises(UsageError) as caught:
            Endpoint(url, "m")
        assert "secret-of-mine" not in str(caught.value)


def test_labels_survive_a_round_trip(tmp_path: Path) -> None:
    labels = {"1": Label("dogs", "me", 0.5), "1/3": Label("<b>", "you")}
    write_labels(tmp_path, labels)
    assert read_labels(tmp_path) == labels
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError):
        read_labels(tmp_path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_neuronpedia_there_and_back(folder: Path, tmp_path: Path) -> None:
    index = FeatureIndex.open(folder)
    out = export_neuronpedia(index, tmp_path / "np", source="3-hsae", creator="me")
    assert out == tmp_path / "np/gemma2-tiny-en/3-hsae"
    heads = {
        kind: json.loads((out / f"{kind}.jsonl").read_text()) for kind in ("release", "source")
    }
    assert heads["source"]["id"] == "3-hsae" and heads["release"]["creatorId"] == "me"
    features = lines(out / "features/batch-0.jsonl.gz")
    assert [each["index"] for each in features] == [str(i) for i in range(index.shape.d_sae)]
    page = index.feature("3")
    assert features[3]["frac_nonzero"] == page.row["density"]
    assert features[3]["pos_str"] == [n["token"] for n in page.row["top_logits"]]
    acts = [a for a in lines(out / "activations/batch-0.jsonl.gz") if a["index"] == "3"]
    assert acts[0]["values"][acts[0]["maxValueTokenIndex"]] == acts[0]["maxValue"]
    assert acts[0]["maxValue"] == max(acts[0]["values"]) and len({a["id"] for a in acts}) == len(
        acts
    )
    found = import_labels(out, index.shape)
    assert {name: label.label for name, label in found.items()} == index.all_labels()
    with pytest.raises(UsageError, match="layer and a name"):
        export_neuronpedia(index, tmp_path, source="../x", creator="me")


def test_importing_labels(folder: Path, sae: SAE[Any], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "all.json"
    record = {"modelId": "m", "layer": "3-a", "description": "dogs\n and wolves", "typeName": "t"}
    nested = {"index": 65, "explanations": [{"description": "one"}, {"description": "two"}]}
    file.write_text(
        json.dumps([{**record, "index": "64"}, {**record, **nested, "description": ""}])
    )
    shape = FeatureIndex.open(folder).shape
    assert import_labels(file, shape) == {
        "0/0": Label("dogs and wolves", "t"),
        "0/1": Label("one", "t"),
    }
    assert run(["labels", "import", sae.info.ref, str(file), "--index", str(folder), "-q"]) == 0
    assert capsys.readouterr().out == "2\n"
    assert FeatureIndex.open(folder).feature("0/0").label == "dogs and wolves"
    for text, error in (
        ("{", CorruptError),
        ("[1]", CorruptError),
        ("[]", UsageError),
        (json.dumps({**record, "index": "999999"}), UsageError),
        (
            json.dumps([{**record, "index": "1"}, {**record, "layer": "4-a", "index": "1"}]),
            UsageError,
        ),
    ):
        file.write_text(text)
        with pytest.raises(error):
            import_labels(file, shape)
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 50)[:-9])
    with pytest.raises(CorruptError):
        import_labels(tmp_path / "bad.jsonl.gz", shape)
    with pytest.raises(NotFoundError):
        import_labels(tmp_path / "nothing", shape)


def test_what_was_pulled_is_not_labelled(tmp_path: Path, capsys: Any) -> None:
    assert run(["labels", "import", "org/name", str(tmp_path / "x.json")]) == 2
    assert "--index DIR" in capsys.readouterr().err


def test_given_labels_are_those_of_the_page_and_of_the_gallery(folder: Path) -> None:
    index = FeatureIndex.open(folder)
    name = features_of(folder)[0]
    index.add_labels({name: Label("<i>mine</i>", "me")})
    gallery = json.loads((folder / "gallery.json").read_text())
    assert gallery["parents"][0]["label"] == "<i>mine</i>"
    page = FeatureIndex.open(folder).feature(name)
    assert page.label == "<i>mine</i>" and page.source == "me" and page.score is None
    assert "<i>mine" not in page.to_html() and "label by me" in page.to_html()
