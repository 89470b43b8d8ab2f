r"""Drafts that are refined: what of a capture with jitter is mended, and what of the motion is kept, at each strength.

    python -m tests.benchmarks.refine [POLICY] [--json docs/benchmarks/refine.json] [--picture FILE.png]

The policy is the base that `make demo-motion` trains. A draft is a held-out clip, as it is or with every joint turned
by normal noise in every frame and the root moved; its text is the clip's caption. What comes out is compared with the
clean clip and with the draft: jerk and feet are measured as `vla evaluate` measures them, errors are the root mean
square of joints seen from the ground below the root, and of joints in space, which wander with the way of the body.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.commands.motions import open_clips
from vla.commands.recordings import as_body_of, open_policy
from vla.data.formats.motion.single import read_one
from vla.data.formats.motion.writing import write_npz
from vla.evaluation.motion import feet, smoothness
from vla.evaluation.motion.clips import prepare
from vla.evaluation.motion.landmarks import Landmarks
from vla.evaluation.motion.policies import action_of, clip_of, landmarks_of, moves_of
from vla.motion.clip import Poses
from vla.motion.drawing import strip
from vla.motion.moves import Moves
from vla.motion.rotations import matrices, quaternions, turned_by
from vla.motion_settings import NamedMotionFiles
from vla.policy import Policy
from vla.policy_settings import Sampling
from vla.randomness import derive
from vla.refining import refine
from vla.sampling import body_of

REPOSITORY = Path(__file__).resolve().parents[2]
HELD_OUT = REPOSITORY / "examples" / "motion" / "cmu" / "test"
STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.0)
JITTER = ((0.0, 0.0), (2.5, 0.01), (5.0, 0.02))
"""Deviations of a joint's turn about each axis, degrees, and of the root's place along each, m."""
LONGEST = 80
"""Frames of a draft: three chunks of the base."""
DRAWN = (0.2, 0.5)


def jittered(clean: Moves, number: int, degrees: float, metres: float, policy: Policy) -> Moves:
    """A clip whose joints are turned and whose root is moved at random in each frame, read as any other file."""
    clip, source = clean.clip(), derive(0, "jitter", number)
    assert isinstance(clip, Poses)
    turns = matrices(torch.from_numpy(clip.turns))
    about = np.deg2rad(degrees) * source.standard_normal((*clip.turns.shape[:2], 3))
    turned = quaternions(turns @ turned_by(torch.from_numpy(about))).numpy()
    root = clip.root + metres * source.standard_normal(clip.root.shape)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "draft.npz"
        write_npz(file, Poses(skeleton=clip.skeleton, root=root, turns=turned), clean.rate_hz)
        return read_one(file, as_body_of(policy.contract, NamedMotionFiles()), lambda _: None)


def apart(one: Moves, other: Moves, seen: Sequence[int]) -> tuple[float, float]:
    """The root mean square distance of joints seen from the ground below the root, and in space from one start, m."""
    found, true = one.motion(), other.motion()
    pairs = (found.seen, true.seen), (found.positions, true.positions)
    around, space = (float((a - b)[:, list(seen)].square().sum(-1).mean().sqrt()) for a, b in pairs)
    return around, space


def measured(motion: Moves, seen: Sequence[int], landmarks: Landmarks) -> dict[str, float]:
    """What is smooth and stands."""
    clip = prepare(clip_of(motion, seen, "draft", ""))
    return {
        "jerk, m/s3": smoothness.jerk(clip.positions, clip.rate_hz),
        "foot speed below 12 cm, m/s": feet.ground_speed(clip.positions, landmarks, clip.rate_hz),
        "foot skating ratio": feet.skating_ratio(clip.positions, landmarks, clip.rate_hz),
    }


def spearman(values: Sequence[float]) -> float:
    """The rank correlation of some values with their own order."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure over the clips."""
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}


def refined(
    policy: Policy, clips: Sequence[Moves], degrees: float, metres: float
) -> tuple[dict[str, Any], list[list[Moves]]]:
    """What was measured at every strength, of drafts with so much jitter; and each draft with what became of it."""
    seen, landmarks = landmarks_of(body_of(policy))
    rows: dict[float, list[dict[str, float]]] = {strength: [] for strength in STRENGTHS}
    every, limited, each = list[list[Moves]](), set[int](), list[float]()
    for number, clean in enumerate(clips):
        draft = jittered(clean, number, degrees, metres, policy) if degrees or metres else clean
        made = [draft]
        for strength in STRENGTHS:
            said: list[str] = []
            (one,) = refine(policy, draft=draft, strength=strength, text=clean.text, seed=number, say=said.append)
            limited |= {number} if said else set()
            around, space = apart(one, clean, seen)
            errors = {"error, m": around, "error in space, m": space, "to the draft, m": apart(one, draft, seen)[0]}
            rows[strength].append(measured(one, seen, landmarks) | errors)
            made.append(one)
        each.append(spearman([rows[strength][number]["to the draft, m"] for strength in STRENGTHS]))
        every.append(made)
    found = {strength: mean(own) for strength, own in rows.items()}
    of_means = spearman([own["to the draft, m"] for own in found.values()])
    print(f"jitter of {degrees:g} degrees and {metres:g} m; limits are met by {len(limited)} drafts")
    for strength, own in found.items():
        print(f"{strength:<8g}" + "".join(f"{key}: {value:.4g}  " for key, value in own.items()))
    print(f"rank correlation of strength and distance: {of_means:.3f} of the means, at least {min(each):.3f} of a clip")
    return {
        "degrees": degrees,
        "metres": metres,
        "drafts that meet limits": len(limited),
        "strengths": {f"{strength:g}": own for strength, own in found.items()},
        "rank correlation": {"of the means": of_means, "mean of clips": float(np.mean(each)), "least": min(each)},
    }, every


def main() -> None:
    """Refine every draft at every strength, print and write the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, nargs="?", default=REPOSITORY / "runs" / "demo-motion" / "base" / "policy")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    policy = open_policy(asked.policy, None, "cpu", Sampling())
    policy.set_mode(training=False)
    reader = open_clips(str(HELD_OUT), policy.contract, as_body_of(policy.contract, NamedMotionFiles()))
    clips = []
    for episode in reader.episodes:
        whole = moves_of(reader, episode)
        clips.append(replace(whole, rows=whole.rows[:LONGEST], text=episode.instructions.different[0]))
    seen, landmarks = landmarks_of(body_of(policy))
    real = mean([measured(clean, seen, landmarks) for clean in clips])
    print("clean   " + "".join(f"{key}: {value:.4g}  " for key, value in real.items()))
    found = [refined(policy, clips, degrees, metres) for degrees, metres in JITTER]
    if asked.picture:
        number = next(place for place, episode in enumerate(reader.episodes) if action_of(episode) == "walking")
        draft, *made = found[-1][1][number]
        shown = [made[STRENGTHS.index(strength)].figure(f"strength {strength:g}") for strength in DRAWN]
        strip([draft.figure("draft"), *shown, clips[number].figure("clean")]).save(asked.picture)
    if asked.json:
        content = {"clips": len(clips), "clean": real, "drafts": [figures for figures, _ in found]}
        asked.json.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
