"""Writes `config.schema.json`, the published JSON Schema of `config.json`: python -m hsae_hub.artifact.schema."""

import json
from pathlib import Path

from hsae_hub.artifact.config import config_schema

if __name__ == "__main__":
    path = Path(__file__).with_name("config.schema.json")
    path.write_text(json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n")
