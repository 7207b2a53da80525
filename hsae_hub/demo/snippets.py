"""The Python and the shell that give what a page shows."""

from __future__ import annotations

import shlex
from typing import NamedTuple

import yaml

from hsae_hub.attach import SteeringSpec, steering_data
from hsae_hub.demo.view import View

_ATTACHED = "import hsae_hub as hsae\n\nlm = hsae.attach(hsae.load({sae!r}))\n"


class Snippet(NamedTuple):
    """The same, twice."""

    python: str
    shell: str


def decompose(view: View) -> Snippet:
    """A text as a tree, or one token of it."""
    python = _ATTACHED.format(sae=view.sae)
    python += f"tree = lm.decompose({view.text!r}, runner_ups=3)\n"
    python += "print(tree)" if view.token is None else f"print(tree.tokens[{view.token}])"
    words = ["hsae", "decompose", view.sae, view.text, "--runner-ups"]
    words += [] if view.token is None else ["--token", str(view.token)]
    return Snippet(python, shlex.join(words))


def steer(
    view: View, prompt: str, spec: SteeringSpec, new: int, temperature: float, seed: int
) -> Snippet:
    """A prompt continued with and without edits."""
    data = steering_data(spec)
    python = (
        _ATTACHED.format(sae=view.sae)
        + f"spec = hsae.SteeringSpec.model_validate({data!r})\n"
        + f"found = lm.generate_beside(\n    {prompt!r},\n    [spec],\n    max_new_tokens={new},\n"
        + f"    temperature={temperature!r},\n    seed={seed},\n)\n"
        + "print(found.unsteered, found.steered[0].text, sep='\\n---\\n')"
    )
    settings = [
        "--max-new-tokens",
        str(new),
        "--temperature",
        str(temperature),
        "--seed",
        str(seed),
    ]
    words = ["hsae", "steer", view.sae, prompt, "--spec", "steer.yaml", *settings]
    file = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    return Snippet(python, f"cat > steer.yaml <<'END'\n{file}END\n{shlex.join(words)}")


def splice(view: View) -> Snippet:
    """What the model loses on a text."""
    python = (
        _ATTACHED.format(sae=view.sae)
        + f"with lm.splice() as spliced:\n    print(spliced.loss([{view.text!r}]))"
    )
    return Snippet(python, shlex.join(["hsae", "splice", view.sae, view.text]))


def feature(view: View) -> Snippet:
    """A feature's page."""
    python = f"import hsae_hub as hsae\n\nprint(hsae.load_features({view.sae!r}).feature({view.feature!r}))"
    return Snippet(python, shlex.join(["hsae", "feature", view.sae, str(view.feature)]))


def compare(view: View, other: str) -> Snippet:
    """A token by two SAEs."""
    token = -1 if view.token is None else view.token
    python = (
        "import hsae_hub as hsae\n\n"
        f"lm = hsae.attach(hsae.load({view.sae!r}))\nflat = hsae.attach(hsae.load({other!r}), lm.lm)\n"
        f"print(hsae.compare_on(flat, lm, {view.text!r}, token={token}))"
    )
    words = ["hsae", "compare", other, view.sae, view.text, "--token", str(token)]
    return Snippet(python, shlex.join(words))


def absorption(view: View) -> Snippet:
    """How far features take over from more general ones."""
    python = (
        "import json\nfrom pathlib import Path\n\n"
        f"print(json.loads(Path({view.sae!r}, 'eval/absorption.json').read_text())['results'])"
    )
    return Snippet(python, shlex.join(["hsae", "eval", view.sae, "--on", "absorption"]))
