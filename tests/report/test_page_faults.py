"""Faults that the page once had, or could have, as a reader meets them in a browser."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from poa_plugin.cli import main
from poa_plugin.report.accuracy_plots import draw_accuracy
from poa_plugin.report.best import best_of
from poa_plugin.report.colors import luminance as luminance_of
from poa_plugin.report.colors import text_on, viridis
from poa_plugin.report.page import build_page
from poa_plugin.runs.entries import SIZES, Entry
from poa_plugin.runs.front import pareto_front
from poa_plugin.runs.record import RunRecord, read_record
from poa_plugin.runs.results_file import add_results, read_results
from tests.example_results import accuracy, write_sweep
from tests.report.browser import Browser
from tests.report.example_runs import swept_run
from tests.report.test_page import (
    EVIL,
    POINTS,
    SHOWN,
    click,
    contrast,
    hover,
    page_about,
    tooltip,
    write_filter,
)

FILLS = (
    "[...document.querySelectorAll('{} .legend button svg *')].map(e => getComputedStyle(e).fill)"
)
BOXES = (
    "[...document.querySelectorAll('#scatter text.label')].map(e => e.getBoundingClientRect())"
    ".map(b => [b.left, b.right, b.top, b.bottom])"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({selector!r}).innerText"))


def written(file: Path, *records: RunRecord) -> Path:
    file.write_text(build_page(records, {}))
    return file


def test_a_filter_that_leaves_nothing_leaves_the_legend_its_colors(
    browser: Browser, tmp_path: Path
) -> None:
    browser.size(1100, 800)
    runs = [swept_run(tmp_path / "a"), swept_run(tmp_path / "b", better=2.0)]
    for page, boxes in (
        (page_about(runs[0]), ["#scatter"]),
        (page_about(*runs), ["#scatter", "#losses"]),
    ):
        browser.open(page)
        legends = [browser.run(FILLS.format(box)) for box in boxes]
        assert all(len(set(fills)) == len(fills) > 1 for fills in legends)
        for _ in range(2):
            assert write_filter(browser, "no such network") == []
            write_filter(browser, "")
        assert [browser.run(FILLS.format(box)) for box in boxes] == legends
        assert browser.run("document.querySelectorAll('#scatter > svg').length") == 1
    for _ in range(2):
        for run in range(2):
            click(browser, f"#losses .legend button[data-group='{run}']")
    assert [browser.run(FILLS.format(box)) for box in boxes] == legends
    assert browser.run("document.querySelectorAll('#losses path.curve:not(.faint)').length") == 2
    assert browser.errors == []


@pytest.mark.parametrize("width", [360, 1100])
def test_names_of_several_runs_do_not_overlap(browser: Browser, tmp_path: Path, width: int) -> None:
    browser.size(width, 800, mobile=width < 600)
    runs = [swept_run(tmp_path / f"run{i}", better=i / 4) for i in range(4)]
    for i, run in enumerate(runs):  # lines across where the small networks have their names
        pixels = read_results(run / "eval").select(kind="pixels").rows
        add_results(run / "eval", [replace(row, value=57.5 + i / 2) for row in pixels], [])
    browser.open(page_about(*runs))
    if not browser.run("document.getElementById('baselines').checked"):
        click(browser, "#baselines")
    for k in ("10", "20"):
        browser.run(f"document.getElementById('k').value = '{k}'")
        browser.run("document.getElementById('k').dispatchEvent(new Event('change'))")
        boxes = browser.run(BOXES)
        assert len(boxes) >= (3 if k == "10" or width < 600 else 9)
        for (l1, r1, t1, b1), (l2, r2, t2, b2) in itertools.combinations(boxes, 2):
            across, down = min(r1, r2) - max(l1, l2), min(b1, b2) - max(t1, t2)
            assert across <= 0 or down <= 2, "line boxes are a little higher than letters"
    signs = browser.run("document.querySelectorAll('#scatter .sign').length")
    named = browser.run(f"{BOXES}.length") - browser.run(
        "[...document.querySelectorAll('#scatter text.label')]"
        ".filter(e => e.textContent.startsWith('pix')).length"
    )
    assert signs == named, "each name has the mark of its run"
    rows = browser.run("[...document.querySelectorAll('.controls label')].map(e => e.offsetHeight)")
    assert max(rows) < 60, "no label is broken letter by letter"


def test_one_line_of_metrics_is_a_dot(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    line = {"step": 9, "loss": 1.5, "terms": {"koleo_intact": 1.5}}
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps(line) + "\n")
    browser.open(page_about(tmp_path / "run"))
    dots = browser.run(
        "[...document.querySelectorAll('#losses .dot')].map(e => [e.cx.baseVal.value, e.cy.baseVal.value])"
    )
    assert len(dots) == 2, "the total, and its term"
    assert all(np.isfinite(dot).all() and min(dot) > 0 for dot in dots)
    assert browser.errors == []


def test_a_term_that_joins_is_explained(browser: Browser, tmp_path: Path) -> None:
    run = swept_run(tmp_path / "run")
    browser.size(1100, 800)
    browser.open(page_about(run))
    dashed = browser.run(
        "document.querySelectorAll('#losses .panel:first-child .curve.dashed').length"
    )
    assert dashed == 2, "the curve, and its key"
    said = text_of(browser, "#losses ~ .note")
    assert "masked patch from step 11 on. It jumps there because they are added, not" in said
    (tmp_path / "late").mkdir()
    terms = {"koleo": 0, "dino_elastic": 20, "masked_patch_elastic": 21, "same_view": 22}
    lines = [{name: 1.0 for name, start in terms.items() if step >= start} for step in range(30)]
    lines = [{"step": i, "loss": sum(own.values()), "terms": own} for i, own in enumerate(lines)]
    (tmp_path / "late/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    browser.open(page_about(tmp_path / "late"))
    rows = browser.run(
        "[...document.querySelectorAll('#losses .join + text')].map(t => +t.getAttribute('y'))"
    )
    assert min(np.diff(rows)) > 12, "names of terms that join one after the other do not overlap"
    browser.open(page_about(run, swept_run(tmp_path / "b")))
    options = browser.run("[...document.querySelector('#term').options].map(o => o.value)")
    assert "terms from the start" in options
    assert browser.run("document.querySelectorAll('#losses .join').length") == 2


def test_skipped_steps_are_counted_and_marked(browser: Browser, tmp_path: Path) -> None:
    run = swept_run(tmp_path / "run", n_test=600)
    browser.open(page_about(run))
    facts = text_of(browser, ".facts")
    assert "skipped steps\n3" in facts
    titles = browser.run(
        "[...document.querySelectorAll('#losses .skipped')].map(e => e.textContent)"
    )
    assert titles == ["steps 5 to 6: 2 skipped", "step 21: 1 skipped"]
    notes = browser.run("[...document.querySelectorAll('#losses ~ .note')].map(e => e.innerText)")
    assert "Skipped because something was not finite: 3 steps (5 to 6, 21)." in notes[1]
    browser.open(page_about(swept_run(tmp_path / "b"), run))
    assert browser.run("document.querySelectorAll('#losses .skipped').length") == 2
    lines = [{"step": s, "loss": None, "terms": {}, "skipped_steps": 10} for s in (9, 19)]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    browser.open(page_about(tmp_path / "none"))
    assert "skipped steps\n20" in text_of(browser, ".facts")
    assert "20 steps (1 to 10, 11 to 20). No other" in text_of(browser, "section:last-child .note")


def random_entries(seed: int) -> list[Entry]:
    """Networks with equal sizes and accuracies among them, and latencies that are missing or unreliable."""
    random = np.random.default_rng(seed)
    return [
        Entry(
            network=f"n{i}",
            label=f"n{i}",
            kind="trained",
            width=8,
            depth=1,
            params=int(random.integers(1, 9)),
            flops=int(random.integers(1, 40)),
            latency_ms=None if i % 5 == 0 else float(random.integers(1, 9)) + 1e-9 * (i % 2),
            latency_spread_ms=0.0 if i % 7 else 9.0,
            top1={
                k: 60 + float(random.integers(0, 12)) + 1e-9 * (i % 3) for k in (10, 20) if i % 11
            },
            n_test=dict.fromkeys((10, 20), 600) if i % 11 else {},
        )
        for i in range(60)
    ]


def test_the_page_and_the_plots_have_one_front(browser: Browser, tmp_path: Path) -> None:
    browser.size(1100, 800)
    for seed in range(3):
        entries = random_entries(seed)
        browser.open(written(tmp_path / "page.html", RunRecord("run", entries=entries)))
        for key, k in itertools.product(SIZES, (10, 20)):
            browser.run(
                f"document.getElementById('k').value = '{k}';"
                "document.getElementById('k').dispatchEvent(new Event('change'))"
            )
            click(browser, f"input[value={key}]")
            shown = browser.run(
                "[...document.querySelectorAll('.point.best')].map(e => e.dataset.row)"
            )
            front = pareto_front(entries, SIZES[key], k)
            assert [entries[int(row)] for row in shown] == front
            marked = browser.run(
                "[...document.querySelectorAll('tr.best')].map(e => e.dataset.row)"
            )
            assert set(marked) == set(shown)
            axes = Figure().subplots()
            draw_accuracy(axes, [own for own in entries if own.top1], key, k)
            [line] = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
            points = [[SIZES[key](own), own.top1[k]] for own in front]
            assert line.get_xydata().tolist()[:-1] == points


def test_networks_of_other_images_are_hollow_named_and_on_no_front(
    browser: Browser, tmp_path: Path
) -> None:
    run = swept_run(tmp_path / "run", n_test=600)
    other = accuracy("w48_d2", 99.0, n=600, series="b", data="<i>cars</i>")
    add_results(run / "eval", [other], [], adopt="a")
    text = (run / "eval/results.json").read_text().replace('"series": "former"', '"series": "a"')
    (run / "eval/results.json").write_text(text)
    record = read_record(run)
    number = next(i for i, own in enumerate(record.entries) if own.kind == "other")
    browser.size(1100, 800)
    for records in ([record], [record, read_record(swept_run(tmp_path / "two", n_test=600))]):
        browser.open(written(tmp_path / "page.html", *records))
        own = f"document.querySelector('.point[data-row=\"{number}\"]')"
        classes = browser.run(f"[...{own}.classList]")
        assert "hollow" in classes
        assert "best" not in classes
        cells = text_of(browser, f'tr[data-row="{number}"]')
        assert "w48_d2 (<i>cars</i>)" in cells
        assert "≈" not in cells
        notes = text_of(browser, ".note.signs")
        assert "1 network was evaluated on other images" in notes
        assert "99" not in text_of(browser, "#scatter-note")
        click(browser, "#front")
        assert not browser.run(f"Boolean({own})")
    assert main(["report", str(run), "--to", str(tmp_path / "folder")]) == 0


def test_uncertainty_is_shown(browser: Browser, tmp_path: Path) -> None:
    run = swept_run(tmp_path / "run", n_test=600)
    record = read_record(run)
    best = best_of(record.entries, 20)
    assert best is not None
    like = [own.label for own in record.entries if best.is_like(own)]
    assert 0 < len(like) < 11
    browser.size(1100, 800)
    browser.open(page_about(run))
    column = "document.querySelector('th[data-key=\"top1:20\"]').cellIndex"
    cells = dict(
        browser.run(
            f"{SHOWN}.map(r => [r.cells[0].innerText.split('\\n')[0], r.cells[{column}].innerText])"
        )
    )
    assert {name.split(" ")[0] for name, cell in cells.items() if cell.endswith("≈")} == set(like)
    assert cells["w80_d5"] == "64.0 ±2.0"
    assert cells["w80_d4"] == "62.0 ±2.0 ≈"
    number = [own.label for own in record.entries].index(like[-1])
    assert "not distinguishable from the best, w80_d5" in hover(browser, number)
    assert "±2.0%" in tooltip(browser)
    band = browser.run(
        "(({ y, height }) => [y.baseVal.value, y.baseVal.value + height.baseVal.value])"
        "(document.querySelector('#scatter .band'))"
    )
    points = browser.run(
        f"{POINTS}.filter(p => !p.matches('.reference')).map(p => [+p.dataset.row, +p.dataset.y])"
    )
    within = {record.entries[row].label for row, y in points if band[0] - 0.01 <= y <= band[1]}
    assert within == {*like, "w80_d5"}
    said = text_of(browser, "#scatter-note")
    assert said.startswith(
        f"Shaded: not distinguishable from the best, w80_d5 (64.0 ±2.0): {len(like)} others."
    )
    n_front = browser.run("document.querySelectorAll('.point.best').length")
    assert browser.run("document.querySelectorAll('#scatter .bar').length") == n_front
    assert "not distinguishable from it\n" in text_of(browser, ".facts")


def test_an_unreliable_latency_is_hollow_and_on_no_front(browser: Browser, tmp_path: Path) -> None:
    run = swept_run(tmp_path / "run", n_test=600)
    browser.open(page_about(run))
    click(browser, "input[value=latency]")
    unsure = browser.run("[...document.querySelectorAll('.point.unsure')].map(e => e.dataset.row)")
    assert unsure == ["3"]
    assert not browser.run("document.querySelector('.point.unsure').matches('.best')")
    assert "1.67 ±2.50 ms (unreliable)" in hover(browser, 3)
    assert " ?" in text_of(browser, "tr[data-row='3']")
    assert "w48_d5" not in write_filter(browser, "latency<9")
    assert "1 latency is unreliable" in text_of(browser, ".signs")


def test_numbers_on_axes_are_told_apart(browser: Browser, tmp_path: Path) -> None:
    networks = [
        Entry(f"w8_d{i}", width=8, depth=i, params=10**6 + i, flops=7, top1={20: 85 + i / 50})
        for i in range(1, 4)
    ]
    write_sweep(tmp_path / "eval", networks)
    browser.open(page_about(tmp_path))
    for log in range(2):
        texts = browser.run(
            "[...document.querySelectorAll('#scatter .grid text:not(.name)')].map(e => e.textContent)"
        )
        assert len(texts) == len(set(texts)) > 4, log
        click(browser, "#log")
    low, high = text_of(browser, "#map .ramp").split()[:2]
    assert low != high


def test_few_runs_many_runs_and_only_pixels(browser: Browser, tmp_path: Path) -> None:
    def bands(*runs: Path) -> int:
        browser.open(page_about(*runs))
        assert browser.errors == []
        return int(browser.run("document.querySelectorAll('#scatter .band').length"))

    runs = [swept_run(tmp_path / f"run{i}", n_test=600) for i in range(8)]
    assert [bands(*runs[:n]) for n in (1, 3, 8)] == [1, 3, 0]
    click(browser, "#scatter .legend button[data-group='7']")
    strokes = browser.run(
        "[...document.querySelectorAll('#losses path.curve:not(.faint)')]"
        ".map(e => getComputedStyle(e).stroke + getComputedStyle(e).strokeDasharray)"
    )
    assert len(set(strokes)) == 7
    add_results(tmp_path / "bare/eval", [accuracy("raw", 40.0, kind="pixels", n=100)], [])
    assert bands(tmp_path / "bare") == 0
    assert browser.run("document.querySelectorAll('fieldset, section.first').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_stand_out_and_paper_is_light(browser: Browser, tmp_path: Path, scheme: str) -> None:
    networks = [
        Entry(f"w{w}_d2", width=w, depth=2, params=w * w, flops=7, top1={20: 50 + w / 10})
        for w in range(16, 224, 16)
    ]
    write_sweep(tmp_path / "run/eval", networks)
    browser.media(prefers_color_scheme=scheme)
    browser.open(page_about(tmp_path / "run"))
    panel = browser.run("getComputedStyle(document.querySelector('section')).backgroundColor")
    fills = browser.run(f"{POINTS}.map(point => getComputedStyle(point).fill)")
    runs = browser.run(
        "[0, 1, 2, 3, 4, 5, 6].map(i => { document.body.style.color = `var(--r${i})`;"
        " return getComputedStyle(document.body).color })"
    )
    assert len(set(fills)) == 13
    assert len(set(runs)) == 7
    assert min(contrast(color, panel) for color in [*fills, *runs]) >= 3
    browser.send(
        "Emulation.setEmulatedMedia",
        media="print",
        features=[{"name": "prefers-color-scheme", "value": scheme}],
    )
    paper = browser.run("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    on_paper = browser.run(f"{POINTS}.map(point => getComputedStyle(point).fill)")
    assert min(contrast(color, paper) for color in on_paper) >= 3
    assert browser.run("document.querySelector('.legend button svg').checkVisibility()")
    browser.send("Emulation.setEmulatedMedia", media="", features=[])
    browser.media(prefers_color_scheme="light")


def test_numbers_in_cells_are_read_on_every_color() -> None:
    for color in viridis(257):
        low, high = sorted((luminance_of(color), luminance_of(text_on(color))))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_no_motion_and_no_request_for_names_of_any_kind(browser: Browser, tmp_path: Path) -> None:
    run = swept_run(tmp_path / f"_$x^{{&'日本🦊{EVIL.replace('/', '')}", n_test=600)
    browser.media(prefers_reduced_motion="reduce")
    page = page_about(run)
    browser.open(page)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    moving = browser.run(
        "[...document.querySelectorAll('*')]"
        ".filter(e => getComputedStyle(e).transitionDuration !== '0s').length"
    )
    assert moving == 0
    browser.media(prefers_reduced_motion="no-preference")
