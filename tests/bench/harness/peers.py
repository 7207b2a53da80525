"""Other toolkits' training steps, in processes of an environment of their own: `HSAE_PEERS_PYTHON`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType

from harness.timing import Took

SCRIPT = Path(__file__).parents[2] / "peers" / "train_step.py"
VERSIONS = """
import json, sys
from importlib.metadata import distributions
here = {each.metadata["Name"]: each.version for each in distributions()}
print(json.dumps({name: here[name] for name in sys.argv[1:] if name in here}))
"""
PEERS = {
    "sae_lens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
    "sparsify_adam": "eai-sparsify",
    "sparsify_signum": "eai-sparsify",
}
"""Steps that `tests/peers/train_step.py` has, with the distribution each comes from."""


def peer_versions() -> dict[str, str]:
    """Of the peers that the environment has; empty where there is none."""
    python = os.environ.get("HSAE_PEERS_PYTHON")
    if not python:
        return {}
    words = [python, "-c", VERSIONS, *dict.fromkeys(PEERS.values())]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


class Peer:
    """A child process that makes a training step for each line that it is sent, and tells what the step took."""

    def __init__(self, step: str, tensors: Path, k: int) -> None:
        """`step` is a key of `PEERS`; `tensors` a safetensors file with `x` and `W_dec`, from which it begins."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment.pop("PYTHONPATH", None)  # its environment is its own
        arguments = [os.environ["HSAE_PEERS_PYTHON"], str(SCRIPT), step, str(tensors), str(k)]
        self.process = subprocess.Popen(
            arguments, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ready(self) -> float:
        """Waits until it has begun: mean ‖x - x̂‖² of the batch before any step."""
        return self._answer()["error"]

    def step(self) -> Took:
        """One step."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self._answer()
        return Took(answer["wall"], answer["cpu"])

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer ended with {self.process.wait()}")
        found: dict[str, float] = json.loads(line)
        return found
