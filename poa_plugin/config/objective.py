"""The sections of the schema that say what is optimized: teacher, heads, loss terms and their weights.

Imports nothing of the package but `config.fields`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from poa_plugin.config.fields import COUNT, choice, number, numbers, switch, text

LOWEST_TEMPERATURE = 0.001
"""Logits are at most a few units apart: below it a softmax is one-hot, and its gradients overflow."""


@dataclass
class TeacherConfig:
    """The teacher's average and temperature (POA section 4.1, published recipe)."""

    momentum_teacher: float = number(
        0.992,
        "momentum of the teacher's average at the start; 1 never updates the teacher",
        at_least=0,
        at_most=1,
        synonyms=("momentum", "ema", "ema_decay"),
    )
    final_momentum_teacher: float = number(
        0.9999, "the same at the end; a cosine in between", at_least=0, at_most=1
    )
    warmup_teacher_temp: float = number(
        0.04, "temperature of the targets at the start", at_least=LOWEST_TEMPERATURE, at_most=10
    )
    teacher_temp: float = number(
        0.07,
        "temperature of the targets after the warm-up, which is linear",
        at_least=LOWEST_TEMPERATURE,
        at_most=10,
        synonyms=("temperature",),
    )
    warmup_teacher_temp_epochs: int = number(
        30, "length of that warm-up", at_least=0, at_most=COUNT, unit="epochs"
    )


@dataclass
class DinoConfig:
    """Cross-view and same-view terms, and the projection heads, one for each number of prototypes."""

    loss_weight: float = number(1.0, "weight of the cross-view terms", at_least=0, at_most=1000)
    head_n_prototypes: list[int] = numbers(
        [8192, 16384, 32768, 65536],
        "one projection head for each number of prototypes",
        at_least=2,
        at_most=2**24,
        length=(1, 64),
        synonyms=("prototypes", "n_prototypes", "out_dim"),
    )
    head_bottleneck_dim: int = number(
        256, "width of every head before its prototypes", at_least=1, at_most=2**16
    )
    head_nlayers: int = number(3, "linear layers of every head's MLP", at_least=1, at_most=64)
    head_hidden_dim: int = number(
        2048, "width of every head's hidden layers", at_least=1, at_most=2**18
    )
    koleo_loss_weight: float = number(
        0.1, "weight of KoLeo, averaged over the students", at_least=0, at_most=1000
    )
    lambda_ie: float = number(
        0.8,
        "weight of the intact student; the elastic one has 1 minus this",
        at_least=0,
        at_most=1,
        synonyms=("lambda",),
    )


@dataclass
class IbotConfig:
    """The masked-patch term. The heads are shared with the cls token."""

    loss_weight: float = number(
        1.0,
        "weight of the masked-patch terms; 0 also leaves the crops unmasked",
        at_least=0,
        at_most=1000,
    )
    mask_sample_probability: float = number(
        0.5, "ratio of the global crops that are masked", at_least=0, at_most=1
    )
    mask_ratio_min_max: list[float] = numbers(
        [0.1, 0.5],
        "ratio of the patches that are masked in such a crop, from and to",
        at_least=0,
        at_most=1,
        length=2,
        ordered=True,
        synonyms=("mask_ratio",),
    )
    start_epoch: int = number(
        30, "first epoch with masked crops", at_least=0, at_most=COUNT, unit="epochs"
    )


@dataclass
class TermsConfig:
    """Which loss terms are optimized: the paper's ablations, and DINOv2, are settings of these.

    Without any elastic term there is no elastic student.
    """

    cross_view_intact: bool = switch(True, "the intact student on other views of an image")
    cross_view_elastic: bool = switch(True, "the elastic student on other views of an image")
    same_view: bool = switch(True, "the elastic student learns from the intact one")
    masked_patch_intact: bool = switch(True, "the intact student on masked patches (iBOT)")
    masked_patch_elastic: bool = switch(True, "the elastic student on masked patches (iBOT)")
    koleo_intact: bool = switch(True, "the intact student's features are spread (KoLeo)")
    koleo_elastic: bool = switch(True, "the elastic student's features are spread (KoLeo)")


@dataclass
class LossConfig:
    """How loss terms are weighted, and which are enabled."""

    normalization: str = choice(
        "code",
        ("code", "paper"),
        "weights of the cross-view terms: the published code's, or POA eq. 8-10",
    )
    student_temp: float = number(
        0.1,
        "temperature of the students, and of same-view targets",
        at_least=LOWEST_TEMPERATURE,
        at_most=10,
        synonyms=("temperature",),
    )
    terms: TermsConfig = field(default_factory=TermsConfig)
    extra_terms: list[str] = text(
        [],
        "registered loss terms, for each student; see docs/extending.md",
        registry="loss terms",
    )
    extra_weights: list[float] = numbers(
        [], "weights of the extra terms, averaged over the students", at_least=0, at_most=1000
    )
