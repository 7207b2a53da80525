"""Language models: loading one, naming a place in it, reading that place. No nnsight: training goes through here."""

from hsae_hub.models.finding import locate as locate
from hsae_hub.models.hookpoint import Hookpoint as Hookpoint
from hsae_hub.models.hookpoint import in_order_of_execution as in_order_of_execution
from hsae_hub.models.hookpoint import layer_list as layer_list
from hsae_hub.models.hookpoint import read_activations as read_activations
from hsae_hub.models.language_model import LanguageModel as LanguageModel
from hsae_hub.models.language_model import model_lock as model_lock
from hsae_hub.models.language_model import tokenizer_sha256 as tokenizer_sha256
from hsae_hub.models.loading import load_language_model as load_language_model
from hsae_hub.models.loading import pick_device as pick_device
from hsae_hub.models.reading import first_input as first_input
from hsae_hub.models.reading import forward_arguments as forward_arguments
from hsae_hub.models.reading import hidden as hidden
from hsae_hub.models.reading import positions as positions
from hsae_hub.models.reading import rebuild as rebuild
from hsae_hub.models.reading import replace_input as replace_input
