"""A harvest that was stopped, by signals or at any moment, ends with the bytes of one that was left alone."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stores import LINES, content, make

from hsae_hub.activations import harvesting
from hsae_hub.activations.buckets import Buckets
from hsae_hub.errors import ConflictError, CorruptError, InterruptedRun, MisfitError, UsageError
from hsae_hub.models import language_model

pytest_plugins = ["store_fixtures"]
pytestmark = pytest.mark.usefixtures("quick")

SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
out, phase, wanted, tests = sys.argv[1:]
sys.path.insert(0, tests)
from stores import make
from hsae_hub.activations import harvesting
harvesting.COMMIT_SECONDS = 0.0
seen = []

def tell(told, done, total):
    seen.append(told)
    if seen.count(phase) >= int(wanted):
        print("now", flush=True)
        time.sleep(0.3)

make(Path(out), on_progress=tell)
"""


@pytest.fixture(scope="module")
def whole(quick, tmp_path_factory):
    """A harvest that nothing disturbed."""
    return make(tmp_path_factory.mktemp("whole") / "store")


# --- at any moment ---


class Killed(BaseException):
    """Stands for SIGKILL at one moment; nothing of ours catches it."""


def kill_at(patch, number):
    """Ends a harvest before or after the so-manieth call that changes its folder; returns the calls so far."""
    calls = []

    def wrapped(real):
        def moment(name):
            calls.append(f"{name} {real.__name__}")
            if len(calls) == number:
                raise Killed

        def call(*args, **options):
            moment("before")
            result = real(*args, **options)
            moment("after")
            return result

        return call

    for name in (
        "begin",
        "save_state",
        "save_text",
        "write_shard",
        "write_atomic",
        "flush",
        "clean",
    ):
        patch.setattr(harvesting, name, wrapped(getattr(harvesting, name)))
    for name in ("_write", "commit", "remove"):
        patch.setattr(Buckets, name, wrapped(getattr(Buckets, name)))
    patch.setattr(Path, "replace", wrapped(Path.replace))
    return calls


def small(folder, *, sample=40, **options):
    """Three batches of contexts, two shards."""
    sampled = [{"sample": sample}] if sample else []
    data = {"train": [{"lines": LINES[:20]}, *sampled], "heldout_fraction": 0.01}
    return make(folder, data=data, **({"tokens": 180, "shard_tokens": 90} | options))


@pytest.fixture
def embeddings(tiny_lm, monkeypatch):
    """Rows that cost nothing and follow from the tokens; nor is the vocabulary hashed again and again."""
    monkeypatch.setattr(language_model, "tokenizer_sha256", lambda tokenizer: "0" * 64)
    table = tiny_lm.hf.get_input_embeddings().weight
    monkeypatch.setattr(harvesting, "read_batch", lambda lm, _, batch: table[batch.ids[batch.kept]])


def test_a_harvest_killed_at_any_moment_ends_with_the_same_bytes(tmp_path, monkeypatch, embeddings):
    monkeypatch.setattr(harvesting, "COMMIT_SECONDS", 0.0)
    undisturbed = content(small(tmp_path / "undisturbed", sample=0).folder)
    assert len(undisturbed) == 3  # two shards and store.json
    number, finished, kept = 0, False, set()
    while not finished:
        number += 1
        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            calls = kill_at(patch, number)
            try:
                small(out, sample=0)
                finished = True
            except Killed:
                pass
        result = small(out, sample=0)
        kept.add(result.resumed_from)
        assert content(out) == undisturbed, f"killed {calls[-1]}, call {number}"
        shutil.rmtree(out)
    assert number > 80
    assert {None, 0, 180} < kept and len(kept) == 5


def test_a_harvest_that_is_killed_again_and_again_gets_there(tmp_path, monkeypatch):
    monkeypatch.setattr(harvesting, "COMMIT_SECONDS", 0.0)
    undisturbed = content(small(tmp_path / "undisturbed").folder)
    kills, finished = 0, False
    while not finished:
        with monkeypatch.context() as patch:
            kill_at(patch, 24)
            try:
                small(tmp_path / "store")
                finished = True
            except Killed:
                kills += 1
    assert kills > 3
    assert content(tmp_path / "store") == undisturbed


