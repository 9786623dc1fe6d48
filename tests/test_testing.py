"""Every law notices a backbone that breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from poa_plugin.backbones import ElasticVisionTransformer, VisionTransformer
from poa_plugin.backbones.isotropic.elastic import IsotropicBackbone
from poa_plugin.backbones.vit import elastic
from poa_plugin.backbones.vit.block import ViTMultiInputBlock
from poa_plugin.config.load import default_config
from poa_plugin.config.schema import Config
from poa_plugin.elastic import slicing
from poa_plugin.elastic.cost import Cost, CostTable
from poa_plugin.elastic.layers import ElasticLayers, ElasticLinear, MultiInputBlock
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.extraction import network
from poa_plugin.testing import LAWS, members_to_check, middle, random_backbone, training
from tests.conftest import SMALL

Breaks = dict[str, tuple[Any, str, Callable[[Any], Any]]]
"""By law: what is replaced, its name, and a function from the original to the replacement."""


def scaled(factor: float) -> Callable[[Any], Any]:
    """Multiply the tensors in a dict, or a tensor, that a function returns."""

    def of(original: Any) -> Any:
        def function(*arguments: Any, **options: Any) -> Any:
            out = original(*arguments, **options)
            if isinstance(out, Tensor):
                return out * factor
            return {name: tensor * factor for name, tensor in out.items()}

        return function

    return of


def mixes_crop_batches(run: Any) -> Any:
    return lambda self, x, *extra: run(self, x, *extra) + 0.1 * x.mean(0)


def forgets_the_gradient_of_several(run: Any) -> Any:
    return lambda self, x, layout, *extra: run(
        self, x.detach() if len(layout) > 1 else x, layout, *extra
    )


def depends_on_company(forward: Any) -> Any:
    def together(self: Any, inputs: list[Any], *extras: Any) -> list[Any]:
        outputs = forward(self, inputs, *extras)
        if len(inputs) < 2:
            return outputs
        return [None if out is None else out * 1.1 for out in outputs]

    return together


def calls_a_block_for_each(run_where: Any) -> Any:
    def one_by_one(block: Any, states: Any, runs: Any, *extras: Any) -> list[Any]:
        return [
            run_where(block, [x], [active], *[[e] for e in extra])[0]
            for x, active, *extra in zip(states, runs, *extras, strict=True)
        ]

    return one_by_one


def turns_under_autocast(embed: Any) -> Any:
    return lambda *arguments: embed(*arguments) * (-1 if torch.is_autocast_enabled("cpu") else 1)


def takes_any(getitem: Any) -> Any:
    def member(self: SearchSpace, name: Any) -> Subnet:
        return (
            next(iter(self))
            if isinstance(name, Subnet) and name not in self
            else getitem(self, name)
        )

    return member


BREAKS: Breaks = {
    "extracted_networks_equal_elastic_ones": (ElasticLinear, "sliced", scaled(1.01)),
    "every_key_is_accounted_for": (
        ElasticVisionTransformer,
        "plain_names",
        lambda names: lambda self, s: {a: b for a, b in names(self, s).items() if a != "norm"},
    ),
    "folders_are_loaded_again": (network, "load_tensors", scaled(1.01)),
    "at_full_width_nothing_is_scaled": (ElasticLinear, "sliced", scaled(1 + 1e-6)),
    "ordinary_networks_have_nothing_elastic": (
        VisionTransformer,
        "layers",
        lambda _: ElasticLayers,
    ),
    "ordinary_networks_run_step_by_step": (
        ElasticVisionTransformer,
        "member_path",
        lambda path: lambda self, subnet: path(self, subnet)[::-1],
    ),
    "sizes_are_counted": (
        CostTable,
        "cost",
        lambda cost: lambda *arguments: Cost(cost(*arguments).params, 0),
    ),
    "other_networks_are_refused": (SearchSpace, "__getitem__", takes_any),
    "inputs_go_through_together_as_alone": (ViTMultiInputBlock, "run", mixes_crop_batches),
    "gradients_of_inputs_add_up": (ViTMultiInputBlock, "run", forgets_the_gradient_of_several),
    "gradients_stay_in_the_slice": (
        slicing._Corner,
        "backward",
        lambda backward: staticmethod(
            lambda ctx, grad: (torch.ones(ctx.shape), *backward(ctx, grad)[1:])
        ),
    ),
    "masks_hide_what_they_cover": (
        IsotropicBackbone,
        "_embed_at",
        lambda embed: lambda self, images, masks, width: embed(self, images, None, width),
    ),
    "intermediate_layers_end_in_the_output": (
        ElasticVisionTransformer,
        "run_block",
        lambda run: lambda self, block, x: x,
    ),
    "blocks_take_all_inputs_in_one_call": (elastic, "run_where", calls_a_block_for_each),
    "half_precision_is_close": (ElasticVisionTransformer, "embed", turns_under_autocast),
    "students_together_are_one_after_the_other": (MultiInputBlock, "forward", depends_on_company),
    "stochastic_depth_follows_the_generator": (
        ElasticVisionTransformer,
        "draw_drop_path",
        lambda draw: lambda self, batch, generator=None: draw(self, batch),
    ),
    "layer_ids_rise_along_the_path": (
        ElasticVisionTransformer,
        "layer_id",
        lambda layer_id: lambda self, name: self.num_layers - layer_id(self, name),
    ),
    "a_plan_counts_what_is_trained": (
        training,
        "trace_shard",
        lambda trace: lambda config, gpu: dataclasses.replace(trace(config, gpu), parameters=1),
    ),
}


def test_every_law_is_tried() -> None:
    assert [law.__name__ for law in LAWS] == list(BREAKS)


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_noticed_to_be_broken(
    law: Callable[[Config], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, broken = BREAKS[law.__name__]
    monkeypatch.setattr(owner, name, broken(getattr(owner, name)))
    with pytest.raises(AssertionError):
        law(default_config([*SMALL, "student.vit.drop_path_rate=0.3"]))


def test_members_to_check() -> None:
    space = random_backbone(default_config(SMALL)).space
    corners = [space[name] for name in ("w24_d2", "w24_d4", "w48_d2", "w48_d4")]
    found = members_to_check(space, 5)
    assert found[:4] == corners
    assert len(set(found)) == 9
    assert set(members_to_check(space)) == set(space)
    assert middle(space) == Subnet(40, 3)
