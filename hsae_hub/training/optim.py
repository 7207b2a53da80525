"""Adam with linear warm-up and cosine decay, and clipping by the global norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hsae_hub.recipes import TrainSection


def adam(module: nn.Module, train: TrainSection) -> torch.optim.Adam:
    """The optimiser of one SAE; its learning rate is set before each step."""
    beta1, beta2 = train.betas
    return torch.optim.Adam(module.parameters(), lr=train.lr, betas=(beta1, beta2), fused=True)


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
    return float(torch.nn.utils.clip_grad_norm_(module.parameters(), limit))


def update(optimizer: torch.optim.Optimizer) -> None:
    """The optimiser's step.

    The fused kernel of the CPU (torch 2.13) copies a gradient whose rows do not lie in memory one after another, and
    has no use for the copy: for a matrix stored transposed the step takes six times as long. So it is shown those
    matrices, their gradients and moments, as they lie.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    transposed = [p for p in parameters if not p.is_contiguous()]
    for parameter in transposed:
        _transpose_(parameter, optimizer)
    optimizer.step()
    for parameter in transposed:
        _transpose_(parameter, optimizer)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything the optimiser remembers, by `parameter number.name`."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, _, name = key.partition(".")
        parameter = parameters[int(i)]
        if value.shape == parameter.shape:  # fused Adam wants a moment laid out as its parameter is
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(i), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _transpose_(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """Swaps the last two axes of a parameter, its gradient and its moments; nothing moves in memory."""
    gradient, parameter.grad = parameter.grad, None
    parameter.data = parameter.data.mT
    parameter.grad = None if gradient is None else gradient.mT
    state = optimizer.state.get(parameter, {})
    state |= {name: value.mT for name, value in state.items() if value.ndim >= 2}
