"""Fixtures of the attachment's tests; a module that wants them names this one in `pytest_plugins`."""

from typing import Any

import attach_oracle as oracle
import pytest

from hsae_hub.architectures import SAE
from hsae_hub.attach import Attached, attach
from hsae_hub.models import LanguageModel


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> SAE[Any]:
    return oracle.saved_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def lm(sae: SAE[Any]) -> Attached:
    return attach(sae, oracle.fresh_model())


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return oracle.fresh_model()
