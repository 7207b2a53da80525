"""Weight files that their config vouches for, and that are still not what they say."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsae_hub.architectures import parse_config
from hsae_hub.artifact import CONFIG, STATS, WEIGHTS, read_artifact, read_config
from hsae_hub.errors import CorruptError, UsageError

SAVED = Path(__file__).parent / "data" / "format_v1" / "hsae"
Header = dict[str, Any]


def each(change: Callable[[Header], Any]) -> Callable[[Header], None]:
    def apply(header: Header) -> None:
        for name, tensor in header.items():
            if name != "__metadata__":
                change(tensor)

    return apply


def shifted(by: int) -> Callable[[Header], None]:
    return each(lambda t: t.update(data_offsets=[n + by for n in t["data_offsets"]]))


def larger(header: Header) -> None:
    """Shapes of 10^9 parents: as the config has them, and far more than the file."""
    each(lambda t: t.update(shape=[10**9 if n == 12 else n for n in t["shape"]]))(header)


CASES: dict[str, tuple[Callable[[Header], Any], bytes, dict[str, Any], str]] = {
    "beyond": (shifted(10**9), b"", {}, r"W_dec lies at \[1000000000, "),
    "before": (shifted(-4), b"", {}, r"W_dec lies at \[-4, "),
    "overlap": (each(lambda t: t.update(data_offsets=[0, 288])), b"", {}, "expected"),
    "nowhere": (each(lambda t: t.pop("data_offsets")), b"", {}, "its header is not that of"),
    "fractions": (each(lambda t: t.update(shape=[float(n) for n in t["shape"]])), b"", {}, "read"),
    "longer": (each(lambda t: None), b"more", {}, "its tensors have 2880 bytes, the file 2884"),
    "deep": (lambda h: None, b"", {}, "its header is not that of"),
    "larger": (larger, b"", {"n_parents": 10**9, "d_sae": 4 * 10**9}, "lies at"),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_header_that_lies_is_found_out_before_memory_is_taken(
    name: str, lazy: bool, tmp_path: Path
) -> None:
    change, more, changes, told = CASES[name]
    shutil.copytree(SAVED, tmp_path / "sae")
    path, config = tmp_path / "sae" / WEIGHTS, tmp_path / "sae" / CONFIG
    old = path.read_bytes()
    length = int.from_bytes(old[:8], "little")
    header = json.loads(old[8 : 8 + length])
    change(header)
    text = b"[" * 200_000 if name == "deep" else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + old[8 + length :] + more)
    data = json.loads(config.read_text()) | changes
    content = path.read_bytes()
    data["files"][WEIGHTS] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    config.write_text(json.dumps(data))
    with pytest.raises(CorruptError, match=told):
        read_artifact(tmp_path / "sae", lazy=lazy)


def test_a_table_of_latents_that_is_no_safetensors_file_is_told(tmp_path: Path) -> None:
    shutil.copytree(SAVED, tmp_path / "sae")
    config = tmp_path / "sae" / CONFIG
    (tmp_path / "sae" / STATS).write_bytes(b"nonsense")
    data = json.loads(config.read_text())
    data["files"][STATS] = {"sha256": hashlib.sha256(b"nonsense").hexdigest(), "size": 8}
    config.write_text(json.dumps(data))
    with pytest.raises(CorruptError, match=rf"{STATS} cannot be read"):
        read_artifact(tmp_path / "sae")


@pytest.mark.parametrize("name", ["../secret", "/etc", "", ".", "a/b"])
def test_a_baseline_lies_in_a_folder_of_the_sae(name: str, tmp_path: Path) -> None:
    data = json.loads((SAVED / CONFIG).read_text()) | {"baseline": name}
    (tmp_path / CONFIG).write_text(json.dumps(data))
    with pytest.raises(CorruptError, match="baseline: string should match pattern"):
        read_config(tmp_path)


@pytest.mark.parametrize("size", [10**12, 10**23])
def test_sizes_that_no_machine_has_are_refused(size: int) -> None:
    settings = {"d_in": 8, "n_parents": size, "n_children": 2, "d_subspace": 2, "k": 2}
    with pytest.raises(UsageError, match="n_parents must be at most 2147483648"):
        parse_config({"architecture": "hsae", **settings})
