"""The contract's JSON, and what two of them differ in."""

import json
from dataclasses import replace

import pytest

from vla import documents
from vla.contract import DataContract, StreamContract, name_streams

CONTRACT = DataContract(
    cameras=("observation.images.front", "observation.images.wrist"),
    state_dim=12,
    action_dim=7,
    horizon=8,
    fps=20.0,
    streams={"sensor": StreamContract(key="observation.ft", channels=6, samples=50, rate_hz=1000.0)},
    state_names=(),
    action_names=("x", "y", "z", "a", "b", "c", "gripper"),
    action_periods=(0.0, 0.0, 0.0, 360.0, 360.0, 360.0, 0.0),
)


def read(values: object) -> DataContract:
    return documents.from_json(DataContract, json.dumps(values), "contract.json", exact=True)


@pytest.mark.parametrize("contract", [CONTRACT, replace(CONTRACT, streams={}, cameras=())])
def test_contract_survives_json(contract: DataContract) -> None:
    assert read(documents.to_json(contract)) == contract


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("horizon", "8"),
        ("horizon", 8.5),
        ("horizon", True),
        ("fps", None),
        ("cameras", "front"),
        ("cameras", [1]),
        ("action_periods", ["a"]),
        ("streams", 3),
        ("state_dim", None),
    ],
)
def test_contract_refuses_a_wrong_type(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        read({**documents.to_json(CONTRACT), key: value})


def test_contract_refuses_missing_and_unknown_keys() -> None:
    values = documents.to_json(CONTRACT)
    del values["fps"]
    with pytest.raises(ValueError, match="fps"):
        read(values)
    with pytest.raises(ValueError, match="colour"):
        read({**documents.to_json(CONTRACT), "colour": 1})


def test_differences_are_told_in_words() -> None:
    assert CONTRACT.differences(CONTRACT) == []
    stream = CONTRACT.streams["sensor"]
    named = {"sensor": replace(stream, key="observation.wrench", names=("fx", "fy", "fz", "tx", "ty", "tz"))}
    felt = replace(CONTRACT, action_names=(), streams=named)
    assert CONTRACT.differences(felt) == []
    swapped = {"sensor": replace(named["sensor"], names=("tx", "ty", "tz", "fx", "fy", "fz"))}
    assert felt.differences(replace(felt, streams=swapped)) == [
        "the channels of sensor to be fx fy fz tx ty tz, not tx ty tz fx fy fz"
    ]
    other = replace(CONTRACT, fps=30.0, cameras=("observation.images.front",), instructed=False)
    assert CONTRACT.differences(other) == [
        "the cameras to be ('observation.images.front', 'observation.images.wrist'), not ('observation.images.front',)",
        "the frame rate to be 20.0, not 30.0",
        "being instructed to be True, not False",
    ]
    turned = replace(CONTRACT, action_names=("y", "x", "z", "a", "b", "c", "gripper"))
    assert CONTRACT.differences(turned) == ["the actions to be x y z a b c gripper, not y x z a b c gripper"]
    slower = replace(CONTRACT, streams={"sensor": replace(stream, rate_hz=500.0)})
    (difference,) = CONTRACT.differences(slower)
    assert difference.startswith(
        "the window of sensor to be the last 50 samples of 6 channels at 1000 Hz, not the last"
    )
    assert CONTRACT.differences(replace(CONTRACT, streams={})) == ["the sensor streams to be observation.ft, not none"]


def test_units_are_compared_where_both_sides_know_them() -> None:
    stream = replace(CONTRACT.streams["sensor"], units=("N", "N", "N", "Nm", "Nm", "Nm"))
    trained = replace(CONTRACT, action_units=("mm",) * 3 + ("deg",) * 3 + ("",), streams={"sensor": stream})
    assert trained.differences(CONTRACT) == CONTRACT.differences(trained) == []
    other = replace(trained, action_units=("mm",) * 3 + ("rad",) * 3 + ("mm",), state_units=("rad",) * 12)
    assert trained.differences(other) == ["the unit of the actions to be deg, not rad"]
    grams = replace(trained, streams={"sensor": replace(stream, units=("g", "g", "N", "", "", ""))})
    assert trained.differences(grams) == ["the unit of the channels of sensor to be N, not g"]


def test_a_contract_from_before_units_is_read() -> None:
    values = documents.to_json(CONTRACT)
    del values["state_units"], values["action_units"], values["streams"]["sensor"]["units"]
    assert read(values) == CONTRACT


def test_streams_are_named_by_their_keys() -> None:
    assert name_streams([]) == {}
    assert name_streams(["observation.wrench"]) == {"sensor": "observation.wrench"}
    keys = ["observation.wrench", "observation.left.tactile", "touch pad"]
    assert list(name_streams(keys).items()) == [
        ("sensor/wrench", keys[0]),
        ("sensor/left_tactile", keys[1]),
        ("sensor/touch_pad", keys[2]),
    ]
    with pytest.raises(ValueError, match=r"observation\.left\.pad and observation\.left_pad would have one name"):
        name_streams(["observation.left.pad", "observation.left_pad"])
    with pytest.raises(ValueError, match=r"Pad and observation\.pad would have one name"):
        name_streams(["observation.Pad", "observation.pad"])
    with pytest.raises(ValueError, match="pad and pad_times_s would have one name, sensor/pad_times_s"):
        name_streams(["pad", "pad_times_s"])
    assert list(name_streams(["observation.", "pad"])) == ["sensor/observation_", "sensor/pad"]
