"""Adapters of a policy: what they fit, how they are written, loaded and blended."""

import math
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vla import redaction
from vla.adapters import file
from vla.adapters.file import Base, Description, Stored, digest_of
from vla.contract import DataContract
from vla.names import hint
from vla.parts.backbone import fingerprint
from vla.policy import Policy
from vla.policy_folder import ADAPTERS, replace_folder
from vla.provenance import Origin


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An adapter as a command is told it."""

    place: str
    weight: float = 1.0


def base_of(policy: Policy) -> Base:
    """What adapters of a policy are told by, from its weights themselves; not of a policy that ZeRO-3 has divided."""
    config, contract = policy.config.backbone, policy.contract
    return Base(
        weights=digest_of(policy.learned()),
        normalizer=digest_of(policy.normalizer.state_dict()),
        body=told_body(contract),
        backbone=redaction.hide(config.path),
        fingerprint=fingerprint(str(policy.backbone.folder), config.pooling),
    )


def told_body(contract: DataContract) -> str:
    """What the actions of a policy are, in words."""
    if contract.body is None:
        return f"a robot of {contract.action_dim} dimensions"
    return f"a body of {contract.body.kind} of {' '.join(contract.body.joints)}"


def save_adapter(
    policy: Policy,
    name: str,
    folder: Path,
    *,
    base: Base,
    made: Mapping[str, Any],
    origin: Origin | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Description:
    """Write an adapter of a policy, beside its place first, then renamed; an older adapter there is replaced.

    Raises:
        ValueError: the folder exists and is no adapter.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / file.WEIGHTS_FILE).is_file():
        raise ValueError(f"{folder} exists and is no adapter; give another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    beside.mkdir()
    try:
        description = file.write(
            policy.adapters,
            name,
            beside,
            base=base,
            made=redaction.hide_tree(made),
            origin=origin,
            tensors=tensors,
        )
        replace_folder(folder, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return description


def parse(word: str) -> Asked:
    """`FILE` or `FILE:0.7`: the last colon counts, where a number follows it. ValueError where that is not finite."""
    place, colon, weight = word.rpartition(":")
    try:
        asked = Asked(place=place, weight=float(weight)) if colon and place else Asked(place=word)
    except ValueError:
        return Asked(place=word)
    if not math.isfinite(asked.weight):
        raise ValueError(f"--adapter {word} has the weight {weight}; give a number, such as {place}:0.7")
    return asked


def load_adapter(policy: Policy, place: Path, name: str | None = None, base: Base | None = None) -> Stored:
    """Load an adapter beside those that a policy has; it counts once the blend says so.

    `base` is what the policy is, where that is known already.

    Raises:
        ValueError: there is none, or it was trained on another policy; says on which.
        CorruptData: a file is damaged.
    """
    stored = file.read(place)
    if stored.description is not None:
        check_base(stored.description, base or base_of(policy), place)
    file.fill(policy.adapters, stored, name or stored.config.name)
    return stored


def check_base(description: Description, base: Base, place: Path) -> None:
    """Refuse an adapter of another policy (ValueError); names the first difference that explains it."""
    own = description.base
    if own.fingerprint != base.fingerprint:
        raise ValueError(
            f"adapter {place} was trained beside the backbone {own.backbone} ({own.fingerprint[:12]}), the policy has "
            f"{base.backbone} ({base.fingerprint[:12]}); load the policy that it was trained on"
        )
    if own.body != base.body:
        raise ValueError(
            f"adapter {place} moves {own.body}, the policy {base.body}; load the policy that it was trained on"
        )
    if own.normalizer != base.normalizer:
        raise ValueError(
            f"adapter {place} was trained with other scales of actions and inputs than the policy has; load the policy "
            "that it was trained on"
        )
    if own.weights != base.weights:
        raise ValueError(
            f"adapter {place} was trained on a policy of other weights ({own.weights[:12]}) than this one "
            f"({base.weights[:12]}); load the policy that it was trained on"
        )


def blend(policy: Policy, words: Sequence[str], folder: Path | None = None) -> list[str]:
    """Load adapters by what a command is told of them, in order, and fold their blend; what was done, a line each.

    A word is a place or, of a policy in `folder`, the name of one that goes with it.

    Raises:
        ValueError: one is not there, or does not fit, or weighs nothing that is a number.
        CorruptData: a file is damaged.
    """
    weights: dict[str, float] = {}
    told = []
    base = base_of(policy) if words else None
    for word in words:
        asked = parse(word)
        place = place_of(asked.place, folder)
        called = place.name if place.parent.name == ADAPTERS else file.read(place).config.name
        name = unique(called, policy.adapters.names)
        stored = load_adapter(policy, place, name, base)
        weights[name] = asked.weight
        unknown = "" if stored.description else "; a file of plain peft, which does not say what policy it fits"
        told.append(f"adapter {name}: {place}, weight {asked.weight:g}{unknown}")
    policy.adapters.set(weights)
    if weights:
        policy.adapters.fold()
    return told


def place_of(word: str, folder: Path | None) -> Path:
    """Where an adapter lies that a command is told of: there, or beside its policy by that name.

    Raises:
        ValueError: it is nowhere; says what there is.
    """
    place = Path(word)
    if not place.exists():
        beside = Path() if folder is None else folder / ADAPTERS
        if folder is not None and (beside / word).is_dir():
            return beside / word
        known = sorted(other.name for other in beside.iterdir()) if folder is not None and beside.is_dir() else []
        others = f"; of {beside} {hint(word, known)}" if known else ""
        raise ValueError(f"--adapter {word} is no file or folder: give the folder that training wrote{others}")
    if (place / "adapter" / file.WEIGHTS_FILE).is_file():  # a run
        return place / "adapter"
    return place


def unique(name: str, taken: Sequence[str]) -> str:
    """The name, or with a number where it is taken: two files may be called alike."""
    if name not in taken:
        return name
    return next(other for count in range(2, len(taken) + 3) if (other := f"{name}-{count}") not in taken)
