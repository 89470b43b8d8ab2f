"""What a sample holds, told by streams whose values are their own time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import SENSOR, FakeFrames, FakeRoot, clock, encoded
from vla.batch import Sample
from vla.contract import StreamContract
from vla.data.episode import FRAME_TOLERANCE_S, Episode, Stream
from vla.data.mixture import agree
from vla.data.window import Window
from vla.errors import CorruptData
from vla.settings import DataConfig

RATES_HZ = (5.0, 100.0, 650.0, 1000.0)
every_rate = pytest.mark.parametrize("rate_hz", RATES_HZ)


def window_of(root: FakeRoot, sensor: dict[str, object] | None = None, **changes: object) -> Window:
    contract = agree([root.open().layout], DataConfig(horizon=8))
    streams = {name: replace(stream, **(sensor or {})) for name, stream in contract.streams.items()}
    contract = replace(contract, streams=streams, **changes)
    return Window(
        contract=contract,
        periods_s={SENSOR: 1 / root.sensor_hz},
        sensor_weight=2.0,
        frame_sizes=dict.fromkeys(contract.cameras, (6, 8)),
    )


def cut(window: Window, episode: Episode, index: int) -> Sample:
    return window.cut(episode, index, 0)


def jittered(rate_hz: float, seconds: float, start: float, seed: int) -> np.ndarray:
    """A free-running clock: offset, and each tick off by up to 30 % of a period."""
    randomness = np.random.default_rng(seed)
    ticks = np.arange(round(seconds * rate_hz))
    return start + (ticks + randomness.uniform(-0.3, 0.3, len(ticks))) / rate_hz


@every_rate
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    start=st.floats(-0.3, 0.3),
    fps=st.sampled_from([5.0, 10.0, 20.0, 30.0]),
    camera_hz=st.sampled_from([2.0, 5.0, 10.0, 30.0]),
)
def test_nothing_is_later_than_now(rate_hz: float, seed: int, start: float, fps: float, camera_hz: float) -> None:
    root = FakeRoot(lengths=(round(4 * fps),), fps=fps, sensor_hz=rate_hz, sensor_samples=20)
    streams = [encoded(jittered(rate_hz, 4, start, seed + place), 1) for place in range(2)]
    camera = FakeFrames(timestamps=jittered(camera_hz, 4, start, seed + 2))
    cameras = dict.fromkeys(root.cameras, camera)
    episode = replace(root.episode(0), streams={SENSOR: streams[0]}, state=streams[1], cameras=cameras)
    window = window_of(root, {"channels": 1}, state_dim=1)
    for index in list(window.frames(episode))[::7]:
        now = episode.timestamps[index]
        sample = cut(window, episode, int(index))
        held = sample.streams["sensor"].values[sample.streams["sensor"].valid, 0]
        assert (held <= np.float32(now)).all()
        times = streams[1].timestamps
        assert sample.state[0] == np.float32(times[times <= now][-1])
        if sample.image_valid[0]:
            assert camera.timestamps[sample.images[0][0, 0, 0]] <= now + FRAME_TOLERANCE_S
            later = camera.timestamps[camera.timestamps > now + FRAME_TOLERANCE_S]
            assert sample.images[0][0, 0, 0] == len(camera.timestamps) - len(later) - 1
        times = now - np.arange(19, -1, -1) / rate_hz
        skew = times[sample.streams["sensor"].valid] - held
        assert (skew <= 1.5 / rate_hz + 1e-6).all()
        assert (skew >= -0.011 / rate_hz - 1e-6).all()


@every_rate
def test_a_window_on_the_sensors_own_clock_is_its_last_samples(rate_hz: float) -> None:
    """Float32 clocks neither double nor skip a sample, and the skew stays below a period."""
    root = FakeRoot(lengths=(600,), fps=20.0, sensor_hz=rate_hz, sensor_samples=20, sensor_channels=1)
    episode, window = root.episode(0), window_of(root)
    for index in range(0, 600, 13):
        sample = cut(window, episode, index)
        now = episode.timestamps[index]
        times = now - np.arange(19, -1, -1) / rate_hz
        newest = int(np.searchsorted(episode.streams[SENSOR].timestamps, now, side="right"))
        assert sample.streams["sensor"].valid.tolist() == (times >= -0.01 / rate_hz).tolist()
        expected = episode.streams[SENSOR].values[max(0, newest - 20) : newest, 0]
        reading = sample.streams["sensor"]
        assert reading.values[reading.valid, 0].tolist() == expected[-reading.valid.sum() :].tolist()
        skew = times[reading.valid] - reading.values[reading.valid, 0]
        assert (np.abs(skew) < 1 / rate_hz).all()


def test_a_sample_a_hair_after_now_is_not_read() -> None:
    root = FakeRoot(sensor_hz=100.0, sensor_samples=3, sensor_channels=1)
    now = root.episode(0).timestamps[5]
    sensor = encoded(np.array([now - 0.02, now - 0.01, np.nextafter(now, 1)]), 1)
    sample = cut(window_of(root), replace(root.episode(0), streams={SENSOR: sensor}), 5)
    assert sample.streams["sensor"].values[:, 0].tolist() == pytest.approx([now - 0.02, now - 0.01, now - 0.01])
    sensor = encoded(np.array([now - 0.02, now - 0.01, now]), 1)
    sample = cut(window_of(root), replace(root.episode(0), streams={SENSOR: sensor}), 5)
    assert sample.streams["sensor"].values[-1, 0] == np.float32(now)


def test_the_start_of_an_episode_is_masked() -> None:
    root = FakeRoot(sensor_hz=1000.0, sensor_samples=100)
    sample = cut(window_of(root), root.episode(0), 1)  # 0.05 s in: samples 0 to 50 exist
    assert sample.streams["sensor"].valid.tolist() == [False] * 49 + [True] * 51
    assert (sample.streams["sensor"].values[~sample.streams["sensor"].valid] == 0).all()
    np.testing.assert_allclose(sample.streams["sensor"].values[49:, 0], np.arange(51) / 1000, atol=1e-6)
    assert sample.weight == 2.0


def test_a_gap_is_masked_and_an_old_value_not_held_for_ever() -> None:
    root = FakeRoot(sensor_hz=1000.0, sensor_samples=100)
    episode = root.episode(0)
    times = episode.streams[SENSOR].timestamps
    kept = (times < 0.4195) | (times > 0.4605)
    taken = Stream(timestamps=times[kept], values=episode.streams[SENSOR].values[kept])
    episode = replace(episode, streams={SENSOR: taken})
    sample = cut(window_of(root), episode, 10)  # now 0.5 s
    at = np.round((0.5 - np.arange(99, -1, -1) / 1000) * 1000).astype(int)
    assert sample.streams["sensor"].valid.tolist() == [not 420 < tick < 461 for tick in at]  # 419 stands for 420, too


@pytest.mark.parametrize(("window_hz", "sensor_hz"), [(100.0, 1000.0), (1000.0, 100.0), (50.0, 650.0)])
def test_other_rates_are_held(window_hz: float, sensor_hz: float) -> None:
    root = FakeRoot(sensor_hz=sensor_hz, sensor_channels=1)
    sample = cut(window_of(root, {"rate_hz": window_hz, "samples": 20}), root.episode(0), 15)
    assert sample.streams["sensor"].valid.all()
    times = 0.75 - np.arange(19, -1, -1) / window_hz
    skew = times - sample.streams["sensor"].values[:, 0]
    assert (skew > -1e-6 - 0.01 / sensor_hz).all()
    assert (skew < 1 / sensor_hz + 1e-6).all()


@pytest.mark.parametrize(
    "streams", [{}, {SENSOR: Stream(timestamps=np.zeros(0), values=np.zeros((0, 2), dtype=np.float32))}]
)
def test_a_missing_sensor_is_zeros_of_weight_one(streams: dict[str, Stream]) -> None:
    root = FakeRoot()
    sample = cut(window_of(root), replace(root.episode(0), streams=streams, confidence=np.arange(20) / 10), 5)
    assert sample.streams["sensor"].values.shape == (50, 2)
    assert not sample.streams["sensor"].values.any()
    assert not sample.streams["sensor"].valid.any()
    assert sample.weight == 0.5


def test_each_sensor_stream_has_a_window_of_its_own() -> None:
    """Samples hold their own times: at 1 kHz and at 60 Hz, and whichever of the two an episode lacks."""
    root, pad = FakeRoot(lengths=(100,)), "observation.tactile"
    slow = StreamContract(key=pad, channels=3, samples=12, rate_hz=60.0)
    window = window_of(root)
    fast = window.contract.streams["sensor"]
    contract = replace(window.contract, streams={"sensor/ft": fast, "sensor/tactile": slow})
    window = replace(window, contract=contract, periods_s={SENSOR: 0.001, pad: 1 / 60})
    episode = root.episode(0)
    both = {SENSOR: episode.streams[SENSOR], pad: encoded(np.arange(300) / 60, 3)}
    for keys in ((SENSOR, pad), (SENSOR,), (pad,), ()):
        sample = cut(window, replace(episode, streams={key: both[key] for key in keys}), 40)  # now 2 s
        assert list(sample.streams) == ["sensor/ft", "sensor/tactile"]
        ft, tactile = sample.streams.values()
        assert (ft.values.shape, tactile.values.shape) == ((50, 2), (12, 3))
        assert (ft.valid.all(), tactile.valid.all()) == (SENSOR in keys, pad in keys)
        assert (ft.valid.any(), tactile.valid.any()) == (SENSOR in keys, pad in keys)
        assert sample.weight == (2.0 if keys else 1.0)
        if SENSOR in keys:
            np.testing.assert_allclose(ft.values[:, 0], 2 - np.arange(49, -1, -1) / 1000, atol=1e-6)
        if pad in keys:
            np.testing.assert_allclose(tactile.values[:, 0], np.arange(109, 121) / 60, atol=1e-6)


def test_a_root_without_sensor_and_state_has_width_zero() -> None:
    root = FakeRoot(sensor=None, state_dim=0)
    sample = cut(window_of(root), root.episode(0), 5)
    assert sample.streams == {}
    assert sample.state.shape == (0,)
    assert sample.weight == 1.0


@pytest.mark.parametrize("fps", [5.0, 20.0, 30.0, 29.97])
def test_actions_are_the_next_steps_and_tails_are_masked(fps: float) -> None:
    root = FakeRoot(lengths=(1000,), fps=fps)
    episode, window = root.episode(0), window_of(root)
    for index in (0, 500, 992, 993, 997, 999):
        sample = cut(window, episode, index)
        expected = np.minimum(np.arange(index, index + 8), 999)
        np.testing.assert_array_equal(sample.actions, episode.actions.values[expected])
        assert sample.action_valid.tolist() == [index + step <= 999 for step in range(8)]


def test_a_dropped_frame_masks_its_step() -> None:
    root = FakeRoot(lengths=(20,))
    episode = root.episode(0)
    kept = np.arange(20) != 7
    actions = Stream(timestamps=episode.timestamps[kept], values=episode.actions.values[kept])
    episode = replace(
        episode, timestamps=episode.timestamps[kept], confidence=episode.confidence[kept], actions=actions
    )
    sample = cut(window_of(root), episode, 5)
    assert sample.action_valid.tolist() == [True, True, False, True, True, True, True, True]
    np.testing.assert_allclose(sample.actions[3:, 0], np.arange(8, 13) / 20, atol=1e-6)


def test_actions_of_another_clock_are_the_nearest() -> None:
    root = FakeRoot(lengths=(40,), fps=10.0)
    episode = replace(root.episode(0), actions=encoded(clock(4, 100.0, start=0.003), 2))
    sample = cut(window_of(root), episode, 3)
    np.testing.assert_allclose(sample.actions[:, 0], 0.3 + np.arange(8) / 10 + 0.003, atol=1e-6)
    assert sample.action_valid.all()


def test_frames_without_an_action_or_a_state_are_not_sampled() -> None:
    root = FakeRoot(lengths=(20,), fps=10.0)
    window, episode = window_of(root), root.episode(0)
    assert window.frames(episode) == range(20)
    late = replace(episode, state=encoded(clock(1.5, 100.0, start=0.25), 3))
    assert list(window.frames(late)) == list(range(3, 20))
    short = replace(episode, actions=encoded(clock(1.0, 10.0), 2))
    assert list(window.frames(short)) == list(range(10))


@pytest.mark.parametrize("error_s", [-4e-4, -1e-9, 0.0, 1e-9, 4e-4])
def test_a_frame_stamped_with_a_rounding_error_is_nows_own(error_s: float) -> None:
    root = FakeRoot(fps=30.0, lengths=(60,))
    episode = root.episode(0)
    camera = FakeFrames(timestamps=episode.timestamps + error_s)
    episode = replace(episode, cameras=dict.fromkeys(root.cameras, camera))
    window = window_of(root)
    assert [cut(window, episode, index).images[1][0, 0, 0] for index in range(60)] == list(range(60))


def test_a_slow_camera_shows_its_last_frame() -> None:
    root = FakeRoot(fps=20.0)
    camera = FakeFrames(timestamps=clock(1.0, 5.0, start=0.07))
    episode = replace(root.episode(0), cameras={root.cameras[0]: camera, root.cameras[1]: camera})
    window = window_of(root)
    assert not cut(window, episode, 1).image_valid.any()  # 0.05 s: it has not started
    assert [cut(window, episode, index).images[0][0, 0, 0] for index in (2, 5, 6, 12)] == [0, 0, 1, 2]


def test_a_missing_camera_is_black_and_not_valid() -> None:
    root = FakeRoot(without_wrist=(0,))
    window = replace(window_of(root), frame_sizes={"observation.images.wrist": (4, 9)})
    sample = cut(window, root.episode(0), 5)
    assert sample.image_valid.tolist() == [True, False]
    assert sample.images[0][0, 0, 0] == 5
    assert sample.images[1].shape == (3, 4, 9)
    assert not sample.images[1].any()


def test_cameras_stand_in_the_order_of_the_contract() -> None:
    root = FakeRoot()
    cameras = {
        root.cameras[1]: FakeFrames(timestamps=clock(1, 20.0), height=3),
        root.cameras[0]: FakeFrames(timestamps=clock(1, 20.0), height=5),
    }
    sample = cut(window_of(root), replace(root.episode(0), cameras=cameras), 0)
    assert [image.shape[1] for image in sample.images] == [5, 3]


def test_a_frame_that_cannot_be_decoded_is_named() -> None:
    root = FakeRoot(broken_frames=(7,))
    window = window_of(root)
    cut(window, root.episode(2), 6)
    with pytest.raises(CorruptData, match=r"root/episode_000002, observation.images.\w+, frame 7: front.mp4"):
        cut(window, root.episode(2), 7)


def test_streams_are_read_by_slices_only() -> None:
    """A memory map of a table need not support more, and only what a window needs is read."""

    class Sliced(np.ndarray):
        reads: Sequence[int] = ()

        def __getitem__(self, key: object) -> np.ndarray:
            assert isinstance(key, slice | int | np.integer)
            part = np.asarray(self).__getitem__(key)
            assert part.size <= 4 * 60
            return part

    root = FakeRoot(lengths=(2000,))
    episode = root.episode(0)
    lazy = {
        kind: Stream(timestamps=stream.timestamps, values=stream.values.view(Sliced))
        for kind, stream in (("actions", episode.actions), ("state", episode.state), (SENSOR, episode.streams[SENSOR]))
    }
    lazy["streams"] = {SENSOR: lazy.pop(SENSOR)}
    expected = cut(window_of(root), episode, 1000)
    sample = cut(window_of(root), replace(episode, **lazy), 1000)
    np.testing.assert_array_equal(sample.streams["sensor"].values, expected.streams["sensor"].values)
    np.testing.assert_array_equal(sample.actions, expected.actions)