@pytest.mark.parametrize(
    ("phase", "number", "code"),
    [
        ("sample", signal.SIGINT, 130),
        ("count", signal.SIGTERM, 143),
        ("harvest", signal.SIGINT, 130),
        ("shuffle", signal.SIGTERM, 143),
    ],
)
def test_a_signal_keeps_what_was_read_and_says_how_to_go_on(
    tmp_path, embeddings, phase, number, code
):
    out, seen = tmp_path / "store", []

    def tell(told, done, total):
        seen.append(told)
        if seen.count(phase) == 3 - 2 * (phase in ("sample", "count")):
            signal.raise_signal(number)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedRun) as caught:
        small(out, tokens=None, on_progress=tell, command="hsae cache make mine --out there")
    assert (caught.value.code, caught.value.fix) == (code, "hsae cache make mine --out there")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (out / "store.json").exists()
    result = small(out, tokens=None)
    assert bool(result.resumed_from) == (phase in ("harvest", "shuffle"))
    assert content(out) == content(small(tmp_path / "undisturbed", tokens=None).folder)


def test_a_finished_store_is_only_read(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}
    again = make(whole.folder)
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before
    assert again.config == whole.config and again.resumed_from is None


@pytest.mark.parametrize("finished", [True, False])
def test_another_harvest_does_not_go_on_in_it(whole, tmp_path, finished):
    out = whole.folder
    if not finished:
        out = tmp_path / "store"
        with pytest.raises(InterruptedRun):
            make(out, on_progress=lambda phase, done, _: done > 90 and signal.raise_signal(2))
    with pytest.raises(
        UsageError, match=r"differ in data\.context_length, dtype, tokens"
    ) as caught:
        make(out, data={"context_length": 10}, dtype="float16", tokens=999)
    assert caught.value.problems[-1] == "tokens: 1000 there, 999 now"


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "letters.txt").write_text("Dear Ada,")
    with pytest.raises(UsageError, match="is not empty and holds no store"):
        make(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        make(tmp_path / "letters.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_two_harvests_never_share_a_folder(tmp_path):
    out = tmp_path / "store"

    def tell(phase, done, total):
        if phase == "harvest" and done == 0:
            with pytest.raises(ConflictError, match="harvesting into it"):
                make(out)

    assert content(make(out, on_progress=tell).folder) == content(make(tmp_path / "b").folder)


def stopped(out):
    with pytest.raises(InterruptedRun):
        make(out, on_progress=lambda phase, done, _: done > 300 and signal.raise_signal(2))


def test_it_does_not_go_on_with_another_model(tiny_lm, tmp_path, monkeypatch):
    stopped(tmp_path / "store")
    other = dataclasses.replace(tiny_lm, revision="0123")
    monkeypatch.setattr(harvesting, "load_language_model", lambda *args, **options: other)
    with pytest.raises(MisfitError, match="not the model that this harvest began with") as caught:
        make(tmp_path / "store")
    assert caught.value.why == "they differ in revision"


def test_what_a_harvest_kept_is_not_trusted_blindly(tmp_path):
    out = tmp_path / "store"
    stopped(out)
    bucket = sorted((out / ".harvest").glob("bucket-*"))[2]
    bucket.write_bytes(bucket.read_bytes()[:-8])
    with pytest.raises(CorruptError, match=r"bucket-\d+\.bin has \d+ bytes, expected"):
        make(out)
    state = out / ".harvest" / "state.json"
    state.write_text(state.read_text()[:50])
    with pytest.raises(CorruptError, match=r"state\.json is damaged"):
        make(out)


# --- processes ---


def kill(out, phase):
    """Kills a harvest some time after it has told of a phase a few times; from then on it is slow."""
    wanted = random.randrange(1, 5)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), phase, str(wanted), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    process.stdout.readline()
    time.sleep(random.uniform(0, 0.5))
    process.kill()
    process.stdout.close()
    assert process.wait(timeout=60) == -signal.SIGKILL, f"it ended before {phase} {wanted}"
    return wanted


def test_a_killed_harvest_ends_with_the_same_bytes(whole, tmp_path):
    out = tmp_path / "store"
    read = kill(out, "harvest")
    assert not (out / "store.json").exists()
    mixed = kill(out, "shuffle")
    assert not (out / "store.json").exists()
    result = make(out)
    assert result.resumed_from == 1000
    assert content(out) == content(whole.folder), f"killed at read {read}, then at shard {mixed}"
