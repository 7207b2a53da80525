"""A small corpus, an SAE and its index; a module that wants them names this one in `pytest_plugins`."""

from __future__ import annotations

from typing import Any

import attach_oracle as oracle
import pytest
from small_corpus import DATA

from hsae_hub.architectures import SAE
from hsae_hub.features import Indexed, build_index
from hsae_hub.models import LanguageModel


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    return oracle.fresh_model()


@pytest.fixture(scope="session")
def sae(tmp_path_factory: pytest.TempPathFactory) -> SAE[Any]:
    return oracle.saved_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="session")
def indexed(
    sae: SAE[Any], model: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Indexed:
    folder = tmp_path_factory.mktemp("indexed")
    return build_index(sae, DATA, folder, model=model, tokens=10**6, command="hsae index small")
