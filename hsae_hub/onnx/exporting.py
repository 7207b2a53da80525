"""Writes an SAE as three ONNX graphs with a config beside them, and compares them with torch before they stay."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hsae_hub import __version__
from hsae_hub.architectures import SAE
from hsae_hub.artifact import CONFIG, file_info, folder_atomic
from hsae_hub.errors import ResourceError, UsageError

FORMAT_VERSION = 1
OPSET = 18
"""The first in which all reductions take their axes as inputs."""
OPSETS = range(OPSET, 24)
EXTERNAL_ABOVE = 1_900_000_000
"""Bytes of weights that still go into a graph: protobuf ends at 2 GiB."""


def export(
    sae: SAE[Any],
    out: Path,
    *,
    opset: int = OPSET,
    check: bool = True,
    overwrite: bool = False,
    external_above: int = EXTERNAL_ABOVE,
) -> dict[str, Any]:
    """Writes `encode.onnx`, `decode.onnx`, `full.onnx` and `config.json` into the folder `out`; what the config says.

    They take any number of tokens, in float32. Acts are values and flat indices in slots, as in `Acts`, so a large SAE
    gives a few numbers a token. With more than `external_above` bytes in a graph all weights lie once in `weights.bin`.

    Raises:
        ResourceError: onnx or onnxruntime is not installed.
        UsageError: `out` is not empty, or the opset or architecture is one that cannot be written.
        CheckFailedError: onnxruntime gives something else than torch; nothing is left behind.
    """
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise ResourceError(f"ONNX export needs {package}", fix="pip install 'hsae-hub[onnx]'")
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not one of {OPSET} to {OPSETS.stop - 1}")
    from hsae_hub.onnx.building import build_graphs
    from hsae_hub.onnx.checking import LIMIT
    from hsae_hub.onnx.checking import check as check_graphs
    from hsae_hub.onnx.graph import write_graphs

    graphs = build_graphs(sae)
    with folder_atomic(out, overwrite=overwrite) as folder:
        write_graphs(graphs, folder, opset=opset, external_above=external_above)
        measured = {**check_graphs(sae, folder)._asdict(), "limit": LIMIT} if check else None
        config = {
            "format": "hsae-hub onnx",
            "format_version": FORMAT_VERSION,
            "written_by": f"hsae-hub {__version__}",
            "opset": opset,
            **_about(sae),
            "graphs": {
                graph.name: {
                    "file": f"{graph.name}.onnx",
                    "inputs": [value._asdict() for value in graph.inputs],
                    "outputs": [value._asdict() for value in graph.outputs],
                }
                for graph in graphs
            },
            "files": {p.name: file_info(p).model_dump() for p in sorted(folder.iterdir())},
            "check": measured,
        }
        text = json.dumps(config, indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
    return config


def _about(sae: SAE[Any]) -> dict[str, Any]:
    """The architecture, and of a loaded SAE where it comes from and what it was trained on."""
    about: dict[str, Any] = {
        "sae": sae.config.model_dump(mode="json"),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "n_parents": sae.shape.n_parents,
        "n_children": sae.shape.n_children,
    }
    if sae.info is not None:
        saved = sae.info.config.model_dump(mode="json", exclude_none=True)
        about |= {key: saved[key] for key in ("model", "hookpoint", "tokens") if key in saved}
        about["source"] = {"ref": sae.info.ref, "files": saved["files"]}
    return about
