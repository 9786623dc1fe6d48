"""Which network is picked, and what is said where none can be."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from poa_plugin.errors import UserError
from poa_plugin.evaluate.pick import Limits, describe, pareto_front, pick, shown_k
from poa_plugin.evaluate.sizes import parse_milliseconds, parse_size
from poa_plugin.evaluate.sweep_plots import plot_map, plot_pareto, plot_sweep
from poa_plugin.evaluate.sweep_results import NetworkResult, Sweep
from poa_plugin.evaluate.sweep_table import sweep_table


def network(name: str, params: int, flops: int, ms: float | None, top1: float) -> NetworkResult:
    return NetworkResult(name, (), 8, 2, params, flops, ms, {5: 90 - top1, 20: top1})


SMALL = network("small", 100, 9000, 1.0, 50.0)
SLOW = network("slow", 200, 5000, 9.0, 70.0)
TWIN = network("twin", 300, 4000, 2.0, 70.0)
LARGE = network("large", 900, 90_000, 8.0, 80.0)
SWEEP = Sweep({}, [SMALL, SLOW, TWIN, LARGE])


@pytest.mark.parametrize(
    ("limits", "k", "wanted"),
    [
        (Limits(params=900), None, LARGE),
        (Limits(params=899), None, SLOW),
        (Limits(params=199), 20, SMALL),
        (Limits(flops=4999), None, TWIN),
        (Limits(latency_ms=8.5), None, LARGE),
        (Limits(params=400, flops=9000, latency_ms=2), None, TWIN),
        (Limits(params=900), 5, SMALL),
    ],
)
def test_the_most_accurate_that_fits(limits: Limits, k: int | None, wanted: NetworkResult) -> None:
    assert pick(SWEEP, limits, k) == wanted


def test_what_is_wrong_is_said() -> None:
    said = (
        r"No network fits: the nearest is small, which has 100 parameters where 50 are allowed "
        r"\(2\.00 times\) and 1 ms where 0\.8 are allowed \(1\.25 times\)\."
    )
    with pytest.raises(UserError, match=said):
        pick(SWEEP, Limits(params=50, latency_ms=0.8))
    with pytest.raises(UserError, match=r"the nearest is twin, .* 4k FLOPs where 3k are allowed"):
        pick(SWEEP, Limits(flops=3000))
    with pytest.raises(UserError, match="at least one of --max-params, --max-flops and --max-lat"):
        pick(SWEEP, Limits())
    with pytest.raises(UserError, match="no accuracies for k = 7: it has k = 5, 20"):
        pick(SWEEP, Limits(params=900), k=7)
    unmeasured = Sweep({}, [SMALL, replace(LARGE, latency_ms=None)])
    with pytest.raises(UserError, match="The latency of 1 of 2 networks was not measured: run"):
        pick(unmeasured, Limits(latency_ms=5))
    assert pick(unmeasured, Limits(params=900)).network == "large"
    with pytest.raises(UserError, match="holds no accuracies"):
        pick(Sweep({}, []), Limits(params=900))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("21674880", 21_674_880),
        ("500k", 500_000),
        ("30M", 30_000_000),
        ("1.5g", 1_500_000_000),
        (" 2 T ", 2 * 10**12),
        (".5k", 500),
    ],
)
def test_sizes(text: str, wanted: int) -> None:
    assert parse_size(text, "--max-params") == wanted


@pytest.mark.parametrize("text", ["", "M", "30MB", "-3M", "0", "0.2", "3,5M", "nan", "inf"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UserError, match=f"--max-flops is '{text}': write a positive number such"):
        parse_size(text, "--max-flops")


def test_milliseconds() -> None:
    assert parse_milliseconds("0.5", "--max-latency-ms") == 0.5
    for text in ("12ms", "0", "-1", "nan", "inf", ""):
        with pytest.raises(UserError, match=f"--max-latency-ms is '{text}': write a positive"):
            parse_milliseconds(text, "--max-latency-ms")
    with pytest.raises(UserError, match="--max-params is ''"):
        Limits.parse("", None, None)
    assert Limits.parse("1k", None, "3") == Limits(params=1000, latency_ms=3.0)


def test_the_pareto_front_against_every_pair() -> None:
    grid = itertools.product((1, 2, 3), (3, 1, 2), range(4))
    networks = [network(f"n{i}", p, f, 1.0, 60.0 + i % 7) for i, (p, f, _) in enumerate(grid)]
    front = pareto_front(networks, lambda own: own.params, 20)
    for own in networks:
        beaten = any(
            (other.params <= own.params and other.top1[20] > own.top1[20])
            or (other.params < own.params and other.top1[20] >= own.top1[20])
            for other in networks
        )
        points = [(other.params, other.top1[20]) for other in front]
        assert beaten == ((own.params, own.top1[20]) not in points)
    assert [own.params for own in front] == sorted({own.params for own in front})


def test_k_that_is_shown() -> None:
    assert shown_k(SWEEP) == 20
    assert shown_k(Sweep({}, [replace(SMALL, top1={1: 0.0, 10: 0.0, 100: 0.0})])) == 10


def test_the_table_shows_the_front_and_the_names() -> None:
    named = replace(network("named", 950, 10, None, 10.0), aliases=("base", "intact"))
    table = sweep_table(Sweep({}, [*SWEEP.networks, named]))
    head, *lines, last = table.splitlines()
    assert head.split() == ["network", "params", "FLOPs", "ms", "k=5", "k=20", "also", "called"]
    stars = [line.split() for line in lines if line.startswith("*")]
    assert [words[1] for words in stars] == ["small", "slow", "large"]
    assert lines[-1].split() == ["named", "950", "10", "-", "80.0", "10.0", "base,", "intact"]
    assert last.startswith("4 of 5 networks")
    assert describe(named).startswith("named (base, intact): 950 parameters, 10 FLOPs; top-1 80.0")


def grid(latency: bool = True, stages: bool = False) -> Sweep:
    """Three widths and depths, each cell twice if there are `stages`."""
    networks = []
    for width, depth, twin in itertools.product((8, 16, 32), (1, 2, 4), range(1 + stages)):
        aliases = {(8, 1): ("smallest", "tiny"), (32, 4): ("intact",)}.get((width, depth), ())
        params = width * width * depth * 100 + twin
        top1 = {20: 40.0 + width / 2 + depth + 5 * twin}
        name = f"w{width}_d{depth}-{twin}"
        ms = params / 1e5 if latency else None
        networks.append(NetworkResult(name, aliases, width, depth, params, 50 * params, ms, top1))
    return Sweep({}, networks)


def texts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the words of each plot that is saved from now on."""
    from matplotlib.text import Text

    seen: list[list[str]] = []
    save = Figure.savefig

    def noted(self: Figure, *args: object, **kwargs: object) -> None:
        save(self, *args, **kwargs)
        seen.append([text.get_text() for text in self.findobj(Text) if text.get_text()])

    monkeypatch.setattr(Figure, "savefig", noted)
    return seen


