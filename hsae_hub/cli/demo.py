"""`hsae demo`: the page in the browser."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hsae_hub.assets import TINY
from hsae_hub.cli.common import Device, HubOption, Json, Output, Quiet
from hsae_hub.cli.loading import Model
from hsae_hub.errors import ResourceError, UsageError


def demo(
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REF...",
            help="SAEs to show, folders or org/name; the embedded one without any. Cached ones can be chosen, too.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; the first free one from 7860.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets the network in.")
    ] = "127.0.0.1",
    share: Annotated[
        bool, typer.Option("--share", help="Open a public address through Gradio's tunnel.")
    ] = False,
    auth: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:PASSWORD", help="Who may come in; repeatable."),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="Path under which a proxy serves it.", metavar="/PATH")
    ] = None,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Serve its functions as tools over MCP, too.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    space: Annotated[
        Path | None,
        typer.Option(
            "--export-space",
            metavar="DIR",
            help="Write a Hugging Face Space that shows this SAE, and serve nothing.",
        ),
    ] = None,
    model: Model = None,
    device: Device = None,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Open the page: trees, features, steering, comparison, hub.

    Without SAE it shows the one inside the package, on the embedded Gemma-2.

    \b
    Examples:
      hsae demo
      hsae demo org/name
      hsae demo runs/mine --port 8080
      hsae demo org/name --export-space my-space
    """
    out = Output("demo", json=json, quiet=quiet)
    users = [_user(each) for each in auth or []]
    shown = refs or [TINY]
    _need_gradio()
    from hsae_hub.demo import Shelf, Site, export_space, serve
    from hsae_hub.hub import Hub

    if space is not None:
        if len(shown) > 1:
            raise UsageError("a Space shows one SAE", fix="hsae demo org/name --export-space DIR")
        export_space(space, shown[0], Hub(hub))
        told = f"{space}\npush it: hf upload org/my-space {space} . --repo-type space"
        out.result({"space": str(space)}, told, str(space))
        return
    shelf = Shelf(shown, Hub(hub), model=model, device=device)
    out.talk(f"loading {shelf.start()}")
    shelf.open(shelf.start())
    page = serve(shelf, Site(host, port, share, users, root_path, open_browser, mcp))
    url = page.share_url or page.local_url
    out.result({"url": url}, url, url)
    page.block_thread()


def _need_gradio() -> None:
    """Says how to get it where it is missing; looks without loading it.

    Raises:
        ResourceError: gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ResourceError("the demo needs gradio", fix="pip install 'hsae-hub[demo]'")


def _user(written: str) -> tuple[str, str]:
    name, colon, password = written.partition(":")
    if not (name and colon and password):
        raise UsageError("--auth takes NAME:PASSWORD", why="one of them is empty")
    return name, password
