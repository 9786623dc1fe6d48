"""The interface of elastic backbones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from poa_plugin.backbones.intermediate import Layer, shape_layers
from poa_plugin.elastic.layers import MultiInputBlock, sliced_parameters
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.errors import UserError

Features = dict[str, Tensor | None]
"""A backbone's outputs under DINOv2's names: `x_norm_clstoken` (B, D), `x_norm_patchtokens`
(B, N, D), `x_prenorm` (B, 1 + N, D), `masks` (B, N) or None."""


@dataclass(frozen=True, eq=False)
class CropBatch:
    """A batch of crops that one sub-network sees within a step.

    Crop batches with the same `images` and `masks` tensors share one run of the stem.

    Args:
        images: (B, C, H, W).
        subnet: the member of the search space that runs.
        masks: (B, N) bool, True where the mask token replaces a patch.
        generator: a CPU generator for stochastic depth; None uses torch's global one.
        patch_ids: (M,) indices in the flattened (B * N) patches of the patch tokens that the caller reads,
            beside all class tokens: `x_norm_patchtokens` is then (M, D), these alone, and there is no
            `x_prenorm`. None reads all.
    """

    images: Tensor
    subnet: Subnet
    masks: Tensor | None = None
    generator: torch.Generator | None = None
    patch_ids: Tensor | None = None


class PlainNetwork(nn.Module):
    """An ordinary network: a stem, a path of modules that run one after the other, and an output.

    The steps can be taken one by one, so that networks whose paths start with the same modules share those.
    """

    def path(self) -> Sequence[str]:
        """Return the names of the modules between stem and output, in the order in which they run."""
        raise NotImplementedError

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to what the first module of the path takes."""
        raise NotImplementedError

    def step(self, x: Tensor, name: str) -> Tensor:
        """Run one module of the path."""
        out: Tensor = self.get_submodule(name)(x)
        return out

    def output(self, x: Tensor) -> Features:
        """Return the features from the output of the path's last module."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Features:
        """Return the features of (B, C, H, W) images."""
        x = self.stem(images)
        for name in self.path():
            x = self.step(x, name)
        return self.output(x)

    def layers_at(self, images: Tensor, n: int | Sequence[int], norm: bool) -> list[Layer]:
        """Return the outputs of the last `n` blocks or stages, or of those at the indices `n`.

        Args:
            images: (B, C, H, W).
            n: how many, or which.
            norm: whether they go through a norm.

        Raises:
            ValueError: there are no such blocks.
        """
        raise NotImplementedError

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Return the patches after the last `n` blocks or stages, or after those at the indices `n`.

        DINOv2's method of this name: (B, N, D) tokens of each, as (B, D, h, w) maps if `reshape`, paired with
        (B, D) class tokens, or means, if `return_class_token`, through a norm if `norm`.
        """
        return shape_layers(self.layers_at(images, n, norm), reshape, return_class_token)


