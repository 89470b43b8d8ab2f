"""Samples that cannot be read: an error that says which, or void in their place with all others unchanged."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.fakes import SENSOR, FakeFrames, FakeRoot, edited, opener
from tests.vla.data.recordings import CAMERA, numbered_frame, write_v2
from tests.vla.data.test_dataset import assert_same, nan_in
from tests.vla.data.test_insertion import write_windows
from vla.batch import Sample
from vla.data import reading
from vla.data.dataset import Dataset, TrainSamples, open_dataset
from vla.errors import CorruptData, StorageFault
from vla.frames import Area, Square, resize
from vla.settings import DataConfig

ROOT = FakeRoot(lengths=(40, 40, 40, 40))
FRONT = "videos/observation.images.front/chunk-000/file-000.mp4"
WRIST = "videos/observation.images.wrist/chunk-000/file-000.mp4"
TABLE = "data/chunk-000/file-000.parquet"


def opened(*roots: object, **config: object) -> Dataset:
    open_reader = opener(*roots)  # type: ignore[arg-type]
    return open_dataset(DataConfig(roots=tuple(open_reader.readers), **config), 0, open_reader)  # type: ignore[arg-type]


def void(samples: TrainSamples, positions: Sequence[int]) -> list[int]:
    """The positions whose samples weigh nothing, and the proof that those hold nothing."""
    found = []
    for position in positions:
        sample = samples[position]
        if sample.weight == 0:
            found.append(position)
            assert sample.position == position
            assert not any(image.any() for image in sample.images)
            readings = [reading.valid.any() for reading in sample.streams.values()]
            assert not any((sample.image_valid.any(), *readings, sample.action_valid.any()))
            assert samples.fault(position)
    return found


def assert_others_same(
    damaged: TrainSamples, whole: TrainSamples, left_out: Sequence[int], positions: Sequence[int]
) -> None:
    """Every sample that is not void is the one of the whole data, and a void one has its shapes."""
    for position in positions:
        ours, theirs = damaged[position], whole[position]
        assert damaged.locate(position) == whole.locate(position)
        if position not in left_out:
            assert_same(ours, theirs)
            continue
        for name in ("position", "instruction"):
            np.testing.assert_equal(vars(ours)[name], vars(theirs)[name])
        for name in ("state", "actions", "action_valid", "image_valid"):
            assert vars(ours)[name].shape == vars(theirs)[name].shape
            assert vars(ours)[name].dtype == vars(theirs)[name].dtype
        for name, own in ours.streams.items():
            assert own.values.shape == theirs.streams[name].values.shape
            assert own.valid.shape == theirs.streams[name].valid.shape
        assert [image.shape for image in ours.images] == [image.shape for image in theirs.images]


def test_a_frame_that_cannot_be_decoded_makes_its_sample_void() -> None:
    whole = opened(ROOT)
    damaged = opened(replace(ROOT, broken_frames=(9, 30)), quarantine=1)
    epoch = range(whole.train.num_samples)
    expected = [position for position in epoch if whole.train.locate(position)[1] in (9, 30)]
    assert len(expected) == 6
    assert void(damaged.train, epoch) == expected
    assert_others_same(damaged.train, whole.train, expected, epoch)
    assert damaged.train.fault(next(position for position in epoch if position not in expected)) is None
    fault = damaged.train.fault(expected[0])
    episode, frame = whole.train.locate(expected[0])
    assert fault == f"{episode}, {ROOT.cameras[0]}, frame {frame}: front.mp4 cannot be decoded"


def test_frames_come_in_the_sizes_that_are_asked_for() -> None:
    sizes = (Area(unit=2, min_pixels=16, max_pixels=64), Square(side=6))
    data = opened(replace(ROOT, broken_frames=(9,)), quarantine=1)
    for whole, small in ((data.train, data.train.resized(sizes)), (data.validation, data.validation.resized(sizes))):
        for position in range(0, 40, 3):
            ours, theirs = small[position], whole[position]
            assert small.locate(position) == whole.locate(position)
            assert small.fault(position) == whole.fault(position)
            assert_same(replace(ours, images=()), replace(theirs, images=()))
            for image, frame in zip(ours.images, theirs.images, strict=True):
                assert isinstance(image, dict)
                assert tuple(image) == sizes
                for size, shown in image.items():
                    np.testing.assert_array_equal(shown, resize(torch.from_numpy(frame), size).numpy())
    assert data.train.fingerprint() == data.train.resized(sizes).fingerprint()
    names = {data.validation.locate(0)[0]}
    assert tuple(data.validation.resized(sizes).only(names)[0].images[0]) == sizes


def test_without_a_quarantine_the_first_one_is_an_error() -> None:
    samples = opened(replace(ROOT, broken_frames=(9,))).train
    with pytest.raises(CorruptData, match=r"^root/episode_00000\d, observation.images.front, frame 9: front.mp4"):
        void(samples, range(samples.num_samples))


def test_held_out_samples_are_void_too() -> None:
    held_out = opened(replace(ROOT, broken_frames=(9,)), quarantine=1).validation
    assert [index for index, sample in enumerate(held_out) if sample.weight == 0] == [9]
    assert "frame 9" in str(held_out.fault(9))
    assert held_out.fault(8) is None


@pytest.mark.parametrize("camera", [0, 1])
def test_the_size_of_a_void_frame_is_that_of_the_first_frame_that_can_be_read(camera: int) -> None:
    reader = ROOT.open()
    for place, episode in enumerate(reader.episodes):
        frames = FakeFrames(timestamps=episode.timestamps, height=4 + place, width=5, broken=(7,))
        reader = edited(reader, place, cameras={**episode.cameras, ROOT.cameras[camera]: frames})
    samples = opened(reader, quarantine=1).train
    left_out = void(samples, range(samples.num_samples))
    assert {samples[position].images[camera].shape for position in left_out} == {(3, 4, 5)}


@pytest.mark.parametrize("stream", ["actions", "state", "sensor"])
def test_rows_that_are_not_finite(stream: str) -> None:
    whole, reader = opened(ROOT), ROOT.open()
    for place, episode in enumerate(reader.episodes):
        row = 20 if stream != "sensor" else 1000
        if stream == "sensor":
            changes: dict[str, object] = {"streams": {SENSOR: nan_in(episode.streams[SENSOR], row)}}
        else:
            changes = {stream: nan_in(getattr(episode, stream), row)}
        reader = edited(reader, place, **changes)
    with pytest.raises(CorruptData, match=rf"root/episode_00000\d has nan in {stream}, row {row}, dimension 1"):
        opened(reader)
    damaged = opened(reader, quarantine=1)
    # A chunk looks 8 steps ahead; 50 samples of a window at 1 kHz are one frame period of 50 ms.
    reach = {"actions": range(13, 21), "state": range(20, 21), "sensor": range(20, 21)}[stream]
    epoch = range(whole.train.num_samples)
    expected = [position for position in epoch if whole.train.locate(position)[1] in reach]
    assert void(damaged.train, epoch) == expected
    assert_others_same(damaged.train, whole.train, expected, epoch)
    assert f"nan in {stream}" in str(damaged.train.fault(expected[0]))
    statistics = damaged.statistics[stream]
    assert statistics.count == whole.statistics[stream].count - 3
    assert np.isfinite(statistics.q99).all()


@dataclass(frozen=True, kw_only=True)
class Sulking:
    """Frames of a storage that refuses some reads."""

    timestamps: np.ndarray
    code: int
    refusals: list[int]
    """How many reads are still refused; one list for all."""

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        if self.refusals[0] > 0:
            self.refusals[0] -= 1
            raise OSError(self.code, os.strerror(self.code), "front.mp4")
        return FakeFrames(timestamps=self.timestamps).read(indices)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE])
def test_storage_that_refuses_is_asked_again_and_never_called_damage(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "DELAYS_S", (0.0, 0.0, 0.0))
    refusals, reader = [0], ROOT.open()
    for place, episode in enumerate(reader.episodes):
        frames = Sulking(timestamps=episode.timestamps, code=code, refusals=refusals)
        reader = edited(reader, place, cameras={**episode.cameras, ROOT.cameras[0]: frames})
    samples = opened(reader, quarantine=100).train
    for count in (1, 3):
        refusals[0] = count
        assert_same(samples[5], opened(ROOT).train[5])
        assert refusals[0] == 0
    refusals[0] = 4
    with pytest.raises(StorageFault, match=r"root/episode_00000\d, frame \d+ could not be read in 4 attempts") as fault:
        _ = samples[5]
    assert fault.value.errno == code
    assert os.strerror(code) in str(fault.value)
    assert "mounted" in str(fault.value)


# From here on: real files.


@pytest.fixture
def copy(needle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(needle, tmp_path / "needle"))


def read(root: Path, quarantine: int = 0) -> TrainSamples:
    return open_dataset(DataConfig(roots=(str(root),), quarantine=quarantine), 0).train


def truncate(path: Path) -> None:
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "the index stands in front"
    path.write_bytes(content[: len(content) * 2 // 3])


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle, size = len(content) // 2, len(content) // 12
    content[middle : middle + size] = bytes(size)
    path.write_bytes(content)


def flip_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(3).integers(len(content) // 2, len(content), 20).tolist():
        content[place] ^= 1 << place % 8
    path.write_bytes(content)


@pytest.mark.parametrize("file", [FRONT, WRIST])
@pytest.mark.parametrize("damage", [truncate, overwrite])
def test_a_damaged_video_costs_the_samples_it_damages(
    needle: Path, copy: Path, damage: Callable[[Path], None], file: str
) -> None:
    whole = read(needle)
    damage(copy / file)
    if damage is truncate:
        with pytest.raises(CorruptData, match=r"file-000\.mp4 is cut off after"):
            read(copy)
    positions = range(0, whole.num_samples, 3)
    damaged = read(copy, quarantine=1)
    left_out = void(damaged, positions)
    assert 0 < len(left_out) < len(positions) / 2
    assert_others_same(damaged, whole, left_out, positions)
    for position in left_out[:3]:
        fault, (episode, frame) = damaged.fault(position), whole.locate(position)
        assert fault is not None
        assert fault.startswith(f"{episode}, {Path(file).parts[1]}, frame {frame}: {copy / file} ")
        assert "\n" not in fault


def test_flipped_bits_are_found_alike_in_every_order(needle: Path, copy: Path) -> None:
    """Other ranks and workers read in other orders: a sample is void for all of them or for none."""
    whole = read(needle)
    flip_bits(copy / FRONT)
    damaged = read(copy, quarantine=1)
    positions = range(0, whole.num_samples, 3)
    left_out = void(damaged, positions)
    assert 0 < len(left_out) < len(positions) / 2
    assert_others_same(damaged, whole, left_out, positions)
    in_order = sorted(positions, key=whole.locate)
    assert sorted(void(damaged, in_order)) == left_out
    assert sorted(void(damaged, in_order[::-1])) == left_out
    assert void(read(copy, quarantine=1), left_out) == left_out


def test_one_file_of_real_recordings(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "g1"
    shutil.copytree(shared / "data/g1_pick_bottle", root)
    config = partial(DataConfig, episodes=(29, 30, 31, 59, 82), validation_share=0.0)
    whole = open_dataset(config(roots=(str(root),)), 0).train
    path = root / "videos/chunk-000/observation.images.cam_high/episode_000030.mp4"
    path.chmod(0o644)
    overwrite(path)
    damaged = open_dataset(config(roots=(str(root),), quarantine=1), 0).train
    in_file = [p for p in range(whole.num_samples) if whole.locate(p)[0] == "g1/episode_000030"]
    left_out = void(damaged, in_file[::8])
    assert 0 < len(left_out) < len(in_file[::8])
    for position in range(0, whole.num_samples, 97):
        if whole.locate(position)[0] != "g1/episode_000030":
            assert_same(damaged[position], whole[position])


def test_a_damaged_table_is_refused_with_the_episodes_it_holds(needle: Path, copy: Path) -> None:
    """Rows that cannot be told apart cannot be left out one by one."""
    metadata = pq.read_metadata(needle / TABLE)
    group = metadata.row_group(2)
    column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema.startswith("act"))
    content = bytearray((copy / TABLE).read_bytes())
    start = column.data_page_offset
    content[start : start + column.total_compressed_size // 2] = b"\xff" * (column.total_compressed_size // 2)
    (copy / TABLE).write_bytes(content)
    first = metadata.row_group(0).num_rows + metadata.row_group(1).num_rows
    said = rf"file-000\.parquet is damaged in rows {first} to {first + group.num_rows - 1} \(episode 2\), column action"
    for quarantine in (0, 10):
        with pytest.raises(CorruptData, match=said):
            read(copy, quarantine)


def test_a_row_of_a_real_table_that_is_not_finite(needle: Path, copy: Path) -> None:
    whole = read(needle)
    episode, frame = whole.locate(0)
    table = pq.read_table(copy / TABLE)
    here = (table["episode_index"].to_numpy() == int(episode[-6:])) & (table["frame_index"].to_numpy() == frame)
    states = table["observation.state"].to_pylist()
    states[int(np.flatnonzero(here)[0])][4] = float("inf")
    changed = table.set_column(
        table.schema.get_field_index("observation.state"),
        table.schema.field("observation.state"),
        pa.array(states, table.schema.field("observation.state").type),
    )
    pq.write_table(changed, copy / TABLE)
    with pytest.raises(CorruptData, match=rf"{episode} has inf in state, row {frame}, dimension 4"):
        read(copy)
    damaged = read(copy, quarantine=1)
    assert void(damaged, range(40)) == [0]
    assert_others_same(damaged, whole, [0], range(0, 40, 5))
    assert damaged.fault(0) == f"{episode}, frame {frame} has inf in state: repair the data"


def test_a_damaged_image_in_a_table_and_one_in_a_folder(tmp_path: Path) -> None:
    def images(length: int) -> pa.Array:
        rows = []
        for number in range(length):
            content = BytesIO()
            PIL.Image.fromarray(numbered_frame(number)).save(content, "PNG")
            cut = content.getvalue()[: -40 if number == 3 else None]
            rows.append({"bytes": cut, "path": None} if number != 5 else None)
        return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    def left_out(samples: TrainSamples) -> list[Sample]:
        return [samples[position] for position in void(samples, range(samples.num_samples))]

    root = write_v2(tmp_path / "set", (12, 12, 12), columns={CAMERA: images}, camera="image")
    samples = read(root, quarantine=1)
    voids = left_out(samples)
    assert sorted(samples.locate(sample.position)[1] for sample in voids) == [3, 3, 5, 5]
    for sample in voids:
        fault = str(samples.fault(sample.position))
        assert f"{root}/data/chunk-00" in fault
        assert f"image {samples.locate(sample.position)[1]} of set/episode_00000" in fault
    recordings = write_windows(tmp_path / "recordings")
    images_of_one = sorted((recordings).rglob("View1/**/*.*g"))
    images_of_one[1].write_bytes(images_of_one[1].read_bytes()[:100])
    samples = open_dataset(DataConfig(roots=(str(recordings),), validation_share=0.0, quarantine=1), 0).train
    assert left_out(samples)
    assert all(images_of_one[1].name in str(samples.fault(sample.position)) for sample in left_out(samples))
