"""Pages and searches of an index, as text, JSON and HTML."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_render import check

from hsae_hub.architectures import SAE
from hsae_hub.cli.main import run
from hsae_hub.errors import CorruptError, NotFoundError, UsageError
from hsae_hub.features import FeatureIndex, Indexed
from hsae_hub.features.pages import Example, context_of
from hsae_hub.render import Contexts, Page, Pairs, Tile, Tiles, html_document, page_html, page_text

pytest_plugins = ["feature_fixtures"]
EVIL = "<script>alert(1)</script>\"'&\x1b[2J"


@pytest.fixture(scope="module")
def index(indexed: Indexed) -> FeatureIndex:
    return FeatureIndex.open(indexed.folder.parent)


@pytest.fixture(scope="module")
def child(indexed: Indexed) -> dict[str, Any]:
    """The row of the child that acted most."""
    rows = pq.read_table(indexed.folder / "latents.parquet").to_pylist()
    return max((r for r in rows if r["parent"] is not None), key=lambda r: r["fired"])


def test_the_page_of_a_child(index: FeatureIndex, child: dict[str, Any]) -> None:
    page = index.feature(child["feature"])
    assert page.feature == child["feature"] and page.label == child["label"]
    assert page.parent is not None and page.parent.feature == str(child["parent"])
    assert [c.feature.partition("/")[0] for c in page.children] == [page.parent.feature] * 4
    shares = [c.share for c in page.children]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-9
    assert page.to_dict()["row"]["density"] == child["density"]
    json.dumps(page.to_dict())
    for width in (40, 80):
        lines = page.to_text(width).splitlines()
        assert max(map(len, lines)) <= width and page.feature in lines[0]
    html = page._repr_html_()
    check(html)
    assert "strongest contexts" in html and 'class="tile chosen"' in html
    assert page.row["top_logits"][0]["token"].strip() in html


def test_features_that_never_acted_have_a_page(index: FeatureIndex) -> None:
    rows = pq.read_table(index.folder / "latents.parquet").to_pylist()
    dead = next(row["feature"] for row in rows if not row["fired"])
    page = index.feature(dead)
    assert page.label == "" and page.examples == () and page.to_page().sections == ()
    assert "It acted on no token" in page.to_text()
    with pytest.raises(NotFoundError):
        index.feature("64/0")


def test_finding(index: FeatureIndex) -> None:
    hits = index.find("TOWN", by="token")
    assert hits and all("town" in hit["found"] for hit in hits)
    assert hits == index.find(" town", by="token")
    weights = [float(re.findall(r"(\d+)% of", hit["found"])[0]) for hit in hits]
    assert weights == sorted(weights, reverse=True)
    assert all("town" in hit["label"] for hit in index.find("town"))
    assert {h["feature"] for h in index.find("went up hill", by="text", limit=9)}
    assert index.find("went up hill", by="text", limit=2)[1:] != []
    assert index.find("no such words anywhere", by="text") == []
    with pytest.raises(UsageError):
        index.find(" ")


def test_tables_open_in_pandas(indexed: Indexed) -> None:
    pandas = pytest.importorskip("pandas")
    for name, columns in indexed.info["columns"].items():
        if (indexed.folder / name).is_file():
            frame = pandas.read_parquet(indexed.folder / name)
            assert set(frame.columns) >= set(columns) and len(frame)


def test_texts_of_strangers_stay_text(tmp_path: Path) -> None:
    example = context_of(Example(0, 1.0, ["a", EVIL, "\n"], [0.0, 1.0, 0.5], 1))
    sections = (
        Tiles(EVIL, (Tile(EVIL, EVIL, 1.0, EVIL, (example,)),)),
        Pairs(EVIL, ((EVIL, EVIL),)),
        Contexts(EVIL, (example,)),
    )
    page = Page(((EVIL, EVIL), (EVIL, EVIL)), EVIL, (EVIL,), sections, EVIL)
    html = page_html(page)
    check(html)
    assert "<script" not in html and html.count("&lt;script&gt;") == 17
    whole = html_document(EVIL, [html])
    assert (
        "<script" not in whole
        and "default-src 'none'" in whole
        and "http" not in whole.replace("http-equiv", "")
    )
    assert "\x1b" not in page_text(page) and "\x1b" not in whole


def test_texts_of_the_corpus_are_escaped_when_they_are_drawn(index: FeatureIndex) -> None:
    """As they stand in the text in the tables, never as a tag on a page."""
    found = index.find("<script>", by="text", limit=3)
    assert found
    for hit in found:
        page = index.feature(hit["feature"])
        assert any("<script>" in "".join(e.tokens) for e in page.examples)
        check(page.to_html())
        text = re.sub(r"<[^>]+>", "", page.to_html())
        assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text


def test_the_index_is_checked(indexed: Indexed, tmp_path: Path) -> None:
    def copy() -> Path:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for path in indexed.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    with pytest.raises(NotFoundError, match="no index"):
        FeatureIndex.open(tmp_path)
    short = copy()
    (short / "contexts.parquet").write_bytes((short / "contexts.parquet").read_bytes()[:-1])
    with pytest.raises(CorruptError, match=r"contexts.parquet has \d+ bytes"):
        FeatureIndex.open(short)
    other = copy()
    pq.write_table(pa.table({"latent": [1]}), other / "latents.parquet")
    info = json.loads((other / "index.json").read_text())
    info["files"]["latents.parquet"]["size"] = (other / "latents.parquet").stat().st_size
    (other / "index.json").write_text(json.dumps(info))
    with pytest.raises(CorruptError, match="columns"):
        FeatureIndex.open(other)
    for text in ("{", "[]", '{"schema": "hsae.features/2"}'):
        (other / "index.json").write_text(text)
        with pytest.raises(CorruptError, match="not an index"):
            FeatureIndex.open(other)


def test_the_gallery(indexed: Indexed, sae: SAE[Any]) -> None:
    gallery = json.loads((indexed.folder / "gallery.json").read_text())
    assert gallery["schema"] == "hsae.gallery/1" and gallery["tokens"] == indexed.info["tokens"]
    assert (
        gallery["sha256"]
        == indexed.info["weights"]
        == sae.info.config.files["sae.safetensors"].sha256
    )
    rows = {r["feature"]: r for r in pq.read_table(indexed.folder / "latents.parquet").to_pylist()}
    assert 0 < len(gallery["parents"]) <= 3
    for parent in gallery["parents"]:
        assert rows[parent["feature"]]["density"] == parent["density"] <= 0.1
        assert all("«" in text for text in parent["examples"])
        for child in parent["children"]:
            assert child["feature"].startswith(parent["feature"] + "/") and child["share"] > 0


def test_commands(
    indexed: Indexed, child: dict[str, Any], sae: SAE[Any], tmp_path: Path, capsys: Any
) -> None:
    ref, page = sae.info.ref, tmp_path / "page.html"
    options = ["--index", str(indexed.folder), "--quiet"]
    assert run(["feature", ref, child["feature"], *options, "--html", str(page)]) == 0
    assert capsys.readouterr().out.strip() == child["label"]
    assert page.read_text().startswith("<!doctype html>")
    assert run(["find", ref, "town", "--json", *options[:2]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "hsae.find/1" and found["features"]
    assert run(["feature", ref, "1"]) == 3
    assert "hsae index" in capsys.readouterr().err
