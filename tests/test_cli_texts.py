"""Texts and reports that a command is given and cannot use."""

import io
import math
import sys
from typing import Any

import pytest

from hsae_hub.card.measured import number
from hsae_hub.cli.evaluate import _number
from hsae_hub.cli.main import run
from hsae_hub.cli.show import _measured

STEERED = ["--edit", "336=1", "--max-new-tokens", "1"]


@pytest.mark.parametrize(
    "words", [["decompose"], ["steer", *STEERED], ["splice"], ["attribute"], ["compare"]]
)
@pytest.mark.parametrize("stdin", [None, io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"), "odd"])
def test_a_text_that_is_not_unicode_is_refused(
    words: list[str], stdin: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(stdin, io.TextIOWrapper):
        stdin.seek(0)
    if stdin != "odd":
        monkeypatch.setattr(sys, "stdin", stdin)
    text = "caf\udce9" if stdin == "odd" else "-"
    sae = ["tiny", "tiny"] if words[0] == "compare" else ["tiny"]
    assert run([words[0], *sae, text, *words[1:]]) == 2
    told = "stdin, which is closed" if stdin is None else "utf-8" if stdin != "odd" else "not UTF-8"
    assert told in capsys.readouterr().err


def test_reports_of_strangers_are_shown_as_far_as_they_go() -> None:
    assert [_number(v) for v in (math.nan, math.inf, 3.0, 0.25)] == ["nan", "inf", "3", "0.2500"]
    assert [number(v) for v in (math.nan, 3.0, 0.25)] == ["nan", "3", "0.25"]
    assert _measured({"saes": {"a": {"l0": 4}, "b": 3}}) == ["measured       a\nl0        4.0000"]
