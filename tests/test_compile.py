"""torch.compile of an SAE: it meets neither oneDNN's operator nor compiled kernels, and gives the same."""

import json
import subprocess
import sys
from typing import Any

from hsae_hub.architectures import list_architectures

WIDE: dict[str, dict[str, Any]] = {
    "batch_topk": {"d_sae": 2048, "k": 8},
    "compositional": {"widths": [1024, 512], "starts": [0, 0.2]},
    "hsae": {"n_parents": 2048, "n_children": 4, "d_subspace": 2, "k": 8},
    "matryoshka": {"d_sae": 2048, "k": 8, "prefixes": [512, 2048]},
    "switch": {"d_sae": 2048, "k": 8, "n_experts": 2, "alpha": 0.1},
    "topk": {"d_sae": 2048, "k": 8},
    "gated": {"d_sae": 2048, "lambda_l1": 0.1},
    "jumprelu": {"d_sae": 2048, "lambda_l0": 0.1, "bandwidth": 0.5, "init_threshold": 0.5},
    "l1": {"d_sae": 2048},
    "group": {"d_sae": 2048, "n_groups": 3},
    "nested": {"d_sae": 2048},
    "dynamic": {"d_sae": 2048},
}
"""Wide enough for oneDNN and for compiled kernels."""


COMPILE = """
import json, sys, torch
from hsae_hub.architectures import build
torch.set_num_threads(1)
x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
for config in json.load(sys.stdin):
    sae = build({"d_in": 256, **config}, seed=1).eval()
    torch._dynamo.reset()
    with torch.no_grad():
        found, wanted = torch.compile(sae, backend="aot_eager")(x).sae_out, sae(x).sae_out
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    print(config["architecture"])
"""


def test_a_compiled_forward_is_the_forward() -> None:
    """In a process whose annotations are not checked, which torch.compile cannot follow.

    PyTorch's own operators run the graph: no compiler is needed.
    """
    configs = [{"architecture": name, **WIDE[name]} for name in list_architectures()]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], input=json.dumps(configs), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list_architectures()
