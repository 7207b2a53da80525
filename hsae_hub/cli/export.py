"""`hsae export`: an SAE as ONNX graphs, or in another toolkit's format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsae_hub.cli.common import HubOption, Json, NoProgress, Output, Quiet, Ref, pairs, size_text

if TYPE_CHECKING:
    from hsae_hub.architectures import SAE

ONNX = "onnx"
_FORMATS = "onnx, sae-lens, sae-lens-parents, sparsify, dictionary-learning"


def export(
    ref: Ref,
    format: Annotated[
        str, typer.Argument(metavar="FORMAT", help=f"{_FORMATS}.", show_default=False)
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The folder to write.", show_default=False),
    ],
    opset: Annotated[
        int | None, typer.Option(help="onnx: of the operators, 18 without it.", metavar="N")
    ] = None,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check",
            help="onnx: compare the graphs with torch in onnxruntime; done without this.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of the same name in DIR.")
    ] = False,
    hub: HubOption = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Write an SAE as ONNX graphs, or for another toolkit.

    onnx gives encode.onnx, decode.onnx and full.onnx, which take any number of tokens and give acts as values and
    indices, and a config.json that says what they take. A toolkit's format holds an SAE exactly, or it is refused.

    \b
    Examples:
      hsae export org/name onnx ./graphs
      hsae export runs/mine sae-lens ./for-sae-lens
    """
    out = Output("export", json=json, quiet=quiet, no_progress=no_progress)

    from hsae_hub.cli.loading import find
    from hsae_hub.errors import UsageError
    from hsae_hub.interop import EXPORTS
    from hsae_hub.problems import nearest

    known = [ONNX, *EXPORTS]
    if format not in known:
        raise UsageError(
            f"unknown format {format!r}{nearest(format, known)}", fix=f"known: {', '.join(known)}"
        )
    if format != ONNX and not (opset is None and check is None):
        raise UsageError(f"--opset and --check are for {ONNX}, not {format}")
    sae = find(ref, hub, out).sae
    if format == ONNX:
        data = _onnx(sae, folder, opset, check is not False, overwrite)
    else:
        data = _foreign(sae, folder, format, overwrite)
    files = data["files"]
    text = pairs([(str(folder / name), size_text(size)) for name, size in files.items()])
    if data.get("check"):
        out.talk(
            "in onnxruntime acts differ by {acts:.0e} and the reconstruction by {reconstruction:.0e} of the largest "
            "value from torch, over {tokens} tokens".format(**data["check"])
        )
    data |= {"ref": ref, "format": format, "folder": str(folder)}
    out.result(data, text, str(folder))


def _onnx(
    sae: SAE[Any], folder: Path, opset: int | None, check: bool, overwrite: bool
) -> dict[str, Any]:
    from hsae_hub.onnx import OPSET, export

    written = export(sae, folder, opset=opset or OPSET, check=check, overwrite=overwrite)
    files = {name: file["size"] for name, file in written["files"].items()}
    return {"files": files, "opset": written["opset"], "check": written["check"]}


def _foreign(sae: SAE[Any], folder: Path, format: str, overwrite: bool) -> dict[str, Any]:
    from hsae_hub.artifact import folder_atomic
    from hsae_hub.interop import EXPORTS

    with folder_atomic(folder, overwrite=overwrite) as beside:
        EXPORTS[format](sae, sae.info.config, beside)
        paths = sorted(path for path in beside.rglob("*") if path.is_file())
        files = {str(path.relative_to(beside)): path.stat().st_size for path in paths}
    return {"files": files}
