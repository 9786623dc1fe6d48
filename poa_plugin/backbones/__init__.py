"""Backbones: one definition each, ordinary and elastic. Importing the package registers them."""

from poa_plugin.backbones.base import CropBatch, ElasticBackbone, Features
from poa_plugin.backbones.resnet.elastic import ElasticResNet
from poa_plugin.backbones.resnet.plain import ResNet
from poa_plugin.backbones.swin.elastic import ElasticSwinTransformer
from poa_plugin.backbones.swin.plain import SwinTransformer
from poa_plugin.backbones.vit.elastic import ElasticVisionTransformer
from poa_plugin.backbones.vit.plain import VisionTransformer

__all__ = [
    "CropBatch",
    "ElasticBackbone",
    "ElasticResNet",
    "ElasticSwinTransformer",
    "ElasticVisionTransformer",
    "Features",
    "ResNet",
    "SwinTransformer",
    "VisionTransformer",
]
