"""SAEs as ONNX graphs: what a service or a browser runs without torch."""

from hsae_hub.onnx.exporting import OPSET as OPSET
from hsae_hub.onnx.exporting import export as export
