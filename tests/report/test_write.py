"""The page about a run."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from poa_plugin.cli import main
from poa_plugin.errors import UserError
from poa_plugin.report.best import best_of
from poa_plugin.report.write import write_report
from poa_plugin.runs.entries import Entry, entries_of, first_k
from poa_plugin.runs.record import read_record
from poa_plugin.runs.results import Network, Results
from poa_plugin.runs.results_file import add_results
from tests.example_results import accuracy, latency, write_sweep
from tests.report.example_runs import swept_run


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
    rows, networks = [], [Network("dinov2", params=700_000, is_reference=True)]
    for i, name in enumerate(names):
        width, depth = 48 + 16 * (i // 5), 2 + i % 5
        networks.append(Network(name, width, depth, 12 * width**2 * depth, 10**7))
        rows.append(accuracy(name, 58 + i / 5))
        rows.append(accuracy(name, 47 + i / 9, kind="untrained"))
    rows.append(accuracy("dinov2", 60.0, kind="reference"))
    rows.append(accuracy("raw", 60.8, kind="pixels"))
    add_results(folder / "eval", rows, networks)
    return folder


def test_a_page_that_asks_nothing_of_the_network(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "a <script> & b")
    page = write_report(run)
    html = page.read_text()
    for name in ("accuracy", "losses", "sampling"):
        with Image.open(page.parent / f"{name}.png") as picture:
            assert picture.width >= 800
            assert len(set(picture.convert("L").resize((64, 64)).get_flattened_data())) > 5
    assert "://" not in html
    assert set(re.findall(r'(?:src|href)="([^",]{5})', html)) == {"data:"}
    assert "a <script> & b" not in html
    assert html.count("a &lt;script&gt; &amp; b") == 2
    assert "<b>x</b>" not in html
    names = re.findall(r'<th scope="row">([^<]*)</th><td>', html)
    assert {f"w{width}_d{depth}" for width in (48, 96) for depth in (2, 6)} < set(names)
    assert "reference: dinov2" in names
    assert "prefers-color-scheme: dark" in html
    assert "<dt>steps</dt><dd>60</dd>" in html
    assert "<dt>best top-1, k = 20</dt><dd>61.8%</dd>" in html
    assert "<dt>best network</dt><dd>w96_d6</dd>" in html


def test_a_run_that_was_not_evaluated(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run")
    (run / "eval/results.json").unlink()
    html = write_report(run).read_text()
    assert "<h2>Accuracy of" not in html
    assert "<h2>Losses</h2>" in html


@pytest.mark.parametrize("name", ["w48_d3-4-6-3", "full", "xx_d2"])
def test_networks_that_are_not_a_width_and_a_depth(tmp_path: Path, name: str) -> None:
    run = synthetic_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().replace('"w48_d2"', f'"{name}"')
    (run / "metrics.jsonl").write_text(lines)
    assert write_report(run).is_file()
    assert (run / "report/sampling.png").is_file()


@pytest.mark.parametrize("kind", ["pixels", "untrained", "reference"])
def test_results_without_a_trained_network(tmp_path: Path, kind: str) -> None:
    add_results(tmp_path / "eval", [accuracy("one", 50.0, kind=kind)], [])
    assert "Accuracy" in write_report(tmp_path).read_text()
    assert (tmp_path / "report/accuracy.png").is_file()


def test_damaged_and_short_metrics(tmp_path: Path) -> None:
    line = '{"step": 0, "loss": 1.5, "terms": {"koleo": 1.5}}'
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 1, "terms": {{}}')
    html = write_report(tmp_path).read_text()
    assert "<dt>steps</dt><dd>1</dd>" in html
    assert "<dd>1.50 → 1.50</dd>" in html
    for damaged, said in (('{"st}', "Unterminated"), ("3", "no loss"), ('{"step": 1}', "no loss")):
        (tmp_path / "metrics.jsonl").write_text(f"{line}\n{damaged}\n{line}\n")
        with pytest.raises(UserError, match=f"Line 2 of .*{said}"):
            write_report(tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the output folder of a run"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match="nothing to show"):
        write_report(tmp_path)


def test_a_sweep_and_the_rows_that_it_has_not(tmp_path: Path) -> None:
    record = read_record(swept_run(tmp_path / "run"))
    entries = {entry.label: entry for entry in record.entries}
    assert len(entries) == len(record.entries) == 14
    assert list(entries)[-2:] == ["reference: dinov2", "pixels: raw"]
    first = entries["w48_d2"]
    assert first.top1 == {10: 55.8, 20: 56.8}
    assert first.before == {20: 45.0}
    assert entries["w80_d5"].before == {}
    assert first.aliases == ("smallest", "small")
    html = write_report(tmp_path / "run").read_text()
    assert "&lt;b&gt;blobs&lt;/b&gt;" in html
    assert "<b>" not in html
    [line] = [line for line in html.splitlines() if ">w48_d2 <" in line]
    assert re.findall("<td>(.*?)</td>", line) == [
        *("48", "2", "55.3k", "11.1M", "0.667"),
        *("55.8", "56.8", "45.0"),
    ]


def test_rows_of_different_steps_are_told_apart() -> None:
    rows = [accuracy("w48_d2", 50.0 + k, k, step=step) for k, step in ((1, 5), (2, 9))]
    entries = entries_of(Results(rows))
    by_label = {entry.label: (entry.kind, entry.top1) for entry in entries}
    assert by_label == {
        "w48_d2": ("trained", {2: 52.0}),
        "w48_d2 (step 5)": ("other", {1: 51.0}),
    }
    student = accuracy("w64_d2", 60.0, branch="student", step=9)
    teacher = accuracy("w48_d2", 60.0, branch="teacher", step=9)
    for rows in ([student, teacher], [teacher, student]):
        entries = entries_of(Results(rows))
        assert [(entry.label, entry.kind) for entry in entries] == [
            ("w48_d2", "trained"),
            ("w64_d2 (student, step 9)", "other"),
        ]


def test_rows_of_other_conditions_than_the_sweep_are_no_part_of_its_series() -> None:
    """Neither on its front nor beside it before training, whatever they differ in; the label says what."""
    state = {"branch": "teacher", "step": 9, "n": 100, "series": "a", "data": "pets"}
    rows = [
        *(accuracy(f"w48_d{depth}", 50.0, **state, by="poa sweep") for depth in (2, 3)),
        accuracy("w48_d4", 99.0, **state),
        accuracy("w48_d2", 99.0, **{**state, "step": 7}),
        accuracy("w48_d2", 99.0, **{**state, "branch": "student"}),
        accuracy("w48_d2", 99.0, **{**state, "series": "b", "data": "cars, 8 of 8 pixels"}),
        accuracy("w48_d3", 9.0, kind="untrained", **{**state, "step": 0}),
        accuracy("w48_d2", 9.0, kind="untrained", **{**state, "series": "b", "data": "cars"}),
        accuracy("raw", 30.0, kind="pixels", series="b", data="cars"),
        accuracy("raw", 40.0, kind="pixels", series="a", data="pets"),
    ]
    networks = [Network(f"w48_d{depth}", 48, depth, depth, 8) for depth in (2, 3, 4)]
    entries = entries_of(Results(rows, networks))
    assert [(entry.label, entry.kind) for entry in entries] == [
        ("w48_d2", "trained"),
        ("w48_d3", "trained"),
        ("w48_d4", "trained"),
        ("pixels: raw", "pixels"),
        ("w48_d2 (teacher, step 7)", "other"),
        ("w48_d2 (student, step 9)", "other"),
        ("w48_d2 (cars, 8 of 8 pixels)", "other"),
        ("untrained: w48_d2 (cars)", "other"),
        ("pixels: raw (cars)", "other"),
    ]
    assert [entry.before for entry in entries[:3]] == [{}, {20: 9.0}, {}]
    best = best_of(entries, 20)
    assert best is not None
    assert best.entry.label == "w48_d4"
    assert not [entry for entry in entries if entry.kind == "other" and best.is_like(entry)]
    assert first_k([*entries[:1], replace(entries[3], top1={21: 1.0})]) == 20
    assert first_k([replace(entries[3], top1={30: 1.0})]) == 30
    assert first_k([]) is None


def test_latencies_stand_with_accuracies_of_any_command(tmp_path: Path) -> None:
    network = Network("w48_d2", 48, 2, 7, 8, aliases=("small",))
    timed = latency("w48_d2", latency_ms=1.5)
    [entry] = entries_of(Results([accuracy("w48_d2", 50.0), *timed], [network]))
    assert (entry.latency_ms, entry.top1, entry.aliases) == (1.5, {20: 50.0}, ("small",))
    add_results(tmp_path / "eval", timed, [network])
    html = write_report(tmp_path).read_text()
    assert ">w48_d2 <small>small</small></th>" in html
    assert "<h2>Accuracy of" not in html


def test_numbers_that_are_none(tmp_path: Path) -> None:
    broken = Entry("w48_d2", width=48, depth=2, latency_ms=math.inf, top1={20: math.nan})
    write_sweep(tmp_path / "eval", [broken])
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": null, "terms": {}}\n')
    html = write_report(tmp_path).read_text()
    assert "nan" not in re.sub('<script.*?</script>|data:.*?"', "", html, flags=re.DOTALL).lower()
    [row] = json.loads(re.findall('id="data">(.*?)</script>', html)[0])["rows"]
    assert (row["latency"], row["top1"]) == (None, {"20": None})


def test_several_runs_side_by_side(tmp_path: Path) -> None:
    runs = [swept_run(tmp_path / "a"), swept_run(tmp_path / "b", better=2.0)]
    page = write_report(*runs, to=tmp_path / "pages/both.HTML")
    assert [file.name for file in (tmp_path / "pages").iterdir()] == ["both.HTML"]
    html = page.read_text()
    assert "<title>a and b</title>" in html
    assert '<th scope="row">best top-1, k = 20</th><td>64.0%</td><td>66.0%</td>' in html
    assert '<th scope="row">optim.base_lr</th><td>0.1</td><td>2.1</td>' in html
    assert '<th scope="row">train.seed</th>' not in html
    assert html.count('<tr data-row="') == 28
    assert write_report(*runs, to=tmp_path / "pages/x") == tmp_path / "pages/x/index.html"
    names = {file.name for file in (tmp_path / "pages/x").iterdir()}
    assert names == {"index.html", "accuracy.png", "losses.png"}


def test_runs_of_one_name_are_named_apart(tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / "x/run"), swept_run(tmp_path / "y/run")]
    html = write_report(*runs, to=tmp_path / "page.html").read_text()
    assert "<title>x/run and y/run</title>" in html


def test_pages_that_have_no_place(tmp_path: Path) -> None:
    a, b = swept_run(tmp_path / "a"), swept_run(tmp_path / "b")
    with pytest.raises(UserError, match=r"2 runs belongs to none of them: .* --to"):
        write_report(a, b)
    with pytest.raises(UserError, match=r"The run '.*/a' is given 2 times"):
        write_report(a, tmp_path / "b/../a", to=tmp_path / "page.html")
    with pytest.raises(UserError, match="give the output folder"):
        write_report()
    with pytest.raises(UserError, match=r"config.yaml' is a file; a page .* ends in .html"):
        write_report(a, to=a / "config.yaml")
    (tmp_path / "folder.html").mkdir()
    assert write_report(a, to=tmp_path / "folder.html") == tmp_path / "folder.html/index.html"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = swept_run(tmp_path / "a"), swept_run(tmp_path / "b")
    assert main(["report", str(a), str(b)]) == 2
    assert "say where it goes with --to" in capsys.readouterr().err
    page = tmp_path / "both.html"
    assert main(["report", str(a), str(b), "--to", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "<title>a and b</title>" in page.read_text()


def test_a_configuration_that_is_damaged(tmp_path: Path) -> None:
    run = swept_run(tmp_path / "a")
    (run / "config.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"configuration in '.*config.yaml' cannot be read"):
        write_report(run)


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = swept_run(tmp_path / "run")
    folder = write_report(run).parent
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(before) == {"index.html", "accuracy.png", "losses.png", "sampling.png"}
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 1.5, "terms": {"koleo": 1.5}}\n')
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if "index" in self.name:
            write(self, data[:9])
            raise OSError(errno.ENOSPC, "full", str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        write_report(run)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    monkeypatch.undo()
    (folder / "losses.png").unlink()
    (folder / "losses.png").mkdir()
    with pytest.raises(IsADirectoryError):
        write_report(run)
    assert (folder / "index.html").read_bytes() == before["index.html"]
    assert not [file for file in folder.iterdir() if file.name.endswith(".partial")]


def test_names_of_any_bytes_can_be_shown(tmp_path: Path) -> None:
    names = ["_$x^{\\frac", "日本🦊", os.fsdecode(b"a\xff"), os.fsdecode(b"a\xfe")]
    runs = [swept_run(tmp_path / name) for name in names]
    for run in runs:
        text = (run / "metrics.jsonl").read_text()
        (run / "metrics.jsonl").write_text(text.replace("koleo", "_$k^{"))
        text = (run / "eval/results.json").read_text()
        (run / "eval/results.json").write_text(text.replace('"small"', '"\\ud800 $^{"'))
    assert write_report(runs[0]).is_file()
    html = write_report(*runs, to=tmp_path / "page.html").read_text()
    assert "日本🦊" in html
    assert html.count("<option value=") > 4


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("networks", "width", "8"),
        ("networks", "params", None),
        ("networks", "flops", -1),
        ("networks", "params", True),
        ("networks", "depth", math.nan),
        ("networks", "aliases", 3),
        ("networks", "aliases", [3]),
        ("networks", "network", 7),
        ("networks", "unknown", 1),
        ("rows", "network", 3),
        ("rows", "value", "fast"),
        ("rows", "standard_error", [1]),
        ("rows", "n", -1),
        ("rows", "step", math.inf),
        ("rows", "kind", []),
        ("rows", "kind", "pixel"),
        ("rows", "branch", 1),
        ("rows", "metric", None),
        ("rows", "conditions", "not there"),
        ("rows", "unknown", 1),
    ],
)
def test_results_of_the_wrong_kind_are_a_sentence(
    tmp_path: Path, part: str, name: str, value: object
) -> None:
    run = swept_run(tmp_path / "run")
    record = json.loads((run / "eval/results.json").read_text())
    record[part][2][name] = value
    (run / "eval/results.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"results\.json' cannot be read"):
        write_report(run)


def test_what_is_not_known_to_be_uncertain_has_no_marks(tmp_path: Path) -> None:
    page = write_report(swept_run(tmp_path / "run"))
    html = re.sub("<script.*</script>", "", page.read_text(), flags=re.DOTALL)
    assert "±" not in html
    assert "≈" not in html
