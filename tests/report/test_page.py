"""The page in a browser: what can be touched does what it says, and nothing is asked of the network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from poa_plugin.report.page import build_page
from poa_plugin.report.write import write_report
from poa_plugin.runs.entries import Entry
from poa_plugin.runs.record import read_record
from tests.report.browser import Browser, chromium
from tests.report.example_runs import DEPTHS, WIDTHS, swept_run
from tests.report.test_write import synthetic_run

EVIL = "<img src=x onerror=boom()>"

SHOWN = "[...document.querySelectorAll('#networks tbody tr')].filter(row => !row.hidden)"
POINTS = "[...document.querySelectorAll('#scatter .point')]"
LINES = "[...document.querySelectorAll('#scatter .level')]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return swept_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def written(run: Path) -> Path:
    return write_report(run)


@pytest.fixture
def page(browser: Browser, written: Path) -> Browser:
    """The browser with the page of one run, wide, all rows shown."""
    browser.size(1100, 800)
    browser.open(written)
    if not browser.run("document.getElementById('baselines').checked"):
        click(browser, "#baselines")
    return browser


def page_about(*runs: Path) -> Path:
    """Write a page without the pictures for where no script runs, which take their time."""
    file = runs[0] / "page.html"
    file.write_text(build_page([read_record(run) for run in runs], {}))
    return file


def click(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({selector!r}).click()")


def write_filter(browser: Browser, text: str) -> list[str]:
    """Type into the filter; return the names that are shown, after comparing table and points."""
    browser.run("document.getElementById('filter').select()")
    browser.send("Input.insertText", text=text)
    if not text:
        browser.run(
            "(box => { box.value = ''; box.dispatchEvent(new Event('input')) })"
            "(document.getElementById('filter'))"
        )
    return same_rows(browser)


def same_rows(browser: Browser) -> list[str]:
    """Return the names in the table, which are those of the points, the lines and what has no place."""
    rows = browser.run(f"{SHOWN}.map(row => row.dataset.row)")
    drawn = browser.run(f"{POINTS}.concat({LINES}).map(point => point.dataset.row)")
    x = browser.run("(document.querySelector('input[name=x]:checked') ?? {}).value")
    without = [row for row in rows if x == "latency" and row == "1"]
    assert sorted(drawn + without) == sorted(rows)
    named: list[str] = browser.run(f"{SHOWN}.map(row => row.cells[0].firstChild.data.trim())")
    assert f"{len(named)} of " in browser.run("document.getElementById('count').textContent")
    return named


def entries_of(run: Path) -> dict[str, Entry]:
    return {entry.label: entry for entry in read_record(run).entries}


def hover(browser: Browser, number: int) -> str:
    """Move the mouse to a row's point and return the tooltip's text."""
    x, y = place_of(browser, number)
    browser.mouse("mouseMoved", x, y)
    browser.settle()
    return tooltip(browser)


def place_of(browser: Browser, number: int) -> tuple[float, float]:
    x, y = browser.run(
        "(() => { const svg = document.querySelector('#scatter svg');"
        " svg.scrollIntoView({ block: 'center' }); const box = svg.getBoundingClientRect();"
        f" const {{ x, y }} = document.querySelector('.point[data-row=\"{number}\"]').dataset;"
        " return [box.left + Number(x), box.top + Number(y)]; })()"
    )
    return x, y


def tooltip(browser: Browser) -> str:
    return str(
        browser.run(
            "(tip => tip && !tip.hidden ? tip.innerText : '')(document.querySelector('#scatter .tip'))"
        )
    )


def test_nothing_is_asked_of_the_network_and_nothing_goes_wrong(
    page: Browser, written: Path
) -> None:
    requests = [url for url in page.requests if not url.startswith("data:")]
    assert requests == [written.as_uri()]
    assert page.errors == []
    broken = page.run(
        "new Promise(done => {"
        " document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        " fetch('https://example.org').then(() => done('let through'), () => {}) })"
    )
    assert broken == "connect-src"


def test_points_stand_where_the_table_says(page: Browser, run: Path) -> None:
    entries = list(entries_of(run).values())
    page.run("document.getElementById('k').value = '10'")
    page.run("document.getElementById('k').dispatchEvent(new Event('change'))")
    for key, name in (("latency", "latency_ms"), ("flops", "flops"), ("params", "params")):
        click(page, f"input[value={key}]")
        for log in (False, True):
            if page.run("document.getElementById('log').checked") != log:
                click(page, "#log")
            points = page.run(f"{POINTS}.map(p => [+p.dataset.row, +p.dataset.x, +p.dataset.y])")
            wanted = {i for i, own in enumerate(entries) if getattr(own, name) and 10 in own.top1}
            assert {row for row, _, _ in points} == wanted
            values = [(getattr(entries[i], name), entries[i].top1[10]) for i, _, _ in points]
            assert straight([x for _, x, _ in points], [v for v, _ in values], log) > 0
            assert straight([y for _, _, y in points], [v for _, v in values], False) < 0


def straight(pixels: list[float], values: list[float], log: bool) -> float:
    """Return pixels per value, after checking that all points agree on it."""
    numbers = np.log(values) if log else np.array(values)
    slope, start = np.polyfit(numbers, pixels, 1)
    np.testing.assert_allclose(slope * numbers + start, pixels, atol=0.05)
    return float(slope)


def test_sorting(page: Browser) -> None:
    def column(key: str) -> list[float | None]:
        cells = page.run(
            f"(i => {SHOWN}.map(row => row.cells[i].innerText))"
            f"([...document.querySelectorAll('#networks thead th')].findIndex(h => h.dataset.key === '{key}'))"
        )
        return [float(cell.rstrip("kM")) if cell else None for cell in cells]

    def order(key: str) -> str:
        return str(page.run(f"document.querySelector('th[data-key=\"{key}\"]').ariaSort"))

    click(page, "th[data-key=latency] button")
    numbers = column("latency")
    known = [number for number in numbers if number is not None]
    assert order("latency") == "ascending"
    assert known == sorted(known)
    assert numbers[len(known) :] == [None, None, None]
    click(page, "th[data-key=latency] button")
    assert order("latency") == "descending"
    assert column("latency") == [*sorted(known, reverse=True), None, None, None]

    page.run("document.querySelector('th[data-key=\"top1:20\"] button').focus()")
    page.key("Enter")
    assert (order("top1:20"), order("latency")) == ("descending", "none")
    accuracies = [number or 0 for number in column("top1:20")]
    assert accuracies == sorted(accuracies, reverse=True)
    click(page, "th[data-key=label] button")
    assert same_rows(page)[0] == "pixels: raw"


def test_filtering_table_and_points(page: Browser, run: Path) -> None:
    entries = entries_of(run)
    assert set(write_filter(page, "")) == set(entries)
    assert write_filter(page, "w64") == [f"w64_d{depth}" for depth in DEPTHS]
    assert write_filter(page, "SMALLEST") == ["w48_d2"]
    found = write_filter(page, "w params<=0.2M top1 >= 58")
    assert found == [
        name
        for name, own in entries.items()
        if "w" in name and (own.params or 1e9) <= 2e5 and own.top1[20] >= 58
    ]
    assert 1 < len(found) < 12
    assert set(write_filter(page, "latency<1")) == {
        name for name, own in entries.items() if own.latency_ms and own.latency_ms < 1
    }
    assert write_filter(page, "no such network") == []
    assert page.run("document.querySelector('#scatter').classList.contains('empty')")
    assert set(write_filter(page, "size<3")) == set(entries)
    assert "“size<3” is not understood" in page.run("document.getElementById('count').innerText")
    assert page.run("document.getElementById('filter').ariaInvalid") == "true"
    assert page.errors == []


def test_the_pareto_front_alone(page: Browser, run: Path) -> None:
    click(page, "#front")
    trained = {name: own for name, own in entries_of(run).items() if own.kind == "trained"}
    for key, size in (("params", "params"), ("latency", "latency_ms")):
        click(page, f"input[value={key}]")
        costs = {name: getattr(own, size) or math.inf for name, own in trained.items()}

        def beaten(name: str, costs: dict[str, float] = costs) -> bool:
            own = trained[name].top1[20]
            return any(
                costs[other] <= costs[name]
                and trained[other].top1[20] >= own
                and (costs[other], trained[other].top1[20]) != (costs[name], own)
                for other in trained
            )

        front = {name for name in trained if math.isfinite(costs[name]) and not beaten(name)}
        assert set(same_rows(page)) == front
        assert 2 < len(front) < 12


def test_the_legend_switches_widths_off(page: Browser) -> None:
    everything = len(same_rows(page))
    click(page, "#scatter .legend button[data-group='1']")
    left = same_rows(page)
    assert len(left) == everything - len(DEPTHS)
    assert not [name for name in left if name.startswith("w64")]
    assert page.run("document.querySelectorAll('#map td[data-row]').length") == 8
    assert page.run("document.querySelector('button[data-group=\"1\"]').ariaPressed") == "false"


def test_points_name_their_network(page: Browser, run: Path) -> None:
    names = list(entries_of(run))
    for number in (0, 5, names.index("reference: dinov2")):
        said = hover(page, number)
        assert said.startswith(names[number])
    said = hover(page, 0)
    for text in ("small", "56.8%", "55.8%", "45.0%", "48 × 2", "55.3k", "11.1M", "0.667 ms"):
        assert text in said
    marked = page.run("document.querySelector('#networks tr.marked').dataset.row")
    assert marked == "0"
    page.mouse("mouseMoved", 2, 2)
    page.settle()
    assert tooltip(page) == ""


def test_points_name_their_network_to_keys_and_fingers(page: Browser, run: Path) -> None:
    names = list(entries_of(run))
    page.run("document.querySelector('.point[tabindex=\"0\"]').focus()")
    seen = [tooltip(page).splitlines()[0]]
    for _ in range(2):
        page.key("ArrowRight")
        seen.append(tooltip(page).splitlines()[0])
    assert seen == ["w48_d2", "w48_d3", "w64_d2"]
    page.key("End")
    label = page.run("document.activeElement.ariaLabel")
    for text in ("reference: dinov2", "60.0%", "80 × 5", "500k"):
        assert text in label
    page.key("Escape")
    assert tooltip(page) == ""
    page.size(390, 800, mobile=True)
    page.send("Emulation.setTouchEmulationEnabled", enabled=True)
    page.settle()
    page.tap(*place_of(page, 5))
    assert tooltip(page).startswith(names[5])
    page.send("Emulation.setTouchEmulationEnabled", enabled=False)


def test_the_map_shows_the_best_of_each_width_and_depth(browser: Browser, tmp_path: Path) -> None:
    run = swept_run(tmp_path / "run", n_members=3)
    browser.open(page_about(run))
    cells = browser.run(
        "[...document.querySelectorAll('#map td')].map(cell => [cell.innerText, cell.title])"
    )
    best: dict[tuple[int, int], Entry] = {}
    for own in entries_of(run).values():
        place = (own.width or 0, own.depth or 0)
        if own.kind == "trained" and own.top1[20] > getattr(best.get(place), "top1", {20: 0})[20]:
            best[place] = own
    wanted = [best[width, depth] for depth in reversed(DEPTHS) for width in WIDTHS]
    assert [text for text, _ in cells] == [f"{own.top1[20]:.1f}" for own in wanted]
    assert all(
        title.startswith(own.label) and "of 3" in title
        for (_, title), own in zip(cells, wanted, strict=True)
    )
    assert len(same_rows(browser)) == 36 + 2
    times = browser.run("[...document.querySelectorAll('#draws td')].map(cell => +cell.innerText)")
    assert sum(times) == 30


def test_the_map_of_what_training_gained(page: Browser, run: Path) -> None:
    page.run(
        "(select => { select.value = 'gain'; select.dispatchEvent(new Event('change')) })"
        "(document.getElementById('measure'))"
    )
    shown = page.run("[...document.querySelectorAll('#map td[data-row]')].map(td => td.innerText)")
    known = [own for own in entries_of(run).values() if own.before]
    assert shown == [f"{own.top1[20] - 45:.1f}" for own in reversed(known)]


def test_losses_are_read_off_under_the_mouse_and_by_keys(page: Browser) -> None:
    x, y = page.run(
        "(() => { const svg = document.querySelector('#losses svg');"
        " svg.scrollIntoView({ block: 'center' }); const box = svg.getBoundingClientRect();"
        " return [box.right - 20, box.top + box.height / 2]; })()"
    )
    page.mouse("mouseMoved", x, y)
    page.settle()
    read = "document.querySelector('#losses .tip').innerText.split(/\\s*\\n\\s*/)"
    words = page.run(read)
    assert words == ["step 30", "total loss", "4.033", "terms from the start", "3.033"]
    joins = page.run(
        "[...document.querySelectorAll('#losses .join + text')].map(t => t.textContent)"
    )
    assert joins == ["masked patch joins"]
    page.run("document.querySelectorAll('#losses .panel > svg')[1].focus({ focusVisible: true })")
    page.key("ArrowRight")
    words = page.run(read.replace("'#losses .tip'", "'#losses .panel:nth-child(2) .tip'"))
    assert words[0] == "step 30"
    assert dict(zip(words[1::2], words[2::2], strict=True)) == {
        "koleo intact": "1.000",
        "masked patch elastic": "1.000",
        "same view": "2.033",
    }


def test_runs_side_by_side(browser: Browser, tmp_path: Path) -> None:
    runs = [swept_run(tmp_path / "a"), swept_run(tmp_path / "b", better=2.0)]
    browser.size(1100, 800)
    browser.open(page_about(*runs))
    everything = len(same_rows(browser))
    assert browser.run("document.querySelectorAll('#losses path.curve:not(.faint)').length") == 2
    shapes = browser.run(f"[...new Set({POINTS}.map(p => p.tagName + p.getAttribute('d')))].length")
    assert shapes == 3
    assert browser.run("document.querySelectorAll('#scatter .front').length") == 2
    click(browser, "#scatter .legend button[data-group='0']")
    assert len(same_rows(browser)) == everything / 2
    assert browser.run(f"{SHOWN}.map(row => row.cells[1].innerText)") == ["b"] * (everything // 2)
    assert browser.run("document.querySelectorAll('#losses path.curve:not(.faint)').length") == 1
    assert "b" in hover(browser, 15).splitlines()
    assert browser.errors == []


@pytest.mark.parametrize("width", [360, 1100])
def test_the_page_never_scrolls_sideways(browser: Browser, tmp_path: Path, width: int) -> None:
    long_name = swept_run(tmp_path / ("a_rather_long_name_of_a_run_" * 3), n_members=13)
    few = synthetic_run(tmp_path / "few")
    (few / "eval/results.json").unlink()
    browser.size(width, 800, mobile=width < 600)
    for runs in ([long_name], [few], [long_name, few, swept_run(tmp_path / "c")]):
        browser.open(page_about(*runs))
        browser.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
        browser.settle()
        assert browser.run("document.documentElement.scrollWidth") == width
        outside = browser.run(
            "[...document.querySelectorAll('section, .controls *, .legend *, svg, .scroll, h1')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML)"
        )
        assert outside == []
        assert browser.errors == []


def test_names_are_never_code(browser: Browser, tmp_path: Path) -> None:
    run = swept_run(tmp_path / EVIL)
    for file in (run / "eval/results.json", run / "metrics.jsonl"):
        text = file.read_text().replace("w64_d3", f"{EVIL}</script>").replace("small", EVIL)
        file.write_text(text)
    browser.size(1100, 800)
    for runs in ([run], [run, swept_run(tmp_path / "b")]):
        browser.open(page_about(*runs))
        assert browser.errors == []
        assert browser.run("document.images.length") == 0
        assert browser.run("document.querySelector('h1').innerText").startswith(EVIL)
        assert hover(browser, 5).startswith(f"{EVIL}</script>")
        found = write_filter(browser, "boom() w48")
        assert found == (["w48_d2"] if len(runs) == 1 else [f"w48_d{depth}" for depth in DEPTHS])


@pytest.mark.parametrize("kept", ["eval/results.json", "metrics.jsonl"])
def test_a_page_of_one_file_alone(browser: Browser, tmp_path: Path, kept: str) -> None:
    run = swept_run(tmp_path / "run")
    for file in (run / "eval/results.json", run / "metrics.jsonl"):
        if file != run / kept:
            file.unlink()
    (run / "config.yaml").unlink()
    browser.open(page_about(run))
    assert browser.errors == []
    drawn = browser.run("[...document.querySelectorAll('.chart > svg')].length")
    assert drawn == {"eval/results.json": 1, "metrics.jsonl": 2}[kept]


def test_without_scripts(browser: Browser, written: Path) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(written, settle=False)
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert not browser.run("document.documentElement.classList.contains('drawn')")
    stills = browser.run(
        "[...document.querySelectorAll('img.still')].map(i => i.offsetHeight > 99)"
    )
    assert stills == [True, True, True]
    assert browser.run(f"{SHOWN}.length") == 14
    assert browser.run("document.querySelectorAll('.controls:not([hidden])').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_dark(page: Browser, scheme: str) -> None:
    page.media(prefers_color_scheme=scheme)
    page.settle()
    colors = page.run(
        "['h1', 'dt', 'dd', 'summary', '.note', 'th button', '#networks td', '#count', '.tip'].map(name =>"
        " [name, getComputedStyle(document.querySelector(name) ?? document.body).color])"
        ".concat([['svg text', getComputedStyle(document.querySelector('#scatter text')).fill]])"
    )
    panel = page.run("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert (luminance(panel) > 0.5) == (scheme == "light")
    weak = {name: color for name, color in colors if contrast(color, panel) < 4.5}
    assert weak == {}
    dots = page.run(f"{POINTS}.map(point => getComputedStyle(point).fill)")
    assert min(contrast(dot, panel) for dot in dots) >= 3
    assert len(set(dots)) == len(WIDTHS) + 1
    page.media(prefers_color_scheme="light")


def luminance(color: str) -> float:
    """Return the relative luminance of a color such as `rgb(1, 2, 3)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_without_a_browser_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(pytest.skip.Exception, match="no Chromium: none of chromium, "):
        chromium()
