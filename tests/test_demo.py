"""The page without a browser: addresses, what is drawn, and its endpoints."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import parse_qs

import pytest

pytest.importorskip("gradio")
from gradio_client import Client
from gradio_client.exceptions import AppError

from hsae_hub.attach import Decomposition, Feature, RunnerUp, Token
from hsae_hub.demo import tree_page
from hsae_hub.demo.exhibit import Looked
from hsae_hub.demo.view import TEXT_LIMIT, View

pytest_plugins = ["demo_fixtures"]

VIEW = View("tiny", "The king slept.")
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'


def test_an_address_says_the_whole_view_and_gives_it_back() -> None:
    view = replace(VIEW, text="a & b = “c”\n#?", token=3, feature="4121/3")
    query = {name: values[0] for name, values in parse_qs(view.query()[1:]).items()}
    assert View.from_query(query, VIEW) == view


@pytest.mark.parametrize(
    "query",
    [{"tok": "-1"}, {"tok": "1e9"}, {"tok": "9" * 40}, {"tok": "²"}, {"f": ""}, {"other": "x"}, {}],
)
def test_an_address_that_is_not_understood_chooses_nothing(query: dict[str, str]) -> None:
    assert View.from_query(query, VIEW) == VIEW


def test_an_address_cannot_hand_over_a_text_of_any_length() -> None:
    assert (
        len(View.from_query({"text": "x" * 10 * TEXT_LIMIT, "f": "y" * 99}, VIEW).text)
        == TEXT_LIMIT
    )


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def looked(text: str) -> Looked:
    child = Feature("7/1", 2.0, 0.3, 0.1)
    parent = Feature("7", 3.0, 0.6, 0.5, child, (RunnerUp("7/2", 1.0),), label=text)
    tokens = (
        Token(0, 2, "<bos>", True),
        Token(1, 9, text, False, 4.0, 0.9, 0.7, 0.1, 12, (parent,)),
    )
    return Looked(Decomposition(text, text, text, text, tokens), {1: 0.8})


def test_texts_of_strangers_stay_text(shelf) -> None:
    view = tree_page.settle(replace(VIEW, feature=EVIL), looked(EVIL))
    found = _Tags()
    found.feed(tree_page.page(shelf.open("tiny"), looked(EVIL), view))
    assert not found.tags & {"script", "img"}
    assert not {name for name in found.attributes if name.startswith("on")}


def test_a_view_settles_on_a_token_and_a_feature_that_are_there() -> None:
    found = tree_page.settle(replace(VIEW, token=99), looked("x"))
    assert (found.token, found.feature) == (1, "7/1")
    assert tree_page.settle(replace(VIEW, token=1, feature="5"), looked("x")).feature == "5"


def test_a_view_opens_on_the_token_whose_child_says_most() -> None:
    def token(position: int, share: float) -> Token:
        parent = Feature("7", 3.0, 0.6, 0.5, Feature(f"7/{position}", 2.0, share, 0.1))
        return Token(position, 9, "x", False, 4.0, 0.9, 0.7, 0.1, 1, (parent,))

    tokens = (Token(0, 2, "<bos>", True), token(1, 0.1), token(2, 0.4), token(3, 0.0))
    tree = Decomposition("x", "x", "x", "x", tokens)
    found = tree_page.settle(VIEW, Looked(tree, {}))
    assert (found.token, found.feature) == (2, "7/2")
    alike = replace(tree, tokens=(tokens[0], token(1, 0.0), token(2, 0.0)))
    assert tree_page.settle(VIEW, Looked(alike, {})).token == 2


def test_the_page_says_what_the_decomposition_says(shelf) -> None:
    view = tree_page.settle(VIEW, looked("x"))
    drawn = tree_page.page(shelf.open("tiny"), looked("x"), view)
    assert re.search(r"parents 70%.*children \+20%.*unexplained 10%.*flat SAE: 80%", drawn)
    assert "12 fired on this token; the 1 strongest" in drawn
    assert re.search(r'data-pick="f:7/1"[^>]*aria-pressed="true"', drawn)
    assert "not used" in drawn


def test_a_click_of_400_tokens_is_drawn_without_the_model(shelf) -> None:
    exhibit = shelf.open("tiny")
    text = "The king and his army marched to the river. " * 36
    known = exhibit.look(text)
    assert len(known.tree.tokens) > 350
    assert exhibit.look(text) is known


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def test_decompose_answers_as_python_does(client: Client, shelf) -> None:
    found = client.predict(VIEW.text, 3, "", api_name="/decompose")
    ours = shelf.open("tiny").attached.decompose(VIEW.text, 3).to_dict()
    assert found["schema"] == "hsae.decompose/1"
    assert [t["text"] for t in found["tokens"]] == [t["text"] for t in ours["tokens"]]
    assert found["tokens"][2]["features"][0]["id"] == ours["tokens"][2]["features"][0]["id"]


def test_steer_and_splice_answer(client: Client, shelf) -> None:
    found = client.predict("The king", {"12": 1.0}, 5, 0.0, 0, "", api_name="/steer")
    lm = shelf.open("tiny").attached
    assert found["unsteered"] == lm.generate("The king", max_new_tokens=5)
    with lm.steer({"12": 1.0}):
        assert found["steered"][0]["text"] == lm.generate("The king", max_new_tokens=5)
    lost = client.predict("The king and his army slept.", "", api_name="/splice")
    assert lost["ce_spliced"] > 0 and lost["schema"] == "hsae.splice/1"


def test_a_feature_is_told(client: Client) -> None:
    found = client.predict("336/2", "", api_name="/feature")
    assert found["schema"] == "hsae.feature/1"
    assert (found["row"]["feature"], found["parent"]["feature"]) == ("336/2", "336")
    assert len(found["children"]) == 16
    with pytest.raises(AppError, match="99999"):
        client.predict("99999", "", api_name="/feature")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", 3, ""), "no text"),
        (("x" * (TEXT_LIMIT + 1), 3, ""), "characters"),
        (("x", 0, ""), "top (=0)"),
        (("x", 3, "../../etc"), "not shown here"),
        (("x", 3, "/etc"), "not shown here"),
    ],
)
def test_bad_calls_are_told_in_a_line(client: Client, arguments, said: str) -> None:
    with pytest.raises(AppError, match=re.escape(said)):
        client.predict(*arguments, api_name="/decompose")


def test_many_callers_at_once_are_not_mixed_up(client: Client) -> None:
    texts = [f"The number {n} is a number." for n in range(50)]
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda t: client.predict(t, 1, "", api_name="/decompose"), texts))
    assert [each["text"] for each in found] == texts


def test_health_is_told(address: str) -> None:
    import urllib.request

    with urllib.request.urlopen(f"{address}healthz") as answer:
        assert answer.read() == b'{"status":"ok"}'


def test_a_pull_goes_on_whoever_looks_on(shelf, monkeypatch) -> None:
    from hsae_hub.demo.pulling import Pulls

    def slowly(ref, *, on_progress):
        for done in range(3):
            on_progress(done, 3)
            time.sleep(0.01)

    monkeypatch.setattr(shelf.hub, "pull", slowly)
    pulls = Pulls(shelf.hub)
    job = pulls.start("org/name")
    assert pulls.start("org/name") is job
    while not job.over:
        time.sleep(0.01)
    assert (job.done, job.total, job.error) == (2, 3, None)
