"""Steering and splicing on a server: requests are run by a fresh process that has not got this package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import attach_oracle as oracle
import pytest
import torch
from attach_oracle import PROMPTS

from hsae_hub.architectures import SAE
from hsae_hub.attach import attach
from hsae_hub.errors import UsageError
from hsae_hub.models import LanguageModel

pytest_plugins = ("attach_fixtures",)

CLIENT = Path(__file__).with_name("remote_client.py")


def test_the_same_comes_back(sae: SAE[Any], plain: LanguageModel, tmp_path: Path) -> None:
    command = [sys.executable, str(CLIENT), sae.info.ref, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    found = torch.load(tmp_path / "found.pt")
    assert found["devices"] == {"meta"}, "nothing is loaded here"

    pushed, ablated = {"12/3": 1.5, "5": -0.7}, {"20": 0.0}
    changes = {
        "steered": oracle.steer(sae, pushed),
        "ablated": oracle.steer(sae, ablated),
        "spliced": oracle.splice(sae),
    }
    for name, change in changes.items():
        wanted = oracle.logits(plain, PROMPTS, [change])
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-5)
    ids = oracle.tokens(plain, PROMPTS, [changes["steered"]], new=6)
    new = [plain.tokenizer.decode(row[-6:], skip_special_tokens=True) for row in ids]
    assert found["texts"] == new

    weights = sum(tensor.nbytes for tensor in sae.weights().values())
    steered, written, _, spliced = found["sizes"]
    assert max(steered, written) < 100_000 < weights, "two vectors were sent, not the SAE"
    assert weights < spliced < weights + 200_000, "what a reconstruction needs, once"


def test_what_needs_the_model_here_says_so(sae: SAE[Any]) -> None:
    remote = attach(sae, engine="ndif")
    with pytest.raises(UsageError, match="its activations stay there"):
        remote.decompose("Rain")
    with pytest.raises(UsageError, match="continued greedily"):
        remote.generate("Rain", temperature=1.0)
    with pytest.raises(UsageError, match="traces are nnsight's"):
        remote.trace("Rain")
    with pytest.raises(UsageError, match="this model is loaded"):
        attach(sae, oracle.fresh_model(), engine="ndif")
