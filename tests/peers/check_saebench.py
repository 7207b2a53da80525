"""Run by `tests/test_saebench.py` in an environment that has SAEBench: its own code on our SAEs, as it takes them.

SAEBench pins an older numpy than this package, so it is installed without what it names; what is used of it here runs
with the newer one.

Its argument is a folder with an SAE in each subfolder, of activations of width 8. Prints what it measured, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.absorption.prompting import first_letter_formatter
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import get_featurewise_weight_based_metrics, run_evals
from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

from hsae_hub.artifact import read_artifact
from hsae_hub.interop.saebench import SAEBenchSAE, for_saebench

WORDS = "apple ant arrow bird bread cat car dog door egg".split()
CONTEXT = 16


class Tokens:
    """What SAEBench asks of the store that feeds it."""

    context_size = CONTEXT
    store_batch_size_prompts = 4

    def __init__(self) -> None:
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def get_batch_tokens(self, prompts: int) -> torch.Tensor:
        return torch.randint(3, 30, (prompts, CONTEXT), generator=self.generator)


def language_model() -> Any:
    """A random one of two layers, with a tokenizer of a few words."""
    marks = ["[BOS]", "[UNK]", "[PAD]", ":", *"ABCDE"]
    vocabulary = {word: i for i, word in enumerate([*marks, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "[BOS]", "eos_token": "[PAD]", "pad_token": "[PAD]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, add_bos_token=True, name_or_path="local", **special
    )
    config = HookedTransformerConfig(
        n_layers=2, d_model=8, n_ctx=128, d_head=4, n_heads=2, d_vocab=30, act_fn="relu", seed=0
    )
    return HookedTransformer(config, tokenizer=tokenizer)


def absorption(model: Any, sae: Any) -> dict[str, Any]:
    calculator = FeatureAbsorptionCalculator(
        model,
        icl_word_list=WORDS[:4],
        max_icl_examples=2,
        answer_formatter=first_letter_formatter(),
    )
    with torch.no_grad():
        probe = sae.W_dec[:5].sum(0)
    found = calculator.calculate_absorption(
        sae, WORDS[4:], probe, [0, 1], layer=1, show_progress=False
    )
    word = found.word_results[0]
    cache = model.run_with_cache([word.prompt])[1]
    acts = sae.encode(cache["blocks.1.hook_resid_post"][:, -2])[0]
    for score in [*word.main_feature_scores, *word.top_projection_feature_scores]:
        assert abs(score.activation - float(acts[score.feature_id])) < 1e-5
    return {"fractions": [float(w.absorption_fraction) for w in found.word_results]}


def check(folder: Path, view: Any) -> dict[str, Any]:
    model = language_model()
    ours = for_saebench(read_artifact(folder).sae, view=view)
    _, sae, _ = load_and_format_sae("ours", ours, "cpu")
    assert isinstance(sae, SAEBenchSAE)
    config = CoreEvalConfig(
        batch_size_prompts=4,
        n_eval_reconstruction_batches=2,
        n_eval_sparsity_variance_batches=2,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
    )
    with torch.no_grad():
        measured, by_latent = run_evals(sae, Tokens(), model, config)
        weights = get_featurewise_weight_based_metrics(sae)
        store = Tokens()
        tokens = torch.cat([store.get_batch_tokens(4) for _ in range(2)])
        x = model.run_with_cache(tokens)[1][sae.cfg.hook_name]
        acts = sae.encode(x)
        l0 = float((acts != 0).float().sum(-1).mean())
        ratio = float((sae.decode(acts).norm(dim=-1) / x.norm(dim=-1)).mean())
    assert all(len(values) == sae.cfg.d_sae for values in by_latent.values())
    for values in weights.values():
        assert all(abs(value) < 1e6 for value in values)  # nan is not
    return {
        "l0": [measured["sparsity"]["l0"], l0],
        "l2_ratio": [measured["shrinkage"]["l2_ratio"], ratio],
        "ce_loss_score": measured["model_performance_preservation"]["ce_loss_score"],
        "width": len(weights["encoder_norm"]),
        "dictionary": json.loads(json.dumps(sae.cfg.to_dict()))["d_sae"],
        **absorption(model, sae),
    }


def main() -> None:
    folders = sorted(Path(sys.argv[1]).iterdir())
    found = {f"{p.name} {view}": check(p, view) for p in folders for view in ("flat", "parents")}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
