"""Weights that a run starts from: of a checkpoint, a run or a policy folder, and what they mean."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.checkpoints import checkpoint
from training.config import RunConfig, flatten, younger
from training.engine.stages import Group
from training.engine.state import State
from vla.adapters.host import UPDATES
from vla.contract import DataContract
from vla.data.dataset import Dataset
from vla.data.episode import mark_of, name_of
from vla.documents import to_json
from vla.errors import CorruptData
from vla.normalize import Normalizer
from vla.parts import row_of
from vla.policy_folder import HeldOut, load_policy, read_description
from vla.run_folder import BEST, Buffers
from vla.settings import DataConfig, DiffusionConfig

OPENED = ("lora", "adapter", "backbone")
"""Groups of parameters that a stage adds or opens."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where weights come from, and what they mean."""

    place: str
    weights: Mapping[str, Tensor]
    contract: DataContract
    normalization: str
    normalizers: Mapping[str, Normalizer]
    fingerprint: str
    settings: Mapping[str, Any]
    """Of its policy, flat."""
    held_out: HeldOut
    """What it has not seen; empty where no policy folder says it."""


def read_origin(place: str, backbone: str, accelerator: Accelerator) -> Beginning:
    """The averaged weights of a checkpoint, run or policy folder.

    Raises:
        ValueError: there is none at that place.
    """
    path = Path(place)
    # Of a run that goes on, RUN/best is of where it ended before; its checkpoints are of now.
    outdated = path.name == BEST and checkpoint.best_first(path.parent)
    if (path / "normalizer.safetensors").exists() and not outdated:
        policy, description = load_policy(path, backbone), read_description(path)
        return Beginning(
            place=place,
            weights=policy.learned(),
            contract=policy.contract,
            normalization=policy.config.normalization,
            normalizers={kind: policy.normalizer_of(kind) for kind in policy.contract.normalized},
            fingerprint=description.backbone.fingerprint,
            settings=flatten(to_json(policy.config)),
            held_out=description.held_out,
        )
    found = checkpoint.find(place, accelerator)
    meaning, state = found.meaning(), found.state()
    return Beginning(
        place=place,
        weights={**state.weight, **state.moments["ema"]},
        contract=meaning.contract,
        normalization=meaning.identity["data.normalization"],
        normalizers=normalizers_from_json(meaning.normalizer),
        fingerprint=found.manifest.backbone.fingerprint,
        settings=meaning.identity,
        held_out=held_out_of(found.path.parent.parent / "policy"),
    )


def held_out_of(policy: Path) -> HeldOut:
    """What a policy says that it has not seen; nothing where a run has left none."""
    return read_description(policy).held_out if (policy / "config.json").is_file() else HeldOut()


def check_origin(origin: Beginning, place: str, data: DataConfig, contract: DataContract, fingerprint: str) -> None:
    """Refuse the weights of a place that were learned for other data or on another backbone.

    Raises:
        ValueError: names each difference.
    """
    if differences := origin.contract.differences(contract):
        raise ValueError(f"{place} expects {'; '.join(differences)}; train on matching data, or without --init-from")
    if origin.contract.labels != contract.labels:
        had, given = (told_labels(labels) for labels in (origin.contract.labels, contract.labels))
        raise ValueError(
            f"{place} was trained with --data.labels {had}, these data have {given}: give the same, or train without "
            "--init-from"
        )
    if origin.normalization != data.normalization:
        raise ValueError(
            f"{place} was trained with --data.normalization {origin.normalization}, and its scales stay: "
            "give the same, or train without --init-from"
        )
    companded = {row_of(kind) for kind, normalizer in origin.normalizers.items() if normalizer.companded.any()}
    if data.compand and set(data.compand) != companded:
        raise ValueError(
            f"{place} was trained with {' '.join(sorted(companded)) or 'no streams'} companded, and its scales stay: "
            f"leave out --data.compand {' '.join(data.compand)}, or train without --init-from"
        )
    if (limited := any(normalizer.limited for normalizer in origin.normalizers.values())) != data.clamp:
        raise ValueError(
            f"{place} was trained with {'--data.clamp' if limited else '--data.no-clamp'}, and its scales stay: give "
            "the same, or train without --init-from"
        )
    if origin.fingerprint != fingerprint:
        raise ValueError(
            f"{place} was trained on another backbone than --backbone.path, or on one that pools otherwise; "
            "give the one it names"
        )


def told_labels(labels: Mapping[str, int]) -> str:
    """Labels in words: `action (10) physics (6)`."""
    return " ".join(f"{name} ({size})" for name, size in labels.items()) or "none"


def check_unconditional(origin: Beginning, diffusion: DiffusionConfig) -> None:
    """Refuse weights with a vector that stands for no instruction where there is to be none, and the other way round.

    Raises:
        ValueError: names the setting.
    """
    had = origin.settings.get("diffusion.unconditional", 0.0)  # older ones do not know it
    if (had > 0) != (diffusion.unconditional > 0):
        raise ValueError(
            f"{origin.place} was trained with --diffusion.unconditional {had:g} and {'has' if had else 'lacks'} what "
            f"stands for no instruction: give --diffusion.unconditional {had:g}, or train without --init-from"
        )


DECIDING = re.compile(
    r"diffusion\.(path|prediction)|expert\.positions|backbone\.(output|min_pixels|max_pixels)"
    r"|encoders\.(camera\.(pixels|tokens)|sensor\.max_tokens)"
)
"""Settings that decide what a policy computes and that its weights do not show."""


