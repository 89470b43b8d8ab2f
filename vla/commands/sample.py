"""`vla sample`."""

import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vla.commands.limits import OF_ROBOTS
from vla.commands.measuring import changed
from vla.commands.recordings import Device, as_body_of, choose_device, open_policy
from vla.critic_settings import CriticConfig
from vla.errors import CorruptData, MissingPackage
from vla.policy_settings import Sampling
from vla.settings import Sampler

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from vla.motion.moves import Moves
    from vla.policy import Policy
    from vla.rejection import Rejection

SHOWN = 8
"""Motions in the picture, at most."""
VERDICTS = "verdicts.json"
SECONDS, HALF = 2.0, 0.5
"""Length of a motion and strength of a draft, where none is given."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Make motions from a text, or from a text and a draft: a clip each, and a picture of the first."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder of a human motion (RUN/policy)."""
    text: str
    """What the motion shows."""
    out: Path
    """Folder to write; it must not exist."""
    seconds: float | None = None
    """Length of a motion, > 0; one longer than the policy's chunk is put together of several. None: 2, or the
    draft's."""
    n: int = 1
    """Motions, at least 1; motion k follows from the seed and k alone."""
    seed: int = 0
    """Of the noise they begin with."""
    steps: int | None = None
    """Network calls for one chunk; None: the policy's. A draft takes as much of them as its strength says."""
    sampler: Sampler | None = None
    """How chunks come out of noise; None: the policy's way."""
    guidance: float | None = None
    """How many times as far as the text takes them motions are from those without a text; None: the policy's."""
    skeleton: Path | None = None
    """A clip whose skeleton the motions have, as npz; None: the middle of those that were trained on."""
    refine: Path | None = None
    """A clip to begin with, as a draft: the motions are as long as it is and have its skeleton."""
    strength: float | None = None
    """How much of the draft is made anew: 0 none of it, 1 all of it; None: 0.5."""
    style: tuple[str, ...] = ()
    """What is told of its style, of those that the policy was trained to hear, `tempo=0.8 valence=-1`; others are not
    known."""
    pictures: tuple[Path, ...] = ()
    """Of the policy's first views, where it was trained with pictures: a file each; of the other views it sees none."""
    adapter: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Adapter and its weight, `FILE:0.7` (1 without), or a quantity of its curve, `FILE:speed=0.9`; or the name of one
    in POLICY/adapters; may be given several times."""
    tries: int = 4
    """Motions that are made for one that the critic finds unsafe, at least 1; the best of them is kept."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """From where on a motion is unsafe."""
    backbone: str | None = None
    """Where the policy's backbone lies here, when it is not where it was trained."""
    device: Device = "auto"
    """auto: the GPU where there is one."""
    json: bool = False
    """Print what was written as JSON."""

    def __post_init__(self) -> None:
        if self.refine is None and self.strength is not None:
            raise ValueError(f"--strength {self.strength:g} was given without a draft; name one with --refine CLIP")
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ValueError(
                f"--strength is {self.strength:g}; give 0, which keeps the draft, to 1, which keeps nothing"
            )
        if idle := changed(self.critic, OF_ROBOTS, "--critic."):
            raise ValueError(
                f"{' and '.join(idle)} would have no effect on motions, which have no such limit: leave it out"
            )
        if self.tries < 1:
            raise ValueError(f"--tries is {self.tries}; give 1 or more, of which 1 makes no motion again")
        given = {"--seconds": self.seconds, "--skeleton": self.skeleton}
        if self.refine is not None and (both := [flag for flag, value in given.items() if value is not None]):
            raise ValueError(f"{both[0]} was given beside --refine, whose clip says it; leave one of them out")


