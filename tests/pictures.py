"""Lists of clips with pictures, in which motion, text and every picture say whose they are."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import torch

SIDE = 56
"""Of a picture: four tokens of the smallest backbone, which changes no size of it."""


def colour(sample: int, actor: int, view: int, frame: int) -> tuple[int, int, int]:
    """Of all of a picture: who is shown, from where, and when."""
    return 20 * sample + 5 * actor, 40 * view, 4 * frame


def value(sample: int, actor: int, frame: int) -> float:
    """Of all numbers of a frame of a motion: who moves, and when."""
    return 10 * sample + actor + frame / 16


def text(sample: int) -> str:
    """Of a scene."""
    return f"scene {sample} moves"


def write_scenes(
    folder: Path,
    actors: tuple[int, ...],
    *,
    frames: int = 8,
    views: int = 2,
    shown: dict[int, tuple[int, ...]] | None = None,
) -> tuple[Path, Path]:
    """A list with a scene of each number of actors, and pictures at the frames in `shown`; None: a still of each."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for sample, count in enumerate(actors):
        rows = [[value(sample, actor, frame) for actor in range(count)] for frame in range(frames)]
        motion = torch.tensor(rows)[..., None].repeat(1, 1, 48)
        samples.append({"motion": motion if count > 1 else motion[:, 0].clone(), "description": text(sample)})
        for actor in range(count):
            at = dict.fromkeys(range(len(actors)), (0,)) if shown is None else shown
            if sample in at:
                write_pictures(folder / "pictures", sample, actor, at[sample], frames=frames, views=views)
    torch.save(samples, folder / "clips.pt")
    return folder / "clips.pt", folder / "pictures"


def write_pictures(
    root: Path, sample: int, actor: int, at: tuple[int, ...], *, frames: int = 8, views: int = 2, **changes: object
) -> Path:
    """The folder of one clip: its pictures at some frames of its motion, and their metadata with `changes`."""
    place = root / f"sample_{sample:06d}" / f"actor_{actor}"
    place.mkdir(parents=True)
    told = []
    for view in range(views):
        for step, frame in enumerate(at):
            name = f"view_{view:05d}_f{step:03d}.png" if len(at) > 1 else f"view_{view:05d}.png"
            pixels = np.full((SIDE, SIDE, 3), colour(sample, actor, view, frame), np.uint8)
            PIL.Image.fromarray(pixels).save(place / name)
            point = {"x": 0.0, "y": 1.5, "z": 0.0}
            camera = {"position": {**point, "z": 7.5}, "target": point, "fov": 45.0}
            told.append(
                {"file": name, "view_id": view, "step_index": step, "motion_frame_index": frame, "camera": camera}
            )
    metadata = {
        "sample_id": f"sample_{sample:06d}", "actor_id": str(actor), "minimal_mode": True, "views": views,
        "frames_per_view": len(at), "motion_total_frames": frames, "fps": 25, "skeleton_type": "v3_12_segment",
        "frames": told,
    }  # fmt: skip
    (place / "metadata.json").write_text(json.dumps(metadata | changes, indent=2))
    return place
