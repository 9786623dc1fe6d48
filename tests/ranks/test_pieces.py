"""Checkpoints of several ranks: written in pieces, read by any number of ranks, whole and sharded."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from poa_plugin import ranks
from poa_plugin.errors import UserError
from poa_plugin.train import checkpoint, pieces, saver
from poa_plugin.train.consolidate import consolidate
from poa_plugin.train.integrity import read_manifest
from poa_plugin.train.placement import held
from poa_plugin.train.saver import Saver
from tests.ranks.groups import Case, run_cases

STEP = 3
KINDS = ("replicated", "sharded")


class Small(nn.Module):
    """Parameters whose rows are no multiple of the ranks, one with fewer, and all kinds of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.linear = nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.rand(2))
        self.frozen = nn.Parameter(torch.rand(3, 2), requires_grad=False)
        self.register_buffer("step", torch.tensor(STEP))
        self.register_buffer("counts", torch.randint(0, 2**40, (5,)))
        self.register_buffer("mean", torch.rand(()))
        self.register_buffer("center", torch.rand(1, 6).to(torch.bfloat16))
        self.register_buffer("seen", torch.rand(4) > 0.5)
        self.register_buffer("none", torch.empty(0, 3))

    def forward(self) -> Tensor:
        return (self.linear(self.embedding.weight) * self.scale.sum()).square().sum()


