"""What README says to type, to load and to follow: commands parse, Python compiles, links lead somewhere."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import hsae_hub
from hsae_hub.cli.contents import load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "serve" / "README.md"]
TEXT = PAGES[0].read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The command lines of `hsae`: whole lines of shell, and those after a prompt where output stands below."""
    found = []
    for language, block in BLOCKS:
        lines = block.replace("\\\n", " ").splitlines()
        if language == "":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        elif language != "sh":
            continue
        for line in lines:
            _, launched, words = line.partition(" -m hsae_hub ")
            if launched or line.startswith("hsae "):
                found.append(words if launched else line.removeprefix("hsae "))
    return found


@pytest.mark.parametrize("line", commands())
def test_a_command_takes_what_is_typed(line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    command = load(name)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(command.name, words)


def test_there_are_commands_for_every_job() -> None:
    first_words = {line.split()[0] for line in commands()}
    assert {"train", "push", "pull", "decompose", "steer", "splice", "demo"} <= first_words


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_compiles_and_uses_public_names(code: str) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "hsae"
    }
    assert used <= set(hsae_hub.__all__)


def anchors(page: Path) -> set[str]:
    """What a heading is reached by on GitHub."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
