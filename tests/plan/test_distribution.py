"""What is planned for 32 ranks is what one of 32 ranks holds, gathers and reduces in a dry run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from poa_plugin.config.load import default_config, load_config
from poa_plugin.config.schema import Config
from poa_plugin.plan.devices import GPUS, Device
from poa_plugin.plan.distribution import replicated, sharded, units_of
from poa_plugin.plan.numbers import count
from poa_plugin.plan.trace import meta_model
from poa_plugin.train.parallel import MOST_REPLICATED, sharded_units
from tests.conftest import FAMILIES
from tests.plan.dry_run import RANKS, DryRun, one_of_many

pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
CPU = Device("a CPU", 10**12, None, False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    with one_of_many(monkeypatch) as mode:
        yield mode


def recipe(name: str, *overrides: str) -> Config:
    on_cpu = ("data.path=/data", "train.device=cpu", "train.precision=fp32")
    return load_config(name, [*on_cpu, "train.parallel=fsdp2", *overrides])


@pytest.mark.parametrize(
    "name", ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("swin", "resnet"))]
)
def test_shards_of_the_published_recipes(name: str, fake: FakeTensorMode) -> None:
    config = recipe(name)
    planned = sharded(meta_model(config), RANKS, 1)
    dry = DryRun(config, fake)
    assert dry.local_bytes() == planned.weights
    assert 4 * dry.parameters == replicated(meta_model(config), RANKS, 1).weights
    assert planned.weights == pytest.approx(4 * dry.parameters / RANKS, rel=0.1)
    for units, modules in zip(
        units_of(meta_model(config).student), sharded_units(dry.model.student), strict=True
    ):
        assert [unit.whole(RANKS) for unit in units] == [dry.gather(module) for module in modules]


def check_step(config: Config, fake: FakeTensorMode) -> None:
    """Compare what a step gathers and reduces with the plan, and count the gathers."""
    numbers, dry = count(config, CPU, RANKS), DryRun(config, fake)
    assert numbers.parameters == dry.parameters
    assert numbers.parts["student"] == dry.local_bytes()
    seen = dry.step()
    train, others = config.train, (RANKS - 1) / RANKS
    sinkhorn_knopp = numbers.traffic["Sinkhorn-Knopp"]
    assert sum(seen.bytes["gather"]) * others == numbers.traffic["weights"] + sinkhorn_knopp
    assert sum(seen.bytes["reduce_scatter"]) * others == numbers.traffic["gradients"]
    assert seen.most_whole == numbers.parts["gathered"]

    shards = train.shards // RANKS
    n_units = sum(map(len, sharded_units(dry.model.student)))
    passes = 2 + train.reshard_after_forward
    assert len(seen.bytes["gather"]) == shards * passes * n_units + 3
    reductions = shards if train.reduce == "shard" else 1
    assert len(seen.bytes["reduce_scatter"]) == reductions * n_units


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("vit", ("train.shards=64", "train.activation_checkpointing=true")),
        (
            "resnet",
            ("train.shards=64", "train.reduce=shard", "train.reshard_after_forward=false"),
        ),
    ],
)
def test_a_step(family: str, overrides: tuple[str, ...], fake: FakeTensorMode) -> None:
    check_step(default_config([*FAMILIES[family], "train.parallel=fsdp2", *overrides]), fake)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_step_of_the_published_recipes(name: str, fake: FakeTensorMode) -> None:
    """Not of Swin, whose windows are indexed by what torch computes from numbers."""
    check_step(recipe(name, "train.batch_size_per_shard=1", "train.prototype_chunk=300000"), fake)


def test_auto_is_chosen_for_the_planned_device() -> None:
    config = default_config([*FAMILIES["vit"], "train.shards=4"])
    numbers = count(config, CPU, 2)
    assert numbers.parallel.kind == "replicate"
    assert count(config, CPU, 1).parallel.kind == "none"
    limit = int(20 * numbers.parameters / MOST_REPLICATED)
    for more, kind in ((-8, "fsdp2"), (8, "replicate")):
        gpu = GPUS["h100"]._replace(memory=limit + more)
        assert count(config, gpu, 2).parallel.kind == kind


def test_whole_gradients_take_more_and_send_less() -> None:
    def numbers(*overrides: str) -> tuple[int, int, int]:
        config = default_config(
            [*FAMILIES["vit"], "train.shards=8", "train.parallel=fsdp2", *overrides]
        )
        n = count(config, CPU, 2)
        return n.parts["gradients"], n.traffic["gradients"], n.traffic["weights"]

    step, shard = numbers(), numbers("train.reduce=shard")
    assert step[0] > shard[0]
    assert 4 * step[1] == shard[1]
    assert step[2] == shard[2]
    kept = numbers("train.reshard_after_forward=false")
    assert 3 * kept[2] == 2 * step[2]


def test_recomputing_takes_less_memory_and_more_work() -> None:
    small = [*FAMILIES["vit"], "train.batch_size_per_shard=8"]
    plain = count(default_config(small), CPU)
    again = count(default_config([*small, "train.activation_checkpointing=true"]), CPU)
    assert again.parts["activations"] < plain.parts["activations"]
    assert 1.1 * plain.flops < again.flops < 1.34 * plain.flops
