"""Laws of the forward pass: the inputs of a step go through a backbone together as they would alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from poa_plugin.backbones.base import CropBatch, ElasticBackbone
from poa_plugin.config.schema import Config
from poa_plugin.elastic.layers import MultiInputBlock, sliced_parameters
from poa_plugin.extraction.network import extract
from poa_plugin.testing.extraction import OUTPUTS
from poa_plugin.testing.networks import (
    assert_close,
    middle,
    random_backbone,
    random_images,
    random_masks,
)


def inputs_go_through_together_as_alone(config: Config) -> None:
    """Assert that crop batches of several sub-networks, sizes and masks have the features of each alone."""
    backbone = random_backbone(config)
    large, small = random_images(config, 3), random_images(config, 4, local=True)
    masks, narrow = random_masks(config, 3), middle(backbone.space)
    crop_batches = [
        CropBatch(large, backbone.space.intact, masks),
        CropBatch(small, backbone.space.intact),
        CropBatch(large, narrow, masks),
        CropBatch(small, narrow),
        CropBatch(large, narrow),
        CropBatch(small, backbone.space["smallest"]),
    ]
    for crop_batch, out in zip(crop_batches, backbone(crop_batches), strict=True):
        alone = backbone(crop_batch.images, crop_batch.subnet, crop_batch.masks)
        for key in (*OUTPUTS, "x_prenorm"):
            assert_close(out[key], alone[key])


def gradients_of_inputs_add_up(config: Config) -> None:
    """Assert that the gradient of a pass over several crop batches is the sum of theirs."""
    backbone = random_backbone(config)
    crops = [random_images(config), random_images(config, 3, local=True)]
    members = (backbone.space.intact, middle(backbone.space))
    crop_batches = [CropBatch(images, subnet) for subnet in members for images in crops]
    together = _gradients(backbone, [crop_batches])
    alone = _gradients(backbone, [[crop_batch] for crop_batch in crop_batches])
    assert together.keys() == alone.keys(), sorted(together.keys() ^ alone.keys())
    for name, grad in together.items():
        scale = float(alone[name].abs().max()) + 1
        torch.testing.assert_close(grad, alone[name], atol=2e-5 * scale, rtol=0, msg=name)


def gradients_stay_in_the_slice(config: Config) -> None:
    """Assert that a member's gradient is zero outside its slices, and absent in blocks that it skips."""
    backbone = random_backbone(config)
    subnet = middle(backbone.space)
    _gradients(backbone, [[CropBatch(random_images(config), subnet)]])
    path = set(backbone.member_path(subnet))
    skipped = set(backbone.member_path(backbone.space.intact)) - path
    assert skipped, "the space needs three depths or more"
    for name in skipped:
        for key, parameter in backbone.get_submodule(name).named_parameters():
            assert parameter.grad is None, f"{name}.{key}"
    width_ratio = backbone.space.width_ratio(subnet)
    for name in backbone.plain_names(subnet):
        module = backbone.get_submodule(name)
        sliced = sliced_parameters(module, width_ratio)
        for key, parameter in module.named_parameters(recurse=False):
            if key in sliced and parameter.grad is not None:
                [used] = torch.autograd.grad(sliced[key].sum(), parameter, retain_graph=True)
                moved = parameter.grad != 0
                assert int(moved.sum()) <= sliced[key].numel(), f"{name}.{key}"
                assert not bool((moved & (used == 0)).any()), f"{name}.{key}"


def masks_hide_what_they_cover(config: Config) -> None:
    """Assert that a mask of nothing changes nothing, and that an image masked as a whole is not seen."""
    backbone = random_backbone(config)
    subnet, images = middle(backbone.space), random_images(config)
    masks = torch.zeros_like(random_masks(config, 2))
    with torch.no_grad():
        unmasked, nothing = backbone(images, subnet), backbone(images, subnet, masks)
        masks[1] = True
        masked = backbone(images, subnet, masks)
        changed = backbone(random_images(config, seed=1), subnet, masks)
    for key in OUTPUTS:
        torch.testing.assert_close(nothing[key], unmasked[key])
        assert_close(masked[key][0], unmasked[key][0])
    actual, expected = changed["x_norm_clstoken"], masked["x_norm_clstoken"]
    torch.testing.assert_close(actual[1], expected[1])
    assert not torch.allclose(actual[0], expected[0]), "an image that is not masked is not seen"
    assert masked["x_norm_patchtokens"].shape[1] == masks.shape[1]


def intermediate_layers_end_in_the_output(config: Config) -> None:
    """Assert that `get_intermediate_layers` ends in the features, in elastic and ordinary networks."""
    backbone, images = random_backbone(config), random_images(config)
    subnet = middle(backbone.space)
    expected = backbone(images, subnet)["x_norm_clstoken"]
    for network, extra in ((backbone, {"subnet": subnet}), (extract(backbone, subnet), {})):
        get: Any = network.get_intermediate_layers
        [(maps, cls)] = get(images, 1, reshape=True, return_class_token=True, **extra)
        assert maps.dim() == 4, tuple(maps.shape)
        assert_close(cls, expected)
        [tokens] = get(images, 1, **extra)
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens)
        try:
            get(images, [99], **extra)
        except ValueError as error:
            assert "has no" in str(error), error
        else:
            raise AssertionError("a block that is not there was not refused")


def blocks_take_all_inputs_in_one_call(config: Config) -> None:
    """Assert that each module of the intact network's path is a `MultiInputBlock`, called once a pass."""
    backbone = random_backbone(config)
    calls: list[str] = []
    path = list(backbone.member_path(backbone.space.intact))
    for name in path:
        module = backbone.get_submodule(name)
        assert isinstance(module, MultiInputBlock), name
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    crops = (random_images(config), random_images(config, local=True))
    members = (backbone.space.intact, middle(backbone.space), backbone.space["smallest"])
    backbone([CropBatch(images, subnet) for subnet in members for images in crops])
    assert calls == path, calls
    assert len(backbone.multi_input_blocks()) == len(path)


def half_precision_is_close(config: Config) -> None:
    """Assert that features under autocast to bf16 point where they do in float32."""
    backbone, images = random_backbone(config), random_images(config)
    subnet = middle(backbone.space)
    expected = backbone(images, subnet)["x_norm_clstoken"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = backbone(images, subnet)["x_norm_clstoken"].float()
    similarity = torch.nn.functional.cosine_similarity(expected, actual)
    assert similarity.min() > 0.99, similarity


def _gradients(
    backbone: ElasticBackbone, passes: Sequence[Sequence[CropBatch]]
) -> dict[str, Tensor]:
    """Return the gradients of some passes, added up."""
    backbone.zero_grad()
    for crop_batches in passes:
        outputs = backbone(list(crop_batches))
        torch.stack([out["x_norm_clstoken"].square().sum() for out in outputs]).sum().backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


LAWS = (
    inputs_go_through_together_as_alone,
    gradients_of_inputs_add_up,
    gradients_stay_in_the_slice,
    masks_hide_what_they_cover,
    intermediate_layers_end_in_the_output,
    blocks_take_all_inputs_in_one_call,
    half_precision_is_close,
)
