"""Golden files for `tests/test_interop.py`: SAEs as other toolkits save them, and what their own code computes.

Run by hand at the root of the checkout, in the environment that `make peers` builds:

    .venv/peers/bin/python tests/peers/make_interop.py

Another folder than `tests/data/interop` may be named as its argument. Each folder in it is one SAE as its toolkit
writes it, float64 where the toolkit can; `golden.safetensors` beside it has `x`, the tokens, and `acts` and `sae_out`
that the toolkit computes of them after it has read the folder again. What wrote Gemma Scope's and OpenAI's files is in
no package: these are written here, with the names that SAELens' reader and OpenAI's own expect.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import sae_lens
import torch
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor, nn

# dictionary_learning asks for an nnsight that no other package goes with; reading and writing SAEs needs none.
sys.modules.update({name: MagicMock() for name in ("nnsight", "zstandard")})
load_dictionary = import_module(
    "dictionary_learning.utils"
).load_dictionary  # which imports all classes
AutoEncoder = import_module("dictionary_learning.dictionary").AutoEncoder

D_IN, D_SAE, BATCH, K = 8, 16, 12, 3
FOLDER = Path(__file__).parent.parent / "data" / "interop"
METADATA = {
    "model_name": "gemma-2-2b",
    "hook_name": "blocks.20.hook_resid_post",
    "context_size": 128,
    "prepend_bos": True,
    "exclude_special_tokens": True,
}


def draw(sae: nn.Module, seed: int) -> None:
    """Weights as they may be in the middle of training: nothing is 0, and no decoder row has norm 1."""
    rng = np.random.default_rng(seed)
    for name, weight in [*sae.named_parameters(), *sae.named_buffers()]:
        value = rng.standard_normal(tuple(weight.shape))
        if "threshold" in name:
            value = 0.2 * np.exp(0.3 * value)
        elif weight.ndim == 2:
            value /= D_IN**0.5
        else:
            value = 0.3 * value
        if weight.is_floating_point():
            weight.data.copy_(torch.as_tensor(value))


def tokens(seed: int, scale: float = 1.0) -> Tensor:
    """Off the origin, with dimensions of different size."""
    x = np.random.default_rng(seed).standard_normal((BATCH, D_IN)) * np.linspace(0.5, 2, D_IN) + 0.4
    return torch.from_numpy(x) * scale


def golden(folder: Path, x: Tensor, acts: Tensor, sae_out: Tensor) -> None:
    assert 0 < (acts > 0).double().mean() < 1
    tensors = {"x": x, "acts": acts, "sae_out": sae_out}
    save_file(
        {n: t.detach().contiguous() for n, t in tensors.items()}, folder / "golden.safetensors"
    )


def sae_lens_6(
    folder: Path, cls: str, metadata: dict[str, Any] = METADATA, **settings: Any
) -> None:
    config = getattr(sae_lens, f"{cls}Config")(
        d_in=D_IN,
        d_sae=D_SAE,
        dtype="float64",
        metadata=sae_lens.saes.sae.SAEMetadata(**metadata),
        **settings,
    )
    sae = getattr(sae_lens, cls)(config)
    draw(sae, 1)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold = torch.tensor(0.4, dtype=torch.float64)
    save = getattr(sae, "save_inference_model", sae.save_model)
    save(folder)
    check_sae_lens(folder)


def check_sae_lens(folder: Path) -> None:
    saved, x = sae_lens.SAE.load_from_disk(folder), tokens(2)
    acts = saved.encode(x)
    golden(folder, x, acts, saved.decode(acts))


def sae_lens_5(folder: Path, cls: str, **old: Any) -> None:
    """As release 5 wrote it; release 6 still reads it."""
    sae_lens_6(folder, cls, **({"k": K} if cls == "TopKSAE" else {}))
    cfg = {
        "architecture": "standard",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "context_size": 128,
        "model_name": "gpt2-small",
        "hook_name": "blocks.5.hook_resid_pre",
        "hook_layer": 5,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "Skylion007/openwebtext",
        "normalize_activations": "none",
        "dtype": "torch.float64",
        "device": "cpu",
        "sae_lens_training_version": "5.0.0",
        **old,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    check_sae_lens(folder)


def gemma_scope(folder: Path) -> None:
    """The keys of the released files; read by SAELens' own loader of them."""
    rng = np.random.default_rng(3)
    draw_ = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    arrays = {
        "W_enc": draw_(D_IN, D_SAE),
        "W_dec": draw_(D_SAE, D_IN),
        "b_enc": 0.3 * draw_(D_SAE),
        "b_dec": draw_(D_IN),
        "threshold": np.abs(draw_(D_SAE)),
    }
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **arrays)
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    gemma(folder, state)


