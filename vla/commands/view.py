"""`vla view`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vla.motion_settings import MotionConfig

if TYPE_CHECKING:
    from vla.data.episode import Episode, Layout
    from vla.motion.drawing import Figure


@dataclass(frozen=True, kw_only=True)
class Clips:
    """How clips are read."""

    motion: MotionConfig = field(default_factory=MotionConfig)
    """How they become what is drawn: their rate and their joints."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Draw clips of human motion: strips of poses as a picture, or one clip as a video."""

    clips: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="CLIP")]]
    """A clip, or a folder of clips."""
    out: Path
    """Picture (.png) or video (.mp4) to write; it must not exist."""
    episodes: tuple[int, ...] = ()
    """Clips of a folder, by their index; none: the first 8."""
    degrees: float = 60.0
    """Where the camera stands around the figure: 0 in front of one that faces along z, 90 at its left."""
    data: Clips = field(default_factory=Clips)
    """How they are read."""


def figure_of(episode: "Episode", layout: "Layout") -> "Figure":
    """An episode as it is drawn."""
    import numpy as np

    from vla.motion.moves import Moves

    assert layout.body is not None, "clips of motion have a body"
    offsets = None
    if episode.state is not None:
        offsets = np.concatenate([np.zeros((1, 3), np.float32), episode.state.values[0].reshape(-1, 3)])
    rows = np.asarray(episode.actions.values)
    moves = Moves(rows=rows, body=layout.body, offsets=offsets, rate_hz=layout.fps, text=episode.instructions[0])
    return moves.figure(f"{episode.index}  {episode.name}  {moves.text}")


def view(command: View) -> None:
    """`vla view`."""
    from vla.data.formats.motion.reader import open_motion
    from vla.data.selection import Selection
    from vla.evaluation.recording import write_video
    from vla.motion import drawing

    if command.out.suffix not in (".png", ".mp4"):
        raise ValueError(f"--out is {command.out}; give a picture (.png) or a video (.mp4)")
    if command.out.exists():
        raise ValueError(f"{command.out} exists; give a file that does not")
    reader = open_motion(command.clips, Selection(episodes=command.episodes, motion=command.data.motion))
    episodes = reader.episodes if command.episodes else reader.episodes[:8]
    seen = drawing.View(degrees=command.degrees)
    if command.out.suffix == ".png":
        drawing.strip([figure_of(episode, reader.layout) for episode in episodes], view=seen).save(command.out)
    else:
        seen = drawing.View(degrees=command.degrees, pixels=360)
        figure = figure_of(episodes[0], reader.layout)
        write_video(command.out, drawing.pictures(figure, view=seen), figure.rate_hz)
        episodes = episodes[:1]
    for remark in reader.layout.remarks:
        print(f"{command.clips}: {remark}")
    print(f"{len(episodes)} of {len(reader.episodes)} clips in {command.out}")
