"""Adapters of a policy: what they fit, how they are written, loaded and blended."""

import dataclasses
import math
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vla import redaction
from vla.adapters import file
from vla.adapters.curves import MONOTONE, Curve, weight_for, words_of
from vla.adapters.file import Base, Description, Stored, digest_of
from vla.contract import DataContract
from vla.names import hint
from vla.parts.backbone import fingerprint
from vla.policy import Policy
from vla.policy_folder import ADAPTERS, replace_folder
from vla.provenance import Origin

QUANTITY = re.compile(r"([a-z][a-z_ ]*)=(.*)")
"""What is asked for by its value."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An adapter as a command is told it."""

    place: str
    weight: float = 1.0
    quantity: str | None = None
    """What is asked for by its value, in place of a weight: `pelvis height`."""
    value: float = math.nan
    """Of the quantity, in its unit."""


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


def save_curve(stored: Stored, quantity: str, curve: Curve, out: Path | None = None) -> Path:
    """Write a curve into the header of an adapter's file, in place of an older one of the same quantity.

    `out` is a folder to be, in which a copy gets it; None: the adapter's own file, which is replaced as a whole.
    Returns the file.

    Raises:
        ValueError: the header does not say what the adapter fits, or `out` exists.
    """
    check_described(stored)
    assert stored.description is not None
    description = dataclasses.replace(stored.description, curves={**stored.description.curves, quantity: curve})
    source = file.weights_of(stored.place)
    if out is None:
        file.describe_anew(stored, description, source)
        return source
    check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    beside.mkdir()
    try:
        file.describe_anew(stored, description, beside / file.WEIGHTS_FILE)
        shutil.copyfile(source.with_name(file.CONFIG_FILE), beside / file.CONFIG_FILE)
        beside.replace(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out / file.WEIGHTS_FILE


def check_described(stored: Stored) -> None:
    """Refuse an adapter that cannot have a curve (ValueError)."""
    if stored.description is None:
        raise ValueError(
            f"{stored.place} is a file of plain peft, which does not say what policy it fits: only adapters that "
            "training/adapter.py or training/unlearn.py wrote can be calibrated"
        )
    if not (beside := file.weights_of(stored.place).with_name(file.CONFIG_FILE)).is_file():
        raise ValueError(f"{beside} is missing, without which peft cannot load the adapter: copy the whole folder")


def check_new(out: Path) -> None:
    """Refuse a place that is taken (ValueError)."""
    if out.exists():
        raise ValueError(f"{out} exists; give a folder that does not")


def parse(word: str) -> Asked:
    """`FILE`, `FILE:0.7` or `FILE:pelvis_height=0.85`: the last colon counts, where a number follows it, or a name's.

    ValueError where the number is not finite, or the name has none.
    """
    place, colon, weight = word.rpartition(":")
    if not colon or not place:
        return Asked(place=word)
    named = QUANTITY.fullmatch(weight)
    try:
        number = float(named[2] if named else weight)
    except ValueError as error:
        if named is None:
            return Asked(place=word)
        raise ValueError(f"--adapter {word} has no number for {named[1]}; write {place}:{named[1]}=0.9") from error
    if not math.isfinite(number):
        example = f"{named[1]}=0.9" if named else "0.7"
        raise ValueError(f"--adapter {word} has the weight {weight}; give a number, such as {place}:{example}")
    if named is None:
        return Asked(place=place, weight=number)
    return Asked(place=place, quantity=named[1].replace("_", " "), value=number)


def weighed(asked: Asked, stored: Stored, *, alone: bool = True) -> tuple[float, str]:
    """The weight of an adapter that is asked for, and how it came, in words, where a quantity says it.

    Raises:
        ValueError: its file has no curve of the quantity, or one of other weights, or the value is out of its reach.
    """
    if asked.quantity is None:
        return asked.weight, ""
    place, quantity, name = stored.place, asked.quantity, words_of(asked.quantity)
    if stored.description is None:
        raise ValueError(
            f"{place} is a file of plain peft, which has no curve of its {quantity}: give a weight instead"
        )
    curves, again = stored.description.curves, f"`vla calibrate POLICY {place} --quantity {name} --text TEXT`"
    if quantity not in curves:
        there = f", but of its {' and '.join(sorted(curves))}" if curves else ""
        raise ValueError(f"adapter {place} has no curve of its {quantity}{there}: measure one with {again}")
    curve = curves[quantity]
    if (curve.base, curve.adapter) != (stored.description.base.weights, stored.description.weights):
        raise ValueError(f"adapter {place} has a curve of its {quantity} that is one of other weights: use {again}")
    if not abs(curve.correlation) >= MONOTONE:
        raise ValueError(
            f"adapter {place} has a curve of its {quantity} that does not go with its weight (their rank correlation "
            f"is {curve.correlation:.2f}): use {again}"
        )
    low, high = curve.reach()
    if not low <= asked.value <= high:
        raise ValueError(
            f"adapter {place} reaches a {quantity} of {low:g} to {high:g} {curve.unit} at weights {curve.weights[0]:g} "
            f"to {curve.weights[-1]:g}, not {asked.value:g}: ask for one in between, or for more --weights with {again}"
        )
    weight = weight_for(curve.weights, curve.values, asked.value)
    told = f" for a {quantity} of {asked.value:g} {curve.unit}, by its curve of {curve.text!r}"
    return weight, told if alone else f"{told}, which was measured without other adapters"


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
        ValueError: one is not there, or does not fit, or weighs nothing that is a number; or as `weighed`.
        CorruptData: a file is damaged.
    """
    weights: dict[str, float] = {}
    told = []
    base = base_of(policy) if words else None
    for word in words:
        asked = parse(word)
        place = place_of(asked.place, folder)
        called = file.called(place) if place.parent.name == ADAPTERS else file.read(place).config.name
        name = unique(called, policy.adapters.names)
        stored = load_adapter(policy, place, name, base)
        weights[name], how = weighed(asked, stored, alone=len(words) == 1)
        unknown = "" if stored.description else "; a file of plain peft, which does not say what policy it fits"
        told.append(f"adapter {name}: {place}, weight {weights[name]:g}{how}{unknown}")
    policy.adapters.set(weights)
    if weights:
        policy.adapters.fold()
        check_folded(policy, words)
    return told


def check_folded(policy: Policy, words: Sequence[str]) -> None:
    """Refuse a blend with which a layer has no finite weights (ValueError)."""
    for path, layer in policy.adapters.layers():
        if layer.folded is not None and not layer.folded.isfinite().all():
            raise ValueError(
                f"with --adapter {' --adapter '.join(words)} the weights of {path} are no finite numbers: give smaller "
                "weights"
            )


def place_of(word: str, folder: Path | None) -> Path:
    """Where an adapter lies that a command is told of: there, or beside its policy by that name.

    Raises:
        ValueError: it is nowhere; says what there is.
    """
    place = Path(word)
    if not word or not place.exists():
        beside = Path() if folder is None else folder / ADAPTERS
        if word and folder is not None and (beside / word).is_dir():
            return beside / word
        known = sorted(other.name for other in beside.iterdir()) if folder is not None and beside.is_dir() else []
        others = f"; of {beside} {hint(word, known)}" if known else ""
        front, _, end = word.rpartition(":")
        if front and (Path(front).exists() or front in known):  # a file's name may hold a colon, too
            raise ValueError(
                f"--adapter {word} has {end!r} behind its last colon, which is no weight, as in {front}:0.7, nor "
                f"a quantity with its value, as in {front}:speed=0.9"
            )
        raise ValueError(
            f"--adapter {word or repr(word)} is no file or folder: give the folder that training wrote{others}"
        )
    if (place / "adapter" / file.WEIGHTS_FILE).is_file():  # a run
        return place / "adapter"
    return place


def unique(name: str, taken: Sequence[str]) -> str:
    """The name, or with a number where it is taken: two files may be called alike."""
    if name not in taken:
        return name
    return next(other for count in range(2, len(taken) + 3) if (other := f"{name}-{count}") not in taken)
