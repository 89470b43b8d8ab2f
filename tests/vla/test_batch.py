"""Stacking."""

import numpy as np
import torch

from vla.batch import Draws, Reading, Sample, collate
from vla.frames import Area, Square, resize
from vla.randomness import derive

SIZES = (Area(unit=4, min_pixels=16, max_pixels=64), Square(side=8))


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
        streams={
            "sensor/wrench": Reading(
                values=randomness.random((5, 2), dtype=np.float32), valid=np.array([False, True, True, True, True])
            ),
            "sensor/tactile": Reading(
                values=randomness.random((3, 4), dtype=np.float32), valid=np.array([True, True, True])
            ),
        },
        actions=randomness.random((4, 2), dtype=np.float32),
        action_valid=np.array([True, True, True, position != 1]),
        weight=1.0 + position,
        position=position,
    )


def test_collate_stacks_and_keeps_frame_sizes() -> None:
    samples = [sample(position) for position in range(3)]
    batch = collate(samples, 7, "noise")
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
    assert batch.draws.noise.shape == (3, 4, 2)
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.to(torch.device("cpu")).observation.state.dtype == torch.float32


def test_draws_follow_from_seed_stream_and_position_alone() -> None:
    drawn = Draws.of(7, "noise", [3, 0, 12], (4, 2))
    for row, position in enumerate((3, 0, 12)):
        source = derive(7, "noise", position)
        assert drawn.time[row] == source.random(dtype=np.float32)
        np.testing.assert_array_equal(drawn.noise[row], source.standard_normal((4, 2), dtype=np.float32))
        assert drawn.coin[row] == source.random(dtype=np.float32)
    assert ((drawn.time >= 0) & (drawn.time < 1)).all()
    for other in (Draws.of(8, "noise", [3, 0, 12], (4, 2)), Draws.of(7, "validation", [3, 0, 12], (4, 2))):
        assert not (other.time == drawn.time).any()
        assert not (other.noise == drawn.noise).any()
        assert not (other.coin == drawn.coin).any()


def test_a_share_of_the_training_samples_goes_without_the_instruction_and_no_other() -> None:
    """Of 10,000 positions; a share that is right lies outside of its 99.9 % interval once in a thousand."""
    count = 10_000
    drawn = Draws.of(3, "noise", range(count), (1, 1))
    assert ((drawn.coin >= 0) & (drawn.coin < 1)).all()
    for share in (0.02, 0.1, 0.5, 0.9):
        dropped = int((drawn.coin < share).sum())
        assert abs(dropped - share * count) < 3.29 * (share * (1 - share) * count) ** 0.5
    for other in (drawn.time, drawn.noise[:, 0, 0], drawn.coin.roll(1)):
        assert torch.corrcoef(torch.stack([drawn.coin, other]))[0, 1].abs() < 3.29 / count**0.5
    assert (Draws.of(3, "validation", range(count), (1, 1)).coin == 1).all()


def test_resized_frames_are_those_of_the_whole_ones_by_size() -> None:
    samples = [sample(position) for position in range(3)]
    whole = collate(samples, 7, "noise").observation
    small = collate([one.resized(SIZES) for one in samples], 7, "noise").observation
    for size in SIZES:
        expected = [[resize(frame, size) for frame in row] for row in whole.images]
        for seen in (whole, small, whole.resized(SIZES), small.to(torch.device("cpu")), small.resized(SIZES)):
            for row, frames in zip(expected, seen.frames(size), strict=True):
                assert all(torch.equal(*pair) for pair in zip(row, frames, strict=True))
    assert torch.equal(small.rows([2]).frames(SIZES[0])[0][0], small.frames(SIZES[0])[2][0])


def test_every_frame_of_a_resized_batch_is_changed_in_the_same_order() -> None:
    batch = collate([sample(position).resized(SIZES) for position in range(3)], 7, "noise")
    changed: list[torch.Tensor] = []

    def blacken(tensor: torch.Tensor) -> torch.Tensor:
        changed.append(tensor)
        return torch.zeros_like(tensor)

    blank = batch.map(blacken).observation
    front, wrist = ([batch.observation.frames(size)[0][camera] for size in SIZES] for camera in (0, 1))
    assert all(torch.equal(*pair) for pair in zip(changed, [*front, *wrist], strict=False))
    assert not any(frame.any() for size in SIZES for row in blank.frames(size) for frame in row)
