"""Backbones: one definition each, ordinary and elastic. Importing the package registers them."""

from poa_plugin.backbones.base import ElasticBackbone, Features, Stream
from poa_plugin.backbones.elastic_resnet import ElasticResNet
from poa_plugin.backbones.elastic_swin import ElasticSwinTransformer
from poa_plugin.backbones.elastic_vit import ElasticVisionTransformer
from poa_plugin.backbones.resnet import ResNet
from poa_plugin.backbones.swin import SwinTransformer
from poa_plugin.backbones.vit import VisionTransformer

__all__ = [
    "ElasticBackbone",
    "ElasticResNet",
    "ElasticSwinTransformer",
    "ElasticVisionTransformer",
    "Features",
    "ResNet",
    "Stream",
    "SwinTransformer",
    "VisionTransformer",
]
