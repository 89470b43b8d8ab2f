"""`vla calibrate`."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from vla.commandline import progress
from vla.commands.recordings import Device, choose_device, describe, open_policy
from vla.policy_settings import Sampling


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Measure how a quantity of motions goes with an adapter's weight, and write it into the adapter's file.

    `vla sample --adapter FILE:pelvis_height=0.85` then asks for the quantity.
    """

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder of a human motion (RUN/policy), the adapter's base."""
    adapter: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ADAPTER")]]
    """Folder of the adapter, or of its run, or the name of one in POLICY/adapters."""
    quantity: str
    """What is measured: pelvis_height or wrist_height (m), speed (m/s), trunk_lean (degrees)."""
    text: str
    """What the motions show."""
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """At which it is measured, four or more; between them lines are straight."""
    motions: int = 100
    """Of each weight, with the same noise; as many as an interval takes, 6."""
    seed: int = 0
    """Of the noise they begin with, and of the bootstrap."""
    steps: int | None = None
    """Network calls for a chunk; None: the policy's."""
    out: Path | None = None
    """Folder of a copy that gets the curve; it must not exist. None: the adapter's own file gets it."""
    backbone: str | None = None
    """Where the policy's backbone lies here, when it is not where it was trained."""
    device: Device = "auto"
    """auto: the GPU where there is one."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the curve as JSON."""


def calibrate(command: Calibrate) -> None:
    """`vla calibrate`."""
    from vla import adapting
    from vla.adapters import file
    from vla.adapters.curves import words_of
    from vla.documents import to_json
    from vla.evaluation.adapted import calibrating
    from vla.policy_folder import digest

    plan = calibrating.Calibration(
        quantity=calibrating.quantity_of(command.quantity),
        text=command.text,
        weights=calibrating.weights_of(command.weights),
        motions=command.motions,
        seed=command.seed,
        steps=command.steps,
    )
    calibrating.check_plan(plan)
    if command.out is not None:
        adapting.check_new(command.out)
    if describe(command.policy, Sampling())[0].body is None:
        raise ValueError(f"{command.policy} is no policy of human motion, of which quantities are measured")
    stored = file.read(adapting.place_of(command.adapter, command.policy))
    adapting.check_described(stored)
    assert stored.description is not None
    device = choose_device(command.device)
    policy = open_policy(command.policy, command.backbone, device, Sampling()).to(device)
    policy.set_mode(training=False)
    name = stored.config.name
    adapting.load_adapter(policy, stored.place, name)
    with progress(len(plan.weights), "weights") as bar:
        plan = replace(plan, progress=bar.update)
        curve = calibrating.calibrate(policy, name, stored.description.weights, plan)
    told = [] if command.json else calibrating.lines(curve, plan.quantity)
    print("\n".join(told), end="\n" * bool(told))
    calibrating.check_monotone(curve, plan.quantity)
    before = digest(file.weights_of(stored.place))
    written = adapting.save_curve(stored, plan.quantity, curve, command.out)
    if command.json:
        print(json.dumps({"quantity": plan.quantity, "file": str(written)} | to_json(curve)))
        return
    again = " in place of an older one" * (plan.quantity in stored.description.curves)
    low, high = curve.reach()
    print(f"the curve is in {written}{again}; ask for {low:g} to {high:g} {curve.unit}, as with")
    print(f"  --adapter {command.out or command.adapter}:{words_of(plan.quantity)}={(low + high) / 2:.3g}")
    if command.out is None and (after := digest(written)) != before:
        print(
            f"its SHA-256 was {before[:12]}, is {after[:12]}: a certificate that names the first means the "
            "file without this curve",
            file=sys.stderr,
        )