def sample(command: Sample) -> None:
    """`vla sample`."""
    if command.out.exists():
        raise ValueError(f"{command.out} exists; give a folder that does not")
    device = choose_device(command.device)
    sampling = Sampling(sampler=command.sampler, guidance=command.guidance)
    policy = open_policy(command.policy, command.backbone, device, sampling, adapters=command.adapter).to(device)
    policy.set_mode(training=False)
    draft = None if command.refine is None else draft_of(command.refine, policy)
    rejection = judging(command, policy, draft)
    made = motions(command, policy, draft, rejection)
    unseen = policy.contract.cameras[len(command.pictures) :]
    beside = command.out.parent / f".{command.out.name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        files = [*write(beside, made, draft), *write_verdicts(beside, rejection)]
        beside.replace(command.out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    first = made[0]
    told = {
        "out": str(command.out),
        "text": command.text,
        "motions": len(made),
        "frames": len(first.rows),
        "rate_hz": first.rate_hz,
        "files": files,
        "unseen": list(unseen),
        "unsafe": None if rejection is None else sum(not chosen.verdict.is_safe for chosen in rejection.results),
    }
    if command.adapter:
        told["adapters"] = policy.blend.weights
    if command.style:
        told["style"] = style_told(command.style)
    if unseen and not command.json:
        print(f"nothing is seen of {', '.join(unseen)}: --pictures shows the views that the policy was trained with")
    how = ""
    if command.refine is not None:
        strength, calls, steps = calls_for(command, policy)
        told |= {"draft": str(command.refine), "strength": strength, "calls": calls}
        how = f", {command.refine} at strength {strength:g} in {calls} of {steps} calls a chunk"
    print(
        json.dumps(told)
        if command.json
        else f"{len(made)} motions of {len(first.rows)} frames at {first.rate_hz:g} Hz in {command.out}{how}"
    )
    if not command.json:
        for line in judged(rejection):
            print(line)


def judging(command: Sample, policy: "Policy", draft: "Moves | None") -> "Rejection | None":
    """What judges the motions; None where they are too short, or coordinates, which do not say where joints are."""
    from vla.critic.critic import Critic
    from vla.critic.measures import long_enough
    from vla.rejection import Rejection
    from vla.sampling import body_of

    rate_hz = policy.contract.fps
    frames = round((command.seconds or SECONDS) * rate_hz) if draft is None else len(draft.rows)
    if body_of(policy).kind == "coordinates" or not long_enough(frames, rate_hz):
        return None
    return Rejection(critic=Critic(config=command.critic), tries=command.tries)


def judged(rejection: "Rejection | None") -> list[str]:
    """What a critic says of the motions, a sentence each."""
    if rejection is None:
        return ["not judged: they are too short, or coordinates of a model, which do not say where joints are"]
    results = rejection.results
    again = sum(chosen.tries > 1 for chosen in results)
    unsafe = {number: chosen for number, chosen in enumerate(results) if not chosen.verdict.is_safe}
    said = [f"safe: {len(results) - len(unsafe)} of {len(results)}"]
    said[0] += f"; made again: {again}" if again else ""
    if lesser := sum(bool(chosen.verdict.issues) for chosen in results) - len(unsafe):
        said[0] += f"; with lesser issues, which are in {VERDICTS}: {lesser}"
    for number, chosen in unsafe.items():
        said.append(f"motion {number}: {'; '.join(chosen.verdict.get_rejection_reasons())}")
    return said + [f"not judged: {reason}" for reason in results[0].verdict.unjudged]


def write_verdicts(folder: Path, rejection: "Rejection | None") -> list[str]:
    """What was found of each motion; the names of the files."""
    if rejection is None:
        return []
    found = [chosen.verdict.to_json() | {"tries": chosen.tries} for chosen in rejection.results]
    (folder / VERDICTS).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return [VERDICTS]


def motions(command: Sample, policy: "Policy", draft: "Moves | None", rejection: "Rejection | None") -> "list[Moves]":
    """What is made, with or without a draft."""
    from vla.data.images import decode_image

    style = style_told(command.style)
    pictures = [decode_image(file, str(file)) for file in command.pictures]
    if draft is not None:
        return policy.refine(
            draft,
            HALF if command.strength is None else command.strength,
            command.text,
            n=command.n,
            seed=command.seed,
            steps=command.steps,
            style=style,
            pictures=pictures,
            rejection=rejection,
        )
    return policy.sample(
        command.text,
        SECONDS if command.seconds is None else command.seconds,
        n=command.n,
        seed=command.seed,
        steps=command.steps,
        skeleton=None if command.skeleton is None else offsets_of(command.skeleton, policy),
        style=style,
        pictures=pictures,
        rejection=rejection,
    )


def style_told(words: tuple[str, ...]) -> dict[str, float]:
    """A style by name. ValueError where a word is none, or a name comes twice."""
    told: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError as error:
            raise ValueError(f"--style has {word!r}; write a name and a number, `valence=-1`") from error
        if name in told:
            raise ValueError(f"--style names {name} twice; name it once")
        told[name] = number
    return told


def calls_for(command: Sample, policy: "Policy") -> tuple[float, int, int]:
    """The strength of a draft, the network calls for a chunk, and those of a chunk out of noise."""
    from vla.diffusion import calls_of

    strength = HALF if command.strength is None else command.strength
    steps = policy.config.diffusion.sampling_steps if command.steps is None else command.steps
    return strength, calls_of(strength, steps) if strength else 0, steps


def draft_of(file: Path, policy: "Policy") -> "Moves":
    """A clip as the numbers of a policy; what is left out of it is told."""
    from vla.data.formats.motion.single import read_one
    from vla.motion_settings import NamedMotionFiles
    from vla.refining import remark
    from vla.sampling import body_of

    body_of(policy)
    asked = as_body_of(policy.contract, NamedMotionFiles())
    if asked.representation == "rotations":  # so that a clip without a skeleton is refused with what it is
        asked = replace(asked, representation="auto")
    try:
        return read_one(file, asked, remark)
    except (CorruptData, MissingPackage):
        raise
    except ValueError as error:
        elsewhere = "; `vla sample` takes no such flag: make it an npz file by `vla export`" * ("--data." in str(error))
        raise ValueError(f"--refine: {error}{elsewhere}") from error


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


def write(folder: Path, motions: "list[Moves]", draft: "Moves | None" = None) -> list[str]:
    """A clip a motion and a picture of the first ones, below their draft, where it is known where joints are.

    The names of the files are given back.
    """
    from vla.data.formats.motion.storage import write_forces, write_mot
    from vla.data.formats.motion.writing import write_npz
    from vla.motion.clip import Coordinates
    from vla.motion.drawing import strip
    from vla.motion.kinetics import is_residual

    if is_residual(motions[0].body):
        print(
            "forces are not written: this policy models what they are beyond m (a + g), and who moves has no weight; "
            "`vla forces` says them of these motions with a labels.csv of weight_kg beside them",
            file=sys.stderr,
        )
    files = []
    for number, motion in enumerate(motions):
        clip = motion.clip()
        files.append(f"sample-{number:04d}.{'mot' if isinstance(clip, Coordinates) else 'npz'}")
        if isinstance(clip, Coordinates):
            write_mot(folder / files[-1], clip, motion.rate_hz)
            if (forces := motion.body.forces) and not is_residual(motion.body):
                files.append(f"sample-{number:04d}_grf.mot")
                write_forces(folder / files[-1], forces, motion.rows[:, -len(forces) :].astype(float), motion.rate_hz)
        else:
            write_npz(folder / files[-1], clip, motion.rate_hz, text=motion.text)
    if motions[0].body.kind == "coordinates":
        return files
    above = [] if draft is None else [draft.figure("draft")]
    strip([*above, *(motion.figure() for motion in motions[:SHOWN])]).save(folder / "samples.png")
    return [*files, "samples.png"]
