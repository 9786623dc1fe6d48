"""No change moves the losses of 50 steps unless it means to; see `tests/reference_losses`."""

from __future__ import annotations

import copy

import pytest

from tests.conftest import FAMILIES
from tests.reference_losses import STEPS, TOLERANCE, compute, flat, moved, read


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_the_reference(family: str) -> None:
    sentences = moved(list(compute(family)), read(family))
    assert not sentences, (
        "The losses moved. If the change means to move them, say so in its message, and run "
        "python -m tests.reference_losses --write:\n" + "\n".join(sentences)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_moved_is_said(family: str) -> None:
    reference = read(family)
    assert [line["step"] for line in reference] == list(range(STEPS))
    assert not moved(reference, reference)
    for group, name in (("terms", "same_view_local"), ("grad_norm", "backbone")):
        for factor, is_moved in ((1 + 2 * TOLERANCE, True), (1 + TOLERANCE / 2, False)):
            changed = copy.deepcopy(reference)
            changed[30][group][name] *= factor
            assert [f"{group}/{name} moved by" in x for x in moved(changed, reference)] == [
                True
            ] * is_moved
    changed = copy.deepcopy(reference)
    changed[7]["loss"] = float("nan")
    del changed[9]["terms"]["koleo_intact"]
    changed[11]["terms"]["another"] = 1.0
    said = moved(changed, reference)
    assert [sentence.split(" moved")[0] for sentence in said] == [
        "loss",
        "terms/koleo_intact",
        "terms/another",
    ]
    assert moved(reference[:-1], reference) == [f"there are {STEPS - 1} steps in place of {STEPS}"]
    assert flat(reference[0])["loss"] == pytest.approx(sum(reference[0]["terms"].values()))
