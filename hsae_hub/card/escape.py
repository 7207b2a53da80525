"""Text of users, put where it can be nothing but text."""

from __future__ import annotations

import json
import re
import shlex


def line(text: str) -> str:
    """Text as one line inside a fence that it cannot close."""
    return re.sub(r"\s+", " ", text).strip().replace("```", "'''")


def md(text: str) -> str:
    """Text as one line that Markdown and HTML leave as it is."""
    one = re.sub(r"\s+", " ", text).strip()
    one = re.sub(r"([\\`*{}\[\]<>#|~$!&])|(?<!\w)_|_(?!\w)", r"\\\g<0>", one)
    return re.sub(r"^(\d+(?=[.)](\s|$))|(?=[-+=]))", r"\1\\", one)  # what begins a list or a rule


def code(text: str) -> str:
    """Text as one line between backticks."""
    return line(text).replace("`", "'")


def pystr(text: str) -> str:
    """Text as a string of Python."""
    return json.dumps(line(text), ensure_ascii=False)


def shell(text: str) -> str:
    """Text as one word of a shell."""
    return shlex.quote(line(text))
