"""Acclaim's motions (AMC), as the CMU motion capture database has them: how the bones of an ASF turn in each frame.

A joint stands where its bone begins and is called like it; the end of a last bone is a joint that turns nothing.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vla.data.formats.motion.asf import INCHES, ROOT, Acclaim, Bone, read_asf, turned_in_world
from vla.data.formats.motion.axes import METRES
from vla.data.formats.motion.poses import END, clip_of_poses
from vla.errors import CorruptData
from vla.motion.clip import Clip
from vla.motion.rotations import quaternions
from vla.motion_settings import MotionConfig

Frames = Mapping[str, Float64[np.ndarray, "T _"]]
"""The numbers of each bone that moves."""


def is_amc(file: Path) -> bool:
    """Whether a file is of this kind, by its name."""
    return file.suffix.lower() == ".amc"


def skeleton_file(file: Path) -> tuple[Path, ...]:
    """The skeleton of a motion, where it is there: SUBJECT.asf of SUBJECT_TRIAL.amc, or the only one of its folder."""
    beside = [path for path in sorted(file.parent.iterdir()) if path.suffix.lower() == ".asf"]
    named = [path for path in beside if path.stem in (file.stem, file.stem.rpartition("_")[0])]
    return tuple(named[:1] or (beside if len(beside) == 1 else []))


def read_amc(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file and of the skeleton beside it.

    Raises:
        CorruptData: one of both is damaged, or they do not fit.
        ForeignLayout: bones get longer.
        ValueError: there is no skeleton, or nothing says the unit of lengths or angles, the rate or the axis.
    """
    if not (found := skeleton_file(file)):
        subject = file.stem.rpartition("_")[0] or file.stem
        raise ValueError(f"{file} moves a skeleton that is not there: put {subject}.asf beside it")
    acclaim = read_asf(found[0])
    try:
        frames, said = read_frames(file.read_text(encoding="utf-8", errors="replace"), acclaim.bones)
    except ValueError as error:
        raise CorruptData(f"{file} cannot be read with {found[0].name} ({error}): restore both") from error
    degrees, metres = unit_of_angles(found[0], acclaim.degrees, said, asked), unit_of_lengths(found[0], acclaim, asked)
    if asked.source_rate_hz is None:
        raise ValueError(
            f"{file} does not say its frames a second: give --data.motion.source-rate-hz 120, as most of CMU's have"
        )
    names = [*acclaim.bones, *(f"{bone}{END}" for bone in acclaim.last)]
    above = [*(acclaim.parents.get(bone, ROOT) for bone in acclaim.bones), *acclaim.last]
    turns = [turns_of(bone, frames[name], degrees=degrees) for name, bone in acclaim.bones.items()]
    still = np.tile([0.0, 0.0, 0.0, 1.0], (len(turns[0]), 1))
    yield clip_of_poses(
        file,
        asked,
        names=names,
        parents=[-1, *(names.index(bone) for bone in above[1:])],
        offsets=metres * np.array([acclaim.bones[bone].way for bone in above]),
        root=metres * places_of(acclaim.bones[ROOT], frames[ROOT]),
        turns=np.stack([*turns, *[still] * len(acclaim.last)], axis=1),
        clock=asked.source_rate_hz,
        remarks=(f"lengths are inches times {INCHES}, as CMU's are",) if acclaim.length == INCHES else (),
    )


def unit_of_angles(file: Path, of_skeleton: bool | None, of_motion: bool | None, asked: MotionConfig) -> bool:
    """Whether angles are degrees."""
    said = {degrees for degrees in (of_skeleton, of_motion) if degrees is not None}
    if len(said) > 1:
        raise CorruptData(f"{file} has angles in one unit and its motion in the other: correct `angle` in its units")
    if not said and asked.angles is None:
        raise ValueError(f"{file} does not say the unit of its angles: give --data.motion.angles deg, or rad")
    return said.pop() if said else asked.angles == "deg"


def unit_of_lengths(file: Path, acclaim: Acclaim, asked: MotionConfig) -> float:
    """What the file's unit is in m."""
    if acclaim.length == INCHES:
        return METRES["in"] / INCHES
    if asked.unit is None:
        raise ValueError(
            f"{file} does not say the unit of its lengths, only that they are {acclaim.length:g} times as long: give "
            "--data.motion.unit in, or another"
        )
    return METRES[asked.unit] / acclaim.length


def read_frames(text: str, bones: Mapping[str, Bone]) -> tuple[Frames, bool | None]:
    """The numbers of all frames, and whether angles are degrees, None where it does not say it.

    ValueError where a frame is not the next one, or has not the numbers that the bones need.
    """
    rows: dict[str, list[list[float]]] = {name: [] for name in bones}
    said, frame, count = None, 0, 0
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0].startswith(":"):
            said = {":DEGREES": True, ":RADIANS": False}.get(words[0].upper(), said)
        elif len(words) == 1 and words[0].isdigit():
            check_whole(rows, bones, frame, count)
            if count and int(words[0]) != frame + 1:
                raise ValueError(f"frame {words[0]} follows frame {frame}")
            frame, count = int(words[0]), count + 1
        elif words[0] not in bones or len(words) - 1 != len(bones[words[0]].moves):
            raise ValueError(f"frame {frame} has {len(words) - 1} numbers of {words[0][:40]}, and its skeleton others")
        else:
            rows[words[0]].append([float(number) for number in words[1:]])
    check_whole(rows, bones, frame, count)
    if not count:
        raise ValueError("it has no frame")
    still = np.zeros((count, 0))
    return {name: np.array(rows[name]) if bone.moves else still for name, bone in bones.items()}, said


def check_whole(rows: Mapping[str, list[list[float]]], bones: Mapping[str, Bone], frame: int, count: int) -> None:
    """Refuse a frame that lacks a bone, or has one twice (ValueError)."""
    if odd := [name for name, bone in bones.items() if bone.moves and len(rows[name]) != count]:
        raise ValueError(f"frame {frame} has {odd[0]} not once")


def turns_of(bone: Bone, numbers: Float64[np.ndarray, "T N"], *, degrees: bool) -> Float64[np.ndarray, "T 4"]:
    """How a bone is turned against the one that it hangs on: about its own axes, seen from the world's."""
    places = [place for place, move in enumerate(bone.moves) if move.startswith("r")]
    axes = "".join(bone.moves[place][1] for place in places)
    turned, frame = turned_in_world(axes, numbers[:, places], degrees=degrees), bone.frame(degrees=degrees)
    return quaternions(frame @ turned @ frame.T).numpy()


def places_of(root: Bone, numbers: Float64[np.ndarray, "T N"]) -> Float64[np.ndarray, "T 3"]:
    """Where the root is, in the file's unit."""
    moved = {move: numbers[:, place] for place, move in enumerate(root.moves)}
    none = np.zeros(len(numbers))
    return np.stack([moved.get(f"t{axis}", none) for axis in "xyz"], axis=1)
