"""An SAE on disk: `config.json`, `sae.safetensors` and, after training, `stats.safetensors`.

Looking at one loads no torch; loading or saving it does.
"""

from typing import TYPE_CHECKING

from hsae_hub.artifact.collection import NAME as NAME
from hsae_hub.artifact.collection import Manifest as Manifest
from hsae_hub.artifact.collection import Member as Member
from hsae_hub.artifact.config import FORMAT_VERSION as FORMAT_VERSION
from hsae_hub.artifact.config import ArtifactConfig as ArtifactConfig
from hsae_hub.artifact.config import FileInfo as FileInfo
from hsae_hub.artifact.config import HookpointConfig as HookpointConfig
from hsae_hub.artifact.config import ImportedConfig as ImportedConfig
from hsae_hub.artifact.config import ModelConfig as ModelConfig
from hsae_hub.artifact.config import TokensConfig as TokensConfig
from hsae_hub.artifact.config import TrainingConfig as TrainingConfig
from hsae_hub.artifact.config import VocabularyConfig as VocabularyConfig
from hsae_hub.artifact.config import config_schema as config_schema
from hsae_hub.artifact.files import CONFIG as CONFIG
from hsae_hub.artifact.files import CORE_REPORT as CORE_REPORT
from hsae_hub.artifact.files import REPORTS as REPORTS
from hsae_hub.artifact.files import STATS as STATS
from hsae_hub.artifact.files import WEIGHTS as WEIGHTS
from hsae_hub.artifact.files import file_info as file_info
from hsae_hub.artifact.files import flush as flush
from hsae_hub.artifact.files import folder_atomic as folder_atomic
from hsae_hub.artifact.files import sha256_file as sha256_file
from hsae_hub.artifact.files import write_atomic as write_atomic
from hsae_hub.artifact.reading import check_files as check_files
from hsae_hub.artifact.reading import check_header as check_header
from hsae_hub.artifact.reading import read_config as read_config
from hsae_hub.artifact.reading import read_manifest as read_manifest
from hsae_hub.artifact.reading import read_object as read_object
from hsae_hub.lazy import lazily

if TYPE_CHECKING:
    from hsae_hub.artifact.loading import Artifact as Artifact
    from hsae_hub.artifact.loading import ArtifactInfo as ArtifactInfo
    from hsae_hub.artifact.loading import config_of as config_of
    from hsae_hub.artifact.loading import info_of as info_of
    from hsae_hub.artifact.loading import read_artifact as read_artifact
    from hsae_hub.artifact.loading import weights_sha256 as weights_sha256
    from hsae_hub.artifact.saving import LatentTable as LatentTable
    from hsae_hub.artifact.saving import save_sae as save_sae
    from hsae_hub.artifact.tensors import dtype_name as dtype_name

__getattr__ = lazily(
    __name__,
    {
        "Artifact": "loading",
        "ArtifactInfo": "loading",
        "config_of": "loading",
        "info_of": "loading",
        "read_artifact": "loading",
        "weights_sha256": "loading",
        "LatentTable": "saving",
        "save_sae": "saving",
        "dtype_name": "tensors",
    },
)
