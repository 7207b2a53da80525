"""Fixtures of the tests of stores; a module that wants them names this one in `pytest_plugins`."""

import os

import pytest
import torch

from hsae_hub.activations import harvesting
from hsae_hub.models import load_language_model


@pytest.fixture(scope="module")
def one_thread():
    """Tensors here are too small for more, and threads wait long for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_lm():
    return load_language_model(device="cpu")


@pytest.fixture(scope="module")
def quick(tiny_lm, one_thread):
    """A harvest finds the model loaded already, and does not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvesting, "load_language_model", lambda *args, **options: tiny_lm)
        patch.setattr(os, "fsync", lambda handle: None)
        yield
