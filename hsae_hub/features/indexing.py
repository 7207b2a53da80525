"""One pass over a corpus, and what it says of every latent; killed, it goes on and ends with the same files."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hsae_hub import __version__
from hsae_hub.activations import batch_contexts, read_batch
from hsae_hub.architectures import SAE
from hsae_hub.artifact import file_info, weights_sha256, write_atomic
from hsae_hub.attach import Attached, attach
from hsae_hub.attach.decomposing import token_texts
from hsae_hub.errors import InterruptedRun, UsageError
from hsae_hub.features.chunks import Ints, make_chunk
from hsae_hub.features.columns import contexts_table
from hsae_hub.features.corpus import Corpus, open_corpus
from hsae_hub.features.directions import Logits, Strongest, logits_of, nearest_of
from hsae_hub.features.gallery import GALLERY, as_json, make_gallery
from hsae_hub.features.gathering import BINS_A_DOUBLING, LOWEST, Gathered
from hsae_hub.features.names import FOLDER, INDEX
from hsae_hub.features.summing import latents_table, windows_table
from hsae_hub.features.tables import COLUMNS, CONTEXTS, LATENTS, SCHEMA
from hsae_hub.features.work import (
    WORK,
    IndexPlan,
    Progress,
    clear,
    load_progress,
    save_progress,
)
from hsae_hub.lock import only_one_in
from hsae_hub.models import LanguageModel
from hsae_hub.recipes import DataConfig
from hsae_hub.signals import StopSignals

COMMIT_SECONDS = 60.0
"""Time between the moments from which a killed run goes on."""
TOP = 16
SAMPLED = 15
NEAREST = 8
LOGITS = 10
_BLOCK = 1024
"""Latents that are written at once."""
_ROWS = 4096
"""Rows of an embedding that are read at once; a row of the table is a context of one token."""

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


class Indexed(NamedTuple):
    """An index that is whole."""

    folder: Path
    """Holds `index.json`."""
    info: dict[str, Any]
    """What `index.json` says."""
    resumed_from: int | None
    """Tokens that an earlier call had read; None where there was none."""


def build_index(
    sae: SAE[Any],
    data: DataConfig,
    out: str | Path,
    *,
    tokens: int = 1_000_000,
    model: str | LanguageModel | None = None,
    seed: int = 0,
    sample_seed: int = 0,
    device: str | None = None,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> Indexed:
    """Reads about `tokens` tokens of the training text of `data`, in whole batches and at most all of it once, and
    writes `features/` into the folder `out`: what each latent acts on, how strongly, and where its direction points.

    Where a call was killed, the same call goes on, and ends with the same bytes on the same machine with as many
    threads. An SAE of an embedding is indexed on its rows. `command` is kept in the index.

    Raises:
        UsageError: the folder holds the beginning of another index, or there is no text.
        ConflictError: another process writes it.
        MisfitError: the SAE does not fit the model.
        CorruptError: the text or the state is not what it was.
        InterruptedRun: a signal came; what was read is kept.
    """
    tell = on_progress or (lambda what, done, total: None)
    attached = attach(sae, model, device=device)
    plan = _plan(attached, data, tokens, seed, sample_seed)
    folder = Path(out) / FOLDER
    work = folder / WORK
    with only_one_in(folder, "indexing into", where=work), StopSignals() as stop:
        run = _Pass(attached, plan, work, tell)
        resumed_from = run.prepare()
        run.read(stop)
        info = _finish(folder, attached, plan, run.gathered, command, tell)
    clear(work)
    return Indexed(folder, info, resumed_from)


def _plan(
    attached: Attached, data: DataConfig, tokens: int, seed: int, sample_seed: int
) -> IndexPlan:
    lm, sae = attached.lm, attached.sae
    return IndexPlan(
        weights=weights_digest(sae),
        model=lm.config(),
        hookpoint=str(attached.hookpoint),
        data=data,
        tokens=tokens,
        top=TOP,
        sampled=SAMPLED,
        seed=seed,
        sample_seed=sample_seed,
    )


def weights_digest(sae: SAE[Any]) -> str:
    """sha256 of the weight file that an SAE came from, or of its tensors where it came from none."""
    if (sha256 := weights_sha256(sae)) is not None:
        return sha256
    found = hashlib.sha256()
    for name, tensor in sorted(sae.weights().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class _Pass:
    def __init__(self, attached: Attached, plan: IndexPlan, work: Path, tell: OnProgress) -> None:
        self.attached, self.plan, self.work = attached, plan, work
        self.tell = tell
        self.gathered = Gathered(
            attached.sae.shape, top=plan.top, sampled=plan.sampled, seed=plan.seed
        )

    def prepare(self) -> int | None:
        """Opens the text at the place where an earlier call stopped."""
        before = load_progress(self.work, self.plan)
        self.corpus: Corpus = open_corpus(
            self.plan.data,
            self.attached.lm,
            self.attached.hookpoint,
            sample_seed=self.plan.sample_seed,
            on_progress=lambda _, done, total: self.tell("preparing text", done, total),
        )
        if before is None:
            return None
        self.corpus.load_state_dict(before.corpus)
        self.gathered.load(before.gathered)
        return self.gathered.tokens

    @torch.no_grad()
    def read(self, stop: StopSignals) -> None:
        """Reads the rest of the text."""
        lm, sae, plan = self.attached.lm, self.attached.sae, self.plan
        hookpoint, gathered = self.attached.hookpoint, self.gathered
        at_once = _ROWS if hookpoint.side == "weight" else plan.data.batch_contexts
        committed = time.monotonic()
        while gathered.tokens < plan.tokens and (contexts := self.corpus.take(at_once)):
            batch = batch_contexts(contexts, lm, plan.data)
            x = read_batch(lm, hookpoint, batch)
            norms = torch.linalg.vector_norm(x.float(), dim=-1)
            gathered.add(make_chunk(batch, sae.encode(x), norms, gathered.contexts))
            self.tell("reading", min(gathered.tokens, plan.tokens), plan.tokens)
            stopped = stop.received
            if stopped or time.monotonic() - committed >= COMMIT_SECONDS:
                self._commit()
                committed = time.monotonic()
            if stopped is not None:
                raise InterruptedRun(
                    f"stopped by {signal.Signals(stopped).name} after {gathered.tokens:,} of {plan.tokens:,} "
                    "tokens, which are kept",
                    signal=stopped,
                    fix="run the same again: it goes on from there",
                )
        if not gathered.tokens:
            raise UsageError("there is no text to index", why="every source is empty")
        self._commit()

    def _commit(self) -> None:
        progress = Progress(self.gathered.state(), self.corpus.state_dict())
        save_progress(self.work, self.plan, progress)


def _finish(
    folder: Path,
    attached: Attached,
    plan: IndexPlan,
    gathered: Gathered,
    command: str,
    tell: OnProgress,
) -> dict[str, Any]:
    """Writes the tables, and `index.json` last: without it there is no index."""
    lm, sae = attached.lm, attached.sae
    gathered.together.prune()
    gathered.windows.prune()
    directed = np.flatnonzero(gathered.fired)
    latents = torch.from_numpy(directed)
    logits = logits_of(
        sae, lm, attached.hookpoint, latents, LOGITS, lambda d, n: tell("logits", d, n)
    )
    nearest = nearest_of(sae, latents, NEAREST, lambda d, n: tell("nearest features", d, n))
    vocabulary = _vocabulary(lm)
    (folder / INDEX).unlink(missing_ok=True)
    _write_latents(
        folder / "latents.parquet", gathered, vocabulary, logits, nearest, directed, tell
    )
    _write_contexts(folder / "contexts.parquet", gathered, vocabulary, directed, tell)
    windows = windows_table(gathered.windows, vocabulary)
    write_atomic(folder / "windows.parquet", lambda path: _write(path, windows))
    data = [source.describe() for source in plan.data.train]
    write_atomic(
        folder / GALLERY,
        as_json(make_gallery(folder, plan.weights, gathered.tokens, "; ".join(data))),
    )
    names = ("latents.parquet", "contexts.parquet", "windows.parquet")
    info = {
        "schema": SCHEMA,
        "written_by": f"hsae-hub {__version__}",
        "command": command,
        "weights": plan.weights,
        "architecture": sae.config.architecture,
        "n_parents": sae.shape.n_parents,
        "n_children": sae.shape.n_children,
        "model": {"id": lm.id, "revision": lm.revision},
        "hookpoint": plan.hookpoint,
        "data": data,
        "tokens": gathered.tokens,
        "contexts": gathered.contexts,
        "seed": plan.seed,
        "dead_latents": sae.d_sae - len(directed),
        "cofiring_tokens": len(gathered.together.numbers),
        "bins": {"a_doubling": BINS_A_DOUBLING, "lowest_power_of_two": LOWEST},
        "files": {name: file_info(folder / name).model_dump() for name in names},
        "columns": COLUMNS,
    }
    write_atomic(folder / INDEX, as_json(info))
    found: dict[str, Any] = json.loads(json.dumps(info))
    return found


def _vocabulary(lm: LanguageModel) -> pa.Array:
    known = max(lm.tokenizer.get_vocab().values()) + 1
    size = max(known, int(lm.hf.get_input_embeddings().weight.shape[0]))
    texts = token_texts(lm, range(known))
    return pa.array([*texts, *[""] * (size - known)], pa.string())


def _write_latents(
    path: Path,
    gathered: Gathered,
    vocabulary: pa.Array,
    logits: Logits | None,
    nearest: Strongest,
    directed: Ints,
    tell: OnProgress,
) -> None:
    d_sae = gathered.shape.d_sae

    def write(beside: Path) -> None:
        with pq.ParquetWriter(beside, LATENTS, compression="zstd") as writer:
            for start in range(0, d_sae, _BLOCK):
                block = np.arange(start, min(start + _BLOCK, d_sae))
                writer.write_table(
                    latents_table(gathered, vocabulary, block, logits, nearest, directed)
                )
                tell("writing features", int(block[-1]) + 1, d_sae)

    write_atomic(path, write)


def _write_contexts(
    path: Path, gathered: Gathered, vocabulary: pa.Array, directed: Ints, tell: OnProgress
) -> None:
    def write(beside: Path) -> None:
        with pq.ParquetWriter(beside, CONTEXTS, compression="zstd") as writer:
            for start in range(0, len(directed), _BLOCK // 4):
                block = directed[start : start + _BLOCK // 4]
                table = contexts_table(
                    gathered.shape, vocabulary, block, gathered.top, gathered.sampled
                )
                writer.write_table(table)
                tell("writing contexts", start + len(block), len(directed))

    write_atomic(path, write)


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")
