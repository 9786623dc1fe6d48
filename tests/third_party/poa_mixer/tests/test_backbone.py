"""The laws of elastic backbones, and what is this family's own."""

from __future__ import annotations

from pathlib import Path

import poa_mixer
import pytest
import torch
from poa_mixer.backbone import TokenMixing

import poa_plugin as poa
from poa_plugin.testing import LAWS, check_extraction, random_backbone

TINY = Path(poa_mixer.__file__).with_name("tiny.yaml")


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(poa.load_config(TINY))


def test_images_of_any_grid():
    backbone = random_backbone(poa.load_config(TINY))
    for subnet in ("smallest", "w40_d3", "intact"):
        network = poa.extract(backbone, subnet)
        for size in ((32, 32), (16, 24), (40, 36)):
            check_extraction(backbone, backbone.space[subnet], [network], torch.randn(2, 3, *size))


def test_tokens_are_mixed_by_an_mlp_at_the_grid_of_training():
    mixing, x = TokenMixing(grid=4, hidden=6), torch.randn(2, 4, 4, 8)
    read, write = (weight.flatten(1) for weight in (mixing.read, mixing.write))
    hidden = torch.nn.functional.gelu(read @ x.flatten(1, 2) + mixing.bias)
    torch.testing.assert_close(mixing(x).flatten(1, 2), write.T @ hidden)


def test_a_constant_image_is_mixed_alike_on_every_grid():
    mixing = TokenMixing(grid=4, hidden=6)
    with torch.no_grad():
        for weight in (mixing.read, mixing.write):
            weight.copy_(weight.mean((1, 2), keepdim=True).expand_as(weight))
        small, large = (mixing(torch.ones(1, n, n, 8)) for n in (3, 8))
    torch.testing.assert_close(small.flatten(), small[0, 0, 0, 0].expand(72))
    torch.testing.assert_close(large[0, 0, 0], small[0, 0, 0])


def test_widths_that_have_no_whole_number_of_units_are_refused():
    options = ["student.mixer.mlp_ratio=0.3"]
    with pytest.raises(poa.UserError, match=r"'hidden' is 14 at width 48 .* at width 32"):
        poa.build_backbone(poa.load_config(TINY, options))
