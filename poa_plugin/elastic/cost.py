"""Parameters and FLOPs of sub-networks, from one trace for each width."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from poa_plugin.device import on_meta
from poa_plugin.memory import check_memory

if TYPE_CHECKING:
    from poa_plugin.elastic.subnet import Subnet


class Cost(NamedTuple):
    """Size of a network: parameters, and multiply-adds for one image."""

    params: int
    flops: int


class CostTable:
    """Costs of sub-networks that share blocks.

    A block costs the same at any position, so one trace of the deepest network of a width, module by
    module, gives the cost of each depth of that width.

    Args:
        plain: builds the ordinary network of a sub-network.
        blocks: the names of the blocks of a sub-network, in the intact network's numbering.
    """

    def __init__(
        self, plain: Callable[[Subnet], nn.Module], blocks: Callable[[Subnet], Sequence[str]]
    ) -> None:
        self._plain = plain
        self._blocks = blocks
        self._traces: dict[tuple[Subnet, int], tuple[Counter[str], Counter[str]]] = {}

    def cost(self, subnet: Subnet, deepest: Subnet, image_size: int) -> Cost:
        """Return the cost of `subnet`, from a trace of the deepest network of its width."""
        key = (deepest, image_size)
        if key not in self._traces:
            with on_meta():
                network = self._plain(deepest)
            check_memory(
                4 * sum(parameter.numel() for parameter in network.parameters()),
                f"Counting the FLOPs of '{deepest.name}' needs",
                "lower the widths and depths of the backbone",
            )
            self._traces[key] = count(network.to_empty(device="cpu"), image_size)
        params, flops = self._traces[key]
        skipped = set(self._blocks(deepest)) - set(self._blocks(subnet))
        return Cost(
            params[""] - sum(params[name] for name in skipped),
            flops[""] - sum(flops[name] for name in skipped),
        )


def count(network: nn.Module, image_size: int) -> tuple[Counter[str], Counter[str]]:
    """Return parameters and multiply-adds of a network by module name ("" is the whole).

    Args:
        network: takes (1, 3, H, W) images on the CPU; its weights are set to zero. (Tracing a
            convolution on the meta device, which would need no memory, fails in torch 2.14.)
        image_size: the side of the image in pixels.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`")  # fvcore's losses, on import
        from fvcore.nn import FlopCountAnalysis, parameter_count
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    images = torch.zeros(1, 3, image_size, image_size)
    analysis = FlopCountAnalysis(network.eval(), images)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    flops = {
        name: int(value) for name, value in analysis.by_module().items()
    }  # einsum's are floats
    return Counter(parameter_count(network)), Counter(flops)


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count the two matrix products of attention, which fvcore does not know."""
    *batch, queries, head_dim = inputs[0].type().sizes()
    keys = inputs[1].type().sizes()[-2]
    pairs = queries * keys
    for size in batch:
        pairs *= size
    return Counter({"attention": 2 * pairs * head_dim})
