"""Adam with linear warm-up and cosine decay, and clipping by the global norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hsae_hub.ops.collective import whole
from hsae_hub.recipes import TrainSection
from hsae_hub.training.sharding import as_part, in_full

EPS = 1e-8
"""What Adam adds to the root of the second moment."""


def adam(module: nn.Module, train: TrainSection) -> torch.optim.Adam:
    """The optimiser of one SAE; its learning rate is set before each step."""
    beta1, beta2 = train.betas
    return torch.optim.Adam(
        module.parameters(), lr=train.lr, betas=(beta1, beta2), eps=EPS, fused=True
    )


def learning_rate(step: int, train: TrainSection) -> float:
    """Learning rate after `step` steps: linear up to `lr`, then a cosine down to `final_lr · lr` at the last one."""
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    decay = max(train.n_steps - train.warmup_steps - 1, 1)
    progress = min((step - train.warmup_steps) / decay, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return train.lr * (train.final_lr + (1 - train.final_lr) * cosine)


def clip_gradient(module: nn.Module, clip_norm: float | None) -> float:
    """Scales the gradient down to global norm `clip_norm`, if it is larger; returns the norm that it had."""
    limit = math.inf if clip_norm is None else clip_norm
    return float(whole(torch.nn.utils.clip_grad_norm_(module.parameters(), limit)))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything the optimiser remembers, by `parameter number.name`, in the first of several processes."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return in_full(
        {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}
    )


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, _, name = key.partition(".")
        parameter = parameters[int(i)]
        if value.shape == parameter.shape:  # fused Adam wants a moment laid out as its parameter is
            value = as_part(value, parameter)
        state.setdefault(int(i), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
