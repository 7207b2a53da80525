"""`hsae index` beside the language model and the encoder alone, on the same contexts.

    python tests/bench/index.py [--rounds 5] [--quick]

The SAE inside the package on its embedded model and documentation that Python carries. An index also keeps contexts
and statistics of every latent, the tokens that each pushes, and its neighbours; those two do not grow with the text.
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from harness import Findings, Scale, interleaved, run_part

from hsae_hub.activations import WindowStream, batch_contexts, read_batch
from hsae_hub.features import build_index
from hsae_hub.hub import load
from hsae_hub.models import Hookpoint, load_language_model
from hsae_hub.recipes import DataConfig, DataSource


def measure(found: Findings, scale: Scale) -> None:
    """Both read as many tokens."""
    tokens = scale.pick(20_000, 1_000)
    text = DataConfig(train=[DataSource(builtin="python-docs")])
    sae, lm = load("tiny"), load_language_model(device="cpu")
    place = Hookpoint.parse(sae.info.config.hookpoint.path)
    windows = WindowStream(text, lm, seed=0, sample_seed=0)
    contexts = windows.take(tokens // (text.context_length - 1) + 1)
    found.sizes = {"tokens": tokens, "context": text.context_length, "latents": sae.d_sae}

    def alone() -> None:
        for at in range(0, len(contexts), text.batch_contexts):
            batch = batch_contexts(contexts[at : at + text.batch_contexts], lm, text)
            sae.encode(read_batch(lm, place, batch))

    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name) / str(number) for number in count())
        ways = {
            "model and encoder": alone,
            "index": lambda: build_index(sae, text, next(folders), tokens=tokens, model=lm),
        }
        found.add_times(interleaved(ways, scale.rounds))
    found.ratio("index", "model and encoder")


if __name__ == "__main__":
    run_part(Findings(part="index", title="An index of features"), measure)
