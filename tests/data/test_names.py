"""Names and labels in memory that processes share, read like lists."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from poa_plugin.data import Integers, Names
from poa_plugin.data.names import joined, prefixed, printable

ODD = ["a.jpg", "", "ä ö.png", os.fsdecode(b"caf\xe9.jpg"), "two\nlines", "日本/😀.webp"]


def test_names_are_read_like_a_list() -> None:
    names = Names.of(ODD)
    assert list(names) == ODD
    assert names[-1] == ODD[-1]
    assert names[1:4] == ODD[1:4]
    assert [names[int(i)] for i in np.arange(6)] == ODD
    assert names.index("two\nlines") == 4
    with pytest.raises(IndexError):
        names[6]
    assert list(Names(b"")) == []


def test_prefixes() -> None:
    assert list(Names(prefixed("é/", joined(["a", "", "b"])))) == ["é/a", "é/", "é/b"]
    assert prefixed("x/", b"") == b""


def test_integers_are_read_like_a_list() -> None:
    labels = Integers([3, 1, 2])
    assert labels == [3, 1, 2] == list(labels)
    assert labels != [3, 1]
    assert labels != [3, 1, 1]
    assert labels and not Integers([])
    assert (type(labels[0]), labels[1:]) == (int, [1, 2])
    assert torch.as_tensor(labels).tolist() == [3, 1, 2]
    assert np.asarray(labels).dtype == np.int64


def test_what_is_printed_of_a_name_can_be_printed() -> None:
    assert printable("ä ö.png") == "ä ö.png"
    assert printable(os.fsdecode(b"a\nb\xe9\x1b[31m")) == "a\\nb\\udce9\\x1b[31m"
