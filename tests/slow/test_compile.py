"""Compiled blocks take the same step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from poa_plugin.config.schema import Config
from poa_plugin.testing import random_batch
from poa_plugin.train.parallel import build_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # of the compiler's own
]


def test_compiled_blocks_take_the_same_step(small_config: Callable[..., Config]) -> None:
    words = ["train.batch_size_per_shard=4", "student.vit.drop_path_rate=0.2"]
    eager, compiled = (
        build_model(small_config(*words, f"train.compile={c}")) for c in (False, True)
    )
    assert list(eager.state_dict()) == list(compiled.state_dict())
    batch = random_batch(small_config(*words))
    for name in ("w24_d2", "w40_d3", "w48_d3"):
        terms = []
        for model in (eager, compiled):
            model.train().zero_grad()
            terms.append(model.forward_backward(batch, 0.05, [model.space[name]]))
        for term, value in terms[0].items():
            torch.testing.assert_close(value, terms[1][term], atol=1e-5, rtol=0)
        pairs = zip(eager.student.parameters(), compiled.student.parameters(), strict=True)
        for ours, theirs in pairs:
            if ours.grad is not None:
                assert (ours.grad - theirs.grad).norm() <= 1e-4 * ours.grad.norm()
    assert any(
        hasattr(b.run, "_torchdynamo_orig_callable") for b in compiled.student["backbone"].blocks
    )
