"""Random generators as pure functions of a purpose and integers such as (seed, step, shard).

Nothing in the package draws from a global generator whose state would have to be saved, so a run
that is resumed needs the step and no luck.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def numpy_generator(purpose: str, *key: int) -> np.random.Generator:
    """Return the NumPy generator of a purpose (such as "masks") and a key of non-negative integers."""
    return np.random.default_rng(_sequence(purpose, key))


def torch_generator(purpose: str, *key: int) -> torch.Generator:
    """Return the CPU torch generator of a purpose and a key of non-negative integers."""
    [seed] = _sequence(purpose, key).generate_state(1, dtype=np.uint64)
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def _sequence(purpose: str, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([zlib.crc32(purpose.encode()), *key])
