"""Pictures of the clips of a list: frames of several views in folders, and beside them what each of them shows.

    ROOT/sample_000000/actor_0/metadata.json     sample by its place in the list, actor by its place in the sample
                               view_00000.png    one still of a view, or
                               view_00000_f000.png, view_00000_f001.png, ...

A view is a camera. Its frames stand at the times of the frames of the motion that they show, and a still for the whole
clip. Who is shown follows from folder and metadata, which must agree, and never from an order.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from vla.data.episode import FRAME_TOLERANCE_S, Frames
from vla.data.formats.motion.converted import Converted
from vla.data.images import decode_image
from vla.data.places import below
from vla.data.selection import Problems
from vla.documents import from_json
from vla.errors import CorruptData, MissingFiles
from vla.motion.clip import Scene
from vla.names import by_word, hint

FOLDERS = "sample_*/actor_*"
SIDECAR = "metadata.json"
MOST_VIEWS = 4
"""Views of a clip that are shown where none are named: renderers make a hundred, and each is a picture to look at."""
FLAG = "--data.motion.pictures"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One frame of a view, as the metadata describe it; where its camera stands is not read."""

    file: str
    motion_frame_index: int
    view_id: int | None = None
    view_index: int | None = None
    """What older metadata call the view."""
    step_index: int = 0

    @property
    def view(self) -> int:
        """Number of the view; -1 where none is given."""
        return next((number for number in (self.view_id, self.view_index) if number is not None), -1)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What metadata say of the pictures of one actor."""

    motion_total_frames: int
    fps: float
    frames: tuple[Picture, ...]
    sample_id: int | str | None = None
    """`3`, `sample_000003`; None where the folder alone says it."""
    actor_id: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """The frames of one view of one clip, a file each."""

    timestamps: Float64[np.ndarray, " N"]
    folder: Path
    names: tuple[str, ...]
    """Of the files in it: as paths, those of a million pictures would fill the memory."""

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "3 height width"]]:
        """Decode the frames at these indices, RGB. CorruptData names the file that cannot be decoded."""
        paths = [self.folder / self.names[index] for index in indices]
        return [decode_image(path, str(path)) for path in paths]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown of some clips."""

    cameras: tuple[str, ...] = ()
    views: Mapping[Scene, Mapping[str, PictureFiles]] = field(default_factory=dict)
    """Of each scene that has pictures, by camera."""
    remarks: tuple[str, ...] = ()

    def of(
        self, scene: Scene | None, times: Float64[np.ndarray, " N"]
    ) -> tuple[dict[str, Frames], dict[str, Bool[np.ndarray, " N"]]]:
        """The cameras of a clip with rows at these times, and where those that begin later have a picture.

        One that begins later has its first picture at 0 too, where no row sees it, so that a copy keeps all rows.
        """
        cameras: dict[str, Frames] = {}
        seen: dict[str, Bool[np.ndarray, " N"]] = {}
        for camera, frames in (self.views.get(scene, {}) if scene is not None else {}).items():
            flags = times + FRAME_TOLERANCE_S >= frames.timestamps[0]
            if not flags.any():
                continue
            cameras[camera] = frames
            if not flags.all():
                stamps = np.concatenate([[0.0], frames.timestamps])
                cameras[camera] = replace(frames, timestamps=stamps, names=(frames.names[0], *frames.names))
                seen[camera] = flags
        return cameras, seen


