"""A harvest in a process of its own, killed by SIGKILL, ends with the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stores import content, make

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


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return content(make(tmp_path_factory.mktemp("undisturbed") / "store").folder)


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


def test_a_killed_harvest_ends_with_the_same_bytes(undisturbed, tmp_path):
    out = tmp_path / "store"
    read = kill(out, "harvest")
    assert not (out / "store.json").exists()
    mixed = kill(out, "shuffle")
    assert not (out / "store.json").exists()
    result = make(out)
    assert result.resumed_from == 1000
    assert content(out) == undisturbed, f"killed at read {read}, then at shard {mixed}"
