"""Export: an extracted network in the formats of other libraries. Importing the package registers them."""

from poa_plugin.extract.export import hugging_face, onnx, timm
from poa_plugin.extract.export.exporter import Written, export

__all__ = ["Written", "export", "hugging_face", "onnx", "timm"]
