"""`vla sample`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vla.commands.recordings import Device, choose_device, open_policy
from vla.policy_settings import Sampling
from vla.settings import Sampler

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from vla.motion.moves import Moves
    from vla.policy import Policy

SHOWN = 8
"""Motions in the picture, at most."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Make motions from a text: a clip each, and a picture of the first."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder of a human motion (RUN/policy)."""
    text: str
    """What the motion shows."""
    out: Path
    """Folder to write; it must not exist."""
    seconds: float = 2.0
    """Length of a motion, > 0; one longer than the policy's chunk is put together of several."""
    n: int = 1
    """Motions, at least 1; motion k follows from the seed and k alone."""
    seed: int = 0
    """Of the noise they begin with."""
    steps: int | None = None
    """Network calls for one chunk; None: the policy's."""
    sampler: Sampler | None = None
    """How chunks come out of noise; None: the policy's way."""
    guidance: float | None = None
    """How many times as far as the text takes them motions are from those without a text; None: the policy's."""
    skeleton: Path | None = None
    """A clip whose skeleton the motions have, as npz; None: the middle of those that were trained on."""
    pictures: tuple[Path, ...] = ()
    """Of the policy's first views, where it was trained with pictures: a file each; of the other views it sees none."""
    backbone: str | None = None
    """Where the policy's backbone lies here, when it is not where it was trained."""
    device: Device = "auto"
    """auto: the GPU where there is one."""
    json: bool = False
    """Print what was written as JSON."""


def sample(command: Sample) -> None:
    """`vla sample`."""
    from vla.data.images import decode_image

    if command.out.exists():
        raise ValueError(f"{command.out} exists; give a folder that does not")
    device = choose_device(command.device)
    sampling = Sampling(sampler=command.sampler, guidance=command.guidance)
    policy = open_policy(command.policy, command.backbone, device, sampling).to(device)
    policy.set_mode(training=False)
    skeleton = None if command.skeleton is None else offsets_of(command.skeleton, policy)
    motions = policy.sample(
        command.text,
        command.seconds,
        n=command.n,
        seed=command.seed,
        steps=command.steps,
        skeleton=skeleton,
        pictures=[decode_image(file, str(file)) for file in command.pictures],
    )
    unseen = policy.contract.cameras[len(command.pictures) :]
    beside = command.out.parent / f".{command.out.name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        files = write(beside, motions)
        beside.replace(command.out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    first = motions[0]
    told = {
        "out": str(command.out),
        "text": command.text,
        "motions": len(motions),
        "frames": len(first.rows),
        "rate_hz": first.rate_hz,
        "files": files,
        "unseen": list(unseen),
    }
    if unseen and not command.json:
        print(f"nothing is seen of {', '.join(unseen)}: --pictures shows the views that the policy was trained with")
    print(
        json.dumps(told)
        if command.json
        else f"{len(motions)} motions of {len(first.rows)} frames at {first.rate_hz:g} Hz in {command.out}"
    )


def offsets_of(file: Path, policy: "Policy") -> "Float[np.ndarray, 'J 3']":
    """The skeleton of a clip, as the body of a policy."""
    import numpy as np

    from vla.data.formats import open_folder
    from vla.data.selection import Selection
    from vla.motion.joints import BODY
    from vla.motion_settings import MotionConfig
    from vla.sampling import body_of

    body = body_of(policy)
    joints = () if body.joints == tuple(BODY) else ("all",)
    asked = MotionConfig(rate_hz=policy.contract.fps, representation="rotations", joints=joints)
    if not file.is_file():
        raise ValueError(f"--skeleton {file} is no file; give one clip")
    try:
        episode = open_folder(file, Selection(motion=asked)).episodes[0]
    except ValueError as error:
        raise ValueError(
            f"--skeleton {file} cannot be read as it is ({error}): make it an npz file by `vla export`, which takes "
            "such flags"
        ) from error
    assert episode.state is not None, "rotations have a skeleton"
    return np.concatenate([np.zeros((1, 3)), episode.state.values[0].reshape(-1, 3)])


def write(folder: Path, motions: "list[Moves]") -> list[str]:
    """A clip a motion and a picture of the first ones, where it is known where joints are; the names of the files."""
    from vla.data.formats.motion.storage import write_mot
    from vla.data.formats.motion.writing import write_npz
    from vla.motion.clip import Coordinates
    from vla.motion.drawing import strip

    files = []
    for number, motion in enumerate(motions):
        clip = motion.clip()
        files.append(f"sample-{number:04d}.{'mot' if isinstance(clip, Coordinates) else 'npz'}")
        if isinstance(clip, Coordinates):
            write_mot(folder / files[-1], clip, motion.rate_hz)
        else:
            write_npz(folder / files[-1], clip, motion.rate_hz, text=motion.text)
    if motions[0].body.kind == "coordinates":
        return files
    strip([motion.figure() for motion in motions[:SHOWN]]).save(folder / "samples.png")
    return [*files, "samples.png"]
