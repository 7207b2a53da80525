"""What NDIF does with a request, in a process that has neither this package nor what its tests install.

python remote_server.py MODEL: for every line on stdin, a request's file, a line on stdout, its result's file.
"""

# ruff: noqa: E402
import sys

for missing in ("hsae_hub", "jaxtyping", "beartype", "attach_oracle"):
    sys.modules[missing] = None

import torch
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import dec, inc
from transformers import AutoTokenizer

torch.set_num_threads(1)
folder = sys.argv[1]
model = TransformersModel(
    folder,
    tokenizer=AutoTokenizer.from_pretrained(folder),
    task="text-generation",
    dispatch=True,
    dtype=torch.float32,
)
model._module.requires_grad_(False)
for line in sys.stdin:
    with open(line.strip(), "rb") as file:
        request = RequestModel.deserialize(file.read(), model._remoteable_persistent_objects())
    frame = request.info.frame
    before = dict(frame.f_locals)
    inc()
    try:
        request.execute(request.info.code)
    finally:
        dec()
    saved = {k: v for k, v in frame.f_locals.items() if before.get(k) is not v}
    torch.save(saved, line.strip() + ".result")
    print(line.strip() + ".result", flush=True)