def build(kind: str, seed: int, steps: int = 0) -> tuple[nn.Module, torch.optim.AdamW]:
    """Return a model and its optimizer, after some steps."""
    torch.manual_seed(seed)
    model = Small()
    if kind == "sharded":
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks.world(),)))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    group = {"params": list(trained.values()), "names": list(trained)}
    optimizer = torch.optim.AdamW([group], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    return model, optimizer


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return all tensors, whole, by the names that files have."""
    moments = {
        f"optimizer/{name}/{key}": whole(value)
        for name, parameter in checkpoint.named_parameters(optimizer)
        for key, value in optimizer.state[parameter].items()
    }
    weights = {f"model/{name}": whole(value) for name, value in model.state_dict().items()}
    return weights | moments


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert torch.equal(actual[name], value), name


def save(kind: str, folder: Path) -> None:
    model, optimizer = build(kind, seed=0, steps=2)
    checkpoint.save(folder / kind, model, optimizer, {"step": STEP}, keep=0)
    assert checkpoint.damage(folder / kind / str(STEP)) is None
    expected = everything(model, optimizer)
    if ranks.is_first():
        torch.save(expected, folder / f"{kind}.pt")


def load(folder: Path) -> None:
    """Whole and sharded, what was saved whole and sharded, in pieces and consolidated."""
    for saved in KINDS:
        expected = torch.load(folder / f"{saved}.pt")
        for root in (folder / saved, folder / f"{saved}_consolidated"):
            for kind in KINDS:
                model, optimizer = build(kind, seed=1)
                state = checkpoint.load(root / str(STEP), model, optimizer)
                assert state["step"] == STEP
                assert_same(everything(model, optimizer), expected)
                if kind == "sharded":
                    assert isinstance(model.scale, DTensor)
                    moment = optimizer.state[model.scale]["exp_avg"]
                    assert isinstance(moment, DTensor)
                    assert moment.placements == model.scale.placements


def consolidate_both(folder: Path) -> None:
    for kind in KINDS:
        root = folder / f"{kind}_consolidated"
        shutil.copytree(folder / kind, root)
        assert consolidate(root, STEP)


def rows_are_those_of_torch(folder: Path) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    for axes in ((ranks.world(),), (2, 2)):
        here = init_device_mesh("cpu", axes) if len(axes) == 1 else mesh
        torch.manual_seed(0)
        model = Small()
        fully_shard(model, mesh=here)
        for name, parameter in model.named_parameters():
            shape, offset = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            part = held(parameter)
            assert tuple(part.tensor.shape) == tuple(shape), name
            assert part.offset == tuple(offset) or not part.tensor.numel(), name
        optimizer = torch.optim.AdamW([{"params": [], "names": []}])
        root = folder / f"mesh_{len(axes)}"
        checkpoint.save(root, model, optimizer, {"step": 1}, keep=0)
        expected = {name: whole(value) for name, value in model.state_dict().items()}
        assert_same(checkpoint.model_tensors(root / "1"), expected)


def continues_after_async(folder: Path) -> None:
    """The checkpoint holds the values of its step, whatever the training does meanwhile."""
    model, optimizer = build("sharded", seed=0, steps=2)
    expected = everything(model, optimizer)
    with Saver(folder / "async", keep=2, asynchronous=True) as saving:
        for step in (STEP, STEP + 1, STEP + 2):
            saving.save(model, optimizer, {"step": step})
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1.0)
    assert checkpoint.steps(folder / "async") == [STEP + 1, STEP + 2]
    other, other_optimizer = build("sharded", seed=1)
    checkpoint.load(folder / "async" / str(STEP + 1), other, other_optimizer)
    actual = everything(other, other_optimizer)
    assert torch.equal(actual["model/scale"], expected["model/scale"] + 1.0)
    name = "optimizer/scale/exp_avg"
    assert torch.equal(actual[name], expected[name])


def refuses(patch: pytest.MonkeyPatch, rank: int, number: int = errno.ENOSPC) -> None:
    """Have the disk of a rank refuse."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if ranks.rank() == rank:
        patch.setattr(pieces, "save_tensors", refuse)


def saves_that_fail(folder: Path, name: str, message: str, asynchronous: bool = False) -> None:
    """Check that all ranks raise one sentence, and that the checkpoint before is all there is."""
    model, optimizer = build("sharded", seed=0, steps=1)
    with pytest.raises(UserError) as raised, Saver(folder / name, 0, 0, asynchronous) as saving:
        saving.save(model, optimizer, {"step": 2})
    dist.barrier()
    assert message in str(raised.value)
    assert "the one of step 1 is intact" in str(raised.value)
    assert set(ranks.gathered_objects(str(raised.value))) == {str(raised.value)}
    assert [entry.name for entry in (folder / name).iterdir()] == ["1"]
    assert checkpoint.damage(folder / name / "1") is None


def saved_before(folder: Path, name: str) -> None:
    model, optimizer = build("sharded", seed=0, steps=1)
    checkpoint.save(folder / name, model, optimizer, {"step": 1}, keep=0)


def a_full_disk(asynchronous: bool, rank: int, folder: Path) -> None:
    name = f"full_{asynchronous}_{rank}"
    saved_before(folder, name)
    with pytest.MonkeyPatch.context() as patch:
        refuses(patch, rank)
        message = f"by rank {rank} on '"
        saves_that_fail(folder, name, message, asynchronous)
        saves_that_fail(folder, name, "': the disk is full; ", asynchronous)


def a_rank_without_pieces(folder: Path) -> None:
    """As if it had been killed while it wrote."""
    saved_before(folder, "waiting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "NOTE_SECONDS", 0.3)
        if ranks.rank() == 2:
            patch.setattr(saver, "write", lambda snapshot: None)
        message = "by rank 2: its pieces are not there after 0 seconds;"
        saves_that_fail(folder, "waiting", message, asynchronous=True)


def not_finite_on_one_rank(folder: Path) -> None:
    model, optimizer = build("sharded", seed=0, steps=1)
    moment = optimizer.state[model.embedding.weight]["exp_avg_sq"].to_local()
    if ranks.rank() == 2:
        moment[0, 0] = float("nan")
    with pytest.raises(checkpoint.NotFiniteError, match=r"'embedding\.weight/exp_avg_sq'"):
        checkpoint.save(folder / "nan", model, optimizer, {"step": 1}, keep=0)
    assert not (folder / "nan").exists()


CASES = [
    Case("save_replicated", 3, partial(save, "replicated")),
    Case("save_sharded", 3, partial(save, "sharded")),
    Case("consolidate", 1, consolidate_both),
    *(Case(f"load_on_{n}", n, load) for n in (1, 2, 3, 4)),
    Case("rows", 4, rows_are_those_of_torch),
    Case("asynchronous", 3, continues_after_async),
    *(
        Case(f"a_full_disk_{on}_{at}", 3, partial(a_full_disk, on, at))
        for on in (0, 1)
        for at in (0, 1)
    ),
    Case("a_rank_without_pieces", 3, a_rank_without_pieces),
    Case("not_finite_on_one_rank", 3, not_finite_on_one_rank),
]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The folder of the cases, and what was raised on each rank."""
    folder = tmp_path_factory.mktemp("pieces")
    return folder, run_cases(CASES, folder)


@pytest.mark.parametrize("case", [case.name for case in CASES])
def test_case(case: str, group: tuple[Path, dict[str, list[str]]]) -> None:
    outcomes = group[1][case]
    assert not any(outcomes), "\n".join(outcomes)


@pytest.mark.parametrize("saved", KINDS)
def test_one_process_without_a_group(saved: str, group: tuple[Path, dict[str, list[str]]]) -> None:
    folder = group[0]
    expected = torch.load(folder / f"{saved}.pt")
    for root in (folder / saved, folder / f"{saved}_consolidated"):
        model, optimizer = build("replicated", seed=1)
        checkpoint.load(root / str(STEP), model, optimizer)
        assert_same(everything(model, optimizer), expected)


@pytest.mark.parametrize("saved", KINDS)
def test_what_is_consolidated_is_read_by_safetensors(
    saved: str, group: tuple[Path, dict[str, list[str]]]
) -> None:
    folder = group[0] / f"{saved}_consolidated" / str(STEP)
    actual = {
        f"{kind.split('.')[0]}/{name}": value
        for kind in (checkpoint.MODEL, checkpoint.OPTIMIZER)
        for name, value in load_file(folder / kind).items()
    }
    assert_same(actual, torch.load(group[0] / f"{saved}.pt"))
    assert checkpoint.damage(folder) is None
    before, after = read_manifest(group[0] / saved / str(STEP)), read_manifest(folder)
    assert before.weights_checksum() == after.weights_checksum()
    descriptions = [checkpoint.STATE, checkpoint.MANIFEST, checkpoint.CHECKSUMS]
    for manifest, place in ((before, group[0] / saved / str(STEP)), (after, folder)):
        actual_files = sorted(file.name for file in place.iterdir())
        assert actual_files == sorted([*manifest.files, *descriptions])


def test_ranks_divide_what_all_have(group: tuple[Path, dict[str, list[str]]]) -> None:
    """Each tensor once; and a sharded one by its rows, of which the last ranks may have none."""
    whole_ones = read_manifest(group[0] / "replicated" / str(STEP))
    entries = [entry for named in whole_ones.tensors.values() for entry in named.values()]
    assert all(len(entry.parts) == 1 for entry in entries)
    assert len({entry.parts[0].file for entry in entries}) == 2 * 3
    sharded = read_manifest(group[0] / "sharded" / str(STEP)).tensors[checkpoint.MODEL]
    parts = sharded["scale"].parts
    assert [(part.file, part.offset, part.shape) for part in parts] == [
        ("model-00001-of-00003.safetensors", (0,), (1,)),
        ("model-00002-of-00003.safetensors", (1,), (1,)),
    ]
    assert [part.shape for part in sharded["embedding.weight"].parts] == [(3, 4), (3, 4), (1, 4)]


def lose(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def swap(file: Path) -> None:
    shutil.copy(file.parent.parent / str(STEP + 1) / file.name, file)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (lose, "is missing"),
    (flip, r"is not the one that was written \(SHA-256\)"),
    (truncate, r"has \d+ bytes, not \d+"),
    (swap, f"was written for step {STEP + 1}"),
]


@pytest.mark.parametrize("piece", ["model-00002-of-00003", "optimizer-00003-of-00003"])
@pytest.mark.parametrize(("harm", "message"), DAMAGES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_damaged_piece_is_named(
    harm: Callable[[Path], None],
    message: str,
    piece: str,
    group: tuple[Path, dict[str, list[str]]],
    tmp_path: Path,
) -> None:
    root = tmp_path / "ckpt"
    shutil.copytree(group[0] / "sharded" / str(STEP), root / str(STEP))
    shutil.copytree(group[0] / "async" / str(STEP + 1), root / str(STEP + 1))
    harm(root / str(STEP) / f"{piece}.safetensors")
    shutil.rmtree(root / str(STEP + 1))
    with pytest.raises(UserError, match=rf"its file {piece}\.safetensors {message}\."):
        checkpoint.latest(root)


@pytest.mark.parametrize("harm", [lose, truncate])
def test_a_damaged_piece_is_not_loaded(
    harm: Callable[[Path], None], group: tuple[Path, dict[str, list[str]]], tmp_path: Path
) -> None:
    """By whoever has not compared it."""
    folder = tmp_path / str(STEP)
    shutil.copytree(group[0] / "sharded" / str(STEP), folder)
    harm(folder / "model-00002-of-00003.safetensors")
    model, optimizer = build("replicated", seed=1)
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors'"):
        checkpoint.load(folder, model, optimizer)
