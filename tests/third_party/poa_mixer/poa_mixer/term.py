"""A loss term: features of different channels should not be correlated (the covariance term of VICReg)."""

from __future__ import annotations

from poa_plugin.registry import LOSS_TERMS


@LOSS_TERMS.register_as("covariance")
def covariance(student, shard):
    """Return the mean squared covariance of two channels of the global crops' class tokens."""
    centered = student.cls.float() - student.cls.float().mean(0)
    matrix = centered.T @ centered / max(len(centered) - 1, 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix)
