"""What every test shares. beartype comes first: it cannot be imported after nnsight (0.8.1)."""

import beartype  # noqa: F401  # isort: skip

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors here are too small for more, and threads wait long for each other on a busy machine."""
    torch.set_num_threads(1)
