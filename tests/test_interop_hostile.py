"""Foreign files that are damaged, hostile, or hold what has no counterpart here: one clear line each, no code run."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_interop import ARCHITECTURES, FOLDER

from hsae_hub.errors import CorruptError, DeniedError, HSAEError, NotFoundError, UsageError
from hsae_hub.interop import read_foreign

SCOPE = next(n for n in ARCHITECTURES if "scope-2b" in n)
SCOPE_2 = next(n for n in ARCHITECTURES if "scope-2-" in n)
LENS, LEARNING, SPARSIFY = (
    "sae_lens/jumprelu",
    "dictionary_learning/batch_topk",
    "sparsify/layers.10",
)


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER / name, tmp_path / name))


def refused(path: Path, error: type[HSAEError], text: str, **options: Any) -> HSAEError:
    with pytest.raises(error, match=text) as caught:
        read_foreign(path, **{"allow_pickle": True, **options})
    assert "\n" not in str(caught.value)
    return caught.value


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_pickle(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def change_tensors(path: Path, **values: torch.Tensor) -> None:
    save_file(load_file(path) | values, path)


@pytest.mark.parametrize("name", ["dictionary_learning/gated", "openai/resid_post_mlp/relu"])
def test_a_pickle_is_not_opened_unless_somebody_says_so(name: str, tmp_path: Path) -> None:
    path = copied(name, tmp_path)
    for pickled in path.glob("*.pt"):
        pickled.write_bytes(b"never read")
    error = refused(path, DeniedError, "whose weights are a pickle", allow_pickle=False)
    assert "--allow-pickle" in error.fix


def test_a_pickle_never_runs_code(tmp_path: Path) -> None:
    path, mark = copied(LEARNING, tmp_path), tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(mark),)

    torch.save({"encoder.weight": Evil()}, path / "ae.pt")
    refused(path, CorruptError, "cannot be read without running code")
    (path / "ae.pt").write_bytes(pickle.dumps(Evil()))
    refused(path, CorruptError, "is damaged")
    assert not mark.exists()


def test_a_pickled_tensor_larger_than_what_is_stored_of_it_is_refused(tmp_path: Path) -> None:
    path = copied(LEARNING, tmp_path)
    huge = torch.zeros(1).expand(1 << 40)
    change_pickle(path / "ae.pt", lambda state: state.update({"encoder.bias": huge}))
    refused(path, CorruptError, "4 bytes are stored")


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    path = copied(SCOPE, tmp_path)
    arrays = dict(np.load(path / "params.npz"))
    np.savez(path / "params.npz", **arrays | {"b_dec": np.array([{}], dtype=object)})
    refused(path, CorruptError, "its type is object, expected floats")


def test_an_array_whose_header_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = copied(SCOPE, tmp_path) / "params.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["W_enc.npy"] = members["W_enc.npy"].replace(b"(8, 16), }  ", b"(1<<40,), } ")
    assert b"1<<40" in members["W_enc.npy"]
    for claim in (b"(1<<40,), } ", b"(8, 9999999), }"):
        members["W_enc.npy"] = members["W_enc.npy"].replace(b"(1<<40,), } ", claim)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        refused(path.parent, CorruptError, "W_enc.npy cannot be read")


@pytest.mark.parametrize("name", [SCOPE, LEARNING])
def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(
    name: str, tmp_path: Path
) -> None:
    path = copied(name, tmp_path)
    file = path / ("params.npz" if name == SCOPE else "ae.pt")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W_enc.npy", bytes(10_000_000))
    refused(path, CorruptError, "would unpack to 10000000")


@pytest.mark.parametrize("name", [SCOPE, SCOPE_2, LENS, LEARNING, SPARSIFY])
def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    path = copied(name, tmp_path)
    (path / "golden.safetensors").unlink()
    for weights in path.glob("*[!n]"):
        weights.write_bytes(weights.read_bytes()[:-100])
    refused(path, CorruptError, "is damaged|not a safetensors file")


def test_tensors_that_are_missing_unknown_or_misshapen_are_named(tmp_path: Path) -> None:
    path = copied(LEARNING, tmp_path)
    change_pickle(path / "ae.pt", lambda state: state.pop("encoder.bias"))
    refused(path, CorruptError, "lacks tensor 'encoder.bias'; expected encoder.weight")
    change_pickle(path / "ae.pt", lambda state: state.update({"encoder.bias": torch.zeros(5)}))
    refused(path, CorruptError, r"encoder.bias has shape \[5\], but by encoder.weight its F is 16")
    change_pickle(path / "ae.pt", lambda state: state.update({"encoder.bias": torch.zeros(2, 8)}))
    refused(path, CorruptError, r"encoder.bias has shape \[2, 8\], expected \[F\]")
    change_pickle(
        path / "ae.pt", lambda state: state.update({"encoder.bias": torch.zeros(16), "x": 1})
    )
    refused(path, CorruptError, "has unknown tensor 'x'")
    change_pickle(
        path / "ae.pt",
        lambda s: (s.pop("x"), s.update({"b_dec": torch.zeros(8, dtype=torch.int64)})),
    )
    refused(path, CorruptError, "b_dec is torch.int64, expected a tensor of floats")


@pytest.mark.parametrize("name", [LENS, SCOPE_2])
def test_a_value_that_is_not_finite_is_named(name: str, tmp_path: Path) -> None:
    path = copied(name, tmp_path)
    file = path / ("sae_weights.safetensors" if name == LENS else "params.safetensors")
    bad = load_file(file)["b_dec"]
    bad[3] = torch.nan
    change_tensors(file, b_dec=bad)
    refused(path, CorruptError, "b_dec has 1 of 8 values that are not finite")


@pytest.mark.parametrize(
    ("name", "file", "values", "error", "text"),
    [
        (
            LENS,
            "cfg.json",
            {"architecture": "temporal"},
            UsageError,
            "'temporal' has no counterpart",
        ),
        (
            LENS,
            "cfg.json",
            {"architecture": "jumprelu_transcoder"},
            UsageError,
            "no counterpart here",
        ),
        (LENS, "cfg.json", {"architecture": ["gated"]}, UsageError, "None has no counterpart"),
        (LENS, "cfg.json", {"architecture": "topk"}, CorruptError, "unknown tensor 'threshold'"),
        (
            LENS,
            "cfg.json",
            {"normalize_activations": "expected_average_only_in"},
            UsageError,
            "average",
        ),
        (
            LENS,
            "cfg.json",
            {"normalize_activations": "covariance_whitening"},
            UsageError,
            "whitening",
        ),
        (LENS, "cfg.json", {"normalize_activations": 3}, UsageError, "normalize_activations is 3"),
        ("sae_lens/topk", "cfg.json", {"k": 99}, CorruptError, "must be at most d_sae"),
        ("sae_lens/topk", "cfg.json", {"k": -1}, CorruptError, "k is -1, expected a whole number"),
        (
            "sae_lens_5/topk",
            "cfg.json",
            {"activation_fn_str": "tanh-relu"},
            UsageError,
            "tanh-relu",
        ),
        (SPARSIFY, "cfg.json", {"activation": "groupmax"}, UsageError, "'groupmax'"),
        (SPARSIFY, "cfg.json", {"transcode": True}, UsageError, "it is no autoencoder"),
        (SPARSIFY, "cfg.json", {"d_in": 9}, CorruptError, "d_in is 9, but the weights have 8"),
        (LEARNING, "config.json", {"trainer": 1}, CorruptError, "trainer is 1, expected an object"),
        (
            LEARNING,
            "config.json",
            {"trainer": {"dict_class": "IdentityDict"}},
            UsageError,
            "Identity",
        ),
        (
            SCOPE_2,
            "config.json",
            {"hf_hook_point_out": "model.layers.14.output"},
            UsageError,
            "transcoder",
        ),
        (SCOPE_2, "config.json", {"architecture": "topk"}, UsageError, "expected jump_relu"),
    ],
)
def test_what_has_no_counterpart_here_is_refused_by_its_name(
    name: str, file: str, values: dict[str, Any], error: type[HSAEError], text: str, tmp_path: Path
) -> None:
    path = copied(name, tmp_path)
    change_json(path / file, **values)
    refused(path, error, text)


def test_a_threshold_that_was_never_estimated_is_refused(tmp_path: Path) -> None:
    path = copied(LEARNING, tmp_path)
    change_pickle(path / "ae.pt", lambda state: state.update({"threshold": torch.tensor(-1.0)}))
    error = refused(
        path, UsageError, "its threshold is -1, which means that it was never estimated"
    )
    assert "thousand steps" in error.why


def test_a_backup_of_an_unfinished_training_is_refused(tmp_path: Path) -> None:
    path = copied(LEARNING, tmp_path)
    torch.save({"step": 3, "ae": {}, "optimizer": {}}, path / "ae.pt")
    refused(path, UsageError, "a backup of a training that was not over")


def test_transcoders_are_refused_by_the_name_of_their_folder() -> None:
    for name, where in (
        (SCOPE, "google/gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_8"),
        (SCOPE_2, "google/gemma-scope-2-1b-pt/transcoder_all/layer_3_width_16k_l0_small_affine"),
        (SCOPE_2, "google/gemma-scope-2-1b-pt/clt/width_262k"),
    ):
        refused(FOLDER / name, UsageError, "is a transcoder: it reads one place", where=where)


def test_what_is_in_no_format_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    error = refused(tmp_path, NotFoundError, "no SAE in a format that is known here")
    assert "SAELens" in error.why and "dictionary_learning" in error.why
    refused(tmp_path, UsageError, "unknown format 'npz'", named="npz")
    refused(tmp_path, NotFoundError, "params.npz is missing", named="gemma-scope")


def test_a_config_that_is_not_one_is_refused(tmp_path: Path) -> None:
    path = copied(SPARSIFY, tmp_path)
    for text, message in (("[1]", "holds a list"), ("{", "not JSON"), ("[" * 100_000, "not JSON")):
        (path / "cfg.json").write_text(text)
        refused(path, CorruptError, message)
    (path / "cfg.json").write_text(json.dumps({"x": "y" * (1 << 20)}))
    refused(path, CorruptError, "expected at most 1 MiB")
