"""Backbones: one definition each, ordinary and elastic. Importing the package registers them."""

from poa_plugin.backbones.base import ElasticBackbone, Features, Stream
from poa_plugin.backbones.elastic_vit import ElasticVisionTransformer
from poa_plugin.backbones.vit import VisionTransformer

__all__ = [
    "ElasticBackbone",
    "ElasticVisionTransformer",
    "Features",
    "Stream",
    "VisionTransformer",
]
