"""The HTML document: sections, style, script and numbers in one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from poa_plugin.report.colors import RUNS, RUNS_ON_DARK, width_colors
from poa_plugin.report.page.data import Line, all_ks, as_json, page_data, table_lines, widths_of
from poa_plugin.report.page.facts import configuration, differences, fact_list, facts_beside
from poa_plugin.report.page.loss_notes import loss_notes
from poa_plugin.report.page.table import controls, network_table, search_box
from poa_plugin.runs.record import RunRecord

SCRIPTS = (
    "base.js",
    "chart.js",
    "filter.js",
    "uncertainty.js",
    "scatter.js",
    "map.js",
    "table.js",
    "losses.js",
    "main.js",
)


def build_page(records: Sequence[RunRecord], pictures: Mapping[str, bytes]) -> str:
    """Return the page about one run, or about several side by side.

    Args:
        records: of the runs.
        pictures: PNG files `accuracy`, `losses` and `sampling`, as far as there are any: what is shown
            where no script runs.
    """
    *names, last = (record.name for record in records)
    title = f"{', '.join(names)} and {last}" if names else last
    lines = table_lines(records)
    sections = [facts] if (facts := _facts(records)) else []
    if all_ks(lines):
        sections.append(_accuracy(records, lines, pictures))
    if lines:
        sections.append(_section("All networks", search_box() + network_table(records, lines)))
    sections += _training(records, pictures)
    sections += _configurations(records)
    return _document(title, sections, as_json(page_data(records)), _colors(lines))


def _facts(records: Sequence[RunRecord]) -> str:
    inner = fact_list(records[0]) if len(records) == 1 else facts_beside(records)
    return f'<section class="first">{inner}</section>' if inner else ""


def _accuracy(
    records: Sequence[RunRecord], lines: Sequence[Line], pictures: Mapping[str, bytes]
) -> str:
    heading = "Accuracy of every network"
    chart = _chart("scatter", pictures, "accuracy", "k-NN accuracy against parameters")
    note = '<p class="note" id="scatter-note" hidden></p>'
    section = _section(heading, controls(lines) + chart + note)
    if any(line.entry.width and line.entry.depth for line in lines):
        choice = _run_choice("map-run", records)
        section += _section(
            "Width and depth",
            f'<div class="controls" hidden>{choice}<label>shown <select id="measure"></select></label></div>'
            '<div class="map scroll" id="map" tabindex="0" role="region" '
            'aria-label="Accuracy by width and depth"></div>',
            hidden=True,
        )
    return section


def _training(records: Sequence[RunRecord], pictures: Mapping[str, bytes]) -> list[str]:
    sections = []
    if any(line["loss"] is not None for record in records for line in record.lines):
        choice = '<label>shown <select id="term"></select></label>' if len(records) > 1 else ""
        bar = f'<div class="controls" hidden>{choice}</div>' if choice else ""
        chart = _chart("losses", pictures, "losses", "loss and its terms over steps")
        sections.append(_section("Losses", bar + chart + loss_notes(records)))
    elif any(record.skipped_ranges for record in records):
        sections.append(_section("Losses", loss_notes(records)))
    if any(line.get("subnets") for record in records for line in record.lines):
        choice = _run_choice("draws-run", records)
        bar = f'<div class="controls" hidden>{choice}</div>' if choice else ""
        chart = _chart("draws", pictures, "sampling", "how often each network was drawn")
        sections.append(_section("How often each network was the elastic student", bar + chart))
    return sections


def _configurations(records: Sequence[RunRecord]) -> list[str]:
    if len(records) == 1:
        folded = configuration(records[0])
        return [f"<section>{folded}</section>"] if folded else []
    folded = "".join(configuration(record, record.name) for record in records)
    return [_section("Configurations: what differs", differences(records) + folded)]


def _section(heading: str, inner: str, hidden: bool = False) -> str:
    return f"<section{' hidden' * hidden}><h2>{heading}</h2>{inner}</section>"


def _run_choice(name: str, records: Sequence[RunRecord]) -> str:
    if len(records) == 1:
        return ""
    options = "".join(
        f'<option value="{i}">{escape(record.name)}</option>' for i, record in enumerate(records)
    )
    return f'<label>run <select id="{name}">{options}</select></label>'


def _chart(name: str, pictures: Mapping[str, bytes], picture: str, text: str) -> str:
    """Return the place of a drawing, and the picture that stands there until the script has drawn."""
    still = ""
    if picture in pictures:
        data = base64.b64encode(pictures[picture]).decode()
        still = f'<img class="still" alt="{escape(text)}" src="data:image/png;base64,{data}">'
    return f'<div class="chart" id="{name}"></div>{still}'


def _colors(lines: Sequence[Line]) -> str:
    """Return the colors of runs and widths as CSS variables; paper is light, whatever the screen is."""
    n_widths = len(widths_of(lines))
    light, dark = (
        ";".join(
            [
                *(f"--r{i}:{color}" for i, color in enumerate(RUNS_ON_DARK if is_dark else RUNS)),
                *(f"--w{i}:{color}" for i, color in enumerate(width_colors(n_widths, is_dark))),
            ]
        )
        for is_dark in (False, True)
    )
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _document(title: str, sections: Sequence[str], data: str, colors: str) -> str:
    folder = files("poa_plugin.report.page")
    style = (folder / "page.css").read_text(encoding="utf-8") + colors
    parts = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{parts}\n}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    name, body = escape(title), "\n".join(sections)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">\n'
        f"<title>{name}</title>\n<style>\n{style}</style></head>\n<body><main>\n<h1>{name}</h1>\n{body}\n"
        '</main><svg id="svg" width="0" height="0" aria-hidden="true"></svg>\n'
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )
    return page.encode("utf-8", "replace").decode(
        "utf-8"
    )  # half a surrogate pair cannot be written
