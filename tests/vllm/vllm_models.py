"""The models, SAEs and edits of check_vllm.py."""

from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from hsae_hub.architectures import SAE, build
from hsae_hub.artifact import LatentTable, ModelConfig, read_artifact, save_sae
from hsae_hub.attach import Edit, Gate
from hsae_hub.models import Hookpoint, LanguageModel, load_language_model, tokenizer_sha256

LAYERS = 3
_SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 39,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    # its soft cap is not exact in vLLM's attention on a CPU; the embedded model has it
    "gemma2": Gemma2Config(
        **_SHAPE, num_key_value_heads=1, head_dim=32, attn_logit_softcapping=None
    ),
    "llama": LlamaConfig(**_SHAPE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**_SHAPE, num_key_value_heads=1, head_dim=32),
    "gpt2": GPT2Config(
        vocab_size=40,
        n_embd=64,
        n_layer=LAYERS,
        n_head=2,
        n_positions=128,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=39,
    ),
}
"""Random ones, with heads of a size that vLLM's attention on a CPU knows."""
ENGLISH = [
    "The history of the town began in",
    "Rain",
    "In 1871 the first railway was opened",
    "Rain",
]
WORDS = ["the history of a town", "rain", "began in and then it was over again", "rain"]
GATES = {
    "always": Gate(),
    "where the parent fires": Gate(fires="parent"),
    "after words": Gate(after="history of"),
    "positions": Gate(positions=(1, 3, -1)),
    "prompt": Gate(part="prompt"),
    "generated": Gate(part="generated"),
}


def embedded() -> LanguageModel:
    """The embedded Gemma-2, in transformers."""
    return load_language_model(device="cpu")


def made(family: str, folder: Path) -> LanguageModel:
    """A random model, saved in a folder and in transformers."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[family]).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_language_model(folder, device="cpu")


def saved(folder: Path, lm: LanguageModel, place: str) -> SAE[Any]:
    """A random SAE of a place as it comes back from disk, with a made-up table of p99.9."""
    config = {"architecture": "hsae", "n_parents": 64, "n_children": 4, "d_subspace": 4, "k": 8}
    hookpoint = Hookpoint.parse(place)
    built = build({**config, "d_in": lm.d_model}, seed=len(place))
    table = LatentTable(
        torch.linspace(0.1, 0.9, built.d_sae), torch.full((built.d_sae,), 0.01), 5000
    )
    model = ModelConfig(id=lm.id, tokenizer_sha256=tokenizer_sha256(lm.tokenizer))
    save_sae(built, folder, model=model, hookpoint=hookpoint.config(lm), stats=table)
    return read_artifact(folder).sae


def edits(lm: LanguageModel, gate: Gate) -> list[Edit]:
    """One of every mode, on features that may fire."""
    width = torch.Generator().manual_seed(3)
    direction = tuple(torch.randn(lm.d_model, generator=width).tolist())
    told: list[dict[str, Any]] = [
        {"feature": "12/3", "mode": "full", "strength": 1.5},
        {"feature": "12/3", "mode": "relative", "strength": 2.0},
        {"feature": "12/3", "mode": "set", "strength": 1.2},
        {"feature": "20", "mode": "scale", "strength": -0.5},
        {"feature": "20", "mode": "ablate"},
        {"feature": "12/3", "mode": "swap:12/0"},
        {"feature": "12/3", "mode": "project_out"},
    ]
    found = [Edit(gate=gate, **each) for each in told]
    if gate.fires is None:
        found.append(Edit(direction=direction, strength=0.4, gate=gate))
    return found