def show(
    root: Path,
    lists: Sequence[Path],
    clips: Sequence[Converted],
    *,
    asked: str | None,
    cameras: Sequence[str],
    report: Problems,
) -> Shown:
    """The pictures of the clips of a root in the folder that is asked for; `lists` are its files that are lists.

    A folder that does not fit its clip is told and left out. `cameras` are those to show, in this order; none: the
    first few.

    Raises:
        ValueError: there are no pictures, or no one list that they can be of.
    """
    if asked is None:
        lying = [*root.glob(f"{FOLDERS}/{SIDECAR}"), *root.glob(f"*/{FOLDERS}/{SIDECAR}")]
        if not lying:
            return Shown()
        where = lying[0].parents[2].relative_to(root).as_posix()
        beside = "beside the clips" if where == "." else f"in {where}"
        return Shown(remarks=(f"{len(lying):,} clips have pictures {beside}, which are not read: give {FLAG}",))
    folder = Path(asked)
    if not folder.is_dir():
        raise ValueError(f"{FLAG} {asked} is no folder: give the one that holds sample_000000/actor_0/{SIDECAR}")
    if len(lists) != 1:
        raise ValueError(
            f"{FLAG} numbers the clips of one list (.pt), and {root} holds {len(lists)}: give one list as --data.roots"
        )
    found = list_folders(folder)
    if not found:
        raise ValueError(f"{asked} holds no sample_000000/actor_0: give another folder with {FLAG}")
    scenes = {(clip.scene.sample, clip.scene.actor): clip.scene for clip in clips if clip.scene is not None}
    views: dict[Scene, dict[int, PictureFiles]] = {}
    twice = 0
    for place, actor_folder in found.items():
        if (scene := scenes.get(place)) is None:
            of_none = f"{actor_folder} is of no clip of {lists[0].name}, which has {len(scenes):,}"
            report(ValueError(f"{of_none}: give the list that the pictures were made of"))
            continue
        try:
            views[scene], left = read_folder(actor_folder, scene)
        except ValueError as problem:
            report(problem)
        else:
            twice += left
    keys = {
        f"observation.images.view_{view:05d}": view for view in sorted({view for own in views.values() for view in own})
    }
    chosen = choose(list(keys), cameras, asked, report)
    return Shown(
        cameras=chosen,
        views={scene: {key: own[keys[key]] for key in chosen if keys[key] in own} for scene, own in views.items()},
        remarks=tuple(remarks_of(views, list(keys), chosen, len(clips), twice, named=bool(cameras))),
    )


def list_folders(root: Path) -> dict[tuple[int, int], Path]:
    """The folders of pictures below a root, by the numbers of sample and actor, in order of these.

    CorruptData where two are of one actor (`sample_1`, `sample_000001`).
    """
    found: dict[tuple[int, int], Path] = {}
    for folder in sorted(root.glob(FOLDERS)):
        numbers = [re.fullmatch(r"(?:sample|actor)_(\d+)", name) for name in (folder.parent.name, folder.name)]
        if not folder.is_dir() or None in numbers:
            continue
        sample, actor = (int(number[1]) for number in numbers if number is not None)
        if (sample, actor) in found:
            raise CorruptData(f"{folder} and {found[sample, actor]} are of one actor: delete one of them")
        found[sample, actor] = folder
    return dict(sorted(found.items()))


def read_folder(folder: Path, scene: Scene) -> tuple[dict[int, PictureFiles], int]:
    """The views of one clip, by their numbers, and how many pictures show a frame of which there is one already.

    Raises:
        CorruptData: its metadata are damaged, or of another clip than its folder.
        MissingFiles: they name pictures that are not there.
        ValueError: they are of another motion.
    """
    sidecar = folder / SIDECAR
    if not sidecar.is_file():
        raise MissingFiles(f"{sidecar} is not there: restore it, or delete the pictures beside it", [str(sidecar)])
    told = from_json(Sidecar, sidecar.read_bytes(), sidecar)
    check_sidecar(told, sidecar, scene)
    here = {entry.name for entry in os.scandir(folder)}
    further = [below(folder, picture.file, str(sidecar)) for picture in told.frames if picture.file not in here]
    if lost := [path for path in further if not path.is_file()]:
        raise MissingFiles(
            f"{sidecar} names {len(lost)} pictures that are not there, such as {lost[0]}: restore them, or delete the "
            "folder",
            [str(path) for path in lost],
        )
    views: dict[int, dict[int, str]] = {}
    for picture in sorted(told.frames, key=lambda picture: (picture.view, picture.step_index)):
        views.setdefault(picture.view, {}).setdefault(picture.motion_frame_index, picture.file)
    files = {view: files_of(folder, own, scene.rate_hz) for view, own in views.items()}
    return files, len(told.frames) - sum(map(len, views.values()))


