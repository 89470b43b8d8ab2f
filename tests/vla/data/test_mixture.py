"""What can be mixed, how episodes are split, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import SENSOR, FakeRoot
from vla.contract import DataContract, StreamContract
from vla.data.mixture import agree, check_config, split
from vla.settings import DataConfig

A, B = FakeRoot(name="a"), FakeRoot(name="b")


def contract_of(*roots: FakeRoot, **config: Any) -> DataContract:
    return agree([root.open().layout for root in roots], DataConfig(roots=("a", "b")[: len(roots)], **config))


def test_the_contract_of_one_root() -> None:
    contract = contract_of(A, horizon=5)
    assert contract.cameras == A.cameras
    assert (contract.state_dim, contract.action_dim, contract.horizon, contract.fps) == (3, 2, 5, 20.0)
    assert contract.streams == {"sensor": StreamContract(key=SENSOR, channels=2, samples=50, rate_hz=1000.0)}
    assert contract.action_names == ("a0", "a1")
    assert contract.action_periods == (0.0, 0.0)


def test_a_root_without_a_sensor_may_join() -> None:
    assert contract_of(replace(A, sensor=None), B) == contract_of(B)
    assert contract_of(replace(A, sensor=None)).streams == {}


def test_the_sensor_window_can_be_chosen() -> None:
    for words in (("10",), ("ft=10",), ("observation.ft=10",)):
        stream = contract_of(A, sensor_samples=words, sensor_rate_hz=("100",)).streams["sensor"]
        assert (stream.samples, stream.rate_hz) == (10, 100.0)
    slower = replace(B, sensor_hz=500.0)
    assert contract_of(A, slower, sensor_rate_hz=("500",)).streams["sensor"].rate_hz == 500.0
    assert contract_of(A, replace(B, sensor_hz=999.7)).streams["sensor"].rate_hz == 1000.0
    shorter = replace(B, sensor_samples=25)
    assert contract_of(A, shorter, sensor_samples=("25",)).streams["sensor"].samples == 25
    with pytest.raises(ValueError, match=r"names fft, which is no sensor stream of this training: did you mean ft\?"):
        contract_of(A, sensor_samples=("fft=10",))
    with pytest.raises(ValueError, match=r"a window of observation\.ft has 10,000,000,000 samples of 2 channels, more"):
        contract_of(A, sensor_samples=("1e10",))
    with pytest.raises(ValueError, match=r"has ft=10 observation\.ft=20, observation\.ft twice: say it once"):
        contract_of(A, sensor_samples=("ft=10", "observation.ft=20"))
    with pytest.raises(ValueError, match="sensor-samples has =10, expected a whole number"):
        contract_of(A, sensor_samples=("=10",))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(B, fps=30.0), "frames per second differ: 20.0 and 30.0"),
        (replace(B, state_dim=4), "state values differ: 3 and 4"),
        (replace(B, state_dim=0), "state values differ: 3 and 0"),
        (replace(B, action_dim=3), "action values differ: 2 and 3"),
        (replace(B, action_periods=(0.0, 360.0)), "angle periods differ"),
        (replace(B, sensor="observation.tactile"), "--data.sensor none"),
        (replace(B, sensor_channels=6), "of 6 channels"),
        (replace(B, sensor_hz=650.0), "--data.sensor-rate-hz"),
        (replace(B, sensor_samples=60), "--data.sensor-samples"),
        (replace(B, cameras=A.cameras[:1]), "wrist.*--data.cameras.*--data.missing-cameras mask"),
    ],
)
def test_what_cannot_be_mixed_is_refused(other: FakeRoot, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        contract_of(A, other)
    assert "b" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_names_that_differ_are_refused_and_absent_ones_are_not() -> None:
    layouts = [A.open().layout, B.open().layout]
    with pytest.raises(ValueError, match="action names differ: a0 a1 and x y"):
        agree([layouts[0], replace(layouts[1], action_names=("x", "y"))], DataConfig(roots=("a", "b")))
    contract = agree([replace(layouts[0], action_names=()), layouts[1]], DataConfig(roots=("a", "b")))
    assert contract.action_names == ("a0", "a1")
    stream, *felt = layouts[1].streams[SENSOR], *(layout.streams[SENSOR] for layout in layouts)
    felt = [
        replace(layout, streams={SENSOR: replace(stream, names=names)})
        for layout, names in (
            (layouts[0], ()),
            (layouts[1], ("fx", "fy")),
            (replace(layouts[1], root="c"), ("fy", "fx")),
        )
    ]
    assert agree(felt[:2], DataConfig(roots=("a", "b"))).streams["sensor"].names == ("fx", "fy")
    with pytest.raises(ValueError, match=r"b and .*c cannot be mixed, their channels of .* differ: fx fy and fy fx"):
        agree(felt, DataConfig(roots=("a", "b", "c")))


def test_units_that_differ_are_refused_whichever_roots_say_them() -> None:
    a, b = A.open().layout, B.open().layout
    c = replace(b, root="c")
    config = DataConfig(roots=("a", "b", "c"))
    silent = [a, replace(b, action_units=("deg", "")), replace(c, action_units=("deg", "mm"))]
    assert agree(silent, config).action_units == ("deg", "mm")
    with pytest.raises(ValueError, match=r"b and c cannot be mixed, their action units differ: deg and rad; train on"):
        agree([*silent[:2], replace(c, action_units=("rad", "mm"))], config)
    with pytest.raises(ValueError, match=r"b and c cannot be mixed, their state units differ: m and cm; .* or convert"):
        agree([a, replace(b, state_names=("x_m", "y_m", "grip")), replace(c, state_units=("cm",) * 3)], config)
    felt = [
        replace(layout, streams={SENSOR: replace(layout.streams[SENSOR], units=units)})
        for layout, units in ((a, ("N", "Nm")), (b, ()), (c, ("g", "Nm")))
    ]
    with pytest.raises(ValueError, match=rf"a and c cannot be mixed, their units of {SENSOR} differ: N and g"):
        agree(felt, config)


def test_masked_cameras_are_the_union() -> None:
    other = replace(B, cameras=("observation.images.side", A.cameras[0]))
    contract = contract_of(A, other, missing_cameras="mask")
    assert contract.cameras == (*A.cameras, "observation.images.side")


def test_a_sensor_window_without_a_sensor_is_refused() -> None:
    with pytest.raises(ValueError, match="--data.sensor KEY"):
        contract_of(replace(A, sensor=None), sensor_samples=("10",))


def test_companding_what_the_policy_is_not_given_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--data.compand names sensor, .*: leave that out"):
        contract_of(replace(A, sensor=None), compand=("actions", "sensor"))
    with pytest.raises(ValueError, match="--data.compand names state, "):
        contract_of(replace(A, state_dim=0), compand=("state",))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (DataConfig(), "--data.roots DIR"),
        (DataConfig(roots=("a", "a")), "a is given twice"),
        (DataConfig(roots=("a", "x/../a")), "given twice"),
        (DataConfig(roots=("a",), weights=(1.0, 2.0)), "2 weights were given for 1 roots"),
        (DataConfig(roots=("a", "b"), weights=(1.0, 0.0)), "--data.weights has 0"),
        (DataConfig(roots=("a", "b"), weights=(1.0, -1.0)), "--data.weights has -1"),
        (DataConfig(roots=("a", "b"), weights=(1.0, float("nan"))), "--data.weights has nan"),
        (DataConfig(roots=("a",), horizon=0), "--data.horizon is 0"),
        (DataConfig(roots=("a",), workers=-1), "--data.workers is -1"),
        (DataConfig(roots=("a",), sensor=()), "--data.sensor has no value"),
        (DataConfig(roots=("a",), sensor=("ft", "none")), "--data.sensor has none beside 1 more"),
        (DataConfig(roots=("a",), sensor=("ft", "ft")), "--data.sensor names ft twice"),
        (DataConfig(roots=("a",), sensor_samples=("0",)), "--data.sensor-samples has 0, expected a whole number"),
        (DataConfig(roots=("a",), sensor_samples=("ft=2.5",)), "--data.sensor-samples has ft=2.5, expected a whole"),
        (DataConfig(roots=("a",), sensor_samples=("ft=2", "ft=3")), "ft=2 ft=3, ft twice"),
        (DataConfig(roots=("a",), sensor_samples=("2", "ft=3")), "has 2 ft=3: give one number for every sensor stream"),
        (DataConfig(roots=("a",), sensor_rate_hz=("0",)), "--data.sensor-rate-hz has 0, expected a finite number"),
        (DataConfig(roots=("a",), sensor_rate_hz=("ft=inf",)), "--data.sensor-rate-hz has ft=inf"),
        (DataConfig(roots=("a",), sensor_rate_hz=("fast",)), "--data.sensor-rate-hz has fast"),
        (DataConfig(roots=("a",), sensor_weight=float("inf")), "--data.sensor-weight has inf"),
        (DataConfig(roots=("a",), validation_share=1.0), "--data.validation-share is 1"),
        (DataConfig(roots=("a",), validation_share=-0.1), "--data.validation-share is -0.1"),
        (DataConfig(roots=("a",), emphasis_share=0.0), "--data.emphasis-share is 0"),
        (DataConfig(roots=("a",), emphasis_share=1.0), "--data.emphasis-share is 1"),
        (DataConfig(roots=("a",), emphasis_share=float("nan")), "--data.emphasis-share is nan"),
        (DataConfig(roots=("a",), emphasis="phase"), "--data.emphasis is 'phase', expected COLUMN"),
    ],
)
def test_configurations_that_no_data_satisfies(config: DataConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_config(config)


def test_links_to_the_same_folder_are_the_same_root(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match="given twice"):
        check_config(DataConfig(roots=(str(tmp_path / "data"), str(tmp_path / "link"))))


@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=5).filter(lambda sizes: max(sizes) > 1),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_split_is_pure_and_leaves_each_root_something(sizes: list[int], share: float, seed: int) -> None:
    held_out = split(sizes, share, seed)
    assert held_out == split(sizes, share, seed)
    total = sum(map(len, held_out))
    assert (total > 0) == (share > 0)
    for places, size in zip(held_out, sizes, strict=True):
        assert len(set(places)) == len(places) < size
        assert all(0 <= place < size for place in places)
        assert abs(len(places) - share * size) <= 1


def test_the_split_depends_on_seed_and_root() -> None:
    assert len({split([100], 0.1, seed) for seed in range(5)}) == 5
    first, second = split([100, 100], 0.1, 0)
    assert first != second
    assert split([100], 0.1, 0)[0] == first  # another root leaves the split of the first alone
    counts = np.bincount([place for seed in range(500) for place in split([10], 0.2, seed)[0]], minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 30


def test_a_single_episode_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="--data.validation-share 0"):
        split([1], 0.1, 0)
    assert split([1], 0.0, 0) == ((),)
    assert split([2], 0.01, 0) in (((0,),), ((1,),))
