"""The contract's JSON, and what two of them differ in."""

import json
from dataclasses import replace

import pytest

from vla import documents
from vla.contract import DataContract

CONTRACT = DataContract(
    cameras=("observation.images.front", "observation.images.wrist"),
    state_dim=12,
    action_dim=7,
    horizon=8,
    fps=20.0,
    sensor="observation.ft",
    sensor_channels=6,
    sensor_samples=50,
    sensor_rate_hz=1000.0,
    state_names=(),
    action_names=("x", "y", "z", "a", "b", "c", "gripper"),
    action_periods=(0.0, 0.0, 0.0, 360.0, 360.0, 360.0, 0.0),
)


def read(values: object) -> DataContract:
    return documents.from_json(DataContract, json.dumps(values), "contract.json", exact=True)


@pytest.mark.parametrize("contract", [CONTRACT, replace(CONTRACT, sensor=None, sensor_samples=0, cameras=())])
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
        ("sensor", 3),
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
    assert CONTRACT.differences(replace(CONTRACT, action_names=(), sensor_names=("fx",))) == []
    other = replace(CONTRACT, fps=30.0, cameras=("observation.images.front",), instructed=False)
    assert CONTRACT.differences(other) == [
        "the cameras to be ('observation.images.front', 'observation.images.wrist'), not ('observation.images.front',)",
        "the frame rate to be 20.0, not 30.0",
        "being instructed to be True, not False",
    ]
