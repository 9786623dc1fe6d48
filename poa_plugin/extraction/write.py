"""Sub-networks of a run, each written to a folder of its own, whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.extraction.network import write_network
from poa_plugin.extraction.replace import why_not_replace
from poa_plugin.folders import write_folder
from poa_plugin.runs.recorded import results_by_network
from poa_plugin.runs.run import Run
from poa_plugin.ssl import head_options

ADVICE = "choose another folder, or replace what 'poa extract' wrote there with --force"


def write_networks(
    run: Run,
    subnets: Mapping[Path, Subnet | str] | Mapping[str, Subnet | str],
    branch: str = "teacher",
    with_heads: bool = False,
    force: bool = False,
    results: Path | None = None,
) -> list[Path]:
    """Write sub-networks of a run, each to its folder; see `write_network`.

    What the run's evaluations say about them at this step is written with them. A folder is written whole
    or not at all. A warning on stderr names networks that were never trained.

    Args:
        run: an opened run.
        subnets: a member of the run's space or its name, for each folder.
        branch: `teacher` or `student`.
        with_heads: write the projection heads and the mask token, too.
        force: replace folders that hold what was extracted earlier, and nothing else.
        results: where the run's evaluations lie, if not in `RUN/eval`.

    Raises:
        UserError: the branch or a network is unknown, or a folder cannot be written.
    """
    with ExitStack() as stack:
        partial = {
            stack.enter_context(_folder(folder, force)): subnet
            for folder, subnet in subnets.items()
        }
        _write(run, partial, branch, with_heads, results)
    return [Path(folder) for folder in subnets]


def write_all_networks(
    run: Run,
    folder: str | Path,
    branch: str = "teacher",
    with_heads: bool = False,
    force: bool = False,
) -> list[Path]:
    """Write every sub-network to a folder of its name in `folder`, all or none; see `write_networks`."""
    folder, space = Path(folder), run.space
    with _folder(folder, force) as partial:
        _write(run, {partial / subnet.name: subnet for subnet in space}, branch, with_heads)
    return [folder / subnet.name for subnet in space]


def _write(
    run: Run,
    subnets: Mapping[Path, Subnet | str],
    branch: str,
    with_heads: bool,
    results_folder: Path | None = None,
) -> None:
    backbone = run.backbone(branch)
    members = {folder: backbone.member(subnet) for folder, subnet in subnets.items()}
    if warning := run.trained_networks().warning(list(members.values())):
        print(f"WARNING: {warning}", file=sys.stderr)
    heads = run.heads(branch) if with_heads else None
    origin = {"branch": branch, "step": run.step, **_origin(run, backbone.space)}
    if heads is not None:
        origin["heads"] = head_options(run.config)
    family = run.config.student.arch
    results = results_by_network(results_folder or run.folder / "eval", branch, run.step)
    for folder, subnet in members.items():
        described = {**origin, "results": results.get(subnet.name, [])}
        write_network(folder, family, backbone, subnet, described, heads)


def _origin(run: Run, space: SearchSpace) -> dict[str, Any]:
    """Return what an extracted network tells of its run and data; no path but a data set's last name."""
    config = run.config
    path = config.data.path
    return {
        "run": {
            "name": run.folder.resolve().name,
            "meta_arch": config.meta_arch,
            "intact": space.intact.name,
            "steps": config.optim.epochs * config.train.OFFICIAL_EPOCH_LENGTH,
            "images_per_step": config.train.shards * config.train.batch_size_per_shard,
            "seed": config.train.seed,
        },
        "data": {
            "dataset": config.data.dataset,
            "name": Path(path).name if path else None,
            "global_crops_size": config.crops.global_crops_size,
            "local_crops_size": config.crops.local_crops_size,
            "evaluation_resize_size": config.evaluation.resize_size,
            "evaluation_crop_size": config.evaluation.crop_size,
        },
    }


def _folder(folder: str | Path, force: bool) -> AbstractContextManager[Path]:
    return write_folder(folder, why_not_replace if force else None, ADVICE)
