"""Text tables of results."""

from __future__ import annotations

from poa_plugin.report.tables import results_table
from poa_plugin.runs.entries import Entry, entries_of
from poa_plugin.runs.results import Network, Results
from tests.example_results import accuracy

NETWORK = Network("w48_d2", 48, 2, 1_230_000, 45_600_000)


def entries(*top1: tuple[str, str, float], n: int = 0) -> list[Entry]:
    rows = [accuracy(name, value, kind=kind, n=n) for name, kind, value in top1]
    return entries_of(Results(rows, [NETWORK]))


def test_the_table_sets_trained_beside_untrained() -> None:
    pair = entries(("w48_d2", "trained", 60.0), ("w48_d2", "untrained", 40.0))
    [head, line] = results_table(pair).splitlines()
    assert head.split()[:3] == ["network", "params", "FLOPs"]
    assert line.split() == ["w48_d2", "1.23M", "45.6M", "20", "60.0", "40.0", "+20.0"]


def test_the_table_shows_uncertainty() -> None:
    measured = entries(
        ("w48_d2", "trained", 60.0),
        ("w48_d2", "untrained", 40.0),
        ("w64_d2", "trained", 70.0),
        ("w80_d2", "trained", 72.0),
        ("raw", "pixels", 70.0),
        n=600,
    )
    _, *lines, legend = results_table(measured).splitlines()
    by_name = {line.split()[0]: line.split()[4:] for line in lines[:-1]}
    assert by_name == {
        "w48_d2": ["60.0", "±2.0", "40.0", "±2.0", "+20.0"],
        "w64_d2": ["70.0", "±1.9", "≈"],
        "w80_d2": ["72.0", "±1.8"],
    }
    assert lines[-1].split()[:2] == ["pixels:", "raw"]
    assert "≈" not in lines[-1]
    assert legend.startswith(
        "± is one standard error on 600 test images; ≈ is not distinguishable from"
    )


def test_no_results_are_an_empty_table() -> None:
    assert len(results_table([]).splitlines()) == 1
