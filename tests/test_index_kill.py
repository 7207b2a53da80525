"""An index that was killed ends as one that was not; its memory does not follow the corpus."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import DATA, files

from hsae_hub.activations import ContextBatch
from hsae_hub.architectures import SAE, Acts, TreeShape
from hsae_hub.errors import ConflictError, InterruptedRun, UsageError
from hsae_hub.features import Indexed, build_index, gathering, indexing
from hsae_hub.features.chunks import make_chunk
from hsae_hub.features.gathering import Gathered
from hsae_hub.lock import only_one_in
from hsae_hub.models import LanguageModel

pytest_plugins = ["feature_fixtures"]

SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
sae, out, batches, tests = sys.argv[1:]
sys.path.insert(0, tests)
from small_corpus import DATA
from hsae_hub.artifact import read_artifact
from hsae_hub.features import build_index, indexing
indexing.COMMIT_SECONDS = 0.0
seen = []

def tell(what, done, total):
    seen.append(what)
    if len(seen) == int(batches):
        print("now", flush=True)
        time.sleep(60)

build_index(read_artifact(Path(sae)).sae, DATA, out, tokens=10**6, command="hsae index small", on_progress=tell)
"""


def again(sae: SAE[Any], model: LanguageModel, out: Path, **options: Any) -> Indexed:
    options = {"tokens": 10**6, "command": "hsae index small", "model": model, **options}
    return build_index(sae, options.pop("data", DATA), out, **options)


def test_killed_and_resumed_it_is_identical(
    sae: SAE[Any], model: LanguageModel, indexed: Indexed, tmp_path: Path
) -> None:
    arguments = [sae.info.ref, str(tmp_path), "5", str(Path(__file__).parent)]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == "now"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "features/index.json").exists()
    (tmp_path / "features/.latents.parquet.1.partial").write_bytes(b"torn")
    resumed = again(sae, model, tmp_path)
    assert resumed.resumed_from and resumed.resumed_from < resumed.info["tokens"]
    assert files(resumed.folder) == files(indexed.folder)
    assert not (resumed.folder / ".work").exists()


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_signal_keeps_what_was_read(
    sae: SAE[Any], model: LanguageModel, indexed: Indexed, tmp_path: Path, at: int
) -> None:
    calls = []

    def tell(what: str, done: int, total: int) -> None:
        calls.append(what)
        if len(calls) == at:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRun, match="which are kept") as caught:
        again(sae, model, tmp_path, on_progress=tell)
    assert caught.value.code == 143 and "goes on" in caught.value.fix
    assert files(again(sae, model, tmp_path).folder) == files(indexed.folder)


def test_another_index_does_not_go_on(
    sae: SAE[Any], model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_finish", lambda *_: pytest.fail("it was not to finish"))
    with pytest.raises(InterruptedRun):
        again(sae, model, tmp_path, on_progress=lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(UsageError, match="differ in tokens"):
        again(sae, model, tmp_path, tokens=100)
    with (
        only_one_in(tmp_path / "features", "x", where=tmp_path / "features/.work"),
        pytest.raises(ConflictError, match="in use"),
    ):
        again(sae, model, tmp_path)


def gather(contexts: int) -> Gathered:
    """Acts of a made-up SAE of 64 parents and 4 children each on random contexts of 32 tokens."""
    shape = TreeShape(64, 4)
    generator = np.random.default_rng(0)
    gathered = Gathered(shape, top=4, sampled=5, seed=0)
    for first in range(0, contexts, 50):
        parents = generator.random((50 * 32, 64)).argsort(1)[:, :6]
        children = 64 + parents * 4 + generator.integers(0, 4, parents.shape)
        indices = torch.from_numpy(np.concatenate([parents, children], 1))
        values = torch.from_numpy(generator.normal(1, 1, indices.shape).astype(np.float32))
        ones = torch.ones(len(values))
        kept = torch.ones(50, 32, dtype=torch.bool)
        batch = ContextBatch(torch.randint(0, 999, (50, 32)), kept, kept)
        acts = Acts(values, indices, shape.d_sae, ones, ones)
        gathered.add(make_chunk(batch, acts, ones, first))
    return gathered


def test_ten_times_the_corpus_takes_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "COFIRING_TOKENS", 2000)
    monkeypatch.setattr(gathering, "WINDOWS", 100)
    small, large = gather(600), gather(6000)
    assert large.tokens == 10 * small.tokens == 192_000
    sizes = [{k: a.nbytes for k, a in g.state().items()} for g in (small, large)]
    samples = {name for name in sizes[0] if name.startswith(("together", "windows"))}
    assert all(sizes[0][name] == sizes[1][name] for name in sizes[0].keys() - samples)
    # acts of a sampled token vary in number, not with the corpus
    assert sum(sizes[1].values()) == pytest.approx(sum(sizes[0].values()), rel=0.02)


def test_latents_that_never_act_take_no_room() -> None:
    wide = Gathered(TreeShape(10**6, 0), top=16, sampled=15, seed=0)
    values, indices = torch.ones(8, 1), torch.full((8, 1), 999_999)
    kept = torch.ones(1, 8, dtype=torch.bool)
    acts = Acts(values, indices, 10**6, values[:, 0], values[:, 0])
    wide.add(make_chunk(ContextBatch(torch.ones(1, 8).long(), kept, kept), acts, values[:, 0], 0))
    assert sum(array.nbytes for array in wide.state().values()) < 20_000
    assert wide.top.counts.sum() == 1
