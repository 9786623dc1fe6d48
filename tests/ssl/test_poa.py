"""The meta-architecture: shards, switches, the DINOv2 configuration, groups and the teacher."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from poa_plugin.config.schema import Config
from poa_plugin.elastic import Subnet
from poa_plugin.errors import UserError
from poa_plugin.registry import LOSS_TERMS
from poa_plugin.ssl import POA, losses
from poa_plugin.ssl.param_groups import parameter_settings
from poa_plugin.ssl.students import ROLES, make_shard, run_students
from poa_plugin.testing import random_batch, randomize
from tests.ssl import one_graph
from tests.ssl.one_graph import sinkhorn_knopp

Make = Callable[..., Config]
DINOV2 = [
    f"loss.terms.{name}=false"
    for name in ("cross_view_elastic", "same_view", "masked_patch_elastic", "koleo_elastic")
] + ["dino.lambda_ie=1", "dino.head_n_prototypes=[24]"]


def trained(config: Config) -> POA:
    """A model whose student and teacher differ and whose terms are all far from zero."""
    model = POA(config).train()
    randomize(model.student["backbone"], 1)
    randomize(model.teacher["backbone"], 2)
    return model


def gradients(model: POA) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone() if parameter.grad is not None else torch.zeros(())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def test_targets_are_balanced_over_the_shards_together(small_config: Make) -> None:
    config = small_config()
    model = trained(config)
    batches = [random_batch(config, seed) for seed in (1, 2)]
    actual = model._teacher_targets(batches, deque(), 0.05)
    expected = one_graph.targets(model, batches, 0.05)
    for head, (cls, patches) in enumerate(expected):
        for assignments, of_kind in ((actual.cls[head], cls), (actual.patches[head], patches)):
            ours = torch.cat([assignments.all_of(shard) for shard in range(2)])
            torch.testing.assert_close(ours, of_kind, atol=1e-5, rtol=0)


def test_each_shard_has_a_stochastic_depth_of_its_own(small_config: Make) -> None:
    config = small_config("student.vit.drop_path_rate=0.3")
    model, batch = trained(config), random_batch(config)
    cpu, backbone = torch.device("cpu"), model.student["backbone"]
    shards = [make_shard(0, i, Subnet(24, 2), batch, cpu, True) for i in range(2)]
    first, second = (
        run_students(backbone, model.space.intact, shard, ROLES, 0, 0) for shard in shards
    )
    for role in ROLES:
        assert not torch.allclose(first[role].cls, second[role].cls)


def test_dinov2_is_a_configuration(small_config: Make) -> None:
    """Its loss, written out: cross-view pairs, iBOT, and 0.1 KoLeo of each view."""
    config = small_config(*DINOV2)
    model, batch = trained(config), random_batch(config)
    assert not model.has_elastic_student
    total = sum(model.forward_backward(batch, 0.05).values())

    crops, masks = batch["collated_global_crops"], batch["collated_masks"]
    student, teacher = model.student["backbone"], model.teacher["backbone"]
    [head], [teacher_head] = model.student["dino_head"], model.teacher["dino_head"]
    out, target = student(crops, masks=masks), teacher(crops)
    probabilities = sinkhorn_knopp(teacher_head(target["x_norm_clstoken"]), 0.05)
    local = student(batch["collated_local_crops"])["x_norm_clstoken"]
    logp = [torch.log_softmax(head(x) / 0.1, -1) for x in (out["x_norm_clstoken"], local)]
    expected = sum(losses.cross_view(probabilities, *logp))
    patches = sinkhorn_knopp(teacher_head(target["x_norm_patchtokens"][masks]), 0.05)
    patch_logp = torch.log_softmax(head(out["x_norm_patchtokens"][masks]) / 0.1, -1)
    counts = masks.sum(1, keepdim=True).expand_as(masks)[masks]
    expected = expected - ((patches * patch_logp).sum(-1) / counts).sum() / len(masks)
    views = out["x_norm_clstoken"].chunk(2)
    expected = expected + 0.1 * sum(losses.koleo(view) for view in views)
    torch.testing.assert_close(total, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "term",
    [
        "cross_view_intact",
        "cross_view_elastic",
        "same_view",
        "masked_patch_intact",
        "masked_patch_elastic",
        "koleo_intact",
        "koleo_elastic",
    ],
)
def test_each_term_can_be_switched_off_alone(small_config: Make, term: str) -> None:
    config = small_config()
    batch, subnets = random_batch(config), [Subnet(24, 2)]
    all_terms = trained(config).forward_backward(batch, 0.05, subnets)
    some = trained(small_config(f"loss.terms.{term}=false")).forward_backward(batch, 0.05, subnets)
    dropped = {name for name in all_terms if name.startswith(term)}
    assert dropped
    assert some.keys() == all_terms.keys() - dropped
    for name, value in some.items():
        torch.testing.assert_close(value, all_terms[name], atol=1e-6, rtol=0)


def test_the_papers_normalization_changes_weights_only(small_config: Make) -> None:
    config = small_config()
    batch, subnets = random_batch(config), [Subnet(24, 2)]
    code = trained(config).forward_backward(batch, 0.05, subnets)
    paper = trained(small_config("loss.normalization=paper")).forward_backward(batch, 0.05, subnets)
    pairs = {"_global": 6 / 2, "_local": 6 / 4}
    for name, value in paper.items():
        scale = 1.0
        if name.startswith("cross_view"):
            [scale] = [factor for end, factor in pairs.items() if name.endswith(end)]
        assert value.item() == pytest.approx(scale * code[name].item(), rel=1e-5)


def test_masks_start_with_their_epoch(small_config: Make) -> None:
    config = small_config("ibot.start_epoch=2", "train.OFFICIAL_EPOCH_LENGTH=3")
    model, batch = trained(config), random_batch(config)
    assert "masked_patch_intact" not in model.forward_backward(batch, 0.05)
    model.set_step(5)
    assert not model.masks_active
    model.set_step(6)
    assert "masked_patch_intact" in model.forward_backward(batch, 0.05)


def test_crops_without_local_views(small_config: Make) -> None:
    config = small_config("crops.local_crops_number=0")
    terms = trained(config).forward_backward(random_batch(config), 0.05)
    assert terms["cross_view_intact_global"] > 0
    assert terms["cross_view_intact_local"] == 0
    assert "same_view_local" not in terms


def test_a_batch_in_which_nothing_is_masked(small_config: Make) -> None:
    config = small_config()
    batch = random_batch(config)
    batch["collated_masks"] = torch.zeros_like(batch["collated_masks"])
    terms = trained(config).forward_backward(batch, 0.05)
    assert terms["masked_patch_intact"] == 0
    assert torch.isfinite(sum(terms.values()))


def test_the_teacher_is_an_average_and_never_trains(small_config: Make) -> None:
    model = trained(small_config())
    before = copy.deepcopy(model.teacher)
    model.update_teacher(0.9)
    assert int(model.step) == 1
    students = dict(model.student.named_parameters())
    old = dict(before.named_parameters())
    for name, parameter in model.teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * old[name] + 0.1 * students[name])
        assert not parameter.requires_grad
    assert model.student.training
    assert not any(module.training for module in model.teacher.modules())


def test_every_parameter_is_in_exactly_one_group(small_config: Make) -> None:
    model = POA(small_config())
    grouped = [name for group in model.get_params_groups() for name in group["names"]]
    assert sorted(grouped) == sorted(dict(model.student.named_parameters()))
    assert len(set(grouped)) == len(grouped)
    for group in model.get_params_groups():
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert model.student.get_parameter(name) is parameter


def test_decay_factors(small_config: Make) -> None:
    settings = parameter_settings(POA(small_config()).student, 0.9, 0.2)
    assert settings["backbone.patch_embed.proj.weight"][:2] == pytest.approx((0.2 * 0.9**5, 1.0))
    assert settings["backbone.pos_embed"][:2] == pytest.approx((0.9**5, 1.0))
    assert settings["backbone.blocks.1.attn.qkv.weight"][:2] == pytest.approx((0.9**3, 1.0))
    assert settings["backbone.blocks.1.attn.qkv.bias"][:2] == pytest.approx((0.9**3, 0.0))
    assert settings["backbone.blocks.3.ls1.gamma"][:2] == pytest.approx((0.9, 0.0))
    assert settings["backbone.norm.weight"][:2] == pytest.approx((1.0, 0.0))
    assert settings["dino_head.1.last_layer.weight_g"] == (1.0, 1.0, True)
    assert settings["dino_head.1.mlp.0.weight"] == (1.0, 1.0, False)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(
    small_config: Make,
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = POA(small_config()).state_dict()
    assert torch.equal(torch.rand(3), expected)
    again, other = POA(small_config()).state_dict(), POA(small_config("train.seed=1")).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    key = "student.backbone.blocks.0.attn.qkv.weight"
    assert not torch.equal(first[key], other[key])
    assert isinstance(POA(small_config()).student, nn.ModuleDict)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_close_to_fp32(small_config: Make, precision: str) -> None:
    batch, subnets = random_batch(small_config()), [Subnet(24, 2)]
    expected = trained(small_config()).forward_backward(batch, 0.05, subnets)
    model = trained(small_config(f"train.precision={precision}"))
    actual = model.forward_backward(batch, 0.05, subnets)
    assert (model.fp16_scaler is not None) == (precision == "fp16")
    assert sum(actual.values()).item() == pytest.approx(sum(expected.values()).item(), rel=0.05)


@pytest.mark.parametrize("chunk", ["null", 7])
@pytest.mark.parametrize("masked", [True, False])
def test_students_one_after_the_other_are_students_together(
    small_config: Make, masked: bool, chunk: str
) -> None:
    """The same terms and gradients, of two shards with stochastic depth."""
    overrides = [
        "student.vit.drop_path_rate=0.3",
        f"ibot.start_epoch={0 if masked else 9}",
        f"train.prototype_chunk={chunk}",
    ]
    outcomes = []
    for joint in (True, False):
        config = small_config(*overrides, f"train.joint_students={joint}")
        model = trained(config)
        batches = [random_batch(config, 1), random_batch(config, 2)]
        terms = model.forward_backward(batches, 0.05, [Subnet(24, 2), Subnet(40, 3)])
        outcomes.append((terms, gradients(model)))
    (together, ours), (apart, theirs) = outcomes
    assert together.keys() == apart.keys()
    assert ("masked_patch_elastic" in together) == masked
    for name, value in together.items():
        torch.testing.assert_close(value, apart[name], atol=1e-6, rtol=1e-6)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        scale = max(float(gradient.abs().max()), 1.0)
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5 * scale, rtol=0)


def test_an_intact_student_without_terms_of_its_own_still_teaches(small_config: Make) -> None:
    off = [f"loss.terms.{term}_intact=false" for term in ("cross_view", "masked_patch", "koleo")]
    batch, actual = random_batch(small_config()), []
    for lockstep in (True, False):
        model = trained(small_config(*off, f"train.joint_students={lockstep}"))
        terms = model.forward_backward(batch, 0.05, [Subnet(24, 2)])
        assert "same_view_local" in terms
        actual.append(sum(terms.values()).item())
    assert actual[0] == pytest.approx(actual[1], abs=1e-6)


@pytest.mark.parametrize("joint", ["true", "false"])
def test_heads_add_up_to_terms(small_config: Make, joint: str) -> None:
    """What is kept by head is what the loss is made of, and keeps no graph."""
    config = small_config(f"train.joint_students={joint}")
    model, batch, subnets = trained(config), random_batch(config), [Subnet(24, 2)]
    with_graph = model.loss_terms(batch, 0.05, subnets)
    terms = model.forward_backward(batch, 0.05, subnets)
    by_head = model.terms_by_head
    assert terms.keys() - by_head.keys() == {"koleo_intact", "koleo_elastic"}
    for name, heads in by_head.items():
        assert heads.shape == (2,)
        assert heads.grad_fn is None
        torch.testing.assert_close(heads, with_graph[name].detach())
        torch.testing.assert_close(heads.sum(), terms[name])


def test_a_term_of_ones_own(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It adds to the loss and to the gradients, of both students and by its weight."""
    monkeypatch.setitem(
        LOSS_TERMS._obj_map, "size", lambda student, shard: student.cls.pow(2).mean()
    )
    batch, subnets = random_batch(small_config()), [Subnet(24, 2)]
    plain, double = (
        trained(small_config()),
        trained(small_config("loss.extra_terms=[size]", "loss.extra_weights=[4]")),
    )
    terms = plain.forward_backward(batch, 0.05, subnets)
    more = double.forward_backward(batch, 0.05, subnets)
    assert more.keys() - terms.keys() == {"size_intact", "size_elastic"}
    out = plain.student["backbone"](batch["collated_global_crops"], masks=batch["collated_masks"])
    torch.testing.assert_close(
        more["size_intact"], 4 / 2 * out["x_norm_clstoken"].detach().pow(2).mean()
    )
    before, after = gradients(plain), gradients(double)
    key = "student.backbone.norm.weight"
    assert not torch.allclose(before[key], after[key])
    with pytest.raises(UserError, match="one for each"):
        small_config("loss.extra_terms=[size]")
    with pytest.raises(UserError, match="unknown loss term"):
        small_config("loss.extra_terms=[sise]", "loss.extra_weights=[1]")
