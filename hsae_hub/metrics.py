"""Metrics of reconstruction and of latents, accumulated batch by batch; sums in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_DRAWN = 1 << 22  # rows that are drawn at once


class ReconstructionStats:
    """How well activations `x` are reconstructed as `x_hat`, over any number of batches of raw activations."""

    def __init__(self, d_in: int) -> None:
        self.tokens = 0
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._square = 0.0
        self._error = 0.0
        self._cosine = 0.0

    @torch.no_grad()
    def update(self, x: Float[Tensor, "batch d_in"], x_hat: Float[Tensor, "batch d_in"]) -> None:
        """Adds a batch."""
        x, x_hat = x.double(), x_hat.double()
        self.tokens += len(x)
        self._sum += x.sum(0).cpu()
        self._square += float(x.square().sum())
        self._error += float((x - x_hat).square().sum())
        self._cosine += float(torch.cosine_similarity(x, x_hat, dim=-1).sum())

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Puts in the place of every sum what `total` makes of it, such as the sum over processes."""
        numbers = torch.tensor(
            [self.tokens, self._square, self._error, self._cosine], dtype=torch.float64
        )
        sums = total(torch.cat([self._sum, numbers]))
        self._sum = sums[:-4]
        tokens, self._square, self._error, self._cosine = sums[-4:].tolist()
        self.tokens = int(tokens)

    def explained_variance(self) -> float:
        """`1 − Σ‖x−x̂‖² / Σ‖x−x̄‖²`, x̄ the mean over all tokens: 1 is perfect, 0 as good as the mean.

        Raises:
            ValueError: fewer than two tokens, or tokens without variance.
        """
        variance = self._square - float(self._sum.square().sum()) / max(self.tokens, 1)
        if self.tokens < 2 or variance <= 0:
            raise ValueError(f"{self.tokens} tokens have no variance to explain")
        return 1 - self._error / variance

    def mse(self) -> float:
        """Mean over tokens of `‖x−x̂‖²`."""
        return self._error / self.tokens

    def cosine(self) -> float:
        """Mean over tokens of the cosine of x and x̂, -1 to 1."""
        return self._cosine / self.tokens

    def mean(self) -> Float[Tensor, " d_in"]:
        """Mean activation, float64."""
        return self._sum / self.tokens


class LatentStats:
    """How often and how strongly each latent acts, from its non-zero acts; memory grows with their number."""

    def __init__(self, d_sae: int) -> None:
        self.d_sae = d_sae
        self.tokens = 0
        self._counts = torch.zeros(d_sae, dtype=torch.int64)
        self._indices: list[Tensor] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def update(
        self,
        values: Float[Tensor, "batch a"],
        indices: Int64[Tensor, "batch a"],
        norms: Float[Tensor, " batch"],
    ) -> None:
        """Adds the acts of a batch; `norms` are ‖x‖ of its tokens, by which acts are divided."""
        self.tokens += len(values)
        fired = values != 0
        self._counts += torch.bincount(indices[fired].cpu(), minlength=self.d_sae)
        positive = values > 0
        self._indices.append(indices[positive].cpu())
        self._values.append((values / norms[:, None])[positive].float().cpu())

    def pool(self, total: Callable[[Tensor], Tensor], all_rows: Callable[[Tensor], Tensor]) -> None:
        """Adds what others have, such as processes: `total` gives the sum of a tensor, `all_rows` those of all."""
        self.tokens = int(total(torch.tensor(self.tokens)))
        self._counts = total(self._counts)
        self._indices = [all_rows(torch.cat(self._indices))]
        self._values = [all_rows(torch.cat(self._values))]

    def counts(self) -> Int64[Tensor, " d_sae"]:
        """Tokens on which each latent was not zero."""
        return self._counts

    def density(self) -> Float[Tensor, " d_sae"]:
        """Share of tokens on which each latent was not zero, 0 to 1."""
        return self._counts.float() / max(self.tokens, 1)

    def p999(self) -> Float[Tensor, " d_sae"]:
        """99.9th percentile (nearest rank) of each latent's positive acts / ‖x‖; 0 where there were none."""
        indices, values = torch.cat(self._indices), torch.cat(self._values)
        order = values.argsort(stable=True)
        order = order[indices[order].argsort(stable=True)]
        sizes = torch.bincount(indices, minlength=self.d_sae)
        ends = sizes.cumsum(0)
        ranks = (sizes.double() * 0.999).ceil().long().clamp_min(1)
        found = sizes > 0
        table = torch.zeros(self.d_sae)
        table[found] = values[order][(ends - sizes + ranks - 1)[found]]
        return table


def resampled_sums(
    sums: Float64[Tensor, "n q"], *, resamples: int = 1000, seed: int = 0
) -> Float64[Tensor, "{resamples} q"]:
    """Sums of `n` rows drawn with replacement from `n`, many times: the bootstrap of Efron 1979 for sums and ratios."""
    n = len(sums)
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _DRAWN // max(n, 1))
    total = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = torch.randint(n, (size, n), generator=generator)
        counts = torch.zeros(size, n, dtype=torch.float64)
        total.append(counts.scatter_add_(1, drawn, torch.ones_like(counts)) @ sums)
    return torch.cat(total)
