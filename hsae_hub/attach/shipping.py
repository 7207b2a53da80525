"""Interventions on their way to where the model is: another process, maybe another machine, maybe a GPU."""

from __future__ import annotations

from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hsae_hub.attach.running import Intervention
from hsae_hub.attach.splicing import Splice
from hsae_hub.attach.steering import Steering


def lean(change: Intervention) -> Intervention:
    """The same intervention without what it does not use: nobody needs to ship a whole SAE to push along two rows."""
    if isinstance(change, Steering) and not change.reads_acts:
        return replace(change, sae=None)
    if isinstance(change, Steering | Splice) and change.sae is not None:
        twin = copy(change.sae)
        twin.info = None  # config and statistics of its file
        return replace(change, sae=twin)
    return change


def moved(value: Any, device: torch.device) -> Any:
    """The same with every tensor and SAE in it on a device; what has none in it stays what it is."""
    if isinstance(value, Tensor | nn.Module):
        return value.to(device)
    if isinstance(value, tuple):
        items = [moved(each, device) for each in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: moved(getattr(value, each.name), device) for each in fields(value)}
        return replace(value, **parts)
    return value