def test_plots_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = texts(monkeypatch)
    files = plot_sweep(grid(), tmp_path)
    assert [file.name for file in files] == ["sweep_pareto.png", "sweep_map.png"]
    for file in files:
        with Image.open(file) as picture:
            assert len(set(picture.convert("L").resize((64, 64)).get_flattened_data())) > 5
    pareto, heat = seen
    assert pareto.count("tiny") == 3, "once in each panel"
    words = {"parameters", "latency of one image (ms)", "width 8", "Pareto front", "tiny"}
    assert words <= set(pareto)
    assert "9 networks of one pre-training run" in pareto
    assert "smallest" not in pareto
    for own in grid().networks:
        assert f"{own.top1[20]:.1f}" in heat


def test_plots_without_latency_and_with_cells_that_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = texts(monkeypatch)
    plot_pareto(grid(latency=False), tmp_path / "a.png")
    plot_map(grid(stages=True), tmp_path / "b.png")
    assert "latency of one image (ms)" not in seen[0]
    assert "Best of the networks of each width and depth" in seen[1]
    assert {"50.0", "65.0"} <= set(seen[1])
    assert "45.0" not in seen[1], "the other network of its cell is better"


def test_a_sweep_of_one_network_is_drawn(tmp_path: Path) -> None:
    plot_sweep(Sweep({}, grid().networks[:1]), tmp_path)
    assert (tmp_path / "sweep_map.png").is_file()
