"""Gradients, weights and moments among several processes: all of them in each, or a part in each (FSDP2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hsae_hub.architectures import SAE
from hsae_hub.ops import collective
from hsae_hub.ops.collective import whole


def shard_(sae: SAE[Any]) -> None:
    """Leaves each process a part of every weight, its gradient and moments; `losses` and the forward gather them.

    Parts are along the first axis: parents with their children, or rows of a matrix. From the losses to the end of
    backward every process has all weights and gradients; between steps it has its parts.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    fully_shard(sae, mesh=init_device_mesh(sae.device.type, (collective.part().world,)))
    register_fsdp_forward_method(sae, "losses")


def is_sharded(sae: SAE[Any]) -> bool:
    """Whether this process has only a part of it."""
    return hasattr(sae, "unshard")


def gather_(sae: SAE[Any]) -> None:
    """Gives every process all weights again, to be read and no more trained."""
    if is_sharded(sae):
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(sae, FSDPModule)
        sae.unshard()


def loss_weight(sae: SAE[Any], own: int, batch: int) -> Tensor | None:
    """What the loss over `own` of the rows of a batch is multiplied by; None for all of them."""
    if own == batch:
        return None
    share = own / batch
    if is_sharded(sae):  # FSDP2 takes the mean of the processes' gradients
        share *= collective.part().world
    return torch.tensor(share, device=sae.device, dtype=sae.dtype)


def add_gradients_(sae: SAE[Any]) -> None:
    """Adds up the gradients of all processes; where the SAE is sharded, backward has done it."""
    if collective.alone() or is_sharded(sae):
        return
    gradients = [p.grad for p in sae.parameters() if p.grad is not None]
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        work.wait()


def own_part(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it if it is not sharded."""
    return x.to_local() if hasattr(x, "to_local") else x


def in_full(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, in the first process: sharded ones whole, on the CPU, put together one after another."""
    found = {}
    for name, x in tensors.items():
        full = whole(x)
        if collective.part().rank == 0:
            found[name] = full if full is x else full.cpu()
    return found


def as_part(x: Tensor, like: Tensor) -> Tensor:
    """A tensor as another one lies in memory: with its strides, on its device, this process's part if it is sharded."""
    if not hasattr(like, "to_local"):
        return torch.empty_like(like, dtype=x.dtype).copy_(x)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    x = x.to(like.device)
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)
