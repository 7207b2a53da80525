"""SAEs on this machine and on the hub, and the pulls that are under way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hsae_hub.demo.pulling import Job
from hsae_hub.hub import CachedSAE, ListedSAE
from hsae_hub.render import escaped


def here(offered: Sequence[str], cached: Sequence[CachedSAE], shown: str) -> str:
    """What can be opened at once."""
    rows = [(ref, "shown by this server", "") for ref in offered]
    rows += [
        (each.ref, _about(each), f"{each.size / 1e6:,.1f} MB")
        for each in cached
        if each.ref not in offered
    ]
    drawn = "".join(
        f"<tr><td>{_link('sae', ref, ref)}{' <b>· on show</b>' if ref == shown else ''}</td><td>{escaped(what)}</td>"
        f"<td>{size}</td><td>{_link('card', ref, 'card')} {_link('verify', ref, 'verify')}</td></tr>"
        for ref, what, size in rows
    )
    return f'<section class="hs-pane"><h2>On this machine</h2>{_table(drawn)}</section>'


def _about(each: CachedSAE) -> str:
    model = each.config.model.id if each.config.model else "unknown model"
    place = each.config.hookpoint.path if each.config.hookpoint else "unknown place"
    return f"{each.config.sae.architecture} · {model} · {place}"


def remote(found: Sequence[ListedSAE], *, can_pull: bool) -> str:
    """What the hub has."""
    drawn = "".join(
        f"<tr><td>{escaped(each.info.repo)}</td><td>{escaped(_read(each))}</td><td>"
        + (_link("pull", each.info.repo, "pull") if can_pull and not each.cached else "")
        + "</td></tr>"
        for each in found
    )
    inner = _table(drawn) if drawn else '<p class="hs-note">Nothing was found.</p>'
    return f'<section class="hs-pane"><h2>On the hub</h2>{inner}</section>'


def pulls(jobs: Iterable[Job]) -> str:
    """Every pull with one bar for the whole of it."""
    drawn = "".join(_job(job) for job in jobs)
    return (
        f'<section class="hs-pane" aria-live="polite"><h2>Pulls</h2>{drawn}</section>'
        if drawn
        else ""
    )


def _job(job: Job) -> str:
    if job.error is not None:
        return f'<p class="hs-error"><b>{escaped(job.ref)}: {escaped(str(job.error))}</b></p>'
    part = 1.0 if job.over else job.done / job.total if job.total else 0.0
    said = "done" if job.over else f"{job.done / 1e6:,.1f} of {job.total / 1e6:,.1f} MB"
    return (
        f'<div class="hs-job"><span>{escaped(job.ref)}</span>'
        f'<div class="hs-whole" role="progressbar" aria-label="pull" aria-valuenow="{100 * part:.0f}">'
        f'<i class="hs-parent" style="width:{part:.1%}"></i></div><span>{said}</span></div>'
    )


def _table(rows: str) -> str:
    return f'<table class="hs-table">{rows}</table>'


def _link(kind: str, ref: str, said: str) -> str:
    pick = escaped(f"{kind}:{ref}")
    return f'<button type="button" class="hs-link" data-pick="{pick}" data-key="{pick}">{escaped(said)}</button>'


def _read(each: ListedSAE) -> str:
    """Which models and layers its SAEs read, and whether it is here."""
    layers = f"layer {', '.join(map(str, each.info.layers))}" if each.info.layers else ""
    return " · ".join(filter(None, (*each.info.models, layers, "here" if each.cached else "")))
