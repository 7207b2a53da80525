"""A tree as a piece of HTML that needs nothing from outside, light or dark as its reader has it."""

from __future__ import annotations

from collections.abc import Sequence

from hsae_hub.render.escaping import escaped
from hsae_hub.render.nodes import Block, Row, Tree
from hsae_hub.render.text import drawn_parts

_STYLE = """
.hsae-tree{--ink:#1b2430;--dim:#5b6675;--line:#d9dfe7;--parent:#1d5fc4;--child:#b35a00;--empty:#e9edf2;
color:var(--ink);font:14px/1.45 system-ui,sans-serif;max-width:60em}
@media (prefers-color-scheme:dark){.hsae-tree{--ink:#e6eaf0;--dim:#9aa6b5;--line:#3a4452;--parent:#6ea8ff;
--child:#f0a04b;--empty:#2a323d}}
.hsae-tree .sub,.hsae-tree .note,.hsae-tree th{color:var(--dim);font-weight:400;font-size:12px}
.hsae-tree details{border-top:1px solid var(--line);padding:4px 0}
.hsae-tree summary{cursor:pointer}
.hsae-tree .title{font-family:ui-monospace,monospace;white-space:pre-wrap}
.hsae-tree .whole{display:flex;height:8px;margin:4px 0;background:var(--empty);border-radius:4px;overflow:hidden}
.hsae-tree .whole i:nth-child(1){background:var(--parent)}
.hsae-tree .whole i:nth-child(2){background:var(--child)}
.hsae-tree table{border-collapse:collapse;width:100%}
.hsae-tree td,.hsae-tree th{padding:1px 8px 1px 0;text-align:right;font-variant-numeric:tabular-nums;
background:none;border:0}
.hsae-tree td:first-child,.hsae-tree th:first-child{text-align:left;width:40%}
.hsae-tree td.bar{width:30%;text-align:left}
.hsae-tree td.bar i{display:block;height:9px;border-radius:2px;background:var(--parent)}
.hsae-tree tr.child td.bar i{background:var(--child)}
.hsae-tree tr.negative td.bar i{background:none;border:1px dashed var(--ink);box-sizing:border-box}
.hsae-tree tr.faint{opacity:.55}
.hsae-tree code{color:var(--dim);font-size:12px;background:none}
"""


def render_html(tree: Tree) -> str:
    """The tree as one `<div>` with its own style; every text in it is escaped."""
    blocks = "".join(_block(block, tree.columns) for block in tree.blocks)
    foot = f'<p class="note">{escaped(tree.footnote)}</p>' if tree.footnote else ""
    return (
        f'<div class="hsae-tree"><style>{_STYLE}</style>'
        f'<div class="title">{escaped(tree.title)}</div><div class="sub">{escaped(tree.subtitle)}</div>'
        f"{blocks}{foot}</div>"
    )


def _block(block: Block, columns: Sequence[str]) -> str:
    names = " · ".join(f"{escaped(part.name)} {part.share:.0%}" for part in block.parts)
    widths = drawn_parts(block.parts)
    whole = "".join(f'<i title="{escaped(name)}" style="width:{w:.2f}%"></i>' for name, w in widths)
    heads = "".join(f"<th>{escaped(head)}</th>" for head in columns)
    rows = "".join(_rows(block.rows, 0))
    table = f"<table><tr><th>feature</th><th></th>{heads}</tr>{rows}</table>" if rows else ""
    meter = f'<div class="whole">{whole}</div>' if whole else ""
    note = f'<p class="note">{escaped(block.note)}</p>' if block.note else ""
    return (
        f'<details{" open" if rows else ""}><summary><span class="title">{escaped(block.title)}</span> '
        f'<span class="sub">{names}</span></summary>{meter}{table}{note}</details>'
    )


def _rows(rows: Sequence[Row], depth: int) -> list[str]:
    out = []
    for row in rows:
        kinds = {"child": depth > 0, "negative": row.bar < 0, "faint": row.faint}
        kind = " ".join(name for name, holds in kinds.items() if holds)
        label = (
            f"{escaped(row.label)} <code>{escaped(row.id)}</code>" if row.label else escaped(row.id)
        )
        cells = "".join(f"<td>{escaped(cell)}</td>" for cell in row.cells)
        width = 100 * min(abs(row.bar), 1.0)
        out.append(
            f'<tr class="{kind}"><td style="padding-left:{1.4 * depth:.1f}em">{label}</td>'
            f'<td class="bar"><i style="width:{width:.1f}%"></i></td>{cells}</tr>'
        )
        out += _rows(row.below, depth + 1)
    return out
