"""`vla forces`."""

import json
import shutil
import sys
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vla.commands.recordings import Device, as_body_of, choose_device, describe, open_policy
from vla.motion_settings import NamedMotionFiles
from vla.policy_settings import Sampling

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.data.episode import Reader
    from vla.evaluation.motion.forces import Trial
    from vla.policy import Policy

FIGURES = "forces.json"


@dataclass(frozen=True, kw_only=True)
class TrialFiles:
    """How trials are read."""

    motion: NamedMotionFiles = field(default_factory=NamedMotionFiles)
    """What their files leave unsaid; they become the policy's body."""


@dataclass(frozen=True, kw_only=True)
class ForcesOf:
    """Say the ground-reaction forces of gait trials by their motion alone, and how far they are from measured ones."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder of a motion with forces (RUN/policy)."""
    trials: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="TRIALS")]]
    """A trial, or a folder of trials; forces that were measured with them are what is compared with."""
    out: Path
    """Folder to write, a table of OpenSim a trial and forces.json; it must not exist."""
    calibrate: Path | None = None
    """Further trials with measured forces, to which the policy was not fitted, such as those that training held out:
    intervals are made so wide that they hold 90 % of their frames. None: no intervals."""
    text: str = ""
    """What the trials show, of a policy that was trained to read it."""
    n: int = 16
    """Samples, at least 1; their mean is what is said of the forces."""
    seed: int = 0
    """Of the noise they begin with."""
    steps: int | None = None
    """Network calls for one window; None: the policy's."""
    data: TrialFiles = field(default_factory=TrialFiles)
    """How trials are read."""
    backbone: str | None = None
    """Where the policy's backbone lies here, when it is not where it was trained."""
    device: Device = "auto"
    """auto: the GPU where there is one."""
    json: bool = False
    """Print the figures as JSON."""


def forces(command: ForcesOf) -> None:
    """`vla forces`."""
    from vla.evaluation.motion import forces as figures

    if command.out.exists():
        raise ValueError(f"{command.out} exists; give a folder that does not")
    device = choose_device(command.device)
    contract, _ = describe(command.policy, Sampling())
    if contract.body is None or not contract.body.forces:
        raise ValueError(
            f"{command.policy} models no forces: train a policy on trials with forces and --data.motion.forces total"
        )
    readers = [
        open_trials(root, contract, command.data.motion)
        for root in (command.trials, command.calibrate)
        if root is not None
    ]
    policy = open_policy(command.policy, command.backbone, device, Sampling()).to(device)
    policy.set_mode(training=False)
    made = [sample_all(policy, reader, command) for reader in readers]
    scale = None if command.calibrate is None else figures.calibrate([trial for trial, _ in made[1]])
    found = {
        "policy": str(command.policy),
        "samples": command.n,
        "seed": command.seed,
        "calibrated_on": None if command.calibrate is None else [trial.name for trial, _ in made[1]],
        "spreads": None if scale is None else scale.tolist(),
        "trials": [figures.told(trial, scale) for trial, _ in made[0]],
    }
    write(command.out, made[0], found, contract)
    print(json.dumps(found, indent=2) if command.json else "\n".join(lines(found, command.out)))


def open_trials(root: Path, contract: "DataContract", files: NamedMotionFiles) -> "Reader":
    """The trials of a folder as the body of a policy, with their forces where one has any that can be trusted.

    ValueError where they are of other coordinates.
    """
    from vla.data.formats.motion.reader import open_motion
    from vla.data.selection import Selection

    motion = as_body_of(contract, files)
    reader = open_motion(root, Selection(motion=replace(motion, forces="none")))
    body = reader.layout.body
    assert body is not None, "motions have a body"
    assert contract.body is not None, "asked of a policy of motion"
    if body.joints != contract.body.joints:
        lost = sorted({*contract.body.joints} - {*body.joints})
        what = f"lacks {lost[0]}" if lost else "has other coordinates"
        raise ValueError(f"{root} {what}: give trials of the {len(contract.body.joints)} coordinates of the policy")
    if any(name.startswith("force.") for episode in reader.episodes for name in episode.columns):
        return open_motion(root, Selection(motion=motion))
    print(f"{root} holds no measured force: there is nothing to compare with", file=sys.stderr)
    return reader


