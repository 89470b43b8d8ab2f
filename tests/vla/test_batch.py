"""The contract's JSON, and stacking."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vla.batch import DataContract, Sample, collate

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


def sample(position: int) -> Sample:
    randomness = np.random.default_rng(position)
    return Sample(
        images=(
            randomness.integers(0, 255, (3, 4 + position, 5), dtype=np.uint8),
            randomness.integers(0, 255, (3, 2, 2), dtype=np.uint8),
        ),
        image_valid=np.array([True, position % 2 == 0]),
        instruction=f"do {position}",
        state=randomness.random(3, dtype=np.float32),
        sensor=randomness.random((5, 2), dtype=np.float32),
        sensor_valid=np.array([False, True, True, True, True]),
        actions=randomness.random((4, 2), dtype=np.float32),
        action_valid=np.array([True, True, True, position != 1]),
        weight=1.0 + position,
        time=0.25 * position,
        noise=randomness.random((4, 2), dtype=np.float32),
        position=position,
    )


@pytest.mark.parametrize("contract", [CONTRACT, replace(CONTRACT, sensor=None, sensor_samples=0, cameras=())])
def test_contract_survives_json(contract: DataContract) -> None:
    assert DataContract.from_json(json.loads(json.dumps(contract.to_json()))) == contract


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
        DataContract.from_json({**CONTRACT.to_json(), key: value})


def test_contract_refuses_missing_and_unknown_keys() -> None:
    values = CONTRACT.to_json()
    del values["fps"]
    with pytest.raises(ValueError, match="fps"):
        DataContract.from_json(values)
    with pytest.raises(ValueError, match="colour"):
        DataContract.from_json({**CONTRACT.to_json(), "colour": 1})


def test_a_contract_of_before_instructions_could_be_withheld_is_read() -> None:
    values = replace(CONTRACT, instructed=False).to_json()
    assert DataContract.from_json(values).instructed is False
    del values["instructed"], values["sensor_names"]
    assert DataContract.from_json(values) == CONTRACT


def test_collate_stacks_and_keeps_frame_sizes() -> None:
    samples = [sample(position) for position in range(3)]
    batch = collate(samples)
    assert len(batch) == 3
    assert [tuple(image.shape for image in row) for row in batch.observation.images] == [
        ((3, 4 + position, 5), (3, 2, 2)) for position in range(3)
    ]
    assert torch.equal(batch.observation.images[2][0], torch.from_numpy(samples[2].images[0]))
    assert batch.observation.image_valid.tolist() == [[True, True], [True, False], [True, True]]
    assert batch.observation.instructions == ("do 0", "do 1", "do 2")
    assert torch.equal(batch.actions[1], torch.from_numpy(samples[1].actions))
    assert batch.action_valid[1].tolist() == [True, True, True, False]
    assert batch.weight.tolist() == [1.0, 2.0, 3.0]
    assert batch.time.tolist() == [0.0, 0.25, 0.5]
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.to(torch.device("cpu")).observation.state.dtype == torch.float32
