"""Publish, pull, look at and list SAEs: on Hugging Face or in a folder, with the same guarantees.

Only loading one takes torch.
"""

from typing import TYPE_CHECKING

from hsae_hub.hub.cache import home as home
from hsae_hub.hub.fetching import OnProgress as OnProgress
from hsae_hub.hub.hub import Hub as Hub
from hsae_hub.hub.listing import CachedSAE as CachedSAE
from hsae_hub.hub.listing import ListedSAE as ListedSAE
from hsae_hub.hub.places import Check as Check
from hsae_hub.hub.places import Entry as Entry
from hsae_hub.hub.places import Proposal as Proposal
from hsae_hub.hub.places import RepoInfo as RepoInfo
from hsae_hub.hub.places import Tensor as Tensor
from hsae_hub.hub.pull import Pulled as Pulled
from hsae_hub.hub.pull import PullPlan as PullPlan
from hsae_hub.hub.refs import Ref as Ref
from hsae_hub.hub.removing import Removal as Removal
from hsae_hub.hub.show import Shown as Shown
from hsae_hub.hub.show import ShownCollection as ShownCollection
from hsae_hub.lazy import lazily

if TYPE_CHECKING:
    from hsae_hub.hub.importing import import_sae as import_sae
    from hsae_hub.hub.indexes import load_features as load_features
    from hsae_hub.hub.loading import load as load
    from hsae_hub.hub.push import Plan as Plan
    from hsae_hub.hub.push import Pushed as Pushed
    from hsae_hub.hub.verify import Verified as Verified

__getattr__ = lazily(
    __name__,
    {
        "import_sae": "importing",
        "load": "loading",
        "load_features": "indexes",
        "Plan": "push",
        "Pushed": "push",
        "Verified": "verify",
    },
)
