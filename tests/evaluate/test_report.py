"""The page about a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from poa_plugin.errors import UserError
from poa_plugin.evaluate import KnnRow, write_report
from poa_plugin.evaluate.plots import _curve, _running_mean
from poa_plugin.evaluate.results import write_rows


def synthetic_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("output_dir: <b>x</b>\n")
    names = [f"w{width}_d{depth}" for width in (48, 64, 80, 96) for depth in range(2, 7)]
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(60):
            terms = {
                "cross_view_intact_global": 3 - step / 60,
                "same_view_local": 1 + 1 / (1 + step),
            }
            line = {
                "step": step,
                "loss": sum(terms.values()),
                "terms": terms,
                "seconds": step * 2.0,
                "images_per_second": 60.0,
                "subnets": [names[step * step % 20]],
            }
            file.write(json.dumps(line) + "\n")
        file.write('{"step": 60, "lo')
    rows = []
    for i, name in enumerate(names):
        width, depth = 48 + 16 * (i // 5), 2 + i % 5
        size = {"width": width, "depth": depth, "params": 12 * width**2 * depth, "flops": 10**7}
        rows.append(KnnRow(name, "trained", 20, 58 + i / 5, **size))
        rows.append(KnnRow(name, "untrained", 20, 47 + i / 9, **size))
    rows.append(KnnRow("dinov2", "reference", 20, 60.0, params=700_000))
    rows.append(KnnRow("raw", "pixels", 20, 60.8))
    write_rows(folder / "eval", rows)
    return folder


def test_a_page_that_asks_nothing_of_the_network(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "a <script> & b")
    page = write_report(run)
    html = page.read_text()
    for name in ("accuracy", "losses", "sampling"):
        with Image.open(page.parent / f"{name}.png") as picture:
            assert picture.width >= 800
            assert len(set(picture.convert("L").resize((64, 64)).get_flattened_data())) > 5
    assert "http" not in html
    assert set(re.findall(r'(?:src|href)="([^",]{5})', html)) == {"data:"}
    assert "<script>" not in html
    assert "<b>x</b>" not in html
    assert all(f"<td>w{width}_d{depth}</td>" in html for width in (48, 96) for depth in (2, 6))
    assert "<td>reference: dinov2</td>" in html
    assert "prefers-color-scheme: dark" in html
    assert "60 steps" in html


def test_a_run_that_was_not_evaluated(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    (run / "eval" / "knn.json").unlink()
    html = write_report(run).read_text()
    assert "Accuracy" not in html
    assert "Training" in html


@pytest.mark.parametrize("name", ["w48_d3-4-6-3", "full", "xx_d2"])
def test_networks_that_are_not_a_width_and_a_depth(tmp_path: Path, name: str) -> None:
    run = synthetic_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().replace('"w48_d2"', f'"{name}"')
    (run / "metrics.jsonl").write_text(lines)
    assert write_report(run).is_file()
    assert (run / "report/sampling.png").is_file()


@pytest.mark.parametrize("kind", ["pixels", "untrained", "reference"])
def test_results_without_a_trained_network(tmp_path: Path, kind: str) -> None:
    write_rows(tmp_path / "eval", [KnnRow("one", kind, 20, 50.0)])
    assert "Accuracy" in write_report(tmp_path).read_text()
    assert (tmp_path / "report/accuracy.png").is_file()


def test_damaged_and_short_metrics(tmp_path: Path) -> None:
    line = '{"step": 0, "loss": 1.5, "terms": {"koleo": 1.5}}'
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 1, "terms": {{}}')
    assert "1 steps, loss 1.500 at first" in write_report(tmp_path).read_text()
    for damaged, said in (('{"st}', "Unterminated"), ("3", "no loss"), ('{"step": 1}', "no loss")):
        (tmp_path / "metrics.jsonl").write_text(f"{line}\n{damaged}\n{line}\n")
        with pytest.raises(UserError, match=f"Line 2 of .*{said}"):
            write_report(tmp_path)


def test_the_loss_is_not_smoothed_across_a_term_that_joins() -> None:
    axes = Figure().subplots()
    steps, loss = np.arange(100), np.repeat([1.0, 5.0], 50)
    _curve(axes, steps, loss, "total", "black", breaks=[50])
    assert np.concatenate([line.get_ydata() for line in axes.lines[1:]]).tolist() == loss.tolist()
    assert len(axes.get_legend_handles_labels()[1]) == 1
    assert _running_mean(np.arange(9.0), 2).tolist() == [1, 1.5, 2, 3, 4, 5, 6, 6.5, 7]
    assert _running_mean(np.array([4.0]), 3).tolist() == [4]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the output folder of a run"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match="nothing to show"):
        write_report(tmp_path)
