"""Run by `tests/bench/step.py` in an environment that has sae-lens: a training step for each line on standard input.

    python sae_lens_step.py D_IN LATENTS K BATCH

A step is what sae-lens' trainer does with a batch: forward, backward, clipping and its Adam; no latent is dead.
"""

import sys

import sae_lens
import torch
from sae_lens.saes.sae import TrainStepInput

torch.set_num_threads(1)
d_in, latents, k, batch = map(int, sys.argv[1:])
config = sae_lens.TopKTrainingSAEConfig(d_in=d_in, d_sae=latents, k=k)
sae = sae_lens.TopKTrainingSAE(config)
optimizer = torch.optim.Adam(sae.parameters(), lr=1e-5, betas=(0.9, 0.999))
x = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0))
x /= x.norm(dim=1, keepdim=True)
alive = torch.zeros(latents, dtype=torch.bool)
print(f"sae-lens {sae_lens.__version__}", flush=True)
for _ in sys.stdin:
    step = sae.training_forward_pass(TrainStepInput(x, {}, alive, 0, False))
    step.loss.backward()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print("done", flush=True)