def check_base(origin: Beginning, config: RunConfig) -> None:
    """Refuse another policy around the weights of a base than they were trained in: its adapters would fit neither.

    Raises:
        ValueError: names the setting.
    """
    for key, own in flatten(to_json(config)).items():
        had = origin.settings.get(key, younger().get(key, own))  # older ones do not know all
        if DECIDING.fullmatch(key) and own != had:
            flag = "--" + key.removeprefix("encoders.").replace("_", "-")
            raise ValueError(
                f"{origin.place} was trained with {flag} {had}, not {own}, and its adapters fit that: leave it out"
            )


def seen_now(origin: Beginning, data: Dataset) -> str:
    """That a run trains on episodes which its base was not shown, and how it would not; empty where it does not."""
    unseen = set(origin.held_out.episodes)
    names = {mark.rpartition(" ")[0] for mark in unseen}
    held_out = [{episode.name for episode in root} for root in data.validation.episodes()]
    trained = (
        episode
        for root, out in zip(data.everything.episodes(), held_out, strict=True)
        for episode in root
        if episode.name not in out and name_of(episode) in names  # a mark reads all of an episode
    )
    if not (seen := sum(mark_of(episode) in unseen for episode in trained)):
        return ""
    return (
        f"{seen} of the {len(unseen)} episodes that {origin.place} held out are trained on here, and `vla evaluate` "
        f"counts them as unseen: --seed {origin.held_out.seed} on the --data.roots of the base holds them out again"
    )


def load_weights(
    policy: nn.Module,
    weights: Mapping[str, Tensor],
    learned: Sequence[str],
    groups: Sequence[Group],
    *,
    opening: bool,
    allowed: Sequence[str] = (),
) -> list[str]:
    """Copy weights into the policy by name; every learned parameter must be among them, and nothing else.

    `opening` says that a stage begins: parameters that it adds or opens (adapters, the last blocks) may be missing.
    `allowed` are patterns of names that may be missing, and stay fresh, or have no place; the names found are returned.

    Raises:
        ValueError: missing, unexpected or mis-shaped tensors, by name, a pattern of none, or, of a stage that begins,
            numbers that are not finite.
    """
    parameters = dict(policy.named_parameters())
    opened = {name for group in groups if group.group in OPENED for name in group.parameters}
    required = set(learned) | opened
    missing = sorted(required - weights.keys())
    if opening and opened.isdisjoint(weights):
        missing = [name for name in missing if name not in opened]
    unexpected = sorted(weights.keys() - required)
    spared = [name for name in (*missing, *unexpected) if any(fnmatchcase(name, pattern) for pattern in allowed)]
    if idle := [pattern for pattern in allowed if not any(fnmatchcase(name, pattern) for name in spared)]:
        raise ValueError(f"--allow-missing {idle[0]} names no tensor that is missing or has no place; leave it out")
    weights = {name: weight for name, weight in weights.items() if name not in spared}
    missing, unexpected = ([name for name in names if name not in spared] for names in (missing, unexpected))
    if other := next((name for name in unexpected if UPDATES in name), None):
        called = other.partition(UPDATES)[2].partition(".")[0]
        raise ValueError(
            f"the weights are those of an adapter called {called}, beside its base's: give the run of the base, or "
            f"--adapter.name {called} with its settings to train it further"
        )
    if missing or unexpected:
        parts = ", ".join(sorted({name.split(".")[0] for name in missing}))
        said = [
            f"{len(missing)} tensors of the policy are missing (first {missing[0]}; parts: {parts})" if missing else "",
            f"{len(unexpected)} tensors have no place in the policy (first {unexpected[0]})" if unexpected else "",
        ]
        raise ValueError(
            f"the weights do not fit: {' and '.join(filter(None, said))}; give the run that this stage continues, or "
            "--allow-missing with a pattern of their names"
        )
    for name, weight in weights.items():
        if parameters[name].shape != weight.shape:
            raise ValueError(
                f"tensor {name!r} has shape {tuple(weight.shape)}, but this policy's is {tuple(parameters[name].shape)}"
                "; give the settings the weights were trained with"
            )
        if opening and not weight.isfinite().all():
            raise ValueError(f"tensor {name!r} holds numbers that are not finite: begin with other weights")
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
    return spared


def tuned(weights: Mapping[str, Tensor]) -> frozenset[str]:
    """The backbone's own parameters among the weights of a policy: those that its training changed."""
    return frozenset(
        name for name in weights if row_of(name) == "backbone" and "lora_" not in name and UPDATES not in name
    )


def check_moments(state: State, groups: Sequence[Group]) -> None:
    """Refuse to go on within a stage without the moments of all that it trains; they would begin anew.

    Raises:
        CorruptData: names what is missing.
    """
    for group in groups:
        missing = [name for name in group.parameters if name not in state.moments["ema"]]
        if missing or group.group not in state.adam_steps:
            what = f"moments of {missing[0]!r}" if missing else f"count of optimizer steps of group {group.group!r}"
            raise CorruptData(f"the checkpoint lacks the {what}; resume from another one")


def normalizers_to_json(normalizers: Mapping[str, Normalizer]) -> Buffers:
    """Normalisers as plain values; floats keep every bit."""
    return {
        stream: {name: tuple(buffer.tolist()) for name, buffer in normalizer.state_dict().items()}
        for stream, normalizer in normalizers.items()
    }


def normalizers_from_json(tree: Buffers) -> dict[str, Normalizer]:
    """The normalisers written by `normalizers_to_json`."""
    normalizers = {}
    for stream, buffers in tree.items():
        normalizer = Normalizer(len(buffers["offset"]))
        own = normalizer.state_dict()
        values = {name: torch.tensor(values, dtype=own[name].dtype) for name, values in buffers.items()}
        normalizer.load_state_dict(values)
        normalizers[stream] = normalizer
    return normalizers
