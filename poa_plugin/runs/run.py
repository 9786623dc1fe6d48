"""A run's folder, opened for what comes after training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from poa_plugin.backbones.base import ElasticBackbone
from poa_plugin.backbones.build import build_backbone
from poa_plugin.config.load import load_config
from poa_plugin.config.schema import Config
from poa_plugin.device import on_meta
from poa_plugin.elastic.subnet import SearchSpace
from poa_plugin.errors import UserError
from poa_plugin.files import reading
from poa_plugin.runs.trained import TrainedNetworks, trained_networks
from poa_plugin.ssl import MultiHead, head_options
from poa_plugin.train import checkpoint
from poa_plugin.weights import load_weights

BRANCHES = ("teacher", "student")


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

    def _tensors(self, prefix: str) -> dict[str, Tensor]:
        if prefix.split(".")[0] not in BRANCHES:
            raise UserError(f"The branch must be teacher or student, not '{prefix.split('.')[0]}'.")
        try:
            return checkpoint.model_tensors(self.checkpoint, prefix)
        except UserError as error:
            if self.checkpoint.is_dir():
                raise
            raise UserError(
                f"The checkpoint '{self.checkpoint}' is not there any more; a training under way removes "
                f"old ones: run the command again."
            ) from error


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
