"""A Hugging Face Space that works as it is pushed: the page, the package, and an SAE."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import requires
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

import hsae_hub
from hsae_hub.artifact import CONFIG, REPORTS, read_config
from hsae_hub.assets import TINY, assets
from hsae_hub.errors import ConflictError, HSAEError, NotFoundError
from hsae_hub.hub import Hub, Ref

SAE = "sae"
"""Folder of the Space that holds the SAE."""
_PLAIN = ("app.py", "Dockerfile")
_KEPT = (".json", ".safetensors", ".parquet", ".md")
"""Kinds of files of an SAE that a page reads."""


def export_space(out: Path, ref: str, hub: Hub) -> None:
    """Writes a Space that shows one SAE into a folder that is not there yet; one that fails leaves nothing.

    Raises:
        ConflictError: the folder is there already.
        HSAEError: whatever finding the SAE raises.
    """
    if out.exists():
        raise ConflictError(f"{out} is there already", fix="another folder, or remove it")
    folder = Ref.parse(ref).folder or hub.pull(ref).folder
    config = read_config(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        serve = assets("serve")
        for name in _PLAIN:
            (made / name).write_bytes(serve.joinpath(name).read_bytes())
        page = serve.joinpath("README.md").read_text(encoding="utf-8")
        models = [config.model.id] if config.model and "/" in config.model.id else []
        (made / "README.md").write_text(_titled(page, ref, models), encoding="utf-8")
        (made / "requirements.txt").write_text("\n".join(_needed()) + "\n", encoding="utf-8")
        _copy_package(made / "hsae_hub")
        _copy_sae(folder, made / SAE, config.baseline)
        made.chmod(0o755)
        os.replace(made, out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def run() -> None:
    """What the `app.py` of a Space calls: its own SAE, or the embedded one where that cannot be attached."""
    from hsae_hub.demo.serving import Site, serve
    from hsae_hub.demo.shelf import Shelf

    beside = Path(sys.argv[0]).resolve().parent / SAE
    refs = [str(beside)] if (beside / CONFIG).is_file() else []
    shelf = Shelf([*refs, TINY], Hub(), model=None, device=None)
    try:
        shelf.open(shelf.start())
    except HSAEError as error:
        print(f"{error}; the embedded SAE is shown instead", file=sys.stderr)
        shelf = Shelf([TINY], Hub(), model=None, device=None)
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    serve(shelf, Site(host, int(os.environ.get("GRADIO_SERVER_PORT", "7860")))).block_thread()


def _titled(page: str, ref: str, models: list[str]) -> str:
    _, front, body = page.split("---\n", 2)
    head: dict[str, Any] = yaml.safe_load(front)
    name = ref.rstrip("/").rpartition("/")[2]
    head |= {"title": f"hsae: {name}", "models": models} if models else {"title": f"hsae: {name}"}
    body = body.split("\n![", 1)[0] + "\n" + body.split("\n\n", 3)[3]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{body}"


def _needed() -> list[str]:
    """What the package needs from PyPI; a Space brings gradio itself."""
    found = [each for each in requires("hsae-hub") or [] if "extra ==" not in each]
    if not found:
        raise NotFoundError(
            "this install of hsae-hub does not say what it needs", fix="pip install hsae-hub"
        )
    return sorted(found)


def _copy_package(out: Path) -> None:
    """The package as it is installed here, so that the Space needs no release of it."""
    source = Path(hsae_hub.__file__).parent
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for kind in ("train", "cards", "serve"):
        target = out / "_assets" / kind
        if not target.exists():  # a checkout keeps them beside the package
            shutil.copytree(Path(str(assets(kind))), target)


def _copy_sae(folder: Path, out: Path, baseline: str | None) -> None:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        known = len(inside.parts) == 1 or inside.parts[0] in (REPORTS, "features", baseline)
        if known and path.is_file() and path.suffix in _KEPT:
            target = out / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