def sample_all(policy: "Policy", reader: "Reader", command: ForcesOf) -> "list[tuple[Trial, Any]]":
    """Of each trial what is judged, the sum of its forces, and the samples as the policy makes them."""
    import numpy as np

    from vla.commandline import progress
    from vla.evaluation.motion.forces import Trial
    from vla.forces import sample_forces

    body = policy.contract.body
    assert body is not None, "asked of a policy of motion"
    given = len(body.joints)
    found: list[tuple[Trial, Any]] = []
    with progress(len(reader.episodes), "trials") as bar:
        for episode in reader.episodes:
            rows = np.asarray(episode.actions.values)
            samples = sample_forces(
                policy, rows, text=command.text, n=command.n, seed=command.seed, steps=command.steps
            )
            told = rows.shape[1] > given
            known = np.zeros(len(rows), np.bool_) if episode.known is None else episode.known[:, given]
            trial = Trial(
                name=episode.name,
                body=body,
                rate_hz=policy.contract.fps,
                motion=rows[:, :given],
                samples=summed(samples),
                measured=summed(rows[None, :, given:])[0] if told and known.any() else None,
                known=known,
                weight_n=weight_of(episode.facts),
            )
            found.append((trial, samples))
            bar.update(1)
    return found


def summed(forces: "Any") -> "Any":
    """The sum of forces under each foot, or the one force there is: "n T F" becomes "n T 3"."""
    return forces.reshape(*forces.shape[:2], -1, 3).sum(axis=2)


def weight_of(facts: "Any") -> float | None:
    """What is known of the weight of a trial's subject, N."""
    from vla.data.formats.motion.kinetic import WEIGHT, WEIGHT_KG
    from vla.motion.kinetics import GRAVITY

    if facts.get(WEIGHT):
        return float(facts[WEIGHT])
    return float(facts[WEIGHT_KG]) * GRAVITY if facts.get(WEIGHT_KG) else None


def write(out: Path, made: "list[tuple[Trial, Any]]", found: dict[str, Any], contract: "DataContract") -> None:
    """A table of forces a trial, and the figures; the folder is there when it is complete."""
    from vla.data.formats.motion.storage import write_forces
    from vla.data.formats.motion.trials import trial_of

    assert contract.body is not None, "asked of a policy of motion"
    beside = out.parent / f".{out.name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for trial, samples in made:
            name = trial_of(Path(f"{Path(trial.name).name}.mot"))
            write_forces(beside / f"{name}_grf.mot", contract.body.forces, samples.mean(axis=0), trial.rate_hz)
        (beside / FIGURES).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        beside.replace(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def lines(found: dict[str, Any], out: Path) -> list[str]:
    """The figures as a person reads them, in 80 columns."""
    import numpy as np

    said = [f"{'vertical, of the body weight':<36}{'error':>10}{'peak':>10}{'impulse':>10}{'residual':>10}"]
    for trial in found["trials"]:
        weight, errors, left = trial["weight_n"], trial["errors"], trial["residual"]
        cells = ["-"] * 4
        if errors:
            cells[0] = f"{errors['rmse_n'][1]:.0f} N {errors['rmse_percent'][1]:.0f}%"
            cells[1] = f"{errors['peak_n']:+.0f} N"
            cells[2] = f"{errors['impulse_percent']:+.1f}%"
        if left:
            cells[3] = f"{100 * np.mean(left['samples_n'], axis=0)[1] / weight:.0f}%"
        said.append(f"{trial['trial'][-36:]:<36}{''.join(f'{cell:>10}' for cell in cells)}")
        if trial["coverage"]:
            held, wide = trial["coverage"]["share"][1], trial["coverage"]["width_n"][1]
            said.append(f"  its 90 % intervals hold {held:.0%} of the frames and are {wide:.0f} N wide")
        if left and left["measured_n"]:
            said.append(f"  measured forces leave a residual of {100 * left['measured_n'][1] / weight:.0f}%")
    explained = (
        "Error: root mean square over frames whose measured force can be trusted. Residual: of the sum of forces less "
        "m (a + g) of the pelvis, which is near the centre of mass and is not it."
    )
    return [*said, *textwrap.wrap(explained, 80), f"{len(found['trials'])} tables and {FIGURES} in {out}"]