def gemma_scope_2(folder: Path) -> None:
    state = {}
    rng = np.random.default_rng(4)
    shapes = {"w_enc": (D_IN, D_SAE), "w_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
    for name, shape in [*shapes.items(), ("threshold", (D_SAE,))]:
        state[name] = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    state["threshold"] = state["threshold"].abs()
    folder.mkdir(parents=True)
    save_file(state, folder / "params.safetensors")
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.13.output",
        "hf_hook_point_out": "model.layers.13.output",
    }
    (folder / "config.json").write_text(json.dumps(config))
    gemma(folder, {n.replace("w_", "W_"): t for n, t in state.items()})


def gemma(folder: Path, state: dict[str, Tensor]) -> None:
    """Both are JumpReLU SAEs that do not take away `b_dec`, by all readers of them."""
    config = sae_lens.JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False)
    sae = sae_lens.JumpReLUSAE(config)
    sae.load_state_dict(state)
    x = tokens(5).float()
    acts = sae.encode(x)
    golden(folder, x, acts, sae.decode(acts))


def dictionary_learning(folder: Path, cls: str, *arguments: Any) -> None:
    """`arguments` are those of the class after its sizes: k, widths of groups."""
    sae = getattr(sys.modules[load_dictionary.__module__], cls)(D_IN, D_SAE, *arguments)
    draw(sae, 6)
    folder.mkdir(parents=True)
    torch.save(sae.state_dict(), folder / "ae.pt")
    trainer = {
        "dict_class": cls,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": 12,
        "lm_name": "google/gemma-2-2b",
        "submodule_name": None,
        **({"k": arguments[0]} if arguments else {}),
    }
    buffer = {"d_submodule": D_IN, "io": "out", "n_ctxs": 3, "ctx_len": 32}
    (folder / "config.json").write_text(
        json.dumps({"trainer": trainer, "buffer": buffer}, indent=4)
    )
    with patch.object(AutoEncoder, "normalize_decoder"):  # which it does unless told not to
        saved, _ = load_dictionary(str(folder), "cpu")
    x = tokens(7).float()
    acts = saved.encode(x)
    golden(folder, x, acts, saved.decode(acts))


def sparsify(folder: Path) -> None:
    config = SparseCoderConfig(num_latents=D_SAE, k=K)
    sae = SparseCoder(D_IN, config, dtype=torch.float64)
    draw(sae, 8)
    sae.save_to_disk(folder)
    (folder.parent / "config.json").write_text(json.dumps({"model": "HuggingFaceTB/SmolLM2-135M"}))
    saved, x = SparseCoder.load_from_disk(folder), tokens(9)
    out = saved.encode(x)
    acts = torch.zeros(BATCH, D_SAE, dtype=torch.float64)
    acts.scatter_(1, out.top_indices, out.top_acts)
    golden(folder, x, acts, saved.decode(out.top_acts, out.top_indices))


