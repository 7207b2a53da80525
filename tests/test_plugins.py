"""An architecture that another installed distribution brings: found by its entry point, saved, looked at and loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULE = """
from typing import Literal

import torch
from torch import nn

from hsae_hub.architectures import SAE, SAEConfig, TreeShape, register


class StrangeConfig(SAEConfig, frozen=True):
    architecture: Literal["strange"] = "strange"
    d_sae: int

    def shape(self):
        return TreeShape(self.d_sae, 0)


@register
class StrangeSAE(SAE[StrangeConfig]):
    config_class = StrangeConfig
    title = "A strange autoencoder"

    def __init__(self, config):
        super().__init__(config)
        self.W_own = nn.Parameter(torch.empty(config.d_in, config.d_sae))
        self.W_dec = nn.Parameter(torch.empty(config.d_sae, config.d_in))

    def reset_parameters(self, generator):
        self.W_own.data.normal_(generator=generator)
        self.W_dec.data.copy_(self.W_own.data.T)

    def encode_normalized(self, x):
        values, indices = (x @ self.W_own).topk(1)
        return values, indices

    def losses(self, x, step):
        return {"loss": (self(x).sae_out - x).square().mean()}
"""
SCRIPT = """
import sys
from pathlib import Path

import hsae_hub
from hsae_hub.architectures import config_class, list_architectures
from hsae_hub.cli.main import run

folder = Path(sys.argv[1])
assert "strange" in list_architectures() and config_class("strange").__module__ == "strange_saes"
sae = hsae_hub.build({"architecture": "strange", "d_in": 4, "d_sae": 6})
hsae_hub.save_sae(sae, folder)
assert hsae_hub.load(folder).W_own.equal(sae.W_own.data)
assert run(["show", str(folder)]) == 0 and run(["card", str(folder)]) == 0
assert "A strange autoencoder" in (folder / "README.md").read_text()
(folder / "sae.safetensors").write_bytes(b"short")
assert run(["verify", str(folder)]) == 9
"""
TAKEN = """
import strange_saes
from typing import Literal
from hsae_hub.architectures import list_architectures, register

class TakenConfig(strange_saes.StrangeConfig, frozen=True):
    architecture: Literal["topk"] = "topk"

class Taken(strange_saes.StrangeSAE):
    config_class = TakenConfig

assert "topk" in list_architectures()
try:
    register(Taken)
except ValueError as error:
    print(error)
"""


def run(tmp_path: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    site = tmp_path / "site"
    about = site / "strange_saes-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "strange_saes.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-saes\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hsae_hub.architectures]\nstrange = strange_saes\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_it_is_found_saved_looked_at_and_loaded(tmp_path: Path) -> None:
    done = run(tmp_path, SCRIPT, str(tmp_path / "sae"))
    assert done.returncode == 0, done.stderr


def test_it_cannot_take_a_name_of_this_package_even_before_that_is_loaded(tmp_path: Path) -> None:
    done = run(tmp_path, TAKEN)
    assert done.stdout.strip() == "architecture 'topk' is taken by hsae_hub.architectures.topk"
