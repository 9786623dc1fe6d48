"""Which network is picked, and what is said where none can be."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from poa_plugin.errors import UserError
from poa_plugin.pick.choice import Limits, pick
from poa_plugin.pick.explanation import describe, explain
from poa_plugin.report.sweep_plots import plot_map, plot_pareto, plot_sweep
from poa_plugin.report.tables import sweep_table
from poa_plugin.runs.entries import Entry, Series
from poa_plugin.sizes import parse_bytes, parse_milliseconds, parse_size


def network(name: str, params: int, flops: int, ms: float | None, top1: float) -> Entry:
    sizes = {"width": 8, "depth": 2, "params": params, "flops": flops, "latency_ms": ms}
    return Entry(name, **sizes, top1={5: 90 - top1, 20: top1})


SMALL = network("small", 100, 9000, 1.0, 50.0)
SLOW = network("slow", 200, 5000, 9.0, 70.0)
TWIN = network("twin", 300, 4000, 2.0, 70.0)
LARGE = network("large", 900, 90_000, 8.0, 80.0)
SWEEP = Series([SMALL, SLOW, TWIN, LARGE])


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
        (Limits(), None, LARGE),
    ],
)
def test_the_most_accurate_that_fits(limits: Limits, k: int | None, wanted: Entry) -> None:
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
    with pytest.raises(UserError, match="no accuracies for k = 7: it has k = 5, 20"):
        pick(SWEEP, Limits(params=900), k=7)
    unmeasured = Series([SMALL, replace(LARGE, latency_ms=None)])
    with pytest.raises(UserError, match="The latency of 1 of 2 networks was not measured: run"):
        pick(unmeasured, Limits(latency_ms=5))
    assert pick(unmeasured, Limits(params=900)).network == "large"
    with pytest.raises(UserError, match="holds no accuracies"):
        pick(Series(), Limits(params=900))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("21674880", 21_674_880),
        ("500k", 500_000),
        ("30M", 30_000_000),
        ("1.5g", 1_500_000_000),
        (" 2 T ", 2 * 10**12),
        (".5k", 500),
        ("30 M", 30_000_000),
        ("1e6", 1_000_000),
        ("1.5E+9", 1_500_000_000),
        ("1_000_000", 1_000_000),
    ],
)
def test_sizes(text: str, wanted: int) -> None:
    assert parse_size(text, "--max-params") == wanted


WRONG = [
    "",
    "M",
    "30MB",
    "-3M",
    "0",
    "0.2",
    "1e6M",
    "3,5M",
    "1_0",
    "nan",
    "inf",
    "1e999",
    "9" * 400,
    "٣",
]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UserError, match=f"--max-flops is '{text}': write a positive number such"):
        parse_size(text, "--max-flops")


def test_sizes_have_an_upper_limit() -> None:
    assert parse_size("1e18", "--max-params") == parse_bytes("1e18", "--memory") == 10**18
    for parse in (parse_size, parse_bytes):
        with pytest.raises(UserError, match="at most 1e18"):
            parse("2e18", "--x")


def test_bytes() -> None:
    known = {
        "512M": 512_000_000,
        "4 GB": 4 * 10**9,
        "4GiB": 2**32,
        "4gi": 2**32,
        "1.5e9": 1_500_000_000,
    }
    assert {text: parse_bytes(text, "--memory") for text in [*known, "9"]} == known | {"9": 9}
    for text in ("", "much", "4GBi", "-1", "0", "nan", "inf", "4e9G", "B"):
        with pytest.raises(
            UserError, match=f"--memory is '{text}': write a positive number of bytes"
        ):
            parse_bytes(text, "--memory")


def test_milliseconds() -> None:
    assert parse_milliseconds("0.5", "--max-latency-ms") == 0.5
    for text in ("12ms", "0", "-1", "nan", "inf", ""):
        with pytest.raises(UserError, match=f"--max-latency-ms is '{text}': write a positive"):
            parse_milliseconds(text, "--max-latency-ms")
    with pytest.raises(UserError, match="--max-params is ''"):
        Limits.parse("", None, None)
    assert Limits.parse("1k", None, "3") == Limits(params=1000, latency_ms=3.0)


N = {20: 600}
EVEN = Series([replace(e, top1={20: e.top1[20]}, n_test=N) for e in SWEEP.networks])


def test_what_cannot_be_told_from_the_picked_one_is_said() -> None:
    assert explain(EVEN, Limits(params=500), SLOW, 20).startswith("slow: 200 parameters")
    near = replace(SMALL, network="near", params=120, top1={20: 77.0}, n_test=N)
    nearer = replace(SMALL, network="nearer", params=850, top1={20: 79.0}, n_test=N)
    sweep = replace(EVEN, networks=[*EVEN.networks, near, nearer])
    said = explain(sweep, Limits(), pick(sweep, Limits()))
    assert said == (
        "large: 900 parameters, 90k FLOPs, 8 ms; top-1 80.0 ±1.6 (k = 20). It is the most accurate at "
        "k = 20 of the 6 networks. ± is one standard error on 600 test images. 2 smaller ones are not "
        "distinguishable from it (the difference is below 2 standard errors); the smallest of them is near "
        "with 120 parameters (77.0 ±1.7)."
    )
    limits = Limits(params=900, flops=100_000, latency_ms=8)
    said = explain(replace(sweep, networks=[*EVEN.networks, nearer]), limits, LARGE)
    assert "the 4 networks with at most 900 parameters, 100k FLOPs and 8 ms." in said
    assert "nearer with 850 parameters (79.0 ±1.7) is not distinguishable from it: the diff" in said
    said = explain(EVEN, Limits(), LARGE)
    assert said.endswith("No smaller one is as accurate within that uncertainty.")
    assert "It is the only one of 4 networks with at most 100 parameters." in explain(
        EVEN, Limits(params=100), SMALL
    )


def test_an_unknown_number_of_test_images_claims_nothing() -> None:
    said = explain(SWEEP, Limits(), LARGE)
    assert "±" not in said
    assert "distinguishable" not in said


def test_an_unreliable_latency_is_not_picked_by() -> None:
    shaky = replace(LARGE, latency_ms=1.0, latency_spread_ms=30.0)
    steady = [replace(own, latency_spread_ms=0.02) for own in (SMALL, TWIN)]
    sweep = Series([*steady, shaky])
    limits = Limits(latency_ms=5)
    assert pick(sweep, limits).network == "twin"
    said = explain(sweep, limits, steady[1])
    assert "2 ±0.01 ms" in said
    assert "The latencies of 1 of 3 networks is unreliable" not in said
    assert "1 of 3 latencies is unreliable and was not picked by" in said
    assert pick(sweep, Limits(params=900)) is shaky
    said = explain(sweep, Limits(params=900), shaky)
    assert "1 ±15 ms ?" in said.replace(" ? ms", " ms ?")
    assert "not picked by" not in said
    with pytest.raises(
        UserError, match=r"No network fits: the nearest is small, .* 1 of 3 latencies"
    ):
        pick(sweep, Limits(latency_ms=0.5))
    with pytest.raises(UserError, match="1 of 1 latencies is unreliable"):
        pick(Series([shaky]), limits)
    table = sweep_table(sweep)
    assert "? the rounds disagree, for 1 of 3 networks" in table


def test_accuracies_that_are_no_numbers_are_not_picked() -> None:
    lost = replace(LARGE, top1={20: float("nan")})
    assert pick(Series([lost, SMALL, SLOW]), Limits()) == SLOW
    with pytest.raises(UserError, match="holds no accuracies"):
        pick(Series([lost]), Limits())


def test_k_that_is_shown() -> None:
    assert SWEEP.shown_k == 20
    assert Series([replace(SMALL, top1={1: 0.0, 10: 0.0, 100: 0.0})]).shown_k == 10


def test_the_table_shows_the_front_and_the_names() -> None:
    named = replace(network("named", 950, 10, None, 10.0), aliases=("base", "intact"))
    table = sweep_table(Series([*SWEEP.networks, named]))
    head, *lines, last = table.splitlines()
    assert head.split() == ["network", "params", "FLOPs", "ms", "k=5", "k=20", "also", "called"]
    stars = [line.split() for line in lines if line.startswith("*")]
    assert [words[1] for words in stars] == ["small", "slow", "large"]
    assert lines[-1].split() == ["named", "950", "10", "-", "80.0", "10.0", "base,", "intact"]
    assert last.startswith("4 of 5 networks")
    assert describe(named).startswith("named (base, intact): 950 parameters, 10 FLOPs; top-1 80.0")


def test_the_table_shows_uncertainty() -> None:
    near = replace(SMALL, network="near", params=120, top1={20: 77.0}, latency_spread_ms=0.1)
    near = replace(near, n_test=N)
    _, *lines, front, marks, which, ms = sweep_table(
        replace(EVEN, networks=[*EVEN.networks, near])
    ).splitlines()
    assert [line.split()[:2] for line in lines] == [["*", "small"], ["*≈", "near"], ["*", "large"]]
    assert "77.0 ±1.7" in lines[1]
    assert "1 ±0.05" in lines[1]
    assert "* no network with as few parameters" in front
    assert marks.startswith(
        "± is one standard error on 600 test images; ≈ is not distinguishable from large"
    )
    assert which.startswith(
        "1 network is not distinguishable from large at k = 20, 1 of them marked *; the sm"
    )
    assert "near with 120 parameters" in which
    assert ms.startswith("ms: the median")


def grid(latency: bool = True, stages: bool = False) -> Series:
    """Three widths and depths, each cell twice if there are `stages`."""
    networks = []
    for width, depth, twin in itertools.product((8, 16, 32), (1, 2, 4), range(1 + stages)):
        aliases = {(8, 1): ("smallest", "tiny"), (32, 4): ("intact",)}.get((width, depth), ())
        params = width * width * depth * 100 + twin
        top1 = {20: 40.0 + width / 2 + depth + 5 * twin}
        name = f"w{width}_d{depth}-{twin}"
        ms = params / 1e5 if latency else None
        sizes = {"width": width, "depth": depth, "params": params, "flops": 50 * params}
        networks.append(Entry(name, aliases=aliases, **sizes, latency_ms=ms, top1=top1))
    return Series(networks)


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
    plot_sweep(Series(grid().networks[:1]), tmp_path)
    assert (tmp_path / "sweep_map.png").is_file()
