"""The joints that most skeletons share, and what data call them: joints are matched by name, never by order."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROOT = "pelvis"


@dataclass(frozen=True, kw_only=True)
class Joint:
    """A joint of the common body."""

    parent: str
    """Empty for the root."""
    words: tuple[str, ...]
    """What data call it, side and case left out; where a skeleton has several, the first here is meant."""
    child: str = ""
    """Where the bone that it turns ends; empty where several or none do."""
    rest: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Towards the child, when a body stands with its arms stretched out sideways."""
    aims: bool = False
    """It stands where its parent does, and turns so that its child is where it is: for all the joints that skeletons
    have in between, some more and some less."""


LEG = {
    "hip": Joint(
        parent=ROOT, child="knee", words=("upleg", "thigh", "femur", "upperleg", "hip"), rest=(0.0, -1.0, 0.0)
    ),
    "knee": Joint(
        parent="hip", child="ankle", words=("knee", "shin", "tibia", "lowerleg", "calf", "leg"), rest=(0.0, -1.0, 0.0)
    ),
    "ankle": Joint(parent="knee", words=("ankle", "foot")),
}
ARM = {
    "clavicle": Joint(parent="chest", child="shoulder", words=(), rest=(1.0, 0.0, 0.0), aims=True),
    "shoulder": Joint(
        parent="clavicle", child="elbow", words=("upperarm", "humerus", "arm", "shoulder"), rest=(1.0, 0.0, 0.0)
    ),
    "elbow": Joint(
        parent="shoulder", child="wrist", words=("elbow", "forearm", "lowerarm", "radius"), rest=(1.0, 0.0, 0.0)
    ),
    "wrist": Joint(parent="elbow", words=("wrist", "hand")),
}


def _limbs(side: str, sign: float) -> dict[str, Joint]:
    def own(word: str) -> str:
        return f"{side}_{word}" if word in LEG or word in ARM else word

    return {
        own(name): Joint(
            parent=own(joint.parent),
            child=own(joint.child),
            words=joint.words,
            rest=(sign * joint.rest[0], *joint.rest[1:]),
            aims=joint.aims,
        )
        for name, joint in (LEG | ARM).items()
    }


BODY: dict[str, Joint] = {
    ROOT: Joint(parent="", words=("pelvis", "hips", "root")),
    "spine": Joint(parent=ROOT, child="chest", words=(), aims=True),
    "chest": Joint(
        parent="spine",
        child="neck",
        words=("chest", "torso", "thorax", "upperchest", "spine3", "spine2", "spine1", "spine"),
    ),
    "neck": Joint(parent="chest", words=("neck", "upperneck", "neck1", "lowerneck", "head")),
    **_limbs("left", 1.0),
    **_limbs("right", -1.0),
}
"""The common body of 18 joints, parents first: 15 that skeletons have, and 3 that aim."""
SIDES = {"left": ("left", "l"), "right": ("right", "r")}


FEET = ("ankle", "foot", "toe", "toes", "toebase", "ball")
"""What joints that may stand on the ground are called, side and case left out."""
PELVIS_MARKERS, SHOULDER_MARKERS = ("asi", "asis", "psi", "psis"), ("sho",)
"""What markers on the bones of pelvis and shoulders are called, side and case left out: LASI, RSHO (Plug-in Gait)."""
PARTS = {word for joint in BODY.values() for word in joint.words} | {*FEET, *PELVIS_MARKERS, *SHOULDER_MARKERS}


@functools.cache
def words_of(name: str) -> tuple[str, str]:
    """The side of a joint (left, right or none) and what it is called without it: `mixamorig:LeftUpLeg`, `l_hip`."""
    own = re.split(r"[:|]", name)[-1]
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", own)]
    for side, spelled in SIDES.items():
        for word in spelled:
            if word in words and len(words) > 1:
                words.remove(word)
                return side, "".join(words)
            # lfemur, RightArm in lower case: a side without a boundary
            if words and words[0].startswith(word) and words[0].removeprefix(word) in PARTS:
                return side, "".join([words[0].removeprefix(word), *words[1:]])
    return "", "".join(words)


def parse_joints(asked: Sequence[str]) -> tuple[bool, dict[str, str]]:
    """Whether all joints are kept, and which of the common body's were named: `all`, `left_hip=j2`.

    Raises:
        ValueError: it is neither.
    """
    given = {}
    for word in asked:
        joint, is_given, name = word.partition("=")
        if word == "all":
            continue
        if not is_given or not name or joint not in BODY or BODY[joint].aims:
            have = " ".join(joint for joint, row in BODY.items() if not row.aims)
            raise ValueError(f"--data.motion.joints has {word!r}; give `all`, or JOINT=NAME for joints of {have}")
        given[joint] = name
    return "all" in asked, given


def known(names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """The joints of the common body but those that aim that a skeleton, its names root first, has, as it calls them.

    Raises:
        ValueError: one is given that the skeleton does not have.
    """
    for joint, name in given.items():
        if name not in names:
            raise ValueError(
                f"there is no joint {name} for {joint}, only {' '.join(names)}: correct --data.motion.joints"
            )
    called = {words_of(name): name for name in reversed(names)}
    found = {ROOT: names[0]}
    for joint, row in BODY.items():
        side = joint.partition("_")[0] if "_" in joint else ""
        own = [called[side, word] for word in row.words if (side, word) in called]
        if joint in given or (joint != ROOT and own):
            found[joint] = given.get(joint) or own[0]
    return found


def match(names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """As `known`, of a skeleton that has them all.

    Raises:
        ValueError: a joint has no counterpart, or one is given that the skeleton does not have.
    """
    found = known(names, given)
    if missing := [joint for joint, row in BODY.items() if joint not in found and not row.aims]:
        raise ValueError(
            f"the skeleton has no joint for {' '.join(missing)} among {' '.join(names)}: name them, as in "
            f"`--data.motion.joints {missing[0]}={names[-1]}`, or keep its own joints with `--data.motion.joints all`"
        )
    if twice := [name for name in found.values() if list(found.values()).count(name) > 1]:
        raise ValueError(f"joint {twice[0]} was taken for two: say which is which with --data.motion.joints")
    return found
