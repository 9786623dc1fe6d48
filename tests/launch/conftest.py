"""A cluster that answers at once."""

from __future__ import annotations

import pytest

from poa_plugin.launch import slurm
from tests.launch.fake_slurm import FakeSlurm


@pytest.fixture
def fake_slurm(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A cluster without jobs."""
    fake = FakeSlurm()
    monkeypatch.setattr(slurm, "_run", fake.run)
    monkeypatch.setattr(slurm, "is_here", lambda: True)
    return fake
