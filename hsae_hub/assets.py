"""Where the files that travel with the package lie: recipes, card templates, the embedded language model."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

EMBEDDED_MODEL = "gemma2-tiny-en"
"""Name of the language model that is shipped inside the package."""
TINY = "tiny"
"""Name of the SAE of that model that is shipped with it."""

_CHECKOUT = Path(__file__).parent.parent


def assets(kind: Literal["train", "cards", "serve"]) -> Traversable:
    """The folder of recipes (`train`), of card templates (`cards`) or of the Space (`serve`).

    Raises:
        FileNotFoundError: this install has neither; it was copied by hand rather than installed.
    """
    shipped = files("hsae_hub") / "_assets" / kind
    if shipped.is_dir():
        return shipped
    if (_CHECKOUT / "pyproject.toml").is_file():  # editable install or plain checkout
        return _CHECKOUT / kind
    raise FileNotFoundError(
        f"no {kind}/ in this install of hsae_hub; reinstall it from a wheel or a checkout"
    )


def embedded_model() -> Path:
    """Folder of the embedded language model, in the layout of `transformers`."""
    return Path(str(files("hsae_hub") / "embedded" / EMBEDDED_MODEL))


def embedded_sae() -> Path:
    """Folder of the embedded SAE: an `hsae` of the embedded model, with its evaluation, card and feature index."""
    return Path(str(files("hsae_hub") / "embedded" / "hsae-tiny"))
