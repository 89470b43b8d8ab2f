"""All randomness, as pure functions of (seed, purpose, position): nothing depends on what was drawn before."""

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch


def derive(seed: int, purpose: str, position: int = 0) -> np.random.Generator:
    """A generator that depends on (seed, purpose, position) alone.

    Philox is a counter-based cipher: its 128-bit key is (seed, hash of the purpose) and the position is the highest of
    the counter's four words. Each position so owns 2^192 blocks of its own and no two streams overlap
    (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
    """
    assert 0 <= seed < 2**63, f"seed {seed} is outside [0, 2^63)"
    assert 0 <= position < 2**63, f"position {position} is outside [0, 2^63)"
    key = np.array([seed, _hash(purpose)], dtype=np.uint64)
    counter = np.array([0, 0, 0, position], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def torch_seed(seed: int, purpose: str, position: int = 0) -> int:
    """A 63-bit seed for torch, from the same (seed, purpose, position)."""
    return int(derive(seed, purpose, position).integers(2**63))


@contextlib.contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Draw what torch draws on the CPU from (seed, name) alone, within the block; the global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed, f"weights/{name}"))
        yield


def _hash(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
