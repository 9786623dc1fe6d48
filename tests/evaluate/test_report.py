"""The page about a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from poa_plugin.errors import UserError
from poa_plugin.evaluate import KnnRow, write_report
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


def test_networks_whose_depth_has_several_parts(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().replace('"w48_d2"', '"w48_d3-4-6-3"')
    (run / "metrics.jsonl").write_text(lines)
    assert write_report(run).is_file()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the output folder of a run"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match="nothing to show"):
        write_report(tmp_path)
