"""What every test shares. beartype comes first: it cannot be imported after nnsight (0.8.1)."""

import beartype  # noqa: F401  # isort: skip

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
