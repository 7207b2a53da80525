"""Words for the features of a text that was taken apart, where an index has some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hsae_hub.architectures import SAE
from hsae_hub.attach import Decomposition, Feature, Token
from hsae_hub.errors import HSAEError
from hsae_hub.features.indexing import weights_digest
from hsae_hub.features.reading import FeatureIndex


def own_index(folder: Path, sae: SAE[Any]) -> FeatureIndex | None:
    """The index beside an SAE; None without one, or with one that cannot be read or is of other weights."""
    try:
        found = FeatureIndex.open(folder)
    except HSAEError:
        return None
    return found if found.info.get("weights") == weights_digest(sae) else None


def labelled(found: Decomposition, labels: Mapping[str, str]) -> Decomposition:
    """A text taken apart, with words for its features where there are any."""
    if not labels:
        return found
    return replace(found, tokens=tuple(named_token(token, labels) for token in found.tokens))


def named_token(token: Token, labels: Mapping[str, str]) -> Token:
    """One token of it."""

    def named(feature: Feature) -> Feature:
        child = None if feature.child is None else named(feature.child)
        return replace(feature, label=labels.get(feature.id) or None, child=child)

    return replace(token, features=tuple(named(each) for each in token.features))
