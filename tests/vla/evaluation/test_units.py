"""Units at the end of names."""

import math

import pytest

from vla.benchmarks.needle.config import ACTION_NAMES
from vla.data.formats.insertion.reader import DELTA_NAMES
from vla.evaluation.units import NONE, unit_of


@pytest.mark.parametrize(
    ("name", "factor", "symbol"),
    [
        ("dx_5mm", 0.005, "m"),
        ("dx_mm", 0.001, "m"),
        ("turn_deg", math.pi / 180, "rad"),
        ("reach_m", 1.0, "m"),
        ("force_0.5N", 0.5, "N"),
        ("speed_mps", 1.0, "m/s"),
    ],
)
def test_a_name_tells_its_unit(name: str, factor: float, symbol: str) -> None:
    assert (unit_of(name).factor, unit_of(name).symbol) == (pytest.approx(factor), symbol)


@pytest.mark.parametrize("name", ["gripper", "action 3", "arm", "kLeftWristRoll", "mm", "shoulder_pan.pos", "x_Mm"])
def test_a_name_without_a_unit_tells_none(name: str) -> None:
    assert unit_of(name) == NONE


def test_our_own_names_tell_theirs() -> None:
    assert {unit_of(name).symbol for name in ACTION_NAMES} == {"m"}
    assert [unit_of(name).symbol for name in DELTA_NAMES] == ["m"] * 3 + ["rad"] * 3
