"""The schema of a configuration: dataclasses with their defaults. Imports nothing of the package.

Names are DINOv2's wherever DINOv2 has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class StudentConfig:
    """Which backbone; its own section is added beside `arch` when the schema is built."""

    arch: str = MISSING


@dataclass
class TeacherConfig:
    """The teacher's average and temperature (POA section 4.1, published recipe)."""

    momentum_teacher: float = 0.992
    final_momentum_teacher: float = 0.9999
    warmup_teacher_temp: float = 0.04
    teacher_temp: float = 0.07
    warmup_teacher_temp_epochs: int = 30


@dataclass
class DinoConfig:
    """Cross-view and same-view terms, and the projection heads, one for each number of prototypes."""

    loss_weight: float = 1.0
    head_n_prototypes: list[int] = field(default_factory=lambda: [8192, 16384, 32768, 65536])
    head_bottleneck_dim: int = 256
    head_nlayers: int = 3
    head_hidden_dim: int = 2048
    koleo_loss_weight: float = 0.1
    lambda_ie: float = 0.8


@dataclass
class IbotConfig:
    """The masked-patch term. The heads are shared with the cls token."""

    loss_weight: float = 1.0
    mask_sample_probability: float = 0.5
    mask_ratio_min_max: list[float] = field(default_factory=lambda: [0.1, 0.5])
    start_epoch: int = 30


@dataclass
class TermsConfig:
    """Which loss terms are optimised; the paper's ablations, and DINOv2, are settings of these."""

    cross_view_intact: bool = True
    cross_view_elastic: bool = True
    same_view: bool = True
    masked_patch_intact: bool = True
    masked_patch_elastic: bool = True
    koleo_intact: bool = True
    koleo_elastic: bool = True


@dataclass
class LossConfig:
    """How terms are weighted (`code`: the published code, `paper`: POA eq. 8-10) and which are on."""

    normalisation: str = "code"
    student_temp: float = 0.1
    terms: TermsConfig = field(default_factory=TermsConfig)


@dataclass
class CropsConfig:
    """Multi-crop augmentation. `blur: published` applies the probabilities the published code had."""

    global_crops_scale: list[float] = field(default_factory=lambda: [0.32, 1.0])
    local_crops_number: int = 8
    local_crops_scale: list[float] = field(default_factory=lambda: [0.05, 0.32])
    global_crops_size: int = 224
    local_crops_size: int = 96
    horizontal_flips: bool = True
    color_jitter: list[float] = field(default_factory=lambda: [0.4, 0.4, 0.2, 0.1])
    color_jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    solarize_probability: float = 0.2
    blur: str = "paper"


@dataclass
class DataConfig:
    """Which images: a registered data set, where it lies, and how many processes read it."""

    dataset: str = "image_folder"
    path: str | None = None
    image_size: int | None = None
    num_workers: int = 8
    unusual_images: str = "convert"
    max_bad_share: float = 0.001


@dataclass
class TrainConfig:
    """The run: its random seed, batch, length, precision, and when it writes."""

    seed: int = 0
    shards: int = 32
    batch_size_per_shard: int = 50
    OFFICIAL_EPOCH_LENGTH: int = 800
    centering: str = "sinkhorn_knopp"
    precision: str = "fp32"
    device: str = "auto"
    compile: bool = False
    lockstep: bool = False
    threads: int | None = None
    max_minutes: float | None = None
    log_period: int = 10
    checkpoint_period: int = 1000
    keep_checkpoints: int = 3
    keep_every: int = 0
    damaged_checkpoint: str = "stop"
    accept_changes: bool = False
    max_skipped_steps: int = 10


@dataclass
class OptimConfig:
    """AdamW and its schedules, with the values of the published recipe that has 143 networks."""

    epochs: int = 346
    base_lr: float = 0.004
    scaling_rule: str = "sqrt_wrt_1024"
    warmup_epochs: int = 10
    min_lr: float = 2.0e-05
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    clip_grad: float = 1.5
    freeze_last_layer_epochs: int = 1
    layerwise_decay: float = 0.9
    patch_embed_lr_mult: float = 0.2
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.999
    iter_num_scale: float = 0.78


@dataclass
class EvaluationConfig:
    """Evaluation of a run: image sizes as in the paper's protocol."""

    resize_size: int = 256
    crop_size: int = 224
    batch_size: int = 256


@dataclass
class Config:
    """A whole run. The fields' comments live with each section."""

    imports: list[str] = field(default_factory=list)
    output_dir: str = "runs/poa"
    meta_arch: str = "poa"
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


CHOICES = {
    "data.unusual_images": ("convert", "skip"),
    "loss.normalisation": ("code", "paper"),
    "crops.blur": ("paper", "published"),
    "train.centering": ("sinkhorn_knopp", "centering"),
    "train.precision": ("fp32", "bf16", "fp16"),
    "train.damaged_checkpoint": ("stop", "previous"),
    "train.device": ("auto", "cpu", "cuda"),
    "optim.scaling_rule": ("sqrt_wrt_1024", "none"),
}
