"""Run by `tests/bench/step.py` in an environment that has the peers: a training step for each line on standard input.

    python train_step.py STEP TENSORS K

STEP is a function of this file; TENSORS a safetensors file with the batch `x` and the decoder `W_dec`, whose transpose
is the encoder, so that all choose the same latents; biases are 0. All are float32 on one thread. Each answer is a line
of JSON: first the error of the batch before any step, then seconds of the clock and of the processor for each step.
No latent is dead in any of them, so that no auxiliary loss is computed.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import Tensor


class Peer(NamedTuple):
    step: Callable[[], object]
    reconstruct: Callable[[], Tensor]


def sae_lens(x: Tensor, W_dec: Tensor, k: int) -> Peer:
    """`SAETrainer.step`, SAELens' own, without its logging: forward, backward, clipping at 1, its Adam and schedule,
    and its counts of how often latents fire. Decoder rows are not held at norm 1 (it rescales acts by their norms)."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    n, d = W_dec.shape
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=n, k=k))
    sae.W_enc.data.copy_(W_dec.T)
    sae.W_dec.data.copy_(W_dec)
    sizes = {"total_training_samples": 10**9, "train_batch_size_samples": len(x)}
    config = SAETrainerConfig(**sizes, lr=1e-5, lr_end=1e-6)
    trainer = SAETrainer(config, sae, iter(()))
    return Peer(lambda: trainer.step(x), lambda: sae(x))


def dictionary_learning(x: Tensor, W_dec: Tensor, k: int) -> Peer:
    """`TopKTrainer.update`, its own: forward, backward, projection of the decoder's gradient, clipping at 1, its Adam
    and schedule, decoder rows to norm 1, and its counts of when latents fired."""
    # it asks for an nnsight that no other package goes with; training needs none
    sys.modules.update({name: MagicMock() for name in ("nnsight", "zstandard")})
    Trainer = import_module("dictionary_learning.trainers.top_k").TopKTrainer
    n, d = W_dec.shape
    words = {"steps": 10**6, "activation_dim": d, "dict_size": n, "k": k, "lr": 1e-5}
    trainer = Trainer(**words, layer=0, lm_name="", device="cpu")
    trainer.ae.encoder.weight.data.copy_(W_dec)
    trainer.ae.decoder.weight.data.copy_(W_dec.T)
    steps = iter(range(1, 10**6))  # step 0 would set a bias
    return Peer(lambda: trainer.update(next(steps), x), lambda: trainer.ae(x))


def sparsify_adam(x: Tensor, W_dec: Tensor, k: int) -> Peer:
    """What sparsify's `Trainer.fit` does with a batch, by its own modules, with torch's Adam (`optimizer="adam"`): the
    trainer itself cannot be had without a language model. Forward, backward, projection of the decoder's gradient,
    update, and decoder rows to norm 1; it does not clip."""
    sae = _sparse_coder(W_dec, k)
    return _sparsify(sae, x, torch.optim.Adam(sae.parameters(), lr=1e-5))


def sparsify_signum(x: Tensor, W_dec: Tensor, k: int) -> Peer:
    """The same with its default, sign descent with momentum, wrapped to need no schedule."""
    from schedulefree import ScheduleFreeWrapper
    from sparsify.sign_sgd import SignSGD

    sae = _sparse_coder(W_dec, k)
    optimizer = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=1e-5), momentum=0.95)
    optimizer.train()
    return _sparsify(sae, x, optimizer)


def _sparse_coder(W_dec: Tensor, k: int) -> torch.nn.Module:
    from sparsify import SparseCoder, SparseCoderConfig

    n, d = W_dec.shape
    sae = SparseCoder(d, SparseCoderConfig(num_latents=n, k=k), dtype=torch.float32)
    sae.encoder.weight.data.copy_(W_dec)
    sae.encoder.bias.data.zero_()
    sae.W_dec.data.copy_(W_dec)
    return sae


def _sparsify(sae: torch.nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> Peer:
    did_fire = torch.zeros(sae.num_latents, dtype=torch.bool)

    def step() -> None:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x)
        did_fire[out.latent_indices.flatten()] = True
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return Peer(step, lambda: sae(x).sae_out)


def main() -> None:
    torch.set_num_threads(1)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what the peers themselves print
    name, path, k = sys.argv[1:]
    tensors = load_file(path)
    make = {f.__name__: f for f in (sae_lens, dictionary_learning, sparsify_adam, sparsify_signum)}
    peer = make[name](tensors["x"], tensors["W_dec"], int(k))
    with torch.no_grad():
        error = (tensors["x"] - peer.reconstruct()).square().sum(-1).mean().item()
    print(json.dumps({"error": error}), file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        peer.step()
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main()
