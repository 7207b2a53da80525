"""Training steps of every architecture, as one process does them and as each of several does: what torchrun starts.

    torchrun --nproc-per-node 2 several_processes.py FOLDER

reads FOLDER/halfway.pt and leaves FOLDER/found.pt; then the second process dies.
"""

import os
import signal
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from test_architectures import TINY

from hsae_hub.activations import StreamState
from hsae_hub.architectures import architecture, build
from hsae_hub.errors import DivergedError, HSAEError, UsageError
from hsae_hub.launch import place
from hsae_hub.ops import collective
from hsae_hub.recipes import TrainSection
from hsae_hub.training.distributed import joined, together
from hsae_hub.training.sharding import gather_, own_part
from hsae_hub.training.stats import latent_tables
from hsae_hub.training.trainer import Member, Trainer

STEPS, HALFWAY, BATCH = 24, 14, 33
IDLE = {
    "compositional": {"b_1": -100.0, "b_2": -100.0},
    "dynamic": {"b_enc": -100.0},
    "topk": {"b_enc": -1.5},
    "batch_topk": {"b_enc": -3.0},
    "matryoshka": {"b_enc": -3.0},
}
"""Initial biases of two latents that do not act, so that they die, start anew or move to another tier."""
SHARDED = [name for name in TINY if architecture(name).can_shard]
TRAIN = TrainSection(
    steps=STEPS, batch_size=BATCH, lr=0.01, adam="dense", warmup_steps=5, log_every=8
)


class Rows:
    """Batches that follow from their number; their dimensions vary more and more."""

    d_in = 8
    device = torch.device("cpu")
    wait_seconds = 0.0

    def __init__(self) -> None:
        self.origin: Any = SimpleNamespace(model=SimpleNamespace(dtype="float32"))
        self.at = 0

    @property
    def tokens(self) -> int:
        return self.at * BATCH

    def fill(self) -> None:
        pass

    def norm_sample(self) -> torch.Tensor:
        return torch.cat([self._batch() for _ in range(20)])

    def next_batch(self) -> torch.Tensor:
        return self._batch()[collective.part().rows(BATCH)]

    def _batch(self) -> torch.Tensor:
        self.at += 1
        generator = torch.Generator().manual_seed(self.at)
        return torch.randn(BATCH, 8, generator=generator) * torch.linspace(0.2, 3, 8) + 1

    def state_dict(self) -> StreamState:
        return StreamState({"at": self.at}, {})

    def load_state_dict(self, state: StreamState) -> None:
        self.at = state.values["at"]

    def close(self) -> None:
        pass


def trainer_of(names: list[str], *, shard: bool = False) -> Trainer:
    """One SAE an architecture, in double precision, so that only a mistake is larger than rounding."""
    settings = TINY | {
        "l1": TINY["l1"] | {"normalize": "standardize"},
        "compositional": TINY["compositional"] | {"reallocate_every": 5},
    }
    saes = {
        name: build({"architecture": name, "d_in": 8, **settings[name]}).double() for name in names
    }
    for name in IDLE.keys() & saes.keys():
        for bias, value in IDLE[name].items():
            saes[name].get_parameter(bias).data[:2] = value
    return Trainer(saes, Rows(), TRAIN, command="", shard=shard)


def go_on(trainer: Trainer) -> dict[str, Any]:
    """What is left of the steps: their metrics, a checkpoint halfway, and what there is at the end."""
    trainer.fill()
    lines, halfway = [], None
    while not trainer.done:
        if trainer.step == HALFWAY:
            halfway = deepcopy(trainer.checkpoint())
        lines.append(trainer.advance())
    kept = {member.name: bytes_of(member) for member in trainer.members}
    saes = {member.name: member.sae for member in trainer.members}
    for sae in saes.values():
        gather_(sae)
    stats = latent_tables(saes, trainer.stream, 3 * BATCH)
    return {
        "lines": [line for line in lines if line],
        "halfway": halfway,
        "bytes": kept,
        "weights": {name: sae.weights() for name, sae in saes.items()},
        "stats": stats,
    }


def bytes_of(member: Member) -> int:
    """What this process keeps of an SAE between steps: weights and moments."""
    moments = [moment for state in member.optimizer.state.values() for moment in state.values()]
    own = [own_part(x) for x in (*member.sae.parameters(), *moments)]
    return sum(x.numel() * x.itemsize for x in own)


def diverged(shard: bool) -> str:
    """What each process says when the last row of a batch, which is another one's, is not finite."""
    trainer = trainer_of(["topk"], shard=shard)
    batch = trainer.stream.next_batch()
    if collective.part().rank + 1 == collective.part().world:
        batch[-1, 2] = torch.inf
    trainer.stream.next_batch = lambda: batch
    try:
        trainer.advance()
    except DivergedError as error:
        return str(error.why)
    return "nothing"


def failed(rank: int) -> str:
    """What each process raises when that one fails where they work apart."""
    try:
        with together():
            if collective.part().rank == rank:
                raise UsageError("no such text")
    except HSAEError as error:
        return f"{type(error).__name__} {error.code}: {error}"
    return "nothing"


def everywhere(value: str) -> list[str]:
    found = [""] * collective.part().world
    torch.distributed.all_gather_object(found, value)
    return found


def main(folder: Path) -> None:
    with joined("cpu"):
        found: dict[str, Any] = {
            "diverged": [everywhere(diverged(shard)) for shard in (False, True)],
            "failed": [everywhere(failed(rank)) for rank in (0, 1)],
        }
        for run, names in (("replicated", list(TINY)), ("sharded", SHARDED)):
            found[run] = go_on(trainer_of(names, shard=run == "sharded"))
            resumed = trainer_of(names, shard=run == "sharded")
            resumed.restore(torch.load(folder / "halfway.pt", weights_only=False), folder)
            found[f"{run}, from one"] = go_on(resumed)
        if place().rank == 0:
            torch.save(found, folder / "found.pt")
        collective.total_count(1)
        if place().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        collective.total_count(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
