"""What an adapter must share with its base, as flags, read from the run, checkpoint or policy that it begins with."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import flatten
from vla.settings import renamed

SHARED = re.compile(
    r"backbone\.(path|min_pixels|max_pixels|output|pooling)|(encoders|expert|diffusion|lora)\..+"
    r"|data\.(horizon|cameras|depth|state_key|action_key|dims|sensor|sensor_samples|sensor_rate_hz|missing_cameras"
    r"|angles|pairing|labels|style|normalization|compand|clamp|withhold|retarget|validation_share|split_by)"
    r"|data\.motion\.(rate_hz|representation|joints|forces)"
    r"|stages\.[^.]+\.objective\.((kind|gamma|draws)|motion\..+)"
)
"""Settings that decide what a policy looks at, computes and is trained for, and what it is not shown."""
STAGE = re.compile(r"stages\.[^.]+\.")
NORMALIZER = "normalizer.safetensors"
LARGEST = 3.4e38
"""What limits nothing is beyond it."""
LABELLED = 0.1
"""Weight of a label in the loss where a policy does not say what it was trained with."""
TAUGHT = {"stages.adapter.objective.motion.joints": 20.0, "stages.adapter.objective.motion.velocity": 0.2}
"""Terms of a policy of motion that does not say what it was trained for."""
RETARGET = 0.5
"""Share of samples on other skeletons where such a policy does not say its own: that of pre-training. Motions are made
on the usual skeleton of the base, which the clips of a style may not have."""


def settings_of(place: str, stage: str) -> dict[str, Any]:
    """The settings that a run, a checkpoint or a policy folder shares with its adapters, flat; of a stage by that name.

    Nothing where there is none; who reads the weights says so.

    Raises:
        ValueError: its description is no JSON.
    """
    folder = Path(place)
    run = next((parent for parent in (folder, folder.parent, *folder.parents[1:2]) if is_run(parent)), None)
    found = {} if run is None else of_run(read(run / "config.json"))
    file = folder / "config.json"
    if (folder / NORMALIZER).is_file() and file.is_file():
        found |= of_policy(folder, read(file), told=bool(found))
    return {STAGE.sub(f"stages.{stage}.", key): value for key, value in found.items() if SHARED.fullmatch(key)}


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / "config.json").is_file() and "stages" in read(folder / "config.json")


def read(file: Path) -> dict[str, Any]:
    """A JSON object. ValueError where it is none."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); restore it from a copy") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{file} holds no JSON object; restore it from a copy")
    return tree


def of_run(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Those of config.json of a run; of several stages the objective is that of the last one."""
    *_, last = tree["stages"]
    stages = {last: tree["stages"][last]}
    found = flatten({**tree, "data": renamed(tree["data"]), "stages": stages})
    if found.get(f"stages.{last}.objective.kind") == "erase":  # an adapter of another aim than its base
        del found[f"stages.{last}.objective.kind"]
    return found


def of_policy(folder: Path, tree: Mapping[str, Any], *, told: bool) -> dict[str, Any]:
    """Those of config.json of a policy; `told`: its run says the rest."""
    policy, contract = tree["policy"], tree["contract"]
    parts = {part: policy[part] for part in ("backbone", "encoders", "expert", "diffusion")}
    if policy["lora"] is not None:
        parts["lora"] = policy["lora"]
    found = flatten(parts)
    if found["backbone.path"] == "./backbone":  # merged: it lies in the folder
        found["backbone.path"] = str(folder / "backbone")
    found |= {f"data.{key}": contract[key] for key in ("horizon", "cameras", "labels", "style") if contract[key]}
    found |= {"data.normalization": policy["normalization"], "data.clamp": limited(folder / NORMALIZER)}
    if "data.labels" in found:
        found["data.labels"] = list(found["data.labels"])
    return found if told else found | of_contract(contract)


def of_contract(contract: Mapping[str, Any]) -> dict[str, Any]:
    """What the contract of a policy says of its data and its training, where no run does."""
    found = {f"data.{key}": contract[key] for key in ("state_key", "action_key", "dims")}
    found["data.sensor"] = [stream["key"] for stream in contract["streams"].values()] or ["none"]
    withheld = [] if contract["instructed"] else ["instruction"]
    found["data.depth"] = [f"{camera}={far['near_m']!r}:{far['far_m']!r}" for camera, far in contract["depth"].items()]
    found |= {f"stages.adapter.objective.motion.{label}": LABELLED for label in contract["labels"]}
    if (body := contract["body"]) is None:
        return found | {"data.withhold": withheld + ([] if contract["state_dim"] else ["state"])}
    found |= {"data.motion.rate_hz": contract["fps"], "data.withhold": withheld}
    if forces := body.get("forces"):
        kinds = {name.split(".")[1] for name in forces}
        found["data.motion.forces"] = "feet" if "left" in kinds else "residual" if "residual" in kinds else "total"
    if body["kind"] != "coordinates":
        found |= {"data.motion.representation": body["kind"]} | TAUGHT
    if body["kind"] == "rotations" and not contract["cameras"] and "physics" not in contract["labels"]:
        found["data.retarget"] = RETARGET
    return found


def limited(file: Path) -> bool:
    """Whether the normaliser of the actions limits them; read by hand, since help and mistakes load no torch."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        begin, end = json.loads(opened.read(length))["actions.highest"]["data_offsets"]
        opened.seek(8 + length + begin)
        values = struct.unpack(f"<{(end - begin) // 8}d", opened.read(end - begin))
    return bool(min(values) < LARGEST)