class ElasticBackbone(nn.Module):
    """Base class of elastic backbones.

    A backbone is called either with a list of crop batches, which go through its blocks together, or with
    images and a sub-network, which is one crop batch. No module stores which sub-network is active.
    """

    Options: ClassVar[type]
    space: SearchSpace

    @classmethod
    def from_options(cls, options: Any, image_size: int) -> ElasticBackbone:
        """Build the backbone from its section of the configuration.

        Args:
            options: an instance of `Options`.
            image_size: the side of the global crops in pixels.

        Raises:
            UserError: the options contradict one another.
        """
        raise NotImplementedError

    def forward_features_list(self, crop_batches: Sequence[CropBatch]) -> list[Features]:
        """Run all crop batches through the blocks together and return the features of each."""
        raise NotImplementedError

    def forward(
        self,
        images: Tensor | Sequence[CropBatch],
        subnet: Subnet | str | None = None,
        masks: Tensor | None = None,
    ) -> Any:
        """Return the features of one sub-network, or a list of them for a list of crop batches.

        Args:
            images: (B, C, H, W), or crop batches (then nothing else is given).
            subnet: a member of `space`, or its name; the intact network if None.
            masks: (B, N) bool, True where the mask token replaces a patch.

        Raises:
            UserError: a sub-network is not a member of the space, or images or masks do not fit.
        """
        if isinstance(images, Tensor):
            return self.forward_features_list([CropBatch(images, self.member(subnet), masks)])[0]
        if not isinstance(images, (list, tuple)) or not all(
            isinstance(s, CropBatch) for s in images
        ):
            raise UserError(
                f"The images are of type {type(images).__name__}: a backbone takes a floating-point tensor "
                f"(B, C, H, W), or a list of CropBatch."
            )
        for crop_batch in images:
            check_member(self.space, crop_batch.subnet)
        features = self.forward_features_list(images) if images else []
        return [
            read_patches(x, crop_batch.patch_ids)
            for x, crop_batch in zip(features, images, strict=True)
        ]

    def member_layers_at(
        self, images: Tensor, subnet: Subnet, n: int | Sequence[int], norm: bool
    ) -> list[Layer]:
        """Return the outputs of a member's blocks or stages; see `PlainNetwork.layers_at`."""
        raise NotImplementedError

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        subnet: Subnet | str | None = None,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Return a sub-network's patches after blocks or stages; indices count its own.

        See `PlainNetwork.get_intermediate_layers`.
        """
        layers = self.member_layers_at(images, self.member(subnet), n, norm)
        return shape_layers(layers, reshape, return_class_token)

    def member(self, subnet: Subnet | str | None) -> Subnet:
        """Return the member of `space` that is given as a value or by name; the intact network for None.

        Raises:
            UserError: there is no such member.
        """
        return self.space.intact if subnet is None else self.space[subnet]

    def multi_input_blocks(self) -> list[MultiInputBlock]:
        """Return the modules that take all sub-networks of a step in one call, in their order."""
        return [module for module in self.modules() if isinstance(module, MultiInputBlock)]

    def member_path(self, subnet: Subnet) -> Sequence[str]:
        """Return the modules that a member runs between stem and output, in order.

        Names are the intact network's, and those of the ordinary network of the deepest member of the same
        width. Two members of a width share the work of the steps that their paths have in common at the start.

        Raises:
            UserError: the sub-network is not a member of the space.
        """
        raise NotImplementedError

    def feature_width(self, subnet: Subnet | str) -> int:
        """Return the number of channels of the features of a member, given as a value or by name."""
        raise NotImplementedError

    def feature_ratio(self, subnet: Subnet) -> Fraction:
        """Return a member's feature width over the intact network's."""
        return Fraction(self.feature_width(subnet), self.feature_width(self.space.intact))

    def check_image_size(self, image_size: int) -> None:
        """Raise a `UserError` if square images of this side cannot be taken; by default, any can."""

    def mask_grid(self, image_size: int) -> tuple[int, int]:
        """Return the rows and columns of patches that can be masked in a square image."""
        raise NotImplementedError

    def plain(self, subnet: Subnet) -> PlainNetwork:
        """Build the ordinary network of a member; its weights are yet to be loaded."""
        return self.build_plain(self.plain_options(subnet))

    @staticmethod
    def build_plain(options: Mapping[str, Any]) -> PlainNetwork:
        """Build an ordinary network from the values of `plain_options`."""
        raise NotImplementedError

    def plain_names(self, subnet: Subnet) -> Mapping[str, str]:
        """Map the name of every module a member uses to its name in the ordinary network."""
        raise NotImplementedError

    def plain_options(self, subnet: Subnet) -> dict[str, Any]:
        """Return the constructor arguments of a member's ordinary network, as plain values."""
        raise NotImplementedError

    def sliced_mask_token(self, subnet: Subnet) -> Tensor:
        """Return the mask token of a member, which its ordinary network lacks."""
        raise NotImplementedError

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter for layer-wise decay: 0 is the stem, `num_layers` the end."""
        raise NotImplementedError

    @property
    def num_layers(self) -> int:
        """The `layer_id` of modules after the last block."""
        raise NotImplementedError

    def decayed_norms(self) -> Collection[str]:
        """Return the parameters of normalization layers that are decayed nonetheless; by default none."""
        return ()

    @torch.no_grad()
    def sliced_state_dict(self, subnet: Subnet) -> dict[str, Tensor]:
        """Return the state dict of a member's ordinary network, alpha folded into the weights.

        Each elastic module slices its parameters with the slicer of its forward pass; other parameters are
        copied as they are. Tensors share no storage with the backbone.
        """
        width_ratio = self.space.width_ratio(subnet)
        state = {}
        for name, plain_name in self.plain_names(subnet).items():
            parameters = sliced_parameters(self.get_submodule(name), width_ratio)
            prefix = f"{plain_name}." if plain_name else ""
            state.update(
                {prefix + key: tensor.detach().clone() for key, tensor in parameters.items()}
            )
        return state


def read_patches(features: Features, patch_ids: Tensor | None) -> Features:
    """Return features with only the patch tokens that are read, if the backbone returned all of them."""
    patches = features["x_norm_patchtokens"]
    if patch_ids is None or patches is None or patches.dim() == 2:
        return features
    return {
        **features,
        "x_norm_patchtokens": patches.flatten(0, 1).index_select(0, patch_ids),
        "x_prenorm": None,
    }


def check_member(space: SearchSpace, subnet: Subnet) -> None:
    """Raise a `UserError` if `subnet` is not in `space`."""
    space[subnet]
    if not isinstance(subnet, Subnet):
        raise UserError(
            f"'{subnet}' is a name: a CropBatch takes the sub-network, space['{subnet}']."
        )
