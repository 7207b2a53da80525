"""Run by `tests/test_sae_lens.py` in an environment that has sae-lens (see make_golden.py): loads each exported folder.

A folder holds what `hsae export` wrote and `expected.safetensors` with tokens `x`, dense `acts` and `sae_out`. Prints
the largest difference of each, as JSON; raises where SAELens does something else than it should.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import sae_lens
import torch
from safetensors.torch import load_file

import hsae_hub.interop.sae_lens


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


@torch.no_grad()
def check(folder: Path) -> dict[str, float]:
    expected = load_file(folder / "expected.safetensors")
    x = expected["x"]
    sae: Any = sae_lens.SAE.load_from_disk(folder)
    assert isinstance(sae, hsae_hub.interop.sae_lens.HSAEHubSAE)
    assert sae.cfg.metadata.model_name == "gemma2-tiny-en"
    assert sae.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    acts = sae.encode(x)
    sae_out = sae.decode(acts)
    assert torch.equal(
        sae.decode(acts), sae_out
    )  # SAELens' own with layer_norm can do it only once
    assert torch.equal(sae(x), sae_out)
    assert torch.equal(sae(x.view(4, -1, x.shape[1])).flatten(0, 1), sae_out)
    _, cached = sae.run_with_cache(x)
    assert torch.equal(cached["hook_sae_acts_post"], acts)
    assert torch.equal(cached["hook_sae_recons"], sae_out)
    found = {"acts": apart(acts, expected["acts"]), "sae_out": apart(sae_out, expected["sae_out"])}

    silent = sae.decode(torch.zeros_like(acts))
    step = torch.zeros_like(acts)
    step[:, -1] = 2.0
    found["row"] = apart(sae.decode(step) - silent, 2 * sae.W_dec[-1].expand_as(silent))

    sae.save_model(folder / "again")
    found["again"] = apart(sae_lens.SAE.load_from_disk(folder / "again")(x), expected["sae_out"])
    double = sae_lens.SAE.load_from_disk(folder, dtype="float64")
    assert double(x.double()).dtype == torch.float64
    folded = sae_lens.SAE.load_from_disk(folder, fold_W_dec_norm=True)
    found["folded"] = apart(folded(x), expected["sae_out"])
    found["norms"] = apart(folded.W_dec.norm(dim=-1), torch.ones(len(folded.W_dec)))
    fresh = sae_lens.SAE.from_dict(sae.cfg.to_dict())
    assert torch.isfinite(fresh(x)).all()
    return found


def main() -> None:
    print(json.dumps({path.name: check(path) for path in sorted(Path(sys.argv[1]).iterdir())}))


if __name__ == "__main__":
    main()