def files_of(folder: Path, names: Mapping[int, str], rate_hz: float) -> PictureFiles:
    """The pictures of a view by the frames of the motion that they show: at their times, or at 0 where there is one."""
    frames = sorted(names)
    times = np.array(frames) / rate_hz if len(frames) > 1 else np.zeros(1)
    return PictureFiles(timestamps=times, folder=folder, names=tuple(names[frame] for frame in frames))


def check_sidecar(told: Sidecar, sidecar: Path, scene: Scene) -> None:
    """Refuse metadata that contradict their folder or the clip; errors as `read_folder`."""
    for what, given, own in (("sample", told.sample_id, scene.sample), ("actor", told.actor_id, scene.actor)):
        if given is not None and number_of(given, what) != own:
            raise CorruptData(
                f"{sidecar} is of {what} {given}, its folder of {what} {own}: put it where it belongs, or render the "
                "clip again"
            )
    if told.motion_total_frames != scene.frames or told.fps != scene.rate_hz:
        raise ValueError(
            f"{sidecar} is of a motion of {told.motion_total_frames} frames at {told.fps:g} a second, the clip has "
            f"{scene.frames} at {scene.rate_hz:g}: give the list that the pictures were made of"
        )
    if not told.frames:
        raise CorruptData(f"{sidecar} names no picture: render the clip again, or delete the folder")
    for picture in told.frames:
        if picture.view < 0 or not 0 <= picture.motion_frame_index < scene.frames:
            raise CorruptData(
                f"{sidecar} has {picture.file} of view {picture.view} at frame {picture.motion_frame_index}, where "
                f"views begin at 0 and frames go from 0 to {scene.frames - 1}: render the clip again"
            )


def number_of(given: int | str, what: str) -> int | None:
    """The number that an id is or ends in: 3, `3`, `sample_000003`; None of another one."""
    found = re.fullmatch(rf"(?:{what}_)?(\d+)", str(given))
    return int(found[1]) if found else None


def choose(keys: Sequence[str], asked: Sequence[str], place: str, report: Problems) -> tuple[str, ...]:
    """The cameras that are shown: those asked for, in this order, else the first few; one that is not there is told."""
    if not asked:
        return tuple(keys[:MOST_VIEWS])
    known, found = by_word(keys), list[str]()
    for word in asked:
        if word not in known:
            report(ValueError(f"{place} has no view {word} for --data.cameras: {hint(word, keys[:MOST_VIEWS])}"))
        elif known[word] in found:
            report(ValueError(f"--data.cameras names {known[word]} twice: give each view once"))
        else:
            found.append(known[word])
    return tuple(found)


def remarks_of(
    views: Mapping[Scene, Mapping[int, PictureFiles]],
    keys: Sequence[str],
    chosen: Sequence[str],
    clips: int,
    twice: int,
    *,
    named: bool,
) -> list[str]:
    """What there is to look at, what was chosen, and what is not read."""
    files = [frames for own in views.values() for frames in own.values()]
    count = sum(len(frames.names) for frames in files)
    remarks = [f"{len(views):,} of {clips:,} clips have pictures, {count:,} of {len(keys):,} views in all"]
    remarks[0] += "; where the cameras stand is not read"
    if len(views) < clips:
        remarks.append(f"without pictures, so that their samples see none: {clips - len(views):,} of {clips:,} clips")
    if stills := sum(len(frames.names) == 1 for frames in files):
        remarks.append(f"one still of a view stands for its whole clip: {stills:,} of {count:,} pictures")
    if not named and len(chosen) < len(keys):
        last = chosen[-1].rpartition(".")[2]
        remarks.append(f"of {len(keys):,} views those up to {last} are shown: --data.cameras names others")
    if partly := sum(len(own) < len(keys) for own in views.values()):
        remarks.append(f"with some of the views alone, the others masked: {partly:,} of {clips:,} clips")
    if twice:
        remarks.append(
            f"left out, of a frame that the same view shows already: {twice:,} of {count + twice:,} pictures"
        )
    return remarks
