"""`vla forces`."""

import json
import shutil
import sys
import textwrap
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vla.commands.recordings import Device, as_body_of, choose_device, describe, open_policy
from vla.motion_settings import NamedMotionFiles
from vla.policy_settings import Sampling

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.data.episode import Episode, Reader
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
    """Folder to write, a table of OpenSim and a picture a trial, and forces.json; it must not exist."""
    calibrate: tuple[Path, ...] = ()
    """Further trials with measured forces, to which the policy was not fitted, such as those that training held out:
    intervals are made so wide that they hold 90 % of their frames. Or folders that this command wrote of other
    policies, each trained without the style of the trials it told. None: no intervals."""
    make_motion: bool = False
    """Make the motion, too, of its measured forces and of each window's first half, and say how far joint angles are
    off; of a policy that was trained with --diffusion.given below 1."""
    adapter: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Adapter and its weight, `FILE:0.7` (1 without), or the name of one in POLICY/adapters; may be given several
    times."""
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
    from vla.forces import check_makes_motion

    if command.out.exists():
        raise ValueError(f"{command.out} exists; give a folder that does not")
    device = choose_device(command.device)
    contract, _ = describe(command.policy, Sampling())
    if contract.body is None or not contract.body.forces:
        raise ValueError(
            f"{command.policy} models no forces: train a policy on trials with forces and --data.motion.forces total"
        )
    if command.text and not contract.instructed:
        raise ValueError(f"{command.policy} was trained to read no text: leave --text out")
    check_different(command.calibrate)
    kept = {root: distances_in(root) for root in command.calibrate if (root / FIGURES).is_file()}
    aside = {root: open_trials(root, contract, command.data.motion) for root in command.calibrate if root not in kept}
    reader = open_trials(command.trials, contract, command.data.motion)
    places_of([episode.name for episode in reader.episodes])
    say_shared(reader, [*aside.values()])
    policy = open_policy(command.policy, command.backbone, device, Sampling(), adapters=command.adapter).to(device)
    policy.set_mode(training=False)
    if command.make_motion:
        check_makes_motion(policy)
    far = dict[str, Any]()
    for root, other in aside.items():
        own = {trial.name: figures.distances(trial) for trial, _ in sample_all(policy, other, command)}
        # Folders of several people are often called alike.
        far |= {f"{root}: {name}" if name in far else name: values for name, values in own.items()}
    far |= {f"{root}: {name}": values for root, own in kept.items() for name, values in own.items()}
    scale = figures.calibrate([*far.values()]) if command.calibrate else None
    made = sample_all(policy, reader, command)
    angles = [angles_of(policy, episode, command) for episode in reader.episodes] if command.make_motion else []
    trials = [figures.told(trial, scale) for trial, _ in made]
    for trial, said in zip(trials, angles, strict=command.make_motion):
        trial["angles"] = said
    found = {
        "policy": str(command.policy),
        "adapters": dict(policy.blend.weights),
        "samples": command.n,
        "seed": command.seed,
        "calibrated_on": [*far] if command.calibrate else None,
        "spreads": None if scale is None else scale.tolist(),
        "trials": trials,
    }
    write(command.out, made, scale, found, contract)
    print(json.dumps(found, indent=2) if command.json else "\n".join(lines(found, command.out)))


def check_different(folders: "tuple[Path, ...]") -> None:
    """Refuse trials that would count twice (ValueError)."""
    resolved = [folder.resolve() for folder in folders]
    for place, folder in enumerate(folders):
        if folder.resolve() in resolved[:place]:
            raise ValueError(f"--calibrate names {folder} twice: give each folder once")


def places_of(names: "list[str]") -> "list[PurePosixPath]":
    """Where what is said of each trial is written, without an ending: as the trials lie below their folder.

    ValueError where two would lie in one place.
    """
    from vla.data.formats.motion.trials import trial_of

    found: list[PurePosixPath] = []
    for name in names:
        below = PurePosixPath(*PurePosixPath(name).parts[1:])
        place = below.with_name(trial_of(Path(f"{below.name}.mot")))
        if place in found:
            other = names[found.index(place)]
            raise ValueError(f"{other} and {name} are both called {place}, and so would their tables: rename one")
        found.append(place)
    return found


def say_shared(reader: "Reader", aside: "list[Reader]") -> None:
    """Say which trials are told and calibrated on, too: of them, what intervals hold says nothing."""
    from vla.data.episode import mark_of

    marks = {mark_of(episode) for other in aside for episode in other.episodes}
    if shared := [episode.name for episode in reader.episodes if mark_of(episode) in marks]:
        print(
            f"{len(shared)} of {len(reader.episodes)} trials are calibrated on, such as {shared[0]}: that their "
            "intervals hold what was measured says nothing",
            file=sys.stderr,
        )


def distances_in(folder: Path) -> "dict[str, Any]":
    """How far the trials are off that a folder tells of, by name (CorruptData, ValueError where it does not)."""
    import numpy as np

    from vla.errors import CorruptData

    file = folder / FIGURES
    try:
        trials = json.loads(file.read_text(encoding="utf-8"))["trials"]
        far = {trial["trial"]: np.array(trial["distances"], np.float64).reshape(-1, 3) for trial in trials}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CorruptData(f"{file} does not say how far each trial is off ({error!r}): write it anew") from error
    if not any(map(len, far.values())):
        raise ValueError(f"{file} tells of no measured force, so nothing is calibrated by it: leave {folder} out")
    return far


def angles_of(policy: "Policy", episode: "Episode", command: ForcesOf) -> dict[str, Any]:
    """How far joint angles of a trial are off that the policy makes; None in the place of what cannot be made."""
    import numpy as np

    from vla.evaluation.motion import angles

    rows, known = np.asarray(episode.actions.values), np.zeros(0, np.bool_)
    if episode.known is not None:
        known = episode.known[:, -1]
    how: dict[str, Any] = {"text": command.text, "n": command.n, "seed": command.seed, "steps": command.steps}
    found = {
        "from_forces": angles.from_forces(policy, rows, known, **how),
        "continued": angles.continued(policy, rows, **how),
    }
    return {name: of and asdict(of) for name, of in found.items()} | {
        "continued_s": policy.contract.horizon / 2 / policy.contract.fps
    }


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
        reader = open_motion(root, Selection(motion=motion))
        say_weighed(root, reader)
        return reader
    print(f"{root} holds no measured force: there is nothing to compare with", file=sys.stderr)
    return reader


def sample_all(policy: "Policy", reader: "Reader", command: ForcesOf) -> "list[tuple[Trial, Any]]":
    """Of each trial what is judged, the sum of its forces, and the samples as the policy makes them."""
    import numpy as np

    from vla.commandline import progress
    from vla.evaluation.motion.forces import Trial
    from vla.forces import sample_forces
    from vla.motion.kinetics import taken

    body = policy.contract.body
    assert body is not None, "asked of a policy of motion"
    given = len(body.joints)
    found: list[tuple[Trial, Any]] = []
    weights = [weight_of(episode.facts) for episode in reader.episodes]
    # Of all trials first: one whose weight is missing is refused before any is sampled.
    besides = [
        taken(body, np.asarray(episode.actions.values), policy.contract.fps, weight)
        for episode, weight in zip(reader.episodes, weights, strict=True)
    ]
    with progress(len(reader.episodes), "trials") as bar:
        for episode, weight, beside in zip(reader.episodes, weights, besides, strict=True):
            rows = np.asarray(episode.actions.values)
            samples = sample_forces(
                policy, rows, weight_n=weight, text=command.text, n=command.n, seed=command.seed, steps=command.steps
            )
            told = rows.shape[1] > given
            known = np.zeros(len(rows), np.bool_) if episode.known is None else episode.known[:, given]
            trial = Trial(
                name=episode.name,
                body=body,
                rate_hz=policy.contract.fps,
                motion=rows[:, :given],
                samples=summed(samples),
                measured=summed((rows[:, given:] + beside)[None])[0] if told and known.any() else None,
                known=known,
                weight_n=weight,
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


def say_weighed(root: Path, reader: "Reader") -> None:
    """Say of which trials the weight is one that their own forces tell: what is said of them depends on it."""
    from vla.data.formats.motion.kinetic import WEIGHT, WEIGHT_KG

    facts = [episode.facts for episode in reader.episodes]
    if weights := [float(of[WEIGHT]) for of in facts if of.get(WEIGHT) and not of.get(WEIGHT_KG)]:
        print(
            f"{root}: labels.csv has no weight_kg of {len(weights)} of {len(facts)} trials, which are taken to weigh "
            f"{min(weights):.0f} to {max(weights):.0f} N, as their measured forces say",
            file=sys.stderr,
        )


def write(
    out: Path, made: "list[tuple[Trial, Any]]", scale: "Any", found: dict[str, Any], contract: "DataContract"
) -> None:
    """A table of forces and a picture a trial, and the figures; the folder is there when it is complete."""
    from vla.data.formats.motion.storage import write_forces
    from vla.evaluation.figures import draw_forces
    from vla.motion.kinetics import whole_names

    assert contract.body is not None, "asked of a policy of motion"
    beside = out.parent / f".{out.name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for (trial, samples), place in zip(made, places_of([trial.name for trial, _ in made]), strict=True):
            (beside / place).parent.mkdir(parents=True, exist_ok=True)
            write_forces(beside / f"{place}_grf.mot", whole_names(contract.body), samples.mean(axis=0), trial.rate_hz)
            draw_forces(trial, scale, beside / f"{place}.png")
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
        if told := trial.get("angles"):
            ways = {"from_forces": "of its forces", "continued": f"continued by {told['continued_s']:.2g} s"}
            each = [f"{told[way]['rmse_deg']:.1f} deg {word}" for way, word in ways.items() if told[way]]
            said.append(f"  its joint angles, made anew, are off by {' and '.join(each) or '-'}")
        if left and left["measured_n"]:
            said.append(f"  measured forces leave a residual of {100 * left['measured_n'][1] / weight:.0f}%")
    explained = (
        "Error: root mean square over frames whose measured force can be trusted. Residual: of the sum of forces less "
        "m (a + g) of the pelvis, which is near the centre of mass and is not it."
    )
    return [*said, *textwrap.wrap(explained, 80), f"{len(found['trials'])} tables, pictures and {FIGURES} in {out}"]
