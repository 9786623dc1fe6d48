"""The schema of a configuration: dataclasses whose fields declare default, range and meaning.

Imports nothing of the package but how fields are declared, and three groups of sections: `config.objective`,
the method's, `config.training` and `config.images`. Names are DINOv2's wherever DINOv2 has one. An upper end
stands where a larger value can only exhaust the machine or train nonsense.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from poa_plugin.config.fields import COUNT, choice, number, path, text
from poa_plugin.config.images import CropsConfig, DataConfig, EvaluationConfig
from poa_plugin.config.objective import (
    DinoConfig,
    IbotConfig,
    LossConfig,
    TeacherConfig,
    TermsConfig,
)
from poa_plugin.config.training import TrainConfig

__all__ = [
    "Config",
    "CropsConfig",
    "DataConfig",
    "DinoConfig",
    "EvaluationConfig",
    "IbotConfig",
    "LoggerOptionsConfig",
    "LossConfig",
    "OptimConfig",
    "StudentConfig",
    "TeacherConfig",
    "TermsConfig",
    "TrainConfig",
]


@dataclass
class StudentConfig:
    """The elastic backbone. Each has a section of its own beside `arch`; only the chosen one is used."""

    arch: str = text(
        MISSING,
        "the registered backbone; its options are the section of that name",
        registry="backbones",
        synonyms=("backbone", "model", "network", "architecture"),
    )


@dataclass
class LoggerOptionsConfig:
    """Options of loggers, each in a section of its own; only those under `train.loggers` are used."""


@dataclass
class OptimConfig:
    """AdamW and its schedules, with the values of the published ViT recipe."""

    epochs: int = number(
        346,
        "length of the training",
        at_least=1,
        at_most=10**6,
        unit="epochs",
        synonyms=("num_epochs", "max_epochs", "n_epochs"),
    )
    base_lr: float = number(
        0.004,
        "peak learning rate, before `scaling_rule`",
        above=0,
        at_most=10,
        synonyms=("lr", "learning_rate", "max_lr"),
    )
    scaling_rule: str = choice(
        "sqrt_wrt_1024",
        ("sqrt_wrt_1024", "none"),
        "base_lr * sqrt(images of a step / 1024), or base_lr itself",
    )
    warmup_epochs: int = number(
        10,
        "linear warm-up of the learning rate",
        at_least=0,
        at_most=COUNT,
        unit="epochs",
        synonyms=("warmup",),
    )
    min_lr: float = number(
        2.0e-05,
        "the end of the learning rate's cosine",
        at_least=0,
        at_most=10,
        synonyms=("final_lr", "lr_end"),
    )
    weight_decay: float = number(
        0.04, "weight decay at the start", at_least=0, at_most=10, synonyms=("wd", "decay")
    )
    weight_decay_end: float = number(
        0.4, "the end of the weight decay's cosine", at_least=0, at_most=10
    )
    clip_grad: float = number(
        1.5,
        "largest gradient norm, separately for the backbone and the heads; 0: no clipping",
        at_least=0,
        synonyms=("grad_clip", "max_norm", "clip"),
    )
    freeze_last_layer_epochs: int = number(
        1,
        "epochs in which the prototypes' learning rate is 0",
        at_least=0,
        at_most=COUNT,
        unit="epochs",
    )
    layerwise_decay: float = number(
        0.9, "factor of the learning rate for each block from the top", above=0, at_most=1
    )
    patch_embed_lr_mult: float = number(
        0.2, "factor of the patch embedding's learning rate; 0: not trained", at_least=0, at_most=10
    )
    adamw_beta1: float = number(
        0.9, "beta1 of AdamW", at_least=0, below=1, synonyms=("beta1", "betas", "momentum")
    )
    adamw_beta2: float = number(
        0.999, "beta2 of AdamW", at_least=0, below=1, synonyms=("beta2", "betas")
    )
    iter_num_scale: float = number(
        0.78,
        "the cosines are stretched to (all steps / this), and cut off at the end of the training",
        at_least=0.01,
        at_most=10,
    )


@dataclass
class Config:
    """A whole run."""

    imports: list[str] = text(
        [],
        "packages to import first; they may register backbones, data sets, loss terms, ...",
        may_be_empty=False,
    )
    output_dir: str = path(
        "runs/poa",
        "where the run writes; training in the same folder resumes it",
        synonyms=("output", "out", "out_dir", "save_dir", "run_dir", "folder", "work_dir"),
    )
    meta_arch: str = text("poa", "the registered meta-architecture", registry="meta-architectures")
    student: Any = MISSING
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    ibot: IbotConfig = field(default_factory=IbotConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
