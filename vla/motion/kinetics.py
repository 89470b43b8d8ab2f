"""What carries a body: its weight, the force that its motion asks for, and which measured forces can be believed.

Newton's law holds for the centre of mass, which coordinates without their model do not give. The pelvis stands for it:
it is nearest to it, and its place is among the coordinates. What that misses is said beside every figure made of it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64

from vla.motion.body import Body
from vla.motion.representation import decode_coordinates
from vla.motion.resampling import low_pass

GRAVITY = 9.80665
"""m/s^2; standard gravity."""
PLACE = ("pelvis_tx", "pelvis_ty", "pelvis_tz")
SMOOTH_HZ = 15.0
"""Places are low-passed as for this rate, at 6 Hz, before they are differentiated twice."""
LEAST_N = 20.0
"""Below this, a vertical force carries nobody."""
RESIDUAL = "force.residual."
"""What a policy calls components of a force that it models less m (a + g) of the pelvis: that along the vertical.

Taken off the horizontal ones, too, they are harder to say: the pelvis sways more than the centre of mass."""
MISSING = 0.1
"""Share of the weight by which a force falls short of what the pelvis' motion asks for where a foot is off the plates.

In twelve walks on two plates it falls short by more in the first 9 to 15 frames, before both feet have come onto them,
and in none after; there it is above what the pelvis asks for by 0.07 of the weight in the mean."""
STILL_MPS, STEADY = 0.05, 0.02
"""Of a trial that weighs a body: the pelvis' speed and the spread of the force, of its middle, at most."""


def acceleration(body: Body, rows: Float[np.ndarray, "T A"], rate_hz: float) -> Float64[np.ndarray, "T 3"]:
    """That of the pelvis, m/s^2, below 6 Hz; 0 along an axis that is not among the coordinates."""
    return _change(_change(_place(body, rows, rate_hz), rate_hz), rate_hz)


def carrying(body: Body, rows: Float[np.ndarray, "T A"], rate_hz: float, weight_n: float) -> Float64[np.ndarray, "T 3"]:
    """m (a + g): the force that would carry the mass of a body with its pelvis, N."""
    felt = acceleration(body, rows, rate_hz) + np.array([0.0, GRAVITY, 0.0])
    asked: Float64[np.ndarray, "T 3"] = weight_n / GRAVITY * felt
    return asked


def is_residual(body: Body) -> bool:
    """Whether the forces among the numbers of a body are in part what is left of a sum of forces less m (a + g)."""
    return any(name.startswith(RESIDUAL) for name in body.forces)


def whole_names(body: Body) -> tuple[str, ...]:
    """What the forces of a body are called once m (a + g) is added, where that was taken from them."""
    return tuple(name.replace(RESIDUAL, "force.") for name in body.forces)


def taken(
    body: Body, rows: Float[np.ndarray, "T A"], rate_hz: float, weight_n: float | None
) -> Float64[np.ndarray, "T F"]:
    """What is to be added to the forces among the numbers of a body, so that they are whole, N; 0 where they are.

    Raises:
        ValueError: it depends on the weight, which is not known.
    """
    if not is_residual(body):
        return np.zeros((len(rows), len(body.forces)))
    if not weight_n:
        raise ValueError(
            "this policy models what forces are beyond m (a + g) of the pelvis, and who moves has no known weight: say "
            "weight_kg in labels.csv beside the trials"
        )
    return taken_off(body.forces, carrying(body, rows, rate_hz, weight_n))


def taken_off(names: Sequence[str], carried: Float64[np.ndarray, "T F"]) -> Float64[np.ndarray, "T F"]:
    """What forces of these names are told less: of m (a + g) some components, 0 of others."""
    found: Float64[np.ndarray, "T F"] = carried * [name.startswith(RESIDUAL) for name in names]
    return found


def believed(
    total: Float[np.ndarray, "T 3"],
    body: Body,
    rows: Float[np.ndarray, "T A"],
    rate_hz: float,
    weight_n: float,
) -> Bool[np.ndarray, " T"]:
    """Frames whose sum of forces carries the body: the others have a foot beside the plates, or no number."""
    carried = carrying(body, rows, rate_hz, weight_n)[:, 1]
    enough: Bool[np.ndarray, " T"] = np.isfinite(total).all(axis=1) & (total[:, 1] >= carried - MISSING * weight_n)
    return enough


def weight_of(
    trials: Iterable[tuple[Body, Float[np.ndarray, "_ _"], Float[np.ndarray, "_ 3"]]], rate_hz: float
) -> tuple[float, bool] | None:
    """The weight of who moves in some trials (body, rows, sum of forces), N, and whether a trial stands still.

    One that stands still says it; without one it is the middle of what each trial says, force for force, by the
    acceleration of the pelvis. None where no frame has a force.
    """
    found: list[float] = []
    for body, rows, total in trials:
        up = total[:, 1]
        loaded = np.nan_to_num(up) > LEAST_N
        if not loaded.any():
            continue
        middle = float(np.median(up[loaded]))
        speed = np.abs(_change(_place(body, rows, rate_hz), rate_hz)).max(initial=0.0)
        if loaded.all() and up.std() < STEADY * middle and speed < STILL_MPS:
            return middle, True
        asked = acceleration(body, rows, rate_hz)[:, 1] / GRAVITY + 1
        if (loaded := loaded & (asked > 0.5)).any():
            found.append(float(np.median(up[loaded] / asked[loaded])))
    return (float(np.median(found)), False) if found else None


def _place(body: Body, rows: Float[np.ndarray, "T A"], rate_hz: float) -> Float64[np.ndarray, "T 3"]:
    """Where the pelvis is, m, low-passed."""
    values = decode_coordinates(body, torch.from_numpy(np.asarray(rows, dtype=np.float64)), rate_hz).numpy()
    nowhere = np.zeros(len(values))
    columns = [values[:, body.joints.index(name)] if name in body.joints else nowhere for name in PLACE]
    return low_pass(np.stack(columns, axis=1), rate_hz, SMOOTH_HZ)


def _change(values: Float64[np.ndarray, "T 3"], rate_hz: float) -> Float64[np.ndarray, "T 3"]:
    """By the second, from the frames on both sides."""
    if len(values) < 2:
        return np.zeros_like(values)
    changed: Float64[np.ndarray, "T 3"] = np.gradient(values, 1 / rate_hz, axis=0)
    return changed
