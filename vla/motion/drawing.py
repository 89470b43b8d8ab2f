"""Stick figures: a strip of poses of a motion, or the pictures of a video."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, UInt8
from PIL import Image, ImageDraw

LEFT, RIGHT, MIDDLE, GROUND, PAPER, INK = "#2a7fb8", "#d1622b", "#444444", "#c8c8c8", "#ffffff", "#222222"
SHARP = 2
"""Pictures are drawn this many times larger, and made smaller: lines without steps."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Joints over time, as they are drawn."""

    positions: Float[np.ndarray, "T J D"]
    """y up; D is 3 in space (m) and 2 in a plane."""
    parents: tuple[int, ...]
    """A line leads from each joint to its parent; -1: from none. Without any, joints are dots."""
    names: tuple[str, ...]
    rate_hz: float
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class View:
    """From where, and how large."""

    degrees: float = 60.0
    """The camera goes round the vertical axis: 0 looks a figure that faces along z in the face, 90 sees its left side
    walk to the right."""
    pixels: int = 200
    """Height of a picture."""


def flat(figure: Figure, view: View) -> Float64[np.ndarray, "T J 2"]:
    """Joints as the camera sees them: to the right and up, m."""
    places = np.asarray(figure.positions, dtype=np.float64)
    if places.shape[-1] == 2:
        return places
    angle = np.deg2rad(view.degrees)
    right = -places[..., 0] * np.cos(angle) + places[..., 2] * np.sin(angle)
    return np.stack([right, places[..., 1]], axis=-1)


def strip(figures: Sequence[Figure], *, poses: int = 9, view: View | None = None) -> Image.Image:
    """A row a motion, with poses at equal distances in time, side by side, one scale for all."""
    view = view or View()
    seen = [flat(figure, view) for figure in figures]
    tall = max(float(np.nanmax(places[..., 1]) - min(0.0, float(np.nanmin(places[..., 1])))) for places in seen)
    scale = SHARP * 0.8 * view.pixels / max(tall, 1e-6)
    width, height = SHARP * view.pixels * 4 // 5, SHARP * view.pixels
    sheet = Image.new("RGB", (width * poses, height * len(figures)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (figure, places) in enumerate(zip(figures, seen, strict=True)):
        frames = np.unique(np.linspace(0, len(places) - 1, poses).round().astype(int))
        ground = height * (row + 1) - SHARP * 12
        draw.line([(0, ground), (width * poses, ground)], fill=GROUND, width=SHARP)
        for column, frame in enumerate(frames):
            middle = width * column + width / 2
            pose = places[frame] - [np.nanmean(places[frame, :, 0]), min(0.0, float(np.nanmin(places[..., 1])))]
            _figure(draw, figure, [(middle + scale * x, ground - scale * y) for x, y in pose])
            draw.text((width * column + 4, ground + 2), f"{frame / figure.rate_hz:.2f} s", fill=INK)
        draw.text((4, height * row + 4), figure.title, fill=INK)
    return sheet.resize((sheet.width // SHARP, sheet.height // SHARP), Image.Resampling.LANCZOS)


def pictures(figure: Figure, *, view: View | None = None) -> list[UInt8[np.ndarray, "height width 3"]]:
    """One a frame, from a camera that stands still and sees all of the way."""
    view = view or View(pixels=360)
    places = flat(figure, view)
    low, high = np.nanmin(places, axis=(0, 1)), np.nanmax(places, axis=(0, 1))
    low[1] = min(low[1], 0.0)
    size = np.maximum(high - low, 1e-6)
    scale = SHARP * 0.85 * view.pixels / size[1]
    width = min(max(SHARP * view.pixels, int(scale * size[0]) + SHARP * 60), SHARP * 3 * view.pixels) // 4 * 4
    scale = min(scale, (width - SHARP * 40) / size[0])
    height = SHARP * view.pixels
    ground = height - SHARP * 14
    found = []
    for number, pose in enumerate(places):
        picture = Image.new("RGB", (width, height), PAPER)
        draw = ImageDraw.Draw(picture)
        draw.line([(0, ground), (width, ground)], fill=GROUND, width=SHARP)
        shown = (pose - [(low[0] + high[0]) / 2, low[1]]) * scale
        _figure(draw, figure, [(width / 2 + x, ground - y) for x, y in shown])
        draw.text((6, 4), f"{figure.title}  {number / figure.rate_hz:.2f} s", fill=INK)
        found.append(np.asarray(picture.resize((width // SHARP, height // SHARP), Image.Resampling.LANCZOS)))
    return found


def _figure(draw: ImageDraw.ImageDraw, figure: Figure, places: Sequence[tuple[float, float]]) -> None:
    """Bones as lines, those of the left and the right in colours of their own; joints without bones as dots."""
    for joint, (x, y) in enumerate(places):
        if not (np.isfinite(x) and np.isfinite(y)):
            continue
        name = figure.names[joint].lower()
        colour = LEFT if name.startswith("l") else RIGHT if name.startswith("r") and name != "root" else MIDDLE
        parent = figure.parents[joint] if figure.parents else -1
        if parent >= 0 and np.isfinite(places[parent]).all():
            draw.line([places[parent], (x, y)], fill=colour, width=3 * SHARP)
        elif not figure.parents:
            draw.ellipse([x - 2 * SHARP, y - 2 * SHARP, x + 2 * SHARP, y + 2 * SHARP], fill=colour)
