"""Fixtures of the tests of stores; a module that wants them names this one in `pytest_plugins`."""

import os

import pytest

from hsae_hub.activations import harvesting
from hsae_hub.models import load_language_model


@pytest.fixture(scope="session")
def tiny_lm():
    return load_language_model(device="cpu")


@pytest.fixture(scope="module")
def quick(tiny_lm):
    """A harvest finds the model loaded already, and does not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvesting, "load_language_model", lambda *args, **options: tiny_lm)
        patch.setattr(os, "fsync", lambda handle: None)
        yield
