"""The parents that a card shows, with their children."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hsae_hub.artifact import write_atomic

GALLERY = "gallery.json"
PARENTS = 3
CHILDREN = 4
EXAMPLES = 3
MOST_DENSE = 0.1
"""A parent that acts on more of the tokens says too little to be shown."""
LEAST_FIRED = 30
"""A parent that acts on fewer tokens is known too little."""


def make_gallery(folder: Path, weights: str, tokens: int, data: str) -> dict[str, Any]:
    """The three best parents of the tables in a folder, as plain data; `weights` is the sha256 of the SAE.

    Best is the product of three numbers from 0 to 1: how evenly the children are used (entropy of how often each is
    the kept one, over the logarithm of their number), how strongly they act (the children's acts together over the
    parent's, at most 1), and how well their contexts agree (the share of a child's strongest contexts that is on one
    token, averaged over children by use, less that of the parent's own, so that children say more than their parent).
    Of a flat SAE it is the parent's own share. Parents that are dense or rare are left out.
    """
    table = pq.read_table(
        folder / "latents.parquet",
        columns=[
            "latent",
            "feature",
            "parent",
            "fired",
            "density",
            "share",
            "mean_act",
            "label",
            "tokens",
        ],
    )
    latents = {name: table.column(name).to_pylist() for name in table.column_names}
    order = np.argsort(-scores(table), kind="stable")
    known = [
        int(i)
        for i in order
        if latents["parent"][i] is None
        and latents["fired"][i] >= LEAST_FIRED
        and latents["density"][i] <= MOST_DENSE
    ][:PARENTS]
    below: dict[int, list[int]] = {parent: [] for parent in known}
    for i, parent in enumerate(latents["parent"]):
        if parent in below and latents["fired"][i]:
            below[parent].append(i)
    chosen = {
        parent: sorted(children, key=lambda i: -latents["fired"][i])[:CHILDREN]
        for parent, children in below.items()
    }
    shown = examples(folder, [*chosen, *(i for children in chosen.values() for i in children)])

    def named(i: int) -> dict[str, Any]:
        return {"feature": latents["feature"][i], "label": latents["label"][i] or ""}

    return {
        "schema": "hsae.gallery/1",
        "sha256": weights,
        "tokens": tokens,
        "data": data,
        "parents": [
            {
                **named(parent),
                "density": latents["density"][parent],
                "examples": shown.get(parent, []),
                "children": [
                    {**named(i), "share": latents["share"][i], "examples": shown.get(i, [])}
                    for i in children
                ],
            }
            for parent, children in chosen.items()
        ],
    }


def scores(table: Any) -> NDArray[np.float64]:
    """How good each latent is as a parent to be shown, 0 to 1; children have 0."""
    fired = table.column("fired").to_numpy().astype(float)
    total = fired * table.column("mean_act").to_numpy()
    purity: NDArray[np.float64] = np.array(
        [t[0]["weight"] if t else 0.0 for t in table.column("tokens").to_pylist()],
        dtype=np.float64,
    )
    parent = np.array([-1 if p is None else p for p in table.column("parent").to_pylist()])
    is_child = parent >= 0
    n_parents = int((~is_child).sum())
    if not is_child.any():
        return purity
    of, each = parent[is_child], n_parents + np.arange(int(is_child.sum()))

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(of, weights=values, minlength=n_parents).astype(np.float64)

    used = summed(fired[each])
    share = fired[each] / np.maximum(used[of], 1)
    entropy = summed(-share * np.log(np.maximum(share, 1e-12)))
    evenness = entropy / max(np.log(len(of) / n_parents), 1e-12)
    strength = np.minimum(summed(total[each]) / np.maximum(total[:n_parents], 1e-12), 1)
    gained = np.maximum(summed(share * purity[each]) - purity[:n_parents], 0)
    return np.concatenate([evenness * strength * gained, np.zeros(len(of))])


def examples(folder: Path, latents: list[int]) -> dict[int, list[str]]:
    """The strongest contexts of some latents as text, the token itself in «»."""
    wanted = ["latent", "band", "rank", "at", "tokens"]
    filters = [("latent", "in", latents), ("band", "=", 0), ("rank", "<", EXAMPLES)]
    found: dict[int, list[str]] = {}
    if latents:
        for row in pq.read_table(
            folder / "contexts.parquet", columns=wanted, filters=filters
        ).to_pylist():
            found.setdefault(row["latent"], []).append(marked(row["tokens"], row["at"]))
    return found


def marked(tokens: list[str], at: int) -> str:
    """A context in one line, one of its tokens in «»."""
    token = tokens[at]
    inside = token.strip() or token
    lead = token[: len(token) - len(token.lstrip())] if token.strip() else ""
    text = "".join(tokens[:at]) + lead + f"«{inside}»" + "".join(tokens[at + 1 :])
    return " ".join(text.split())


def relabel(folder: Path, labels: Mapping[str, str]) -> None:
    """Gives features of the gallery in a folder other labels."""
    path = folder / GALLERY
    gallery = json.loads(path.read_text(encoding="utf-8"))
    for parent in gallery["parents"]:
        for each in (parent, *parent["children"]):
            each["label"] = labels.get(each["feature"], each["label"])
    write_atomic(path, as_json(gallery))


def features_of(folder: Path) -> list[str]:
    """The features of the gallery in a folder, each parent before its children."""
    gallery = json.loads((folder / GALLERY).read_text(encoding="utf-8"))
    return [
        each["feature"] for parent in gallery["parents"] for each in (parent, *parent["children"])
    ]


def as_json(value: Any) -> str:
    """A file of JSON for people too."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
