"""Clips as files: what is read of other formats, or sampled, comes out as npz."""

from pathlib import Path
from typing import Any

import numpy as np

from vla.motion.clip import Points, Poses


def write_npz(file: Path, body: Poses | Points, rate_hz: float, **facts: Any) -> None:
    """A clip as `skeleton npz` or `points npz` has it; further facts, texts and numbers, are scalars of their own."""
    told = {key: np.array(value) for key, value in facts.items()}
    if isinstance(body, Points):
        arrays = {
            "positions": body.values,
            "parent_indices": np.array(body.parents, np.int32),
            "node_names": np.array(body.names),
        }
    else:
        arrays = {
            "up": np.array("y"),
            "rotation_xyzw": body.turns,
            "root_translation": body.root,
            "local_translation": body.skeleton.offsets,
            "parent_indices": np.array(body.skeleton.parents, np.int32),
            "node_names": np.array(body.skeleton.names),
        }
    np.savez_compressed(file, allow_pickle=False, fps=np.array(rate_hz), **arrays, **told)
