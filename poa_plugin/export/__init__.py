"""Export: an extracted network in the formats of other libraries. Importing the package registers them."""

from poa_plugin.export import hugging_face, onnx, timm
from poa_plugin.export.exporter import Written, export

__all__ = ["Written", "export", "hugging_face", "onnx", "timm"]
