"""What the core metrics are made of, context by context, so that contexts can be drawn anew for intervals."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hsae_hub.architectures import SAE, SAEOutput, TreeShape
from hsae_hub.attach import Losses

Array = np.ndarray
DECADES = (-6.0, 0.0)
"""Range of the density histogram: log10 of the share of tokens on which a latent acts."""
BINS = 24
ACTIVE = 1e-4
"""A latent is active from this mean act on (the Hierarchical Feature Groups and HierarchicalSAE papers)."""


_NAMES = {name: f"ce_{name}" for name in ("clean", "spliced", "zero", "mean")}


class ActivationSums:
    """Of the activations themselves: memory grows with contexts times width, not with tokens."""

    def __init__(self, contexts: int, d_in: int) -> None:
        self.tokens = torch.zeros(contexts, dtype=torch.float64)
        self.square = torch.zeros(contexts, dtype=torch.float64)
        self.vector = torch.zeros(contexts, d_in, dtype=torch.float64)

    def update(self, x: Float[Tensor, "tokens d"], context: Int64[Tensor, " tokens"]) -> None:
        """Adds a batch."""
        x, context = x.double().cpu(), context.cpu()
        self.tokens += torch.bincount(context, minlength=len(self.tokens))
        self.square.index_add_(0, context, x.square().sum(-1))
        self.vector.index_add_(0, context, x)


class SAESums:
    """Of one SAE's reconstructions and acts."""

    def __init__(self, contexts: int, shape: TreeShape) -> None:
        self.shape = shape
        names = [
            "error",
            "cosine",
            "acts",
            *(["error_parents", "parents"] * bool(shape.n_children)),
        ]
        self.by_context = {name: torch.zeros(contexts, dtype=torch.float64) for name in names}
        self.counts = torch.zeros(shape.d_sae, dtype=torch.int64)
        self.acts = torch.zeros(shape.d_sae, dtype=torch.float64)

    def update(
        self,
        sae: SAE,  # type: ignore[type-arg]
        x: Float[Tensor, "tokens d"],
        out: SAEOutput,
        context: Int64[Tensor, " tokens"],
    ) -> None:
        """Adds a batch."""
        acts, fired = out.acts, out.acts.values != 0
        found = {
            "error": _error(x, out.sae_out),
            "cosine": torch.cosine_similarity(x.double(), out.sae_out.double(), dim=-1),
            "acts": fired.sum(-1),
        }
        if self.shape.n_children:
            is_parent = acts.indices < self.shape.n_parents
            found["error_parents"] = _error(x, sae.decode(acts.keep(is_parent)).to(x.dtype))
            found["parents"] = (fired & is_parent).sum(-1)
        for name, values in found.items():
            self.by_context[name].index_add_(0, context.cpu(), values.double().cpu())
        where = acts.indices[fired].cpu()
        self.counts += torch.bincount(where, minlength=self.shape.d_sae)
        self.acts.index_add_(0, where, acts.values[fired].double().cpu())


def _error(
    x: Float[Tensor, "tokens d"], x_hat: Float[Tensor, "tokens d"]
) -> Float[Tensor, " tokens"]:
    return (x.double() - x_hat.double()).square().sum(-1)


class CoreSums:
    """Everything of one SAE as columns, a context a row, and the metrics that follow from sums of its rows."""

    def __init__(self, x: ActivationSums, sae: SAESums, losses: Losses) -> None:
        self.is_tree = bool(sae.shape.n_children)
        self.d_sae = sae.shape.d_sae
        self.d_in = x.vector.shape[1]
        columns = {
            "tokens": x.tokens,
            "square": x.square,
            **{_NAMES.get(name, name): each for name, each in losses.sums.items()},
            **sae.by_context,
        }
        self.names = list(columns)
        stacked = torch.stack(list(columns.values()), dim=1)
        self.rows: Float[Array, "contexts columns"] = torch.cat([stacked, x.vector], 1).numpy()

    def numbers(self, sums: Float[Array, "b columns"]) -> dict[str, Float[Array, " b"]]:
        """The metrics, from sums over the contexts of each sample."""
        s = dict(zip(self.names, sums.T, strict=False))
        tokens, predictions = s["tokens"], s["predictions"]
        total = np.square(sums[:, len(self.names) :]).sum(-1) / tokens  # T‖x̄‖²
        variance = s["square"] - total
        m = s["square"] / tokens / self.d_in
        means = ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "kl", "kl_zero")
        found = {name: s[name] / predictions for name in means}
        found["ce_score"] = (s["ce_zero"] - s["ce_spliced"]) / (s["ce_zero"] - s["ce_clean"])
        found["kl_score"] = (s["kl_zero"] - s["kl"]) / s["kl_zero"]
        found["explained_variance"] = 1 - s["error"] / variance
        # SAEBench squares before it takes the mean of a dimension; the figure can pass 1
        found["explained_variance_saebench"] = 1 - s["error"] / tokens / (m * self.d_in - m**2)
        found["mse"] = s["error"] / tokens
        found["cosine"] = s["cosine"] / tokens
        found["l0"] = s["acts"] / tokens
        found["l0_sparsity"] = 100 * (1 - found["l0"] / self.d_sae)
        if self.is_tree:
            found["l0_parents"] = s["parents"] / tokens
            found["l0_children"] = (s["acts"] - s["parents"]) / tokens
            found["explained_variance_parents"] = 1 - s["error_parents"] / variance
            found["explained_variance_children"] = (s["error_parents"] - s["error"]) / variance
        return found


def density_histogram(
    counts: Int64[Tensor, " latents"], tokens: int
) -> dict[str, list[float] | list[int] | int]:
    """How many latents act on which share of the tokens: bins of log10, and those that never act apart."""
    shares = counts[counts > 0].double() / tokens
    edges = np.linspace(*DECADES, BINS + 1)
    inside = np.clip(np.log10(shares.numpy()), *DECADES)
    found, _ = np.histogram(inside, edges)
    return {
        "log10_density": [round(float(edge), 6) for edge in edges],
        "latents": [int(n) for n in found],
        "dead": int((counts == 0).sum()),
    }
