"""What each latent acts on, how strongly, and where it points: the index of an SAE, its pages and its labels.

Reading an index loads no language model's libraries; making one does.
"""

from typing import TYPE_CHECKING

from hsae_hub.features.names import FOLDER as FOLDER
from hsae_hub.features.names import INDEX as INDEX
from hsae_hub.lazy import lazily

if TYPE_CHECKING:
    from hsae_hub.features.comparing import Comparison as Comparison
    from hsae_hub.features.comparing import compare_on as compare_on
    from hsae_hub.features.indexing import Indexed as Indexed
    from hsae_hub.features.indexing import build_index as build_index
    from hsae_hub.features.indexing import weights_digest as weights_digest
    from hsae_hub.features.naming import labelled as labelled
    from hsae_hub.features.naming import own_index as own_index
    from hsae_hub.features.pages import Example as Example
    from hsae_hub.features.pages import FeaturePage as FeaturePage
    from hsae_hub.features.pages import Relative as Relative
    from hsae_hub.features.reading import INDEX_TABLES as INDEX_TABLES
    from hsae_hub.features.reading import FeatureIndex as FeatureIndex

__getattr__ = lazily(
    __name__,
    {
        "Comparison": "comparing",
        "Indexed": "indexing",
        "build_index": "indexing",
        "compare_on": "comparing",
        "labelled": "naming",
        "own_index": "naming",
        "weights_digest": "indexing",
        "Example": "pages",
        "FeaturePage": "pages",
        "Relative": "pages",
        "INDEX_TABLES": "reading",
        "FeatureIndex": "reading",
    },
)
