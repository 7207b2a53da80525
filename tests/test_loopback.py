"""The hub on loopback itself: the real client's uploads and downloads, over both protocols, come back as they went."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import OWNER, STRANGER, LoopbackHub
from loopback.xorbs import unpack_lz4

pytest_plugins = ("hub_fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's

NAME = "org/files"


def contents() -> dict[str, bytes]:
    """Contents of several chunks that the client stores plain, compressed, and with their bytes grouped."""
    rng = np.random.default_rng(0)
    floats = rng.standard_normal(60_000).astype("f4")
    return {
        "tiny.safetensors": b"tiny",
        "noise.safetensors": rng.bytes(200_000),
        "floats.safetensors": floats.tobytes(),
        "halves.safetensors": (floats.view("u4") >> 16).astype("u2").tobytes(),
        "words.safetensors": b"the king and his army " * 20_000,
        "zeros.safetensors": bytes(300_000),
        "counts.safetensors": np.arange(70_001, dtype="i4").tobytes(),
    }


@pytest.fixture(params=["lfs", "xet"])
def protocol(request: pytest.FixtureRequest, client: None) -> Iterator[str]:
    if request.param == "xet":
        request.getfixturevalue("xet")
    yield request.param


def upload(server: LoopbackHub, files: dict[str, bytes]) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=server.url, token=OWNER)
    api.create_repo(NAME, private=True)
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    api.create_commit(NAME, operations, commit_message="files")


def download(server: LoopbackHub, path: str, cache: Path) -> bytes:
    from huggingface_hub import hf_hub_download

    kept = hf_hub_download(NAME, path, cache_dir=cache, endpoint=server.url, token=OWNER)
    return Path(kept).read_bytes()


def test_what_is_uploaded_over_one_protocol_is_read_over_both(
    protocol: str, server: LoopbackHub, tmp_path: Path
) -> None:
    files = contents()
    upload(server, files)
    assert any("/cas/v1/xorbs/" in r for r in server.requests) == (protocol == "xet")
    assert any(r.startswith("PUT /cdn/") for r in server.requests) == (protocol == "lfs")
    for offers_xet in (True, False):
        server.offers_xet = offers_xet
        server.requests.clear()
        for path, content in files.items():
            assert download(server, path, tmp_path / f"cache-{offers_xet}") == content
        over_xet = any("/cas/v1/reconstructions/" in r for r in server.requests)
        assert over_xet == (offers_xet and protocol == "xet")
    assert server.unknown == []


def test_files_that_nobody_uploaded_over_xet_are_read_over_it(
    xet: None, server: LoopbackHub, tmp_path: Path
) -> None:
    server.put(NAME, contents())
    for path, content in contents().items():
        assert download(server, path, tmp_path / "cache") == content
    server.damage(NAME, "noise.safetensors", lambda data: data[:-1] + b"!")
    assert download(server, "noise.safetensors", tmp_path / "other")[-1:] == b"!"
    assert any("/cas/v1/reconstructions/" in r for r in server.requests)


def test_a_stranger_gets_no_token_for_the_storage(xet: None, server: LoopbackHub) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    server.put(NAME, {"a.safetensors": b"a"})
    api = HfApi(endpoint=server.url, token=STRANGER)
    with pytest.raises((HfHubHTTPError, RuntimeError)):
        operation = CommitOperationAdd("b.safetensors", b"b")
        api.create_commit(NAME, [operation], commit_message="b")
    assert not [r for r in server.requests if "/cas/" in r] and len(server.repos[NAME].commits) == 2


def test_lz4_is_read_as_its_description_has_it() -> None:
    # a frame with a content size and checksums: one block, "abc", then 9 bytes copied from 3 back, then "de"
    block = bytes([0x35]) + b"abc" + b"\x03\x00" + bytes([0x20]) + b"de"
    head = b"\x04\x22\x4d\x18" + bytes([0x5C, 0x40]) + (14).to_bytes(8, "little") + b"\0"
    frame = head + len(block).to_bytes(4, "little") + block + b"\0\0\0\0" + b"\0\0\0\0" + b"\0" * 4
    assert unpack_lz4(frame) == b"abc" + b"abc" * 3 + b"de"
    plain = head + ((1 << 31) | 3).to_bytes(4, "little") + b"xyz" + b"\0" * 4 + b"\0" * 4
    assert unpack_lz4(plain) == b"xyz"
