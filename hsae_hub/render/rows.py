"""Rows with bars that fold and can be chosen: a token's features."""

from __future__ import annotations

from collections.abc import Sequence

from hsae_hub.render.escaping import escaped
from hsae_hub.render.nodes import Row


def render_rows(
    rows: Sequence[Row], columns: Sequence[str], *, chosen: str | None, title: str
) -> str:
    """The rows; a row's button carries `data-pick="f:ID"`, its caret `data-toggle="ID"`.

    A row with the chosen one below it, or chosen itself, comes unfolded.
    """
    heads = "".join(f"<span>{escaped(column)}</span>" for column in columns)
    inner = "".join(_row(row, chosen, 0) for row in rows)
    return (
        f'<div class="hs-rows" role="list" aria-label="{escaped(title)}">'
        f'<div class="hs-heads" aria-hidden="true"><span>feature</span><span></span>{heads}</div>{inner}</div>'
    )


def _row(row: Row, chosen: str | None, depth: int) -> str:
    is_open = row.id == chosen or any(below.id == chosen for below in row.below)
    ident = escaped(row.id)
    caret = below = ""
    if row.below:
        caret = (
            f'<button type="button" class="hs-caret" data-toggle="{ident}" '
            f'aria-expanded="{"true" if is_open else "false"}" aria-label="children of {ident}"></button>'
        )
        inner = "".join(_row(each, chosen, depth + 1) for each in row.below)
        below = f'<div class="hs-below" role="list"{"" if is_open else " hidden"}>{inner}</div>'
    kinds = ["hs-row", "hs-child" if depth else "hs-parent"]
    kinds += ["hs-faint"] * row.faint + ["hs-less"] * (row.bar < 0)
    label = f"{escaped(row.label)} " if row.label else ""
    cells = "".join(f"<span>{escaped(cell)}</span>" for cell in row.cells)
    return (
        f'<div role="listitem" class="hs-item">{caret}<button type="button" class="{" ".join(kinds)}" '
        f'data-pick="f:{ident}" data-key="f:{ident}" aria-pressed="{"true" if row.id == chosen else "false"}">'
        f'<span class="hs-name" title="{label}{ident}">{label}<code>{ident}</code></span>'
        f'<span class="hs-bar"><i style="width:{100 * min(abs(row.bar), 1):.1f}%"></i></span>{cells}</button>'
        f"{below}</div>"
    )
