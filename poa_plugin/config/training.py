"""The section `train` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from poa_plugin.config.fields import COUNT, choice, number, switch, text


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
    parallel: str = choice(
        "auto",
        ("auto", "none", "replicate", "fsdp2"),
        "on several ranks: all weights on each (replicate), or sharded (fsdp2); auto says what it took and why",
        synonyms=("strategy", "distributed", "ddp", "fsdp"),
    )
    reduce: str = choice(
        "step",
        ("step", "shard"),
        "fsdp2: reduce gradients once a step, keeping them whole on each rank, or after each shard",
    )
    reshard_after_forward: bool = switch(
        True,
        "fsdp2: gather a block's weights again in the backward pass, in place of keeping them",
        synonyms=("reshard",),
    )
    activation_checkpointing: bool = switch(
        False,
        "keep of a student's blocks their inputs alone, and run them again in the backward pass: a third more "
        "work, less memory",
        synonyms=("grad_checkpointing", "gradient_checkpointing", "recompute"),
    )
    timeout_s: float = number(
        600.0,
        "how long ranks wait for one that is late before the run ends and names it",
        above=0,
        at_most=10**6,
        unit="seconds",
        synonyms=("timeout", "nccl_timeout"),
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
