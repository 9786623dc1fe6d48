"""`poa plan`: numbers that add up, advice that fits, and sentences for wrong arguments."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from poa_plugin.cli import main
from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config
from poa_plugin.plan.advice import Change, first_that_fits, other_results, same_results
from poa_plugin.plan.devices import GPUS, Device
from poa_plugin.plan.measure import measure
from poa_plugin.plan.numbers import count
from poa_plugin.ssl.memory import kept_features, waiting_crops

Make = Callable[..., Config]
CPU = Device("a CPU", 10**12, None, False)
GPU = Device("a GPU", 10**12, None, True)


def test_parts_and_traffic(small_config: Make) -> None:
    one, four = (
        count(small_config(f"train.shards={n}", "data.num_workers=2"), CPU) for n in (1, 4)
    )
    weights = 4 * one.parameters
    assert one.parts["student"] == weights
    assert one.parts["moments"] == 2 * weights
    assert one.parts["gradients"] <= weights
    assert one.bytes_needed(CPU) == sum(one.parts.values()) + sum(one.host.values())
    assert one.bytes_needed(GPU) == sum(one.parts.values())
    assert one.traffic == {}

    # Shards are in memory one at a time: only what the teacher keeps of them, and waiting crops, grow.
    more = {name: four.parts[name] - size for name, size in one.parts.items()}
    config = small_config()
    kept = more.pop("kept features")
    assert (
        one.parts["gradients"] + more.pop("gradients") == weights
    )  # whole from the first shard on
    assert set(more.values()) == {0}
    assert 0 < kept <= 3 * kept_features(config, 6 + 6 * 36)
    assert four.host["waiting crops"] == 4 * one.host["waiting crops"] == waiting_crops(config, 4)
    assert four.flops == 4 * one.flops
    assert four.images == 12


def test_ranks(small_config: Make) -> None:
    config = small_config("train.shards=4")
    one, two, four = (count(config, GPU, ranks) for ranks in (1, 2, 4))
    assert two.parts["kept features"] < one.parts["kept features"]
    assert two.parts["activations"] == one.parts["activations"]
    assert two.host["waiting crops"] * 2 == one.host["waiting crops"]
    gradients = 4 * one.parameters
    assert two.parallel.kind == "replicate"
    assert two.traffic["gradients"] == gradients
    assert two.traffic["Sinkhorn-Knopp"] == 3 * 4 * 4 * 2 * sum(config.dino.head_n_prototypes) // 2
    assert 0 < two.traffic["agreement"] < 2000
    assert four.traffic["gradients"] == int(1.5 * gradients)
    assert one.hours(1e12) == pytest.approx(4 * four.hours(1e12))
    assert one.hours(1e12) == pytest.approx(one.flops * one.steps / 1e12 / 3600)
    assert (
        "Sinkhorn-Knopp"
        not in count(small_config("train.shards=4", "train.centering=centering"), GPU, 2).traffic
    )


def test_advice_is_the_first_change_that_fits(small_config: Make) -> None:
    config = small_config("train.joint_students=true", "train.batch_size_per_shard=8")
    numbers = count(config, GPU)
    unchanged = Change((), config, "", 1)
    same = list(same_results(unchanged, GPU, with_chunks=False))
    assert [change.overrides[-1] for change in same] == [
        "train.joint_students=false",
        "train.activation_checkpointing=true",
    ]
    others = list(other_results(same[-1]))
    assert [change.overrides[-1] for change in others] == [
        "train.precision=bf16",
        "train.batch_size_per_shard=4",
        "train.batch_size_per_shard=2",
        "train.batch_size_per_shard=1",
    ]
    assert others[-1].overrides[:4] == (*others[0].overrides, "train.shards=8")
    for change in (same[0], same[1], others[2]):
        enough = count(change.config, GPU).bytes_needed(GPU)
        advice = first_that_fits(config, numbers, GPU._replace(memory=enough))
        assert advice is not None
        assert advice.change.overrides == change.overrides
        assert advice.numbers.images == numbers.images
    assert first_that_fits(config, numbers, GPU._replace(memory=10**6)) is None
    assert config.train.joint_students  # the recipe itself is left alone


def test_advice_of_several_ranks(small_config: Make) -> None:
    wide = ("student.vit.max_width=192", "student.vit.max_depth=8", "train.batch_size_per_shard=1")
    config = small_config(
        *wide, "train.shards=4", "train.parallel=replicate", "train.activation_checkpointing=true"
    )
    one, two = count(config, GPU), count(config, GPU, 2)
    changes = list(same_results(Change((), config, "", 2), GPU, with_chunks=False))
    assert [(change.overrides, change.ranks) for change in changes] == [
        (("train.parallel=fsdp2",), 2),
        ((), 4),
        (("train.parallel=fsdp2",), 4),
    ]
    needed = [count(c.config, GPU, c.ranks).bytes_needed(GPU) for c in changes]
    assert needed[2] < needed[0] < two.bytes_needed(GPU)
    for numbers, change, enough in ((two, changes[0], needed[0]), (one, changes[2], needed[2])):
        advice = first_that_fits(config, numbers, GPU._replace(memory=enough))
        assert advice is not None
        assert (advice.change.overrides, advice.change.ranks) == (change.overrides, change.ranks)


def test_the_command(small_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo_vit", "--memory", "4G", "--peak", "1T", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] and plan["advice"] is None
    assert plan["needed"] == sum(plan["parts"].values())
    steps, seconds = plan["steps"], plan["hours"] * 3600
    assert seconds == pytest.approx(plan["flops"] * steps / (0.4 * 1e12))

    recipe = load_config("demo_vit", [])
    assert steps == recipe.optim.epochs * recipe.train.OFFICIAL_EPOCH_LENGTH

    short = f"{plan['needed'] - plan['parts']['activations'] // 2}"
    assert main(["plan", "demo_vit", "--memory", short, "--device", "rtx4090"]) == 1
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "train.activation_checkpointing=true" in printed
    assert "hours" in printed
    assert max(map(len, printed.splitlines())) < 200
    assert len(printed.splitlines()) < 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "a100-80"], "did you mean 'a100-80g'?"),
        (["--memory", "much"], "--memory is 'much'"),
        (["--peak", "fast"], "--peak is 'fast'"),
        (["--utilization", "2"], "--utilization"),
        (["--ranks", "3"], "--ranks is 3, and the 1 shards"),
        (["train.shards=32", "--ranks", "256"], "32 can take equal numbers"),
        (["train.shards=4", "train.parallel=none", "--ranks", "2"], "use auto"),
        (["train.device=cpu", "--device", "h100"], "a GPU, and train.device is 'cpu'"),
        (["crops.local_crops_size=17"], "crops.local_crops_size"),
        (["meta_arch=mine"], "mine"),
    ],
)
def test_wrong_arguments_are_sentences(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["plan", "demo_vit", *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_measured_on_this_machine(small_config: Make) -> None:
    measured = measure(small_config("train.device=cpu", "train.shards=4"))
    assert measured.images == 3
    assert measured.seconds > 0
    flops = count(small_config(), CPU).flops
    assert measured.flops_per_second * measured.seconds == pytest.approx(flops)


def test_devices_have_both_peaks() -> None:
    for gpu in GPUS.values():
        fp32, half = gpu.peak("fp32"), gpu.peak("bf16")
        assert fp32 is not None and half is not None and fp32 < half
