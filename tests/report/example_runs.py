"""Output folders of runs that never were: numbers as a sweep, an evaluation and a training leave them."""

from __future__ import annotations

import json
from pathlib import Path

from poa_plugin.runs.entries import Entry
from poa_plugin.runs.results import Network
from poa_plugin.runs.results_file import add_results
from tests.example_results import accuracy, write_sweep

WIDTHS, DEPTHS = (48, 64, 80), range(2, 6)


def swept_run(
    folder: Path, better: float = 0.0, n_members: int = 1, n_test: int | None = None
) -> Path:
    """A run with a sweep, references and metrics; a width and depth has `n_members` networks.

    With `n_test`, the latency of network 3 is not reliable, and steps were skipped.
    """
    networks = []
    for width in WIDTHS:
        for depth in DEPTHS:
            for member in range(n_members):
                number = len(networks)
                name = f"w{width}_d{depth}" + (f"-{member}" if n_members > 1 else "")
                params = 12 * width**2 * depth + 1000 * member
                top1 = 50 + better + width / 10 + depth + (number * 7 % 5) / 2
                aliases = ("smallest", "small") if number == 0 else ()
                networks.append(
                    Entry(
                        name,
                        aliases=aliases,
                        width=width,
                        depth=depth,
                        params=params,
                        flops=200 * params,
                        latency_ms=None if number == 1 else depth / 3,
                        latency_spread_ms=None
                        if n_test is None or number == 1
                        else depth / 60
                        if number != 3
                        else depth,
                        top1={10: top1 - 1, 20: top1},
                    )
                )
    if n_test is not None:
        skipped = [json.dumps({"step": step, "not_finite": ["loss"]}) for step in (4, 5, 20)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "skipped_steps.jsonl").write_text("\n".join(skipped) + "\n")
    write_sweep(folder / "eval", networks, n_test or 0, data="<b>blobs</b>", threads=None)
    rows = [accuracy(networks[0].network, 1.0)]
    rows += [accuracy(entry.network, 45.0, kind="untrained") for entry in networks[:3]]
    rows += [accuracy("dinov2", 60.0, kind="reference"), accuracy("raw", 48.0, kind="pixels")]
    add_results(folder / "eval", rows, [Network("dinov2", 80, 5, 500_000, is_reference=True)])
    config = f"optim:\n  base_lr: {0.1 + better}\ntrain:\n  seed: 0\nstudent:\n  arch: vit\n"
    (folder / "config.yaml").write_text(config)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(30):
            terms = {"koleo_intact": 1.0, "same_view_local": 3 - step / 30}
            terms |= {"masked_patch_elastic": 1.0} if step >= 10 else {}
            name = networks[step * step % len(networks)].network
            line = {"step": step, "loss": sum(terms.values()), "terms": terms, "subnets": [name]}
            file.write(json.dumps(line) + "\n")
    return folder
