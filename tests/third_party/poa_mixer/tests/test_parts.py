"""The data set, the loss term and the export format."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from poa_mixer.data import NumpyImages
from poa_mixer.term import covariance

import poa_plugin as poa
from poa_plugin.registry import BACKBONES, DATASETS, EXPORTERS, LOSS_TERMS


def test_everything_is_registered():
    for registry, name in (
        (BACKBONES, "mixer"),
        (DATASETS, "npy"),
        (LOSS_TERMS, "covariance"),
        (EXPORTERS, "pt2"),
    ):
        assert registry.package_of(name).split(".")[0] == "poa_mixer"


def test_images_are_read_from_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    np.save(tmp_path / "train.npy", pixels)
    np.save(tmp_path / "test.npy", pixels[:3])
    np.save(tmp_path / "test_labels.npy", [1, 0, 1])
    train, test = (NumpyImages(tmp_path, split) for split in ("train", "test"))
    assert (len(train), train.labels, train.classes) == (5, None, [])
    assert (list(test.labels), test.classes) == ([1, 0, 1], ["0", "1"])
    assert torch.equal(train.image(4), torch.from_numpy(pixels[4]).permute(2, 0, 1))


def test_arrays_of_something_else_are_refused(tmp_path):
    with pytest.raises(poa.UserError, match=r"train\.npy' is not there"):
        NumpyImages(tmp_path, "train")
    np.save(tmp_path / "train.npy", np.zeros((5, 6, 7, 3)))
    with pytest.raises(poa.UserError, match=r"float64 of the shape \(5, 6, 7, 3\)"):
        NumpyImages(tmp_path, "train")


def test_the_term_is_the_covariance_off_the_diagonal():
    cls = torch.randn(16, 4, dtype=torch.float32)
    expected = torch.cov(cls.T)
    expected = (expected - expected.diag().diag()).square().sum() / 4
    torch.testing.assert_close(covariance(SimpleNamespace(cls=cls), None), expected)
