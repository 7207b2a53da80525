"""A language model built as vLLM builds Llama: flat tokens, layers that take and give the stream in two parts.

`Whole` has the same weights and one stream, as transformers builds it. Both read one text, without a cache.
"""

from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, LAYERS = 12, 8, 3


class Norm(nn.Module):
    """vLLM's: adds the two parts, and gives the sum on as the new residual."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        whole = x if residual is None else x + residual
        normed = whole / whole.square().mean(-1, keepdim=True).sqrt()
        return normed if residual is None else (normed, whole)


class Mixing(nn.Module):
    """In attention's place: every token adds up what those before it are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3)

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        return hidden_states.cumsum(0) @ self.weight / (positions[:, None] + 1)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).tanh()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = Norm()
        self.self_attn = Mixing()
        self.post_attention_layernorm = Norm()
        self.mlp = MLP()

    def forward(
        self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            residual, hidden_states = hidden_states, self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual


class WholeLayer(Layer):
    def forward(self, positions: Tensor, stream: Tensor) -> Tensor:  # type: ignore[override]
        stream = stream + self.self_attn(positions, self.input_layernorm(stream))
        return stream + self.mlp(self.post_attention_layernorm(stream))


class Inner(nn.Module):
    def __init__(self, kind: type[Layer]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(kind() for _ in range(LAYERS))
        self.norm = Norm()


class InParts(nn.Module):
    def __init__(self, kind: type[Layer] = Layer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Inner(kind)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        hidden, residual = self.model.embed_tokens(input_ids), None
        for layer in self.model.layers:
            hidden, residual = layer(positions, hidden, residual)
        return self.model.norm(hidden, residual)[0]

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        return hidden_states @ self.model.embed_tokens.weight.T


class Whole(InParts):
    def __init__(self) -> None:
        super().__init__(WholeLayer)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        stream = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            stream = layer(positions, stream)
        return self.model.norm(stream)
