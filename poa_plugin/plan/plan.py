"""Plan a recipe."""

from __future__ import annotations

from poa_plugin.config.schema import Config
from poa_plugin.errors import UserError
from poa_plugin.plan.advice import first_that_fits
from poa_plugin.plan.devices import Device
from poa_plugin.plan.measure import measure
from poa_plugin.plan.numbers import count
from poa_plugin.plan.report import Plan
from poa_plugin.ssl import check_model


def make_plan(
    config: Config,
    device: Device,
    ranks: int = 1,
    peak: float | None = None,
    utilization: float = 0.4,
    measured: bool = False,
) -> Plan:
    """Return what a recipe takes on a device; trains some steps here if it is to be `measured`.

    Args:
        config: a resolved configuration.
        device: to plan for.
        ranks: processes, with such a device each.
        peak: FLOP/s; the device's if None.
        utilization: of the peak, from 0 to 1.
        measured: whether steps are timed on this machine.

    Raises:
        UserError: the recipe contradicts itself, or shards cannot be spread over the ranks.
    """
    check_model(config, fits=False)
    if config.meta_arch != "poa":
        raise UserError(
            f"'poa plan' knows what the meta-architecture 'poa' does, and this is '{config.meta_arch}'."
        )
    numbers = count(config, device, ranks)
    fits = numbers.bytes_needed(device) <= device.memory
    return Plan(
        config=config,
        device=device,
        numbers=numbers,
        advice=None if fits else first_that_fits(config, numbers, device),
        peak=peak if peak is not None else device.peak(config.train.precision),
        utilization=utilization,
        measured=measure(config) if measured else None,
    )
