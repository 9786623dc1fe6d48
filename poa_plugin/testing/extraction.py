"""Laws of extraction: the ordinary network of a member is the elastic one, in memory and from its folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.config.schema import Config
from poa_plugin.elastic.cost import count
from poa_plugin.elastic.subnet import Subnet
from poa_plugin.errors import UserError
from poa_plugin.evaluate.tree import deepest_network
from poa_plugin.extraction.network import extract, load, write_network
from poa_plugin.testing.networks import (
    assert_close,
    members_to_check,
    middle,
    random_backbone,
    random_images,
)

OUTPUTS = ("x_norm_clstoken", "x_norm_patchtokens")
ORDINARY = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.GroupNorm)


@torch.no_grad()
def check_extraction(
    backbone: ElasticBackbone, subnet: Subnet, networks: Iterable[nn.Module], images: Tensor
) -> None:
    """Assert that ordinary networks of a member give the features of `backbone(images, subnet)`.

    Args:
        backbone: in evaluation mode.
        subnet: a member of its space.
        networks: made of that member, such as by `extract` or `load`.
        images: (B, C, H, W).
    """
    expected = backbone(images, subnet)
    for network in networks:
        actual = network(images)
        for key in OUTPUTS:
            assert_close(actual[key], expected[key])


def extracted_networks_equal_elastic_ones(config: Config) -> None:
    """Assert that `elastic(x, s) == extract(elastic, s)(x)` for corners and others, global and local crops."""
    backbone = random_backbone(config)
    for subnet in members_to_check(backbone.space):
        network = extract(backbone, subnet)
        for local in (False, True):
            check_extraction(backbone, subnet, [network], random_images(config, local=local))


def every_key_is_accounted_for(config: Config) -> None:
    """Assert that a member's sliced weights are its ordinary network's, of the same names and shapes."""
    backbone = random_backbone(config)
    for subnet in members_to_check(backbone.space):
        expected = backbone.plain(subnet).state_dict()
        actual = backbone.sliced_state_dict(subnet)
        assert actual.keys() == expected.keys(), sorted(actual.keys() ^ expected.keys())
        for key, tensor in actual.items():
            assert tensor.shape == expected[key].shape, key


def folders_are_loaded_again(config: Config) -> None:
    """Assert that what `poa extract` writes is loaded as the network that it was."""
    backbone, images = random_backbone(config), random_images(config)
    for subnet in (middle(backbone.space), backbone.space.intact):
        with TemporaryDirectory() as folder:
            arch = config.student.arch
            network = load(write_network(Path(folder) / "network", arch, backbone, subnet, {}))
        check_extraction(backbone, subnet, [network], images)


def at_full_width_nothing_is_scaled(config: Config) -> None:
    """Assert that the intact network's weights are copies of the backbone's, bit for bit."""
    backbone = random_backbone(config)
    intact = backbone.space.intact
    own, names = dict(backbone.named_parameters()), backbone.plain_names(intact)
    network = extract(backbone, intact)
    state, missing = network.state_dict(), []
    for name, plain_name in names.items():
        for key, _ in backbone.get_submodule(name).named_parameters(recurse=False):
            parameter = own[f"{name}.{key}".lstrip(".")]
            plain = state.pop(f"{plain_name}.{key}".lstrip("."), None)
            if plain is None:
                missing.append(key)
                continue
            assert torch.equal(plain, parameter), f"{name}.{key}"
            assert plain.data_ptr() != parameter.data_ptr(), f"{name}.{key} shares its storage"
    assert set(missing) <= {"mask_token"}, missing
    assert state.keys() <= dict(network.named_buffers()).keys(), list(state)


def ordinary_networks_have_nothing_elastic(config: Config) -> None:
    """Assert that an extracted network is made of torch's own layers."""
    backbone = random_backbone(config)
    network = extract(backbone, middle(backbone.space))
    for module in network.modules():
        assert not hasattr(module, "sliced"), type(module)
        assert not isinstance(module, ORDINARY) or type(module) in ORDINARY, type(module)


def ordinary_networks_run_step_by_step(config: Config) -> None:
    """Assert that a width's deepest ordinary network has the modules of all members of that width."""
    backbone, images = random_backbone(config), random_images(config)
    width = middle(backbone.space).width
    deepest = deepest_network(backbone, width)
    with torch.no_grad():
        for member in (subnet for subnet in backbone.space if subnet.width == width):
            x = deepest.stem(images)
            for name in backbone.member_path(member):
                x = deepest.step(x, name)
            expected = backbone(images, member)["x_norm_clstoken"]
            assert_close(deepest.output(x)["x_norm_clstoken"], expected)
    assert list(deepest.path()) == list(backbone.member_path(backbone.space.intact))


def sizes_are_counted(config: Config) -> None:
    """Assert that the space gives each network's parameters and FLOPs, which it has from one trace a width."""
    backbone = random_backbone(config)
    for subnet in members_to_check(backbone.space, count=5):
        params, flops = count(extract(backbone, subnet), backbone.space.image_size)
        assert backbone.space.cost(subnet) == (params[""], flops[""]), subnet.name


def other_networks_are_refused(config: Config) -> None:
    """Assert that to call or extract what is not a member of the space is a `UserError`."""
    backbone, images = random_backbone(config), random_images(config)
    intact = backbone.space.intact
    deeper = tuple(depth + 1 for depth in intact.depths)
    for stranger in (
        Subnet(intact.width + 4, intact.depth, intact.depths),
        Subnet(intact.width, intact.depth + 1, deeper),
    ):
        for call in (
            lambda subnet: backbone(images, subnet),
            lambda subnet: extract(backbone, subnet),
        ):
            try:
                call(stranger)
            except UserError as error:
                assert f"Unknown network '{stranger.name}'" in str(error), error
            else:
                raise AssertionError(f"{stranger.name} is no member and was not refused")


LAWS = (
    extracted_networks_equal_elastic_ones,
    every_key_is_accounted_for,
    folders_are_loaded_again,
    at_full_width_nothing_is_scaled,
    ordinary_networks_have_nothing_elastic,
    ordinary_networks_run_step_by_step,
    sizes_are_counted,
    other_networks_are_refused,
)
