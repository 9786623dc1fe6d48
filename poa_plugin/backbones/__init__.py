"""Backbones: one definition each, ordinary and elastic. Importing the package registers them."""

from poa_plugin.backbones.base import CropBatch, ElasticBackbone, Features
from poa_plugin.backbones.drop_path import add_residual
from poa_plugin.backbones.isotropic.elastic import IsotropicBackbone, IsotropicMultiInputBlock
from poa_plugin.backbones.isotropic.options import IsotropicOptions
from poa_plugin.backbones.isotropic.plain import IsotropicNetwork, PatchEmbed
from poa_plugin.backbones.mlp import Mlp
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
    "IsotropicBackbone",
    "IsotropicMultiInputBlock",
    "IsotropicNetwork",
    "IsotropicOptions",
    "Mlp",
    "PatchEmbed",
    "ResNet",
    "SwinTransformer",
    "VisionTransformer",
    "add_residual",
]
