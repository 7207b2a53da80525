"""Serves the page to one person or to many."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr
from starlette.responses import JSONResponse
from starlette.routing import Route

from hsae_hub.demo.app import build
from hsae_hub.demo.desk import asset
from hsae_hub.demo.shelf import Shelf
from hsae_hub.errors import ResourceError

_WAITING = 64
"""Visitors whose turn at the model has not come; one more is told to come again."""
_VISITORS = 200
"""Visitors whose view is kept: of more the one that was idle longest begins anew. Gradio holds 0.4 MB for each."""
_UPLOAD = "1mb"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Site(NamedTuple):
    """How a page is served."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None takes the first free one from 7860 on."""
    share: bool = False
    """Whether gradio opens a tunnel, so that the page can be reached from everywhere."""
    auth: Sequence[tuple[str, str]] = ()
    """Names and passwords; empty lets everybody in."""
    root_path: str | None = None
    """Path under which a proxy serves it."""
    open_browser: bool = False
    mcp: bool = False
    """Whether its endpoints are tools over the Model Context Protocol, too."""


def serve(shelf: Shelf, site: Site) -> gr.Blocks:
    """Serves the page in the background; `.block_thread()` waits for Ctrl-C, `.close()` ends it.

    Raises:
        ResourceError: the port is taken, the host is none of this machine's, or the tools cannot be served.
    """
    _check_free(site.host, site.port or 0)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    reachable = site.share or site.host not in _LOOPBACK
    page = build(shelf, can_pull=bool(site.auth) or not reachable)
    page.queue(max_size=_WAITING)
    try:
        app, _, _ = page.launch(
            server_name=site.host,
            server_port=site.port,
            share=site.share,
            auth=list(site.auth) or None,
            root_path=site.root_path,
            inbrowser=site.open_browser,
            max_file_size=_UPLOAD,
            strict_cors=True,
            state_session_capacity=_VISITORS,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=["api", "settings"],
            theme=_theme(),
            css=asset("page.css"),
            mcp_server=site.mcp,
        )
    except OSError as error:
        raise ResourceError(f"port {site.port} cannot be served: {error}", fix="--port N") from None
    app.router.routes.insert(0, Route("/healthz", _healthz))
    if site.mcp and page.mcp_error:  # gradio itself serves the page without a word
        page.close()
        raise ResourceError(
            "the tools cannot be served over MCP",
            why=page.mcp_error.removeprefix("Error launching MCP server: "),
            fix="pip install 'hsae-hub[mcp]'    in an environment of its own: it needs older packages",
        )
    return page


def _check_free(host: str, port: int) -> None:
    """Gradio would wait for ever for a server that has no such address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(address)
    except (OSError, UnicodeError) as error:
        raise ResourceError(
            f"port {port or 'N'} of {host!r} cannot be served: {error}",
            fix="--host 127.0.0.1 --port N",
        ) from None


def _theme() -> gr.themes.Base:
    # blue-500, the default of primary buttons, has a contrast of 3.7 with white
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", **fonts)
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )


async def _healthz(request: Any) -> JSONResponse:
    return JSONResponse({"status": "ok"})
