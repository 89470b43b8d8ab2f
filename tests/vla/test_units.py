"""Units at the end of names."""

import math

import pytest

from vla.benchmarks.needle.config import ACTION_NAMES
from vla.data.formats.insertion.reader import DELTA_NAMES
from vla.units import NONE, Unit, disagreeing, named_unit, said_units, size_of, told, units_of


def unit_of(name: str) -> Unit:
    return size_of(named_unit(name))


@pytest.mark.parametrize(
    ("name", "factor", "symbol"),
    [
        ("dx_5mm", 0.005, "m"),
        ("dx_mm", 0.001, "m"),
        ("turn_deg", math.pi / 180, "rad"),
        ("reach_m", 1.0, "m"),
        ("force_0.5N", 0.5, "N"),
        ("speed_mps", 1.0, "m/s"),
        ("yaw [deg]", math.pi / 180, "rad"),
        ("pelvis_tx (m)", 1.0, "m"),
    ],
)
def test_a_name_tells_its_unit(name: str, factor: float, symbol: str) -> None:
    assert (unit_of(name).factor, unit_of(name).symbol) == (pytest.approx(factor), symbol)


@pytest.mark.parametrize(
    "name", ["gripper", "action 3", "arm", "kLeftWristRoll", "mm", "shoulder_pan.pos", "x_Mm", "arm [left]"]
)
def test_a_name_without_a_unit_tells_none(name: str) -> None:
    assert unit_of(name) == NONE


def test_our_own_names_tell_theirs() -> None:
    assert {unit_of(name).symbol for name in ACTION_NAMES} == {"m"}
    assert [unit_of(name).symbol for name in DELTA_NAMES] == ["m"] * 3 + ["rad"] * 3


@pytest.mark.parametrize(
    ("given", "units"),
    [
        ("Degrees", ("deg", "deg")),
        (["°"], ("deg", "deg")),
        (["radians", "mm"], ("rad", "mm")),
        ({"lift": "millimetres", "turn": "deg"}, ("deg", "mm")),
        ({"a": ["Nm"], "b": ["N.m"]}, ("Nm", "Nm")),
        ([None, "ticks"], ("", "ticks")),
        ("unknown", ("", "")),
        (["m", "m", "m"], ()),
        (3, ()),
        ([["m"], "m"], ()),
    ],
)
def test_metadata_say_units_in_many_ways(given: object, units: tuple[str, ...]) -> None:
    assert said_units(given, ("turn", "lift"), 2) == units


def test_what_metadata_say_of_a_unit_counts_before_a_name() -> None:
    assert units_of(("x_mm", "yaw"), ("", "rad")) == ("mm", "rad")
    assert units_of(("x_mm", "yaw"), ("m", "")) == ("m", "")
    assert units_of((), ("m", "rad")) == ("m", "rad")
    assert units_of(("x", "yaw")) == ()


def test_units_disagree_where_both_sides_say_one() -> None:
    assert disagreeing(("deg", "", "mm"), ("rad", "rad", "mm")) == [0]
    assert disagreeing(("deg",), ()) == []
    assert told(("deg", "deg", "", "mm")) == "2 x deg, ?, mm"
    assert told(("deg", "mm", "deg"), [0, 2]) == "deg"
