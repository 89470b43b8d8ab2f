"""What the 63 columns of GaitDynamics mean, in their order; its checkpoints do not say it.

As its args.py, consts.py and model/utils.py [c426a64] name and make them, of trials at 100 Hz.
"""

from dataclasses import dataclass

RATE_HZ = 100.0
WINDOW = 150
"""Frames that it is trained on."""
ANGLES = tuple(f"{angle}_{side}" for side in "rl" for angle in ("knee_angle", "ankle_angle", "subtalar_angle"))
TURNING = ("pelvis", "hip_r", "hip_l", "lumbar")
FEET = ("calcn_r", "calcn_l")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of a frame."""

    name: str
    unit: str
    meaning: str = ""


def columns() -> tuple[Column, ...]:
    """All of them."""
    found = [
        Column(name=f"pelvis_t{axis}", unit="1/s", meaning="velocity of the pelvis, in body heights a second")
        for axis in "xyz"
    ]
    found += [Column(name=name, unit="rad") for name in ANGLES]
    for foot in FEET:
        found += [Column(name=f"{foot}_force_v{axis}", unit="N/kg", meaning="by the body's mass") for axis in "xyz"]
        found += [
            Column(
                name=f"{foot}_force_normed_cop_{axis}",
                unit="N/kg",
                meaning="from the heel to where the force acts, in body heights, times the force's vertical part",
            )
            for axis in "xyz"
        ]
    for joint in TURNING:
        found += [
            Column(name=f"{joint}_{number}", unit="1", meaning="the first two rows of R = Rz Rx Ry")
            for number in range(6)
        ]
    for joint in TURNING:
        found += [
            Column(
                name=f"{joint}_{axis}_angular_vel",
                unit="1/s",
                meaning="half of the skew part of R(t) - R(t + 1), times the rate; about minus the angular velocity",
            )
            for axis in "xyz"
        ]
    return (*found, *(Column(name=f"{name}_vel", unit="rad/frame") for name in ANGLES))
