"""The model card of an exported network: Markdown made of what its folder records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poa_plugin.extraction.extracted import Extracted
from poa_plugin.formats.description import IMAGENET_STATISTICS

CARD = "README.md"
PAPER = "[POA](https://arxiv.org/abs/2408.01031)"
EVALUATE_FIRST = (
    "None are recorded. `poa eval knn` or `poa sweep`, run before `poa extract`, leaves them in the run, "
    "from where they go into the extracted folder and this card."
)


@dataclass(frozen=True)
class Written:
    """What an exporter says about the files that it has written.

    Attributes:
        library: what loads them, for the card's front matter.
        usage: Python that loads them; FOLDER stands for the folder.
        checked: a sentence on what was compared.
        limits: sentences on where they compute something else than the network; empty ones are left out.
        lines: what the command prints.
    """

    library: str
    usage: str
    checked: str
    limits: Sequence[str] = field(default_factory=list)
    lines: Sequence[str] = field(default_factory=list)


def card(network: Extracted, written: Written, license: str | None) -> str:
    """Return the model card.

    Args:
        network: an opened folder; a fact that it does not record is left out.
        written: what the exporter said.
        license: the identifier of the weights' license; "not stated" if None.
    """
    facts = network.facts
    sections = {
        "Network": _table(_network(facts, network.image_size)),
        "Run": _table(_run(facts)) or "Not recorded.",
        "Data": _table(_data(facts)) or "Not recorded.",
        "Numbers": _numbers(facts),
        "Preprocessing": _preprocessing(network),
        "How to load it": f"```python\n{written.usage}\n```\n\n{written.checked}",
        "Limits": "\n".join(f"* {limit}" for limit in [*filter(None, written.limits), *_limits()]),
        "License": license or "Not stated: ask who trained the network, and on whose images.",
    }
    title = f"# {facts['network']}\n\n{_abstract(facts)}"
    body = [f"## {name}\n\n{text}" for name, text in sections.items()]
    return "\n\n".join([_front_matter(written.library, license), title, *body]) + "\n"


def _front_matter(library: str, license: str | None) -> str:
    lines = [f"library_name: {library}", "pipeline_tag: image-feature-extraction"]
    lines += [f"license: {license}"] * (license is not None)
    return "\n".join(["---", *lines, "tags:", "- self-supervised", "- poa", "---"])


def _abstract(facts: Mapping[str, Any]) -> str:
    return (
        f"An ordinary `{facts['backbone']}`, extracted from an elastic one that was pre-trained without labels "
        f"({PAPER}). It maps images to {facts['features']} features and has no classifier."
    )


def _network(facts: Mapping[str, Any], image_size: int) -> list[tuple[str, Any]]:
    return [
        ("name", f"`{facts['network']}`"),
        ("backbone", f"`{facts['backbone']}`"),
        ("width, depth", f"{facts['width']}, {facts['depth']}"),
        ("parameters", f"{facts['params']:,}"),
        (
            "FLOPs",
            f"{facts['flops']:,} multiply-adds of one {image_size} x {image_size} image",
        ),
        ("written by", f"poa_plugin {facts['version']}"),
    ]


def _run(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    run = facts.get("run", {})
    rows = [
        ("run", _code(run.get("name"))),
        ("method", _code(run.get("meta_arch"))),
        ("branch", facts.get("branch")),
        ("step", facts.get("step")),
        ("steps planned", run.get("steps")),
        ("images a step", run.get("images_per_step")),
        ("intact network", _code(run.get("intact"))),
        ("seed", run.get("seed")),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _data(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    data = facts.get("data", {})
    rows = [
        ("data set", _code(data.get("dataset"))),
        ("named", _code(data.get("name"))),
        ("global crops", _pixels(data.get("global_crops_size"))),
        ("local crops", _pixels(data.get("local_crops_size"))),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _numbers(facts: Mapping[str, Any]) -> str:
    results = facts.get("results")
    if not results:
        return EVALUATE_FIRST
    data = facts["data"]
    resize, crop = data["evaluation_resize_size"], data["evaluation_crop_size"]
    where = f"the data set above (shorter side {resize} pixels, center crop {crop})"
    head, rows = "| k | top-1 | by |\n|---|---|---|", [_result(row) for row in results]
    if any("data" in row for row in results):
        where, head = "the data that is named", "| k | top-1 | by | on |\n|---|---|---|---|"
        rows = [
            f"{line} {_plain(row.get('data', 'not recorded'))} |"
            for line, row in zip(rows, results, strict=True)
        ]
    lines = [
        "Top-1 accuracy (%) of k nearest neighbors on frozen features, on the test images of "
        f"{where}:",
        "",
        head,
        *rows,
    ]
    counts = sorted({row["n_test"] for row in results if "n_test" in row})
    if counts:
        images = " and ".join(f"{count:,}" for count in counts)
        lines += ["", f"± is one standard error on {images} test images.", *_beside_best(facts)]
    return "\n".join(lines)


def _beside_best(facts: Mapping[str, Any]) -> list[str]:
    """Return lines on the most accurate network of the run at each k, where that is another one."""
    lines = []
    for row in facts["results"]:
        best = row.get("best", facts["network"])
        if best == facts["network"]:
            continue
        apart = "is" if row["distinguishable_from_best"] else "is not"
        lines.append(
            f"* k = {row['k']}: it {apart} distinguishable from {_code(best)}, the most accurate network of "
            f"the run ({row['best_top1']:.1f})."
        )
    return [""] * bool(lines) + lines


def _result(row: Mapping[str, Any]) -> str:
    return f"| {row['k']} | {_top1(row)} | {row['by']} |"


def _top1(row: Mapping[str, Any]) -> str:
    """Return an accuracy with its standard error if it is recorded, such as `70.1 ±1.8`."""
    error = f" ±{row['standard_error']:.2g}" if "standard_error" in row else ""
    return f"{row['top1']:.1f}{error}"


def _preprocessing(network: Extracted) -> str:
    side = network.image_size
    mean, std = (IMAGENET_STATISTICS[name] for name in ("mean", "std"))
    return (
        f"Shorter side to {network.resize_size} pixels (bicubic, antialiased), center crop of "
        f"{side} x {side}, values in 0..1, mean {mean}, standard deviation {std} by channel."
    )


def _limits() -> list[str]:
    return [
        "The features are those of images like the ones it was trained on; nothing else was tested."
    ]


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _code(value: Any) -> str | None:
    """Return a name as code that does not break a table; None for None."""
    if value is None:
        return None
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """Return a text without what would break a table."""
    return "".join(" " if c in "|`\n\r" else c for c in str(value))


def _pixels(value: Any) -> str | None:
    return None if value is None else f"{value} pixels"
