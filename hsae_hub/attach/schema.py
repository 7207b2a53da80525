"""Writes `steering.schema.json`, the published JSON Schema of steering specs: python -m hsae_hub.attach.schema."""

import json
from pathlib import Path

from hsae_hub.attach.steering_file import steering_schema

if __name__ == "__main__":
    path = Path(__file__).with_name("steering.schema.json")
    path.write_text(json.dumps(steering_schema(), indent=1, ensure_ascii=False) + "\n")
