"""From text to shuffled batches of a language model's activations."""

from hsae_hub.activations.batches import Batches as Batches
from hsae_hub.activations.batches import Origin as Origin
from hsae_hub.activations.batches import StreamState as StreamState
from hsae_hub.activations.cached import CachedStream as CachedStream
from hsae_hub.activations.contexts import OnProgress as OnProgress
from hsae_hub.activations.harvesting import Harvested as Harvested
from hsae_hub.activations.harvesting import OnHarvest as OnHarvest
from hsae_hub.activations.harvesting import harvest as harvest
from hsae_hub.activations.heldout import heldout_windows as heldout_windows
from hsae_hub.activations.reading import pad_contexts as pad_contexts
from hsae_hub.activations.rows import RowStream as RowStream
from hsae_hub.activations.sampling import sample_contexts as sample_contexts
from hsae_hub.activations.shards import open_store as open_store
from hsae_hub.activations.sources import documents as documents
from hsae_hub.activations.sources import is_heldout as is_heldout
from hsae_hub.activations.sources import python_docs as python_docs
from hsae_hub.activations.store import StoreConfig as StoreConfig
from hsae_hub.activations.store import check_cache as check_cache
from hsae_hub.activations.store import read_store as read_store
from hsae_hub.activations.store import verify_store as verify_store
from hsae_hub.activations.stream import ActivationStream as ActivationStream
from hsae_hub.activations.vocabulary import Vocabulary as Vocabulary
from hsae_hub.activations.vocabulary import choose_rows as choose_rows
from hsae_hub.activations.vocabulary import describe_rows as describe_rows
from hsae_hub.activations.windows import WindowStream as WindowStream
