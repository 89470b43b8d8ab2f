"""HumanML3D: `new_joints/NAME.npy` or `new_joint_vecs/NAME.npy`, and the captions of `texts/NAME.txt`.

Of the 263 numbers a frame that the second kind has, the places of the joints are taken: the first 67, which say how the
root moves and where the joints are beside it. The rotations behind them do not put the joints there and are left.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vla.errors import CorruptData
from vla.motion.clip import Clip, Points
from vla.motion_settings import MotionConfig

RATE_HZ = 20.0
PLACES, VECTORS, TEXTS = "new_joints", "new_joint_vecs", "texts"
WIDTH = 263
"""Of the vectors."""
JOINTS = {
    "pelvis": -1, "left_hip": 0, "right_hip": 0, "spine1": 0, "left_knee": 1, "right_knee": 2, "spine2": 3,
    "left_ankle": 4, "right_ankle": 5, "spine3": 6, "left_foot": 7, "right_foot": 8, "neck": 9, "left_collar": 9,
    "right_collar": 9, "head": 12, "left_shoulder": 13, "right_shoulder": 14, "left_elbow": 16, "right_elbow": 17,
    "left_wrist": 18, "right_wrist": 19,
}  # fmt: skip
"""The first 22 joints of SMPL, and on which of them each hangs."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A line of the texts."""

    text: str
    start_s: float
    end_s: float
    """Of the span that the text is about; both 0 where it is about all."""

    @property
    def span(self) -> tuple[float, float] | None:
        """None where the text is about the whole clip."""
        return None if self.start_s == self.end_s == 0 else (self.start_s, self.end_s)


def is_humanml(file: Path) -> bool:
    """Whether a file is of this kind; vectors are none where there are places of the same clip."""
    if file.suffix != ".npy" or file.parent.name not in (PLACES, VECTORS):
        return False
    return file.parent.name == PLACES or not (file.parent.parent / PLACES / file.name).exists()


def captions_beside(file: Path) -> tuple[Path, ...]:
    """The captions of a file, where there are any."""
    texts = file.parent.parent / TEXTS / f"{file.stem}.txt"
    return (texts,) if texts.is_file() else ()


def read_humanml(file: Path, _asked: MotionConfig) -> Iterator[Clip]:
    """The clip of a file, and one for each span of it that has captions of its own."""
    positions = read_positions(file)
    seen = np.isfinite(positions).all(axis=(1, 2))
    texts = captions_beside(file)
    captions = [caption for path in texts for caption in read_captions(path)]
    lost = [] if all(caption.text for caption in captions) else ["lines without a caption are passed over"]
    spans: dict[tuple[float, float] | None, list[str]] = {} if texts else {None: []}
    for caption in captions:
        if caption.text:
            spans.setdefault(caption.span, []).append(caption.text)
    for span, own in (spans or {None: []}).items():
        first, last = (0, len(positions)) if span is None else (int(second * RATE_HZ) for second in span)
        if span is not None and first >= min(last, len(positions)):
            raise CorruptData(
                f"{texts[0]} has a caption of {span[0]:g} to {span[1]:g} s, where {len(positions) / RATE_HZ:g} s of "
                "motion are: correct it"
            )
        yield Clip(
            name=file.stem if span is None else f"{span[0]:g}-{span[1]:g}s",
            rate_hz=RATE_HZ,
            body=Points(names=tuple(JOINTS), values=positions[first:last], parents=tuple(JOINTS.values())),
            texts=tuple(own),
            valid=seen[first:last],
            remarks=tuple(lost),
        )


def read_captions(file: Path) -> list[Caption]:
    """The lines `caption#tokens#from#to` of a file. CorruptData where one is written otherwise."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        words = line.split("#")
        try:
            start_s, end_s = (np.nan_to_num(float(word)) for word in words[-2:])
        except ValueError as error:
            raise CorruptData(f"{file}, line {number}, is not written `caption#tokens#from#to`: correct it") from error
        if len(words) < 4:
            raise CorruptData(f"{file}, line {number}, is not written `caption#tokens#from#to`: correct it")
        found.append(Caption(text=words[0].strip(), start_s=float(start_s), end_s=float(end_s)))
    return found


def read_positions(file: Path) -> Float64[np.ndarray, "T 22 3"]:
    """Where the joints are, m. CorruptData where a file holds something else."""
    try:
        values = np.asarray(np.load(file, allow_pickle=False), np.float64)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptData(f"{file} cannot be read ({error}): copy it again") from error
    if values.ndim == 3 and values.shape[1:] == (len(JOINTS), 3):
        return values
    if values.ndim == 2 and values.shape[1] == WIDTH:
        return positions_of(values[:, : 4 + 3 * (len(JOINTS) - 1)])
    raise CorruptData(
        f"{file} holds numbers of shape {values.shape}, expected (frames, {len(JOINTS)}, 3) or (frames, {WIDTH})"
    )


def positions_of(vectors: Float64[np.ndarray, "T 67"]) -> Float64[np.ndarray, "T 22 3"]:
    """Where the joints are, by the first numbers of vectors: from the origin on, facing along z at first.

    A vector says by half of which angle the body will have turned against its heading to the next frame, and which way
    its root moves to there in the ground plane, as seen in the heading of that next frame; how high the root is; and
    where the other joints are beside it, as seen in the heading of its own.
    """
    halves = np.concatenate([[0.0], vectors[:-1, 0].cumsum()])
    steps = np.concatenate([np.zeros((1, 2)), vectors[:-1, 1:3]])
    facing = -2 * halves
    travelled = turned(facing, np.stack([steps[:, 0], np.zeros(len(steps)), steps[:, 1]], axis=1)).cumsum(axis=0)
    root = travelled + np.stack([np.zeros(len(steps)), vectors[:, 3], np.zeros(len(steps))], axis=1)
    beside = turned(facing[:, None], vectors[:, 4:].reshape(len(vectors), -1, 3))
    return np.concatenate([root[:, None], beside + travelled[:, None]], axis=1)


def turned(
    angles: Float64[np.ndarray, "*#batch"], vectors: Float64[np.ndarray, "*batch 3"]
) -> Float64[np.ndarray, "*batch 3"]:
    """Vectors turned about y, by angles in rad: from z towards x."""
    cosine, sine = np.cos(angles), np.sin(angles)
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([cosine * x + sine * z, y, cosine * z - sine * x], axis=-1)
