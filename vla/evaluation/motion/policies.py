"""Policies of motion, beside the clips that they were trained on and others that they never saw."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vla.data.episode import Episode, Reader
from vla.data.retargeting import Skeletons, moves_of
from vla.evaluation.motion import judge as judges
from vla.evaluation.motion.clips import FEWEST_FRAMES, VARIATIONS, Clip, cut, prepare, varied
from vla.evaluation.motion.judge import ConvolutionalJudge, train_judge
from vla.evaluation.motion.keeping import kept_judge, key_of
from vla.evaluation.motion.landmarks import Landmarks
from vla.evaluation.motion.measuring import measure
from vla.evaluation.motion.table import Table
from vla.motion.body import Body
from vla.motion.conversion import without_aiming
from vla.motion.joints import known
from vla.motion.moves import Moves
from vla.policy import Policy
from vla.randomness import derive
from vla.sampling import body_of

EVERY_S = 0.25
"""Seconds from one window of a real clip to the next."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a policy is asked for."""

    texts: Mapping[str, str]
    """By action, the caption."""
    n: int
    """Motions of each."""
    seed: int
    steps: int | None = None
    """Network calls for a chunk; None: the policy's."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was found, and the motions that it is of."""

    table: Table
    made: Mapping[str, Sequence[Moves]]
    """By action."""


def captions(training: Sequence[Reader]) -> dict[str, str]:
    """The most frequent caption of each action that clips show."""
    found: dict[str, Counter[str]] = {}
    for reader in training:
        for episode in reader.episodes:
            found.setdefault(action_of(episode), Counter()).update(episode.instructions.different)
    return {action: some.most_common(1)[0][0] for action, some in sorted(found.items())}


def action_of(episode: Episode) -> str:
    """What a clip shows: the action that its labels name, or else its first caption."""
    return str(episode.facts.get("action") or episode.instructions.different[0])


def judge_policy(policy: Policy, training: Sequence[Reader], held_out: Sequence[Reader], asked: Asked) -> Judged:
    """All figures of motions that a policy makes of each action, and the motions; `set_mode(training=False)` first.

    Real motions are windows of held-out clips as long as a chunk, of the actions asked for; the judge is trained on
    windows of the training clips, half of them on another's skeleton.

    Raises:
        ValueError: the policy is none of motion, its body cannot be judged, or no held-out clip shows an action.
    """
    contract = policy.contract
    seen, landmarks = landmarks_of(body_of(policy))
    seconds = contract.horizon / contract.fps
    made = {
        action: policy.sample(text, seconds, n=asked.n, seed=asked.seed, steps=asked.steps)
        for action, text in asked.texts.items()
    }
    samples = [
        clip_of(motion, seen, f"sample of {action} {number}", action)
        for action, motions in made.items()
        for number, motion in enumerate(motions)
    ]
    trained, unseen = clips_of(training, seen), clips_of(held_out, seen)
    unseen = [clip for clip in unseen if clip.label in asked.texts]
    if not unseen:
        raise ValueError(f"no held-out clip shows {', '.join(asked.texts)}: give others with --data.roots")
    judge = judge_of(training, seen, landmarks, seconds, asked.seed)
    real = evenly(windows_of(unseen, seconds), asked)
    table = measure(samples, real, windows_of(trained, seconds), landmarks, judge, seed=asked.seed)
    return Judged(table=table, made=made)


def judge_of(
    training: Sequence[Reader], seen: Sequence[int], landmarks: Landmarks, seconds: float, seed: int
) -> ConvolutionalJudge:
    """A judge of the actions that training clips show, taught with windows of them, or kept from an earlier call."""
    settings = judges.JudgeSettings()

    def train() -> ConvolutionalJudge:
        lessons = windows_of(lessons_of(training, seen, landmarks, seed), seconds)
        return train_judge([prepare(clip) for clip in lessons], landmarks, settings, seed=seed)

    facts = {
        "settings": asdict(settings),
        "seen": list(seen),
        "landmarks": asdict(landmarks),
        "seconds": seconds,
        "seed": seed,
        "bodies": [[reader.layout.fps, reader.layout.body and asdict(reader.layout.body)] for reader in training],
        "clips": [[(episode.name, action_of(episode)) for episode in reader.episodes] for reader in training],
    }
    episodes = [episode for reader in training for episode in reader.episodes]
    rows = [np.asarray(episode.actions.values) for episode in episodes]
    skeletons = [np.zeros(0) if episode.state is None else np.asarray(episode.state.values[0]) for episode in episodes]
    return kept_judge(key_of(facts, [*rows, *skeletons]), landmarks, settings, train)


