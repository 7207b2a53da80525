"""Sends requests to `remote_server.py` as nnsight sends them to NDIF, from a process without the tests' type checks.

python remote_client.py SAE FOLDER: steers and splices the texts of `attach_oracle`, and saves what came back in
FOLDER/found.pt. The type checks wrap every function and class, and those cannot be shipped by value.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import torch
from attach_oracle import PROMPTS
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import save
from nnsight.tracing.util import push

from hsae_hub.artifact import read_artifact
from hsae_hub.assets import embedded_model
from hsae_hub.attach import attach
from hsae_hub.attach.remote import RemoteRunner

SERVER = Path(__file__).with_name("remote_server.py")


class ToProcess(Backend):
    """Puts the result where nnsight's own backend puts it."""

    def __init__(self, process: Any, folder: Path, sizes: list[int]) -> None:
        self.process, self.folder, self.sizes = process, folder, sizes

    def __call__(self, tracer: Any) -> None:
        blob = RequestModel.serialize(tracer)
        request = self.folder / f"request{len(self.sizes)}"
        request.write_bytes(blob)
        self.sizes.append(len(blob))
        print(request, file=self.process.stdin, flush=True)
        found = torch.load(self.process.stdout.readline().strip())
        for value in found.values():
            save(value)
        push(tracer.info.frame, found)


def main(sae_folder: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    command = [sys.executable, "-W", "ignore", str(SERVER), str(embedded_model())]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    sizes: list[int] = []
    found: dict[str, Any] = {"sizes": sizes}
    with subprocess.Popen(command, text=True, cwd="/", **pipes) as process:
        RemoteRunner.backend = lambda self: ToProcess(process, folder, sizes)
        lm = attach(read_artifact(sae_folder).sae, engine="ndif")
        found["devices"] = {p.device.type for p in lm.lm.hf.parameters()}
        with lm.steer({"12/3": 1.5, "5": -0.7}):
            found["steered"] = oracle.logits_of(lm, PROMPTS)
            found["texts"] = lm.generate(PROMPTS, max_new_tokens=6)
        with lm.splice(error_term=True), lm.steer({"20": 0.0}):
            found["ablated"] = oracle.logits_of(lm, PROMPTS)
        with lm.splice():
            found["spliced"] = oracle.logits_of(lm, PROMPTS)
        process.stdin.close()
    torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
