"""What the decoder directions say without any text: the tokens that they push, and which are alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hsae_hub.architectures import SAE
from hsae_hub.models import Hookpoint, LanguageModel, layer_list
from hsae_hub.ops import product

_BLOCK = 2048
"""Latents whose directions are in memory at once."""
_LOGITS = 1 << 26
"""Most logits in memory at once: 256 MB in float32."""

OnBlock = Callable[[int, int], None]


class Strongest(NamedTuple):
    """Of each latent the `n` largest of something, in order, and what they belong to."""

    values: Float[Tensor, "latents n"]
    indices: Int64[Tensor, "latents n"]


class Logits(NamedTuple):
    """Tokens that latents make likelier, and less likely."""

    top: Strongest
    bottom: Strongest


class FinalNorm(NamedTuple):
    """The last norm before the unembedding, as far as it is linear."""

    gain: Float[Tensor, " d"]
    """What it multiplies each dimension of a vector of root mean square 1 with."""
    centres: bool
    """Whether it takes the mean away first, as LayerNorm does."""

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Directions behind it, for a residual of root mean square 1."""
        if self.centres:
            rows = rows - rows.mean(-1, keepdim=True)
        return rows * self.gain


@torch.no_grad()
def final_norm(lm: LanguageModel) -> FinalNorm:
    """Measures a model's last norm on vectors of root mean square 1: whatever its class, how it scales is seen.

    A norm also divides by the size of the whole residual, which no single direction knows: this is left out, so that
    logits are those of a token whose residual has root mean square 1 in the end. Without a norm the gain is 1.
    """
    probe = torch.ones(lm.d_model, device=lm.device, dtype=lm.dtype)
    probe[1::2] = -1
    norm = _norm_module(lm)
    if norm is None:
        return FinalNorm(torch.ones_like(probe).float(), False)
    above, below, shifted = (norm(x[None])[0].float() for x in (probe, -probe, probe + 1))
    gain = (above - below) / 2 * probe.float()
    return FinalNorm(gain, bool(torch.allclose(shifted, above, rtol=1e-2, atol=1e-3)))


def _norm_module(lm: LanguageModel) -> nn.Module | None:
    path, layers = layer_list(lm.hf)
    parent = lm.hf.get_submodule(path.rpartition(".")[0]) if "." in path else lm.hf
    beside = [child for child in parent.children() if child is not layers]
    norms = [child for child in beside if "norm" in type(child).__name__.lower()]
    return norms[-1] if norms else None


@torch.no_grad()
def logits_of(
    sae: SAE[Any],
    lm: LanguageModel,
    hookpoint: Hookpoint,
    latents: Int64[Tensor, " latents"],
    n: int,
    on_block: OnBlock,
) -> Logits | None:
    """The tokens whose logits a unit act of each latent raises and lowers most, above the mean over all tokens.

    The direction goes straight to the unembedding, as if no layer came between; for the rows of an embedding it is
    compared with these rows. Soft capping, which keeps the order, is left out. None where the direction does not live
    in the residual stream.
    """
    unembedding = lm.hf.get_output_embeddings()
    if unembedding is None or (sae.d_in != lm.d_model):
        return None
    weight = unembedding.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().float()
    norm = final_norm(lm) if hookpoint.side != "weight" else None
    known = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    known[[i for i in lm.tokenizer.get_vocab().values() if i < len(weight)]] = True
    n = min(n, int(known.sum()))
    parts: list[list[Tensor]] = [[], [], [], []]
    blocks = torch.split(latents, max(1, min(_BLOCK, _LOGITS // len(weight))))
    for number, block in enumerate(blocks):
        rows = sae.decoder_rows(block.to(sae.device)).float().to(weight.device)
        logits = product(rows if norm is None else norm(rows), weight.T)
        logits -= logits[:, known].mean(-1, keepdim=True)
        top = logits.masked_fill(~known, -torch.inf).topk(n)
        bottom = logits.masked_fill(~known, torch.inf).topk(n, largest=False)
        found = (top.values, top.indices, bottom.values, bottom.indices)
        for part, tensor in zip(parts, found, strict=True):
            part.append(tensor.cpu())
        on_block(number + 1, len(blocks))
    values = [torch.cat(part) for part in parts]
    return Logits(Strongest(values[0], values[1]), Strongest(values[2], values[3]))


@torch.no_grad()
def nearest_of(
    sae: SAE[Any], latents: Int64[Tensor, " latents"], n: int, on_block: OnBlock
) -> Strongest:
    """Of each latent the others of the list whose decoder directions have the highest cosine with its own.

    Time grows with the square of their number, memory does not.
    """
    n = max(0, min(n, len(latents) - 1))
    blocks = torch.split(latents, _BLOCK)
    values, indices = [], []
    for number, block in enumerate(blocks):
        own = unit_rows(sae, block)
        best = torch.full((len(block), n), -torch.inf, device=own.device)
        which = torch.zeros(len(block), n, dtype=torch.int64, device=own.device)
        for other in blocks:
            cosines = product(own, unit_rows(sae, other).T)
            cosines[block[:, None].to(own.device) == other.to(own.device)] = -torch.inf
            all_values = torch.cat([best, cosines], 1)
            all_indices = torch.cat([which, other.to(own.device).expand(len(block), -1)], 1)
            best, chosen = all_values.topk(n)
            which = all_indices.gather(1, chosen)
        values.append(best.cpu())
        indices.append(which.cpu())
        on_block(number + 1, len(blocks))
    empty = torch.zeros(0, n)
    return Strongest(torch.cat([empty, *values]), torch.cat([empty.long(), *indices]))


def unit_rows(sae: SAE[Any], latents: Int64[Tensor, " latents"]) -> Float[Tensor, "latents d_in"]:
    """Decoder directions of length 1; one of length 0 stays as it is."""
    return nn.functional.normalize(sae.decoder_rows(latents.to(sae.device)).float(), dim=-1)
