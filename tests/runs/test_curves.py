"""Loss curves: thinned without losing what matters, smoothed, and honest about terms that join."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from poa_plugin.errors import UserError
from poa_plugin.report.plots import draw_curve
from poa_plugin.runs.curves import (
    MAX_POINTS,
    loss_curves,
    ranges,
    running_mean,
    skipped_ranges,
    thinned,
)
from poa_plugin.runs.training_lines import read_metrics, read_skipped


def line(step: int, terms: Mapping[str, float], **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": sum(terms.values()), "terms": terms, **more}


def test_a_term_that_joins_is_told_from_a_loss_that_grows() -> None:
    lines = [line(i, {"koleo_intact": 1.0}) for i in range(50)]
    lines += [line(i, {"koleo_intact": 1.0, "masked_patch_elastic": 4.0}) for i in range(50, 100)]
    losses = loss_curves(lines)
    assert losses is not None
    assert losses.joins == [(51, ["masked patch"])]
    assert losses.total.smooth.tolist() == [1.0] * 50 + [5.0] * 50, "not smoothed across the join"
    assert losses.from_the_start is not None
    assert set(losses.from_the_start.measured) == {1.0}
    axes = Figure().subplots()
    draw_curve(axes, losses.total, "total", "black")
    assert len(axes.get_legend_handles_labels()[1]) == 1
    none = loss_curves(lines[:50])
    assert none is not None
    assert (none.joins, none.from_the_start) == ([], None)
    assert loss_curves([{"step": 0, "loss": None, "terms": {}}]) is None


def test_one_point_is_drawn_as_a_dot() -> None:
    axes = Figure().subplots()
    losses = loss_curves([line(0, {"koleo": 1.5})])
    assert losses is not None
    draw_curve(axes, losses.total, "total", "black")
    dots = [drawn for drawn in axes.lines if drawn.get_marker() == "o"]
    assert [drawn.get_xydata().tolist() for drawn in dots] == [[[1.0, 1.5]]]


def test_long_curves_keep_their_extremes_and_their_last_point() -> None:
    n = 100_000
    losses = np.ones(n)
    losses[[777, 77_777]] = (9.0, -9.0)
    losses[[500, n - 1]] = (math.nan, 3.0)
    lines = [line(i, {"koleo": float(loss)}) for i, loss in enumerate(losses)]
    curves = loss_curves(lines)
    assert curves is not None
    total = curves.total
    assert len(total.steps) <= MAX_POINTS + 10
    points = dict(zip(total.steps.tolist(), total.measured.tolist(), strict=True))
    assert (points[1], points[778], points[77_778], points[n]) == (1.0, 9.0, -9.0, 3.0)
    assert math.isnan(points[501])
    assert np.all(np.diff(total.steps) > 0)
    kept = thinned(losses, [40_000])
    assert {39_999, 40_000} <= set(kept.tolist())


def test_what_is_not_finite_is_a_gap_and_spoils_nothing_beside_it() -> None:
    numbers = [1.0, 1.0, math.inf, 1.0, math.nan, 1.0]
    losses = loss_curves([line(i, {"koleo": number}) for i, number in enumerate(numbers)])
    assert losses is not None
    gaps = [False, False, True, False, True, False]
    assert np.isnan(losses.total.measured).tolist() == gaps
    assert np.isnan(losses.total.smooth).tolist() == gaps
    assert set(losses.total.smooth[~np.array(gaps)]) == {1.0}
    assert running_mean(np.arange(9.0), 2).tolist() == [1, 1.5, 2, 3, 4, 5, 6, 6.5, 7]
    assert running_mean(np.array([4.0]), 3).tolist() == [4]


def test_where_steps_were_skipped() -> None:
    lines = [line(9, {"koleo": 1.0}, skipped_steps=0), line(19, {"koleo": 1.0}, skipped_steps=3)]
    assert skipped_ranges(lines, [10, 11, 15]) == [(11, 12, 2), (16, 16, 1)]
    assert skipped_ranges(lines, []) == [(11, 20, 3)], "as far as metrics.jsonl tells"
    assert skipped_ranges(lines[:1], []) == skipped_ranges([], []) == []
    many = ranges(range(0, 400_000, 3))
    assert len(many) <= MAX_POINTS
    assert sum(count for _, _, count in many) == len(range(0, 400_000, 3))


def test_files_are_read_up_to_a_line_that_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "skipped_steps.jsonl"
    assert read_skipped(file) == []
    file.write_text('{"step": 7}\n{"step": 3}\n{"st')
    assert read_skipped(file) == [3, 7]
    file.write_text('{"step": "7"}\n{"step": 3}\n')
    with pytest.raises(
        UserError, match=r"Line 1 of '.*skipped_steps.jsonl' cannot be read: it has no"
    ):
        read_skipped(file)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loss": "low"}, "its loss is 'low'"),
        ({"step": "first"}, "its step is 'first'"),
        ({"step": -1}, "its step is -1"),
        ({"terms": [1]}, "its terms are not numbers by name"),
        ({"terms": {"koleo": None}}, "its terms are not numbers by name"),
        ({"subnets": "w32_d2"}, "its subnets are not a list of names"),
        ({"seconds": "long"}, "its seconds is 'long'"),
        ({"skipped_steps": [1]}, r"its skipped_steps is \[1\]"),
    ],
)
def test_lines_of_the_wrong_kind_are_named(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    good = line(0, {"koleo": 1.0})
    file = tmp_path / "metrics.jsonl"
    file.write_text(f"{json.dumps(good | changed)}\n{json.dumps(good)}\n")
    with pytest.raises(UserError, match=f"Line 1 of '.*metrics.jsonl' cannot be read: {said}"):
        read_metrics(file)
