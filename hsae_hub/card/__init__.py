"""The model card: written from a run's own files, and checked before it is published."""

from typing import TYPE_CHECKING

from hsae_hub.card.check import CARD as CARD
from hsae_hub.card.check import check_card as check_card
from hsae_hub.card.check import front_of as front_of
from hsae_hub.card.check import is_rendered as is_rendered
from hsae_hub.card.check import license_of as license_of
from hsae_hub.lazy import lazily

if TYPE_CHECKING:
    from hsae_hub.card.collection import render_collection as render_collection
    from hsae_hub.card.render import render_card as render_card
    from hsae_hub.card.run import GALLERY as GALLERY
    from hsae_hub.card.run import Run as Run
    from hsae_hub.card.run import home_of as home_of

__getattr__ = lazily(
    __name__,
    {
        "render_collection": "collection",
        "render_card": "render",
        "GALLERY": "run",
        "Run": "run",
        "home_of": "run",
    },
)
