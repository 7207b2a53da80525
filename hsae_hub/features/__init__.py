"""What each latent acts on, how strongly, and where it points: the index of an SAE, its pages and its labels."""

from hsae_hub.features.indexing import FOLDER as FOLDER
from hsae_hub.features.indexing import Indexed as Indexed
from hsae_hub.features.indexing import build_index as build_index
from hsae_hub.features.pages import Example as Example
from hsae_hub.features.pages import FeaturePage as FeaturePage
from hsae_hub.features.pages import Relative as Relative
from hsae_hub.features.reading import FeatureIndex as FeatureIndex
