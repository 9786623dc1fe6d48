"""The configuration: a schema with defaults, over which YAML files and `key=value` words are strict overlays.

Names are DINOv2's wherever DINOv2 has one. Every registered backbone contributes a section of its
own, `student.<name>`, with its own defaults, so that changing `student.arch` is a valid recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from poa_plugin.errors import UserError, did_you_mean
from poa_plugin.files import write_whole
from poa_plugin.registry import BACKBONES, DATASETS, META_ARCHS, import_packages


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


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, lay `key=value` words over it, and check every key and type.

    Args:
        path: a YAML file; keys it leaves out keep the schema's defaults.
        overrides: words such as `train.seed=1`, the last one wins.

    Returns:
        An `omegaconf.DictConfig` in struct mode, typed as the schema it follows.

    Raises:
        UserError: the file cannot be read, a key is unknown (the nearest one is named), a value has
            the wrong type or is not among the choices.
    """
    overlays = [_read_yaml(Path(path)), _read_words(overrides)]
    return _resolve(overlays)


def default_config(overrides: Sequence[str] = ()) -> Config:
    """Return the schema's defaults with `key=value` words laid over them (see `load_config`)."""
    return _resolve([_read_words(overrides)])


def backbone_options(config: Config) -> Any:
    """Return the section of the backbone that `student.arch` names.

    Raises:
        UserError: `student.arch` is missing or names no registered backbone.
    """
    if OmegaConf.is_missing(config.student, "arch"):
        raise UserError(
            f"The key 'student.arch' is missing; known: {', '.join(BACKBONES.names())}."
        )
    BACKBONES.get(config.student.arch)
    return config.student[config.student.arch]


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML, every default spelled out."""
    write_whole(path, OmegaConf.to_yaml(cast(DictConfig, config), resolve=True))


def _resolve(overlays: list[DictConfig]) -> Config:
    for overlay in overlays:
        import_packages(map(str, overlay.get("imports") or []), "'imports'")
    config = _schema()
    for overlay in overlays:
        _refuse_unknown_keys(config, overlay)
        try:
            config.merge_with(overlay)
        except OmegaConfBaseException as error:
            key = f"The key '{error.full_key}'" if error.full_key else "The configuration"
            raise UserError(f"{key} has a wrong value: {str(error).splitlines()[0]}.") from error
    _check_values(config)
    return cast(Config, config)


def _schema() -> DictConfig:
    import poa_plugin.builtin  # noqa: F401  (registers what the package ships)

    sections = [
        (name, backbone.Options, field(default_factory=backbone.Options))
        for name, backbone in sorted(BACKBONES)
    ]
    student = dataclasses.make_dataclass("Student", sections, bases=(StudentConfig,))
    config = OmegaConf.structured(Config)
    config.student = OmegaConf.structured(student)
    return config


def _check_values(config: DictConfig) -> None:
    for key, choices in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            raise UserError(f"The key '{key}' is '{value}': {did_you_mean(str(value), choices)}.")
    META_ARCHS.get(config.meta_arch)
    DATASETS.get(config.data.dataset)
    backbone_options(cast(Config, config))
    positive = ("train.shards", "train.batch_size_per_shard", "train.OFFICIAL_EPOCH_LENGTH")
    periods = ("train.log_period", "train.checkpoint_period", "train.max_skipped_steps")
    for key in (*positive, *periods, "optim.epochs", "optim.iter_num_scale"):
        if OmegaConf.select(config, key) <= 0:
            raise UserError(f"The key '{key}' must be positive.")
    if config.train.seed < 0:
        raise UserError("The key 'train.seed' must not be negative.")
    for key in ("ibot.mask_ratio_min_max", "crops.global_crops_scale", "crops.local_crops_scale"):
        pair = OmegaConf.select(config, key)
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= 1:
            raise UserError(
                f"The key '{key}' must be two numbers 0 <= low <= high <= 1, not {pair}."
            )
    if not any(config.loss.terms.values()):
        raise UserError("Every term under 'loss.terms' is off: there is nothing to optimise.")
    if not config.dino.head_n_prototypes:
        raise UserError("The key 'dino.head_n_prototypes' needs at least one number of prototypes.")


def _refuse_unknown_keys(schema: DictConfig, overlay: DictConfig, prefix: str = "") -> None:
    for key in map(str, overlay):
        name = f"{prefix}{key}"
        if key not in schema.keys():  # noqa: SIM118 (a missing value is no member)
            known = [prefix + str(candidate) for candidate in schema.keys()]  # noqa: SIM118
            raise UserError(f"Unknown configuration key '{name}': {did_you_mean(name, known)}.")
        below, given = schema._get_node(key), overlay._get_node(key)
        if isinstance(below, DictConfig):
            if not isinstance(given, DictConfig):
                raise UserError(
                    f"The key '{name}' is a section: set one of {', '.join(map(str, below))}."
                )
            _refuse_unknown_keys(below, given, f"{name}.")


def _read_yaml(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no configuration file '{path}'.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The configuration file '{path}' cannot be read: {error}.") from error
    except (YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The configuration file '{path}' is not valid YAML: {reason}.") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"The configuration file '{path}' must hold sections, not a list.")
    return loaded


def _read_words(words: Sequence[str]) -> DictConfig:
    for word in words:
        if "=" not in word or word.startswith("="):
            raise UserError(f"'{word}' is not of the form key=value, such as train.seed=1.")
    try:
        return OmegaConf.from_dotlist(list(words))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"The words {list(words)} cannot be read: {error}.") from error