def openai(folder: Path, activation: str) -> None:
    """Its state dict, and its formulas (Gao et al. 2024): `LayerNorm` only where there is a top-k."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(10)
    new = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32))  # noqa: E731
    state: dict[str, Any] = {
        "pre_bias": new(D_IN),
        "latent_bias": 0.3 * new(D_SAE),
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.int64),
        "latents_activation_frequency": torch.ones(D_SAE),
        "latents_mean_square": torch.zeros(D_SAE),
        "encoder.weight": new(D_SAE, D_IN),
        "decoder.weight": new(D_IN, D_SAE),
        "activation": activation,
        "activation_state_dict": {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {},
    }
    torch.save(state, folder / "6.pt")
    x = tokens(11, 3.0).float()
    mean, std = torch.zeros(BATCH, 1), torch.ones(BATCH, 1)
    if activation == "TopK":
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    normal = (x - mean) / (std + (1e-5 if activation == "TopK" else 0))
    pre = (normal - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"]
    acts = pre.relu()
    if activation == "TopK":
        top = pre.topk(K)
        acts = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    out = acts @ state["decoder.weight"].T + state["pre_bias"]
    golden(folder, x, acts, out * std + mean)


def main(folder: Path) -> None:
    made: dict[str, Callable[[Path], None]] = {
        "sae_lens/standard": lambda at: sae_lens_6(at, "StandardSAE"),
        "sae_lens/standard_no_pre": lambda at: sae_lens_6(
            at, "StandardSAE", apply_b_dec_to_input=False
        ),
        "sae_lens/standard_layer_norm": lambda at: sae_lens_6(
            at, "StandardSAE", normalize_activations="layer_norm"
        ),
        "sae_lens/topk": lambda at: sae_lens_6(at, "TopKSAE", k=K),
        "sae_lens/topk_rescaled": lambda at: sae_lens_6(
            at, "TopKSAE", k=K, rescale_acts_by_decoder_norm=True
        ),
        "sae_lens/jumprelu": lambda at: sae_lens_6(at, "JumpReLUSAE"),
        "sae_lens/jumprelu_norm": lambda at: sae_lens_6(
            at, "JumpReLUSAE", normalize_activations="constant_norm_rescale"
        ),
        "sae_lens/gated": lambda at: sae_lens_6(at, "GatedSAE"),
        "sae_lens/topk_no_pre": lambda at: sae_lens_6(
            at, "TopKSAE", k=K, apply_b_dec_to_input=False
        ),
        "sae_lens/gated_no_pre": lambda at: sae_lens_6(at, "GatedSAE", apply_b_dec_to_input=False),
        "sae_lens/batchtopk": lambda at: sae_lens_6(at, "BatchTopKTrainingSAE", k=K),
        "sae_lens/matryoshka": lambda at: sae_lens_6(
            at, "MatryoshkaBatchTopKTrainingSAE", k=K, matryoshka_widths=[4, 10, D_SAE]
        ),
        "sae_lens_5/standard": lambda at: sae_lens_5(at, "StandardSAE"),
        "sae_lens_5/topk": lambda at: sae_lens_5(
            at, "TopKSAE", activation_fn_str="topk", activation_fn_kwargs={"k": K}
        ),
        "sae_lens_5/jumprelu": lambda at: sae_lens_5(at, "JumpReLUSAE", architecture="jumprelu"),
        "sae_lens_5/gated": lambda at: sae_lens_5(at, "GatedSAE", architecture="gated"),
        "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": gemma_scope,
        "gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium": gemma_scope_2,
        "dictionary_learning/auto_encoder": lambda at: dictionary_learning(at, "AutoEncoder"),
        "dictionary_learning/auto_encoder_new": lambda at: dictionary_learning(
            at, "AutoEncoderNew"
        ),
        "dictionary_learning/gated": lambda at: dictionary_learning(at, "GatedAutoEncoder"),
        "dictionary_learning/jumprelu": lambda at: dictionary_learning(at, "JumpReluAutoEncoder"),
        "dictionary_learning/topk": lambda at: dictionary_learning(at, "AutoEncoderTopK", K),
        "dictionary_learning/batch_topk": lambda at: dictionary_learning(at, "BatchTopKSAE", K),
        "dictionary_learning/matryoshka": lambda at: dictionary_learning(
            at, "MatryoshkaBatchTopKSAE", K, [4, 4, 8]
        ),
        "sparsify/layers.10": sparsify,
        "openai/resid_post_mlp_v5_32k/topk": lambda at: openai(at, "TopK"),
        "openai/resid_post_mlp/relu": lambda at: openai(at, "ReLU"),
    }
    for name, make in made.items():
        make(folder / name)


if __name__ == "__main__":
    torch.manual_seed(0)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
