"""A training step of several architectures, beside our flat one's and beside those of other toolkits.

    python tests/bench/step.py [--rounds 5] [--quick]

A step is `Trainer.advance`: forward, backward, clipping of the global norm, Adam, and what holds decoder rows at norm
1, in float32 on one thread. Each SAE has one batch, sums of 32 of its own decoder rows of Zipf's popularity. `hsae` is
without penalties here (see penalties.py); its children live in 8 dimensions. Where kernels are compiled (the extra
`fast`) plain torch takes its turns, too. With `HSAE_PEERS_PYTHON` (see `make
bench-peers`) the peers' own steps take turns with these, on the same tokens and from the same weights as `topk`, which
is checked by the error of their first reconstruction; what each of them does in a step: tests/peers/train_step.py.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
from harness import Findings, Scale, Way, interleaved, run_part
from harness.kernels import in_plain_torch
from harness.peers import PEERS, Peer, peer_versions
from harness.training import FREE, flat, trainer, tree
from safetensors.torch import save_file

from hsae_hub.training.memory import kept_memory
from hsae_hub.training.trainer import Trainer

BARS = {
    ("topk", "sae_lens"): 0.2,
    ("topk", "dictionary_learning"): 0.2,
    ("topk", "sparsify_adam"): 0.75,
    ("topk", "sparsify_signum"): None,
    ("hsae", "sae_lens"): 0.22,
    ("hsae", "dictionary_learning"): 0.20,
    ("hsae", "sparsify_adam"): 1.0,
    ("hsae", "sparsify_signum"): None,
}


def started(ours: Trainer, folder: Path, k: int, stack: ExitStack) -> dict[str, Way]:
    """The steps of the peers that are here, which reconstruct the batch as `ours` does before its first step."""
    sae, x = ours.members[0].sae, ours.stream.next_batch()
    path = folder / "tensors.safetensors"
    save_file({"x": x, "W_dec": sae.W_dec.detach().contiguous()}, path)
    with torch.no_grad():
        error = float((x - sae(x).sae_out).square().sum(-1).mean())
    here = peer_versions()
    names = [name for name, package in PEERS.items() if package in here]
    peers = {name: stack.enter_context(Peer(name, path, k)) for name in names}
    for name, peer in peers.items():
        theirs = peer.ready()
        if abs(theirs - error) > 1e-3 * error:
            raise ValueError(f"{name} reconstructs with error {theirs}, topk with {error}")
    return {name: peer.step for name, peer in peers.items()}


def others(d: int, n: int, k: int, batch: int) -> dict[str, Trainer]:
    """Other architectures; `group` as it starts, with half of all latents active, and with `k`, as in training."""
    shapes = {
        "batch_topk": flat("batch_topk", d, n, k),
        "matryoshka": {**flat("matryoshka", d, n, k), "prefixes": [n // 16, n // 4, n]},
        "switch": {**flat("switch", d, n, k), "n_experts": 8},
        f"group, {k} act": flat("group", d, n, k),
        "group": flat("group", d, n, k),
    }
    made = {name: trainer(shape, batch) for name, shape in shapes.items()}
    few = made[f"group, {k} act"]
    sae = few.members[0].sae
    with torch.no_grad():
        x, _, _ = sae.normalize(few.stream.next_batch())
        sae.get_parameter("b_enc").fill_(-float((x @ sae.W_enc).topk(k).values[:, -1].mean()))
    return made


@kept_memory()  # as while `hsae train` runs
def measure(found: Findings, scale: Scale) -> None:
    """The flat one, the tree and the peers in turn; then the flat one and the other architectures."""
    d, n, k, batch = scale.sizes()
    compiled = find_spec("numba") is not None
    found.sizes = {"d_in": d, "latents": n, "k": k, "batch": batch, "children": 16, "subspace": 8}
    topk = trainer(flat("topk", d, n, k), batch)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        peers = started(topk, Path(folder), k, stack)
        hsae = trainer({**tree(d, n, k), **FREE}, batch)
        ours: dict[str, Way] = {"topk": topk.advance, "hsae": hsae.advance}
        if compiled:
            ours |= {f"{name}, plain": in_plain_torch(work) for name, work in ours.items()}
        found.add_times(interleaved({**ours, **peers}, scale.rounds, warmup=2))
        del hsae, ours
    found.ratio("hsae", "topk", bar=1.3 if compiled else 1.8)
    if compiled:
        found.ratio("hsae, plain", "topk, plain", bar=1.8)
    for (of, over), bar in BARS.items():
        if over in peers:
            found.ratio(of, over, bar=bar)
    if not peers:
        named = "names none" if "HSAE_PEERS_PYTHON" in os.environ else "is not set"
        found.notes.append(f"no peers: HSAE_PEERS_PYTHON {named}; make bench-peers installs them")
    ways = {name: made.advance for name, made in others(d, n, k, batch).items()}
    times = interleaved({"topk ": topk.advance, **ways}, scale.rounds, warmup=2)
    found.add_times(times)
    for name in ways:
        found.ratio(name, "topk ")


if __name__ == "__main__":
    run_part(Findings(part="step", title="A training step"), measure)
