"""`hsae cache make` beside the language model alone, which reads the same contexts up to the same layer.

    python tests/bench/harvest.py [--rounds 5] [--quick]

The embedded model on documentation that Python carries; both load the model. A harvest also reads and cuts the text,
counts statistics, shuffles through the disk and hashes what it writes.
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from harness import Findings, Scale, interleaved, run_part

from hsae_hub.activations import WindowStream, batch_contexts, harvest, read_batch
from hsae_hub.models import Hookpoint, load_language_model
from hsae_hub.recipes import DataConfig, DataSource, load_recipe


def measure(found: Findings, scale: Scale) -> None:
    """Both read as many tokens."""
    tokens = scale.pick(20_000, 1_000)
    text = DataConfig(train=[DataSource(builtin="python-docs")], heldout_fraction=0.05)
    recipe = load_recipe("gemma2-tiny-en/l3_hsae").recipe.model_copy(update={"data": text})
    place = Hookpoint.parse(recipe.hookpoint)
    windows = WindowStream(text, load_language_model(device="cpu"), seed=0, sample_seed=0)
    contexts = windows.take(tokens // (text.context_length - 1) + 1)
    found.sizes = {"tokens": tokens, "context": text.context_length}

    def alone() -> None:
        lm = load_language_model(device="cpu")
        for at in range(0, len(contexts), text.batch_contexts):
            read_batch(lm, place, batch_contexts(contexts[at : at + text.batch_contexts], lm, text))

    with tempfile.TemporaryDirectory() as name:
        stores = (Path(name) / str(number) for number in count())
        ways = {
            "model alone": alone,
            "harvest": lambda: harvest(recipe, next(stores), tokens=tokens, device="cpu"),
        }
        found.add_times(interleaved(ways, scale.rounds))
    found.ratio("harvest", "model alone")


if __name__ == "__main__":
    run_part(Findings(part="harvest", title="Activations to disk"), measure)
