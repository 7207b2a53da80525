"""A page as a piece of HTML that needs nothing from outside, and whole documents of such pieces."""

from __future__ import annotations

from collections.abc import Sequence

from hsae_hub.render.escaping import escaped
from hsae_hub.render.page import Context, Contexts, Histogram, Page, Pairs, Section, Tile, Tiles

_STYLE = """
.hsae-page{--ink:#1b2430;--dim:#5b6675;--line:#d9dfe7;--parent:#1d5fc4;--child:#b35a00;--empty:#e9edf2;
--tint:179,90,0;color:var(--ink);font:14px/1.45 system-ui,sans-serif;max-width:64em}
@media (prefers-color-scheme:dark){.hsae-page{--ink:#e6eaf0;--dim:#9aa6b5;--line:#3a4452;--parent:#6ea8ff;
--child:#f0a04b;--empty:#2a323d;--tint:240,160,75}}
.hsae-page h1{font-size:19px;margin:0 0 2px;color:var(--child)}
.hsae-page h1 .above{color:var(--parent);font-weight:400}
.hsae-page h1.top{color:var(--parent)}
.hsae-page h2{font-size:12px;letter-spacing:.05em;text-transform:uppercase;color:var(--dim);margin:18px 0 6px}
.hsae-page code{font-size:.8em;color:inherit;background:none}
.hsae-page .sub,.hsae-page .note,.hsae-page .scale{color:var(--dim);font-size:12px}
.hsae-page .chips span{display:inline-block;border:1px solid var(--line);border-radius:10px;padding:0 8px;
margin:6px 6px 0 0;font-size:12px}
.hsae-page .wide{display:flex;flex-wrap:wrap;gap:0 32px}
.hsae-page .wide>section{flex:1 1 18em;min-width:0}
.hsae-page .bars u{position:absolute;top:0;bottom:0;border-left:2px dashed var(--ink)}
.hsae-page .bars{position:relative;display:flex;align-items:flex-end;height:72px;gap:1px;max-width:24rem}
.hsae-page .bars i{flex:1;background:var(--child);min-width:1px}
.hsae-page .scale{display:flex;justify-content:space-between;max-width:24rem}
.hsae-page table{border-collapse:collapse;max-width:24rem;width:100%}
.hsae-page td{padding:0 8px 0 0;border:0;background:none;font-variant-numeric:tabular-nums}
.hsae-page td:last-child{text-align:right}
.hsae-page td:first-child{white-space:pre-wrap;overflow-wrap:anywhere;font-family:ui-monospace,monospace}
.hsae-page .tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(15em,1fr));gap:10px}
.hsae-page .tile{border:1px solid var(--line);border-radius:5px;padding:8px;min-width:0}
.hsae-page .tile.chosen{outline:2px solid var(--ink)}
.hsae-page .tile.faint{border-style:dashed;color:var(--dim)}
.hsae-page .tile b{overflow-wrap:anywhere}
.hsae-page .tile .id{float:right}
.hsae-page .meter{height:4px;background:var(--empty);border-radius:2px;margin:5px 0}
.hsae-page .meter i{display:block;height:4px;border-radius:2px;background:var(--child)}
.hsae-page .context{white-space:pre-wrap;overflow-wrap:anywhere;border-top:1px solid var(--line);padding:3px 0}
.hsae-page .tile .context{border:0;padding:0;white-space:pre;overflow:hidden;text-overflow:ellipsis;font-size:12px}
.hsae-page .context .value{color:var(--dim);display:inline-block;min-width:4em;font-variant-numeric:tabular-nums}
.hsae-page .context u{text-decoration:none;font-weight:600;border-bottom:2px solid var(--child)}
"""
_DOCUMENT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>:root{{color-scheme:light dark}}body{{margin:24px;background:#fff}}
@media (prefers-color-scheme:dark){{body{{background:#151a21}}}}
.beside{{display:grid;grid-template-columns:repeat(auto-fit,minmax(24em,1fr));gap:24px}}</style>
</head><body>{body}</body></html>
"""


def html_document(title: str, pieces: Sequence[str]) -> str:
    """A whole HTML file of pieces that are HTML already, side by side where there is room; it may load nothing."""
    body = "".join(f"<div>{piece}</div>" for piece in pieces)
    return _DOCUMENT.format(title=escaped(title), body=f'<main class="beside">{body}</main>')


def page_html(page: Page, *, pick: bool = False) -> str:
    """The page as one `<div>` with its own style; every text in it is escaped.

    With `pick` what has a target carries `data-pick="f:TARGET"`, for a page whose script listens to it.
    """
    names = [
        f"{escaped(label)} <code>{escaped(name)}</code>" if label else escaped(name)
        for label, name in page.crumbs
    ]
    above = "".join(f'<span class="above">{name} › </span>' for name in names[:-1])
    kind = "below" if above else "top"
    head = f'<h1 class="{kind}">{above}{names[-1]}</h1>'
    chips = "".join(f"<span>{escaped(chip)}</span>" for chip in page.chips)
    narrow = [s for s in page.sections if isinstance(s, Histogram | Pairs)]
    broad = [s for s in page.sections if not isinstance(s, Histogram | Pairs)]
    wide = f'<div class="wide">{"".join(_section(s, pick) for s in narrow)}</div>' if narrow else ""
    foot = f'<p class="note">{escaped(page.footnote)}</p>' if page.footnote else ""
    return (
        f'<div class="hsae-page"><style>{_STYLE}</style>{head}<div class="sub">{escaped(page.subtitle)}</div>'
        f'<div class="chips">{chips}</div>{wide}{"".join(_section(s, pick) for s in broad)}{foot}</div>'
    )


def _picked(target: str, pick: bool) -> str:
    if not (pick and target):
        return ""
    return f' role="button" tabindex="0" data-pick="f:{escaped(target)}" data-key="page:{escaped(target)}"'


def _section(section: Section, pick: bool) -> str:
    if isinstance(section, Histogram):
        inner = _histogram(section)
    elif isinstance(section, Pairs):
        targets = section.targets or ("",) * len(section.pairs)
        rows = "".join(
            f"<tr><td><span{_picked(target, pick)}>{escaped(name)}</span></td><td>{escaped(value)}</td></tr>"
            for (name, value), target in zip(section.pairs, targets, strict=True)
        )
        inner = f"<table>{rows}</table>" if rows else ""
    elif isinstance(section, Contexts):
        inner = "".join(_context(context) for context in section.contexts)
    else:
        inner = _tiles(section, pick)
    return f"<section><h2>{escaped(section.title)}</h2>{inner}</section>" if inner else ""


def _histogram(section: Histogram) -> str:
    if not section.heights:
        return ""
    most = max(section.heights) or 1
    bars = "".join(f'<i style="height:{100 * h / most:.1f}%"></i>' for h in section.heights)
    scale = f"<span>{escaped(section.low)}</span><span>{escaped(section.high)}</span>"
    note = f'<div class="note">{escaped(section.note)}</div>' if section.note else ""
    if section.mark is not None:
        bars += f'<u style="left:{100 * min(max(section.mark, 0), 1):.1f}%"></u>'
    return f'<div class="bars">{bars}</div><div class="scale">{scale}</div>{note}'


def _tiles(section: Tiles, pick: bool) -> str:
    tiles = "".join(_tile(tile, pick) for tile in section.tiles)
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _tile(tile: Tile, pick: bool) -> str:
    kinds = "tile" + " chosen" * tile.chosen + " faint" * tile.faint
    width = 100 * min(max(tile.weight, 0), 1)
    lines = "".join(_context(context) for context in tile.contexts)
    return (
        f'<div class="{kinds}"{_picked(tile.target, pick)}>'
        f'<span class="id"><code>{escaped(tile.id)}</code></span><b>{escaped(tile.label)}</b>'
        f'<div class="meter"><i style="width:{width:.1f}%"></i></div><div class="note">{escaped(tile.note)}</div>'
        f"{lines}</div>"
    )


def _context(context: Context) -> str:
    value = f'<span class="value">{escaped(context.value)}</span>' if context.value else ""
    marks = "".join(_mark(mark.text, mark.weight, chosen=mark.chosen) for mark in context.marks)
    return f'<div class="context">{value}{marks}</div>'


def _mark(text: str, weight: float, *, chosen: bool) -> str:
    inner = f"<u>{escaped(text)}</u>" if chosen else escaped(text)
    if weight <= 0:
        return inner
    return f'<span style="background:rgba(var(--tint),{0.45 * min(weight, 1):.2f})">{inner}</span>'
