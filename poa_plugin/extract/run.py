"""A run's folder, opened for what comes after training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config
from poa_plugin.device import on_meta
from poa_plugin.elastic.subnet import SearchSpace, Subnet
from poa_plugin.errors import UserError
from poa_plugin.extract.network import write_network
from poa_plugin.extract.replace import why_not_replace
from poa_plugin.extract.trained import TrainedNetworks, trained_networks
from poa_plugin.files import reading
from poa_plugin.folders import write_folder
from poa_plugin.ssl import MultiHead, build_backbone, head_options
from poa_plugin.train import checkpoint
from poa_plugin.weights import load_tensors, load_weights

BRANCHES = ("teacher", "student")
ADVICE = "choose another folder, or replace what 'poa extract' wrote there with --force"


@dataclass(frozen=True)
class Run:
    """A run with at least one checkpoint: its configuration and the newest checkpoint's folder."""

    folder: Path
    config: Config
    checkpoint: Path

    @property
    def step(self) -> int:
        """The steps that the newest checkpoint has been trained for."""
        return checkpoint.step_of(self.checkpoint)

    @property
    def space(self) -> SearchSpace:
        """The sub-networks of the run's backbone."""
        with on_meta():
            return build_backbone(self.config).space

    def trained_networks(self) -> TrainedNetworks:
        """Return which of the networks were trained, and what to say about the others."""
        return trained_networks(self.config, self.space, self.checkpoint)

    def backbone(self, branch: str = "teacher") -> ElasticBackbone:
        """Return the elastic backbone of a branch with its trained weights, in evaluation mode.

        Raises:
            UserError: the branch is unknown, or the checkpoint is of another architecture.
        """
        backbone = build_backbone(self.config)
        load_weights(backbone, self._tensors(f"{branch}.backbone."), self.checkpoint)
        return backbone.eval()

    def untrained_backbone(self) -> ElasticBackbone:
        """Return the elastic backbone as it was before the first step."""
        return build_backbone(self.config).eval()

    def heads(self, branch: str = "teacher") -> MultiHead:
        """Return a branch's projection heads with their trained weights."""
        with on_meta():
            backbone = build_backbone(self.config)
        width = backbone.feature_width(backbone.space.intact)
        heads = MultiHead(width, **head_options(self.config))
        load_weights(heads, self._tensors(f"{branch}.dino_head."), self.checkpoint)
        return heads.eval()

    def write(
        self,
        subnets: Mapping[Path, Subnet | str] | Mapping[str, Subnet | str],
        branch: str = "teacher",
        with_heads: bool = False,
        force: bool = False,
        results: Path | None = None,
    ) -> list[Path]:
        """Write sub-networks of a branch, each to its folder; see `write_network`.

        What the run's evaluations say about them at this step is written with them. A folder is written whole
        or not at all. A warning on stderr names networks that were never trained.

        Args:
            subnets: a member of `space` or its name, for each folder.
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
            self._write(partial, branch, with_heads, results)
        return [Path(folder) for folder in subnets]

    def write_all(
        self,
        folder: str | Path,
        branch: str = "teacher",
        with_heads: bool = False,
        force: bool = False,
    ) -> list[Path]:
        """Write every sub-network to a folder of its name in `folder`, all of them or none; see `write`."""
        folder, space = Path(folder), self.space
        with _folder(folder, force) as partial:
            self._write({partial / subnet.name: subnet for subnet in space}, branch, with_heads)
        return [folder / subnet.name for subnet in space]

    def _write(
        self,
        subnets: Mapping[Path, Subnet | str],
        branch: str,
        with_heads: bool,
        results_folder: Path | None = None,
    ) -> None:
        # Evaluation imports this module.
        from poa_plugin.evaluate.recorded import results_by_network

        backbone = self.backbone(branch)
        members = {folder: backbone.member(subnet) for folder, subnet in subnets.items()}
        if warning := self.trained_networks().warning(list(members.values())):
            print(f"WARNING: {warning}", file=sys.stderr)
        heads = self.heads(branch) if with_heads else None
        origin = {"branch": branch, "step": self.step, **self._origin(backbone.space)}
        if heads is not None:
            origin["heads"] = head_options(self.config)
        family = self.config.student.arch
        results = results_by_network(results_folder or self.folder / "eval", branch, self.step)
        for folder, subnet in members.items():
            whole = {**origin, "results": results.get(subnet.name, [])}
            write_network(folder, family, backbone, subnet, whole, heads)

    def _origin(self, space: SearchSpace) -> dict[str, Any]:
        """Return what an extracted network tells of its run and data; no path but a data set's last name."""
        config = self.config
        path = config.data.path
        return {
            "run": {
                "name": self.folder.resolve().name,
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

    def _tensors(self, prefix: str) -> dict[str, Tensor]:
        if prefix.split(".")[0] not in BRANCHES:
            raise UserError(f"The branch must be teacher or student, not '{prefix.split('.')[0]}'.")
        try:
            tensors = load_tensors(self.checkpoint / checkpoint.MODEL)
        except UserError as error:
            if self.checkpoint.is_dir():
                raise
            raise UserError(
                f"The checkpoint '{self.checkpoint}' is not there any more; a training under way removes "
                f"old ones: run the command again."
            ) from error
        return {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }


def _folder(folder: str | Path, force: bool) -> AbstractContextManager[Path]:
    return write_folder(folder, why_not_replace if force else None, ADVICE)


def open_run(folder: str | Path) -> Run:
    """Open a run's output folder.

    Raises:
        UserError: it is not the folder of a run, or there is no checkpoint in it yet.
    """
    folder = Path(folder)
    with reading(folder):
        is_run = (folder / "config.yaml").is_file()
    if not is_run:
        raise UserError(f"'{folder}' is not the output folder of a run: there is no config.yaml.")
    newest = checkpoint.latest(folder / "ckpt")
    if newest is None:
        raise UserError(f"'{folder}' has no checkpoint yet under ckpt/.")
    return Run(folder, load_config(folder / "config.yaml"), newest)
