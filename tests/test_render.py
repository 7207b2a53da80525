"""Trees drawn for a terminal and for a notebook."""

import re
from html.parser import HTMLParser

import pytest

from hsae_hub.render import Block, Part, Row, Tree, display_width, render_html, render_text, visible

CHILD = Row("12/3", 0.5, ("9.10", "12%"), "herding")
TREE = Tree(
    title="The corgi",
    subtitle="model · layer",
    columns=("act", "share"),
    blocks=(
        Block(
            "1 'The'",
            (Part("parents", 0.6), Part("children", 0.1), Part("unexplained", 0.3)),
            (
                Row(
                    "12",
                    1.0,
                    ("18.20", "60%"),
                    "dogs",
                    (CHILD, Row("12/1", 0.2, ("3.64", ""), faint=True)),
                ),
                Row("588", -0.25, ("-4.55", "-3%")),
            ),
            "6 more of 8",
        ),
        Block("0 '<bos>' special", (), ()),
    ),
    footnote="act: in the units of the residual.",
)


DRAWN = """\
The corgi
model · layer
                                                  act  share
1 'The'           parents 60%  children 10%  unexplained 30%
   ├─ dogs 12          ███████████████████████  18.20    60%
   │  ├─ herding 12/3  ███████████▌              9.10    12%
   │  └─ 12/1          ░░░░░                     3.64
   └─ 588              ▒▒▒▒▒▒                   -4.55    -3%
   6 more of 8
0 '<bos>' special

act: in the units of the residual."""


def test_a_tree_is_drawn_for_the_terminal() -> None:
    assert render_text(TREE, width=60) == DRAWN


@pytest.mark.parametrize("width", [20, 40, 55, 80, 200])
def test_lines_keep_to_the_width(width: int) -> None:
    long = TREE._replace(
        title="字" * 300,
        footnote="many words " * 40,
        blocks=(TREE.blocks[0]._replace(title="x" * 300, rows=(Row("1" * 90, 0.1, ("1", "2")),)),),
    )
    for tree in (TREE, long):
        for line in render_text(tree, width=width).splitlines():
            assert display_width(line) <= max(width, 40)
            assert line == line.rstrip()


def test_text_cannot_move_the_cursor() -> None:
    assert visible("a\n\tb\x1b[31m\x00é") == "a↵⇥b\\x1b[31m\\x00é"
    tree = TREE._replace(title="\x1b]0;owned\x07", blocks=(Block("\x1b[2J", (), ()),))
    assert "\x1b" not in render_text(tree) and "\x1b" not in render_html(tree)


def test_width_is_counted_in_columns() -> None:
    assert display_width("abc") == 3
    assert display_width("漢字") == 4
    assert display_width("x̂") == 1


def test_a_small_bar_is_still_seen() -> None:
    rows = tuple(Row(str(i), bar, ("", "")) for i, bar in enumerate([0.001, -0.001, 0.0]))
    drawn = render_text(TREE._replace(blocks=(Block("t", (), rows),))).splitlines()
    assert [line.split()[-1] for line in drawn[4:7]] == ["▏", "▒", "2"]


class Checker(HTMLParser):
    """Tags that are closed in order, and no address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link", "iframe")
        assert not {name for name, _ in attrs} - {"class", "style", "title", "open"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(html: str) -> None:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert "http" not in html and "url(" not in html and "@import" not in html


def test_a_tree_is_drawn_as_html() -> None:
    html = render_html(TREE)
    check(html)
    assert "prefers-color-scheme:dark" in html
    assert "dogs <code>12</code>" in html and ">588<" in html
    assert html.count("<details") == 2 and html.count("<details open") == 1
    assert "width:60.00%" in html and 'class="child faint"' in html and 'class="negative"' in html
    assert "act: in the units of the residual." in html


def test_everything_in_html_is_escaped() -> None:
    evil = '"><script>alert(1)</script>&'
    tree = Tree(
        evil,
        evil,
        (evil,),
        (
            Block(
                evil,
                (Part(evil, 0.5),),
                (Row(evil, 1.0, (evil,), evil, (Row(evil, 1, (evil,)),)),),
                evil,
            ),
        ),
        evil,
    )
    html = render_html(tree)
    check(html)
    assert "<script" not in html and html.count("&quot;&gt;&lt;script&gt;") == 13


def test_parts_never_overflow_their_bar() -> None:
    parts = (Part("parents", 0.9), Part("children", -0.2), Part("unexplained", 0.3))
    html = render_html(TREE._replace(blocks=(Block("t", parts, ()),)))
    widths = [float(w) for w in re.findall(r"title=\"\w+\" style=\"width:([\d.]+)%", html)]
    assert widths == [75.0, 0.0, 25.0]
    assert "children -20%" in html