def landmarks_of(body: Body) -> tuple[list[int], Landmarks]:
    """Which joints of a policy's body are judged, those left out that only aim at another; and what they are.

    ValueError where it lacks hips, knees, ankles or shoulders.
    """
    places, seen = without_aiming(body.joints, body.parents)
    names = places.joints
    called = known(names, {})
    wanted = [f"{side}_{joint}" for joint in ("shoulder", "hip", "knee", "ankle") for side in ("left", "right")]
    if missing := [joint for joint in wanted if joint not in called]:
        raise ValueError(f"motions of {' '.join(names)} cannot be judged, they have no {' '.join(missing)}")

    def pair(joint: str) -> tuple[str, str]:
        return called[f"left_{joint}"], called[f"right_{joint}"]

    landmarks = Landmarks.named(
        names,
        places.parents,
        pelvis=names[0],
        shoulders=pair("shoulder"),
        hips=pair("hip"),
        knees=pair("knee"),
        ankles=pair("ankle"),
    )
    return seen, landmarks


def clips_of(readers: Sequence[Reader], seen: Sequence[int]) -> list[Clip]:
    """The clips of some folders as they are judged; those that are too short are left out."""
    return [
        clip_of(moves_of(reader, episode), seen, episode.name, action_of(episode))
        for reader in readers
        for episode in reader.episodes
        if len(episode.actions.values) >= FEWEST_FRAMES
    ]


def lessons_of(readers: Sequence[Reader], seen: Sequence[int], landmarks: Landmarks, seed: int) -> list[Clip]:
    """The same clips at several paces and mirrored, half of them, by chance, on a skeleton of another clip.

    So a judge learns what is done and not who was recorded doing it.
    """
    found = []
    episodes = [episode for reader in readers for episode in reader.episodes]
    for reader in readers:
        body = reader.layout.body
        skeletons = None if body is None or body.kind != "rotations" else Skeletons.of(episodes, body)
        for episode in reader.episodes:
            if len(episode.actions.values) < FEWEST_FRAMES:
                continue
            for number in range(VARIATIONS):
                draw = derive(seed, f"motion/lessons/{episode.name}", number)
                chosen = None if skeletons is None or draw.random() < 0.5 else int(draw.integers(len(skeletons)))
                motion = moves_of(reader, episode, skeletons, chosen)
                found.append(varied(clip_of(motion, seen, episode.name, action_of(episode)), landmarks)[number])
    return found


def clip_of(motion: Moves, seen: Sequence[int], source: str, label: str) -> Clip:
    """A motion as it is judged."""
    places = motion.motion().positions[:, list(seen)].numpy()
    return Clip(positions=places, rate_hz=motion.rate_hz, source=source, label=label)


def windows_of(clips: Sequence[Clip], seconds: float) -> list[Clip]:
    """Windows as long as a chunk."""
    return [window for clip in clips for window in cut(clip, seconds - 1 / clip.rate_hz, EVERY_S)]


def evenly(windows: Sequence[Clip], asked: Asked) -> list[Clip]:
    """As many windows of each action as motions are asked for, or all there are: of sets that are compared."""
    chosen: list[Clip] = []
    for action in asked.texts:
        own = [window for window in windows if window.label == action]
        order = derive(asked.seed, f"motion/real/{action}").permutation(len(own))[: asked.n]
        chosen += [own[place] for place in sorted(order.tolist())]
    return chosen
