"""The schema of a configuration: dataclasses whose fields declare default, range and meaning.

Imports nothing of the package but how fields are declared, and two groups of sections: `config.objective`, the
method's, and `config.images`. Names are DINOv2's wherever DINOv2 has one. An upper end stands where a larger
value can only exhaust the machine or train nonsense.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from poa_plugin.config.fields import COUNT, choice, number, path, switch, text
from poa_plugin.config.images import CropsConfig, DataConfig, EvaluationConfig
from poa_plugin.config.objective import (
    DinoConfig,
    IbotConfig,
    LossConfig,
    TeacherConfig,
    TermsConfig,
)

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
class TrainConfig:
    """The run: its random seed, batch, length, precision, and when it writes."""

    seed: int = number(
        0,
        "every random choice is a function of (seed, step, shard)",
        at_least=0,
        at_most=2**63 - 1,
        synonyms=("random_seed",),
    )
    shards: int = number(
        32,
        "shards of a step; a shard is the batch of one GPU in the paper, with its own elastic student",
        at_least=1,
        at_most=2**16,
        synonyms=("gpus", "n_gpus", "num_gpus", "world_size"),
    )
    batch_size_per_shard: int = number(
        50,
        "images of a shard",
        at_least=1,
        at_most=2**16,
        synonyms=("batch_size", "bs", "batch_size_per_gpu", "batch"),
    )
    OFFICIAL_EPOCH_LENGTH: int = number(
        800,
        "steps of an epoch",
        at_least=1,
        at_most=10**7,
        synonyms=("epoch_length", "steps_per_epoch", "iterations"),
    )
    centering: str = choice(
        "sinkhorn_knopp", ("sinkhorn_knopp", "centering"), "how teacher targets are balanced"
    )
    precision: str = choice(
        "fp32",
        ("fp32", "bf16", "fp16"),
        "precision of the forward and backward pass; fp16 uses a gradient scaler",
        synonyms=("amp", "dtype", "fp16", "bf16", "mixed_precision", "use_fp16"),
    )
    device: str = choice(
        "auto", ("auto", "cpu", "cuda"), "auto: a GPU if there is one", synonyms=("gpu",)
    )
    compile: bool = switch(
        False, "compile the backbone's blocks with `torch.compile`; for GPUs, no gain on a CPU"
    )
    joint_students: bool = switch(
        False,
        "run both students in one pass, which sharded parameters need; one after the other takes less memory",
    )
    prototype_chunk: int | None = number(
        None,
        "prototypes that tokens are compared with at a time; null: as many as fit into 32 MiB of logits",
        at_least=1,
        at_most=10**7,
    )
    threads: int | None = number(
        None,
        "CPU threads; null: torch's choice",
        at_least=1,
        at_most=1024,
        synonyms=("num_threads", "cpus", "cores"),
    )
    max_minutes: float | None = number(
        None, "save and stop after this time", above=0, unit="minutes", synonyms=("minutes", "time")
    )
    log_period: int = number(
        10, "steps that are averaged in a line of metrics", at_least=1, at_most=COUNT, unit="steps"
    )
    loggers: list[str] = text(
        ["tensorboard"],
        "where the metrics are logged beside `metrics.jsonl`; see docs/metrics.md",
        registry="loggers",
        synonyms=("logger", "wandb", "mlflow", "trackio", "tensorboard"),
    )
    logger_options: Any = MISSING
    checkpoint_period: int = number(
        1000,
        "steps between checkpoints",
        at_least=1,
        at_most=COUNT,
        unit="steps",
        synonyms=("save_period", "save_every"),
    )
    async_checkpoints: bool = switch(
        False,
        "write checkpoints in a thread while training continues; takes host memory for a copy of weights and "
        "moments",
        synonyms=("async", "async_save", "asynchronous"),
    )
    keep_checkpoints: int = number(
        3,
        "how many of the newest checkpoints are kept; 0 keeps all; damaged ones do not count",
        at_least=0,
        at_most=COUNT,
    )
    keep_every: int = number(
        0,
        "keep every n-th checkpoint permanently, beside the newest; 0: none",
        at_least=0,
        at_most=COUNT,
    )
    damaged_checkpoint: str = choice(
        "stop",
        ("stop", "previous"),
        "if the newest checkpoint is damaged: stop, or resume from the newest intact one with a warning; "
        "not saved in the run's `config.yaml`",
    )
    accept_changes: bool = switch(
        False,
        "resume a run with another configuration or other images; the differences are printed. It applies to "
        "one command: it is not saved, and is ignored in files",
    )
    max_skipped_steps: int = number(
        10,
        "consecutive steps with a loss or gradients that are not finite before the run stops at its last good "
        "state; the first ones of fp16, in which the gradient scaler looks for a scale, do not count",
        at_least=1,
        at_most=COUNT,
        unit="steps",
    )


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
