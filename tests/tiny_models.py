"""Random language models of every family, small enough to be made in a test."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from hsae_hub.models import LanguageModel, load_language_model

WORDS = "the history of a town rain began in and then it was over again by river".split()
WIDTH = 16
_COMMON = {
    "vocab_size": 40,
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 39,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gemma2": Gemma2Config(**_COMMON, num_key_value_heads=1, head_dim=8, sliding_window=8),
    "llama": LlamaConfig(**_COMMON, num_key_value_heads=2),
    "qwen2": Qwen2Config(**_COMMON, num_key_value_heads=2),
    "qwen3": Qwen3Config(**_COMMON, num_key_value_heads=2, head_dim=8),
    "gpt_neox": GPTNeoXConfig(**_COMMON),
    "gpt2": GPT2Config(
        vocab_size=40,
        n_embd=WIDTH,
        n_layer=3,
        n_head=2,
        n_positions=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=39,
    ),
}
MODULES = {
    "gemma2": ("model.layers", "post_attention_layernorm", "post_feedforward_layernorm"),
    "llama": ("model.layers", "self_attn", "mlp"),
    "qwen2": ("model.layers", "self_attn", "mlp"),
    "qwen3": ("model.layers", "self_attn", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "attention", "mlp"),
    "gpt2": ("transformer.h", "attn", "mlp"),
}
"""Where the layers are, and what in a layer ends with what attention and MLP add to the stream."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word a token, with padding, BOS (which it does not add) and EOS."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<eos>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def tiny_model(family: str) -> LanguageModel:
    """The same weights at every call."""
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(CONFIGS[family])
    return load_language_model((hf, tiny_tokenizer()), device="cpu")
