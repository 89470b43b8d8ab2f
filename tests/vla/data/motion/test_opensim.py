"""Tables of OpenSim and markers: against other readers, closed forms, and what bad files must say."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from scipy.signal import firwin

from vla.__main__ import main
from vla.data.episode import Episode
from vla.data.formats.motion.forces import grouped, sided
from vla.data.formats.motion.reader import open_motion
from vla.data.formats.motion.storage import on_even_clock, read_table, write_mot
from vla.data.formats.motion.trc import parse_trc
from vla.data.formats.motion.trials import same_trial, trial_of
from vla.data.selection import Selection
from vla.errors import CorruptData
from vla.motion import resampling
from vla.motion.clip import Coordinates
from vla.motion.representation import decode_coordinates
from vla.motion_settings import MotionConfig

TABLES = ("opensim_gait/*.mot", "opensim_gait/*.sto", "nimble_gait/*/*.mot")


def independent(file: Path) -> tuple[list[str], np.ndarray]:
    """Labels and rows of a table, read by nothing but splitting its text."""
    text = file.read_text()
    labels, *rows = [words for line in text[text.index("endheader") + 9 :].splitlines() if (words := line.split())]
    return labels[1:], np.array(rows, dtype=np.float64)


def test_rows_of_all_real_tables_are_what_another_reader_reads(shared: Path) -> None:
    files = sorted(file for pattern in TABLES for file in (shared / "data").glob(pattern))
    assert len(files) == 72
    for file in files:
        table, (labels, rows) = read_table(file), independent(file)
        rows = rows[np.concatenate([[True], np.diff(rows[:, 0]) != 0])]
        assert list(table.labels) == labels
        np.testing.assert_array_equal(table.times_s, rows[:, 0], err_msg=str(file))
        np.testing.assert_array_equal(table.values, rows[:, 1:], err_msg=str(file))


RATES = {
    "opensim_gait/subject01_walk1_ik.mot": 60.0,
    "opensim_gait/subject01_walk1_grf.mot": 600.0,
    "opensim_gait/gait10dof18musc_subject01_walk_grf.mot": 600.0,
    "opensim_gait/grf_walk.mot": 2000.0,
    "opensim_gait/coordinates.sto": 1000.0,
    "opensim_gait/runningModel_Kinematics_q.sto": 1000.0,
    "opensim_gait/gait10dof18musc_subject_adjusted_Kinematics_q.sto": 1000.0,
    "nimble_gait/Subject4/walking4_ik.mot": 100.0,
}
"""What the laboratories measured at; several write times in milliseconds or tenths of them."""


@pytest.mark.parametrize("name", RATES)
def test_rates_of_real_tables_are_found_behind_rounded_times(shared: Path, name: str) -> None:
    table = read_table(shared / "data" / name)
    regular = on_even_clock(table)
    assert regular.rate_hz == RATES[name]
    uneven = "adjusted" in name
    assert bool(regular.remarks) == uneven
    if not uneven:
        np.testing.assert_array_equal(regular.values, table.values)
    expected = np.stack([np.interp(expected_times(regular), table.times_s, own) for own in table.values.T], axis=1)
    if uneven:
        np.testing.assert_allclose(regular.values, expected, rtol=0, atol=1e-9)


def expected_times(regular: Any) -> np.ndarray:
    return regular.start_s + np.arange(len(regular.values)) / regular.rate_hz


def test_angles_say_their_unit_or_are_asked_for(shared: Path) -> None:
    folder = shared / "data"
    degrees = {
        "opensim_gait/subject01_walk1_ik.mot": None,
        "opensim_gait/runningModel_Kinematics_q.sto": True,  # by the sentence of its header alone
        "opensim_gait/gait10dof18musc_subject_adjusted_Kinematics_q.sto": True,
        "opensim_gait/coordinates.sto": False,
        "nimble_gait/Subject4/walking1_ik.mot": False,
        "nimble_gait/Subject4/walking1_grf.mot": None,
    }
    assert {name: read_table(folder / name).degrees for name in degrees} == degrees
    silent = folder / "opensim_gait/subject01_walk1_ik.mot"
    with pytest.raises(ValueError, match=r"give `--data\.motion\.angles deg`, or rad"):
        open_motion(silent)
    rows = {}
    for unit in ("deg", "rad"):
        (episode,) = opened(silent, angles=unit, rate_hz=60.0).episodes
        rows[unit] = episode.actions.values
    labels, values = independent(silent)
    names = opened(silent, angles="deg", rate_hz=60.0).layout.action_names
    knee = names.index("knee_angle_r")
    np.testing.assert_allclose(rows["deg"][:, knee], np.radians(values[:, 1 + labels.index("knee_angle_r")]), rtol=1e-6)
    np.testing.assert_allclose(rows["deg"][:, names.index("root.height")], values[:, 1 + labels.index("pelvis_ty")])


def opened(root: Path, **asked: Any) -> Any:
    return open_motion(root, Selection(motion=MotionConfig(**asked)))


def test_a_trial_is_its_coordinates_and_the_forces_beside_them(shared: Path) -> None:
    """Equal to what is in the two files, at their own rate; where a force acts is seen from below the pelvis."""
    folder = shared / "data/nimble_gait/Subject4"
    reader = opened(folder, rate_hz=100.0)
    assert len(reader.episodes) == 24
    episode = next(episode for episode in reader.episodes if episode.name.endswith("/walking1_ik"))
    labels, body = independent(folder / "walking1_ik.mot")
    force_labels, forces = independent(folder / "walking1_grf.mot")
    named = dict(zip(reader.layout.action_names, episode.actions.values.T, strict=True))
    for label in set(labels) - {"pelvis_tx", "pelvis_ty", "pelvis_tz"}:
        np.testing.assert_allclose(named[label], body[:, 1 + labels.index(label)], rtol=0, atol=1e-6)
    place = body[:, 1 + labels.index("pelvis_tx")]
    np.testing.assert_allclose(named["root.velocity.x"][:-1], np.diff(place) * 100, rtol=0, atol=1e-5)
    np.testing.assert_allclose(named["root.height"], body[:, 1 + labels.index("pelvis_ty")], rtol=0, atol=1e-6)
    for plate in "12":
        raw = {part: forces[:, 1 + force_labels.index(f"ground_force_{plate}_{part}")] for part in ("vy", "px", "mz")}
        own = {key: episode.columns[f"force.plate{plate}.{key}"][:, 0] for key in ("vy", "px_root", "mz")}
        np.testing.assert_allclose(own["vy"], raw["vy"], rtol=1e-6)
        np.testing.assert_allclose(own["mz"], raw["mz"], rtol=1e-6)
        on = raw["vy"] != 0
        assert on.any() and not on.all()
        np.testing.assert_allclose(own["px_root"][on], (raw["px"] - place)[on], rtol=0, atol=1e-6)
        assert np.isnan(own["px_root"][~on]).all(), "a force of 0 acts nowhere"
    said = "\n".join(reader.layout.remarks)
    assert "plates, not of feet" in said and "in the air or beside the plate" in said
    assert reader.layout.body.kind == "coordinates"
    assert dict(zip(reader.layout.action_names, reader.layout.action_units, strict=True))["knee_angle_r"] == "rad"


def test_where_somebody_stands_does_not_matter(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/nimble_gait/Subject4"
    labels, rows = independent(source / "walking1_ik.mot")
    force_labels, forces = independent(source / "walking1_grf.mot")
    values: dict[str, Episode] = {}
    for name, shift in (("here", 0.0), ("there", 7.0)):
        folder = tmp_path / name
        folder.mkdir()
        moved, pushed = rows.copy(), forces.copy()
        moved[:, 1 + labels.index("pelvis_tx")] += shift
        pushed[:, [1 + place for place, label in enumerate(force_labels) if label.endswith("_px")]] += shift
        write(folder / "walk_ik.mot", labels, moved)
        write(folder / "walk_grf.mot", force_labels, pushed)
        (values[name],) = opened(folder).episodes
    np.testing.assert_allclose(values["here"].actions.values, values["there"].actions.values, rtol=0, atol=2e-5)
    for key, column in values["here"].columns.items():
        np.testing.assert_allclose(column, values["there"].columns[key], rtol=0, atol=2e-4, err_msg=key)


def write(file: Path, labels: list[str], rows: np.ndarray, head: str = "inDegrees=no\n") -> Path:
    lines = ["\t".join(map(repr, row)) for row in rows.tolist()]
    file.write_text("\n".join([f"{file.stem}\n{head}endheader", "\t".join(["time", *labels]), *lines]) + "\n")
    return file


def test_real_forces_of_2000_hz_keep_their_level_at_100_hz(shared: Path) -> None:
    """A constant from the first sample to the last, impulses, and what an independent filter of scipy gives inside."""
    labels, rows = independent(shared / "data/opensim_gait/grf_walk.mot")
    force = rows[:, 1 + labels.index("ground_force_r_vy")]
    constant = np.full((len(force), 1), 816.4)
    when = resampling.times(len(force), 2000.0, 100.0)
    np.testing.assert_allclose(resampling.quantity(constant, 2000.0, when, 100.0), 816.4, rtol=0, atol=1e-6)
    found = resampling.quantity(force[:, None], 2000.0, when, 100.0)[:, 0]
    assert len(found) == 239
    impulse = np.trapezoid(force, dx=1 / 2000)
    assert np.trapezoid(found, dx=1 / 100) == pytest.approx(impulse, rel=2e-3)
    kernel = firwin(481, 40.0, fs=2000.0)
    inside = np.convolve(force, kernel, mode="same")[np.rint(when * 2000).astype(int)]
    assert np.abs(found - inside)[30:-30].max() < 0.03 * force.max()
    assert np.abs(found - inside)[30:-30].mean() < 0.004 * force.max()


def test_a_gap_in_forces_spreads_no_further_than_to_its_edges() -> None:
    """NaN where a sample lies within or beside the gap, the constant everywhere else."""
    values = np.full((4000, 2), 700.0)
    values[1000:1100, 1] = np.nan
    when = resampling.times(4000, 2000.0, 100.0)
    found = resampling.quantity(values, 2000.0, when, 100.0)
    np.testing.assert_allclose(found[:, 0], 700.0, rtol=0, atol=1e-6)
    lost = np.isnan(found[:, 1])
    frames = when * 2000
    np.testing.assert_array_equal(lost, (frames > 999) & (frames < 1100))
    np.testing.assert_allclose(found[~lost], 700.0, rtol=0, atol=1e-6)
    assert np.isnan(resampling.quantity(values[1000:1100, 1:], 2000.0, np.zeros(3), 100.0)).all()
    outside = resampling.quantity(values, 2000.0, np.array([-0.01, 0.0, 1.9995, 2.1]), 100.0)
    np.testing.assert_array_equal(np.isnan(outside[:, 0]), [True, False, False, True])


@given(
    st.floats(59, 2000),
    st.floats(10, 100),
    st.integers(3, 300),
    st.floats(-2000, 2000),
    st.floats(0, 0.9),
)
def test_forces_of_any_rate_keep_a_constant_on_any_clock(
    rate: float, target: float, frames: int, level: float, late: float
) -> None:
    when = late / target + np.arange(int((frames - 1) / rate * target)) / target
    when = when[when <= (frames - 1) / rate]
    found = resampling.quantity(np.full((frames, 1), level), rate, when, target)
    np.testing.assert_allclose(found, level, rtol=0, atol=1e-6)


def test_labels_have_sides_where_they_say_so() -> None:
    def named(*stems: str) -> list[str]:
        labels = [label for stem in stems for label in stem.split()]
        return list(sided(grouped(labels))[0])

    assert named("ground_force_r_vx ground_force_r_px", "ground_force_l_vx") == ["right", "left"]
    assert named("R_ground_force_vx", "L_ground_force_vx", "L_ground_torque_x") == ["right", "left"]
    assert named("ground_force_calcn_r_vx", "ground_force_calcn_l_vx") == ["right", "left"]
    assert named("ground_force_1_vx", "ground_force_2_vx", "ground_force_3_mx") == ["plate1", "plate2", "plate3"]
    assert named("ground_force_vx", "1_ground_force_vx") == ["plate1", "plate2"]
    assert named("ground_force_vx", "ground_force_vx") == ["plate1", "plate2"], "labels may be the same"
    assert named("ground_force_vx", "l_ground_force_vx") == ["right", "left"]
    assert "taken for that of the other foot" in sided(grouped(["ground_force_vx", "l_ground_force_vx"]))[1][0]
    forces = grouped(["l_ground_force_vx", "l_ground_force_py", "l_ground_torque_z", "ground_force_r_mx"])
    assert forces == {("l", 0): {"vx": 0, "py": 1, "mz": 2}, ("r", 0): {"mx": 3}}


def test_files_of_a_trial_are_found_by_their_names(tmp_path: Path) -> None:
    names = {
        "walk1_ik.mot": "walk1", "walk1_grf.mot": "walk1", "grf_walk1.mot": "walk1", "id_walk1.sto": "walk1",
        "walk1_Kinematics_q.sto": "walk1", "walk1_forces.mot": "walk1", "coordinates.sto": "coordinates",
        "walk10_ik.mot": "walk10", "my_walk1_id.sto": "my_walk1",
    }  # fmt: skip
    assert {name: trial_of(Path(name)) for name in names} == names
    for name in ("IK/walk1_ik.mot", "ID/walk1_grf.mot", "ID/walk1_id.sto", "other/walk1_grf.mot", "ID/walk2_grf.mot"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = same_trial(tmp_path / "IK/walk1_ik.mot")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["ID/walk1_grf.mot", "ID/walk1_id.sto"]


def test_loads_of_joints_are_columns_too(tmp_path: Path) -> None:
    times = np.arange(50) / 100
    knee = np.sin(times)
    write(tmp_path / "w_ik.mot", ["pelvis_ty", "knee_angle_r"], np.stack([times, times, knee], axis=1))
    write(tmp_path / "id_w.sto", ["knee_angle_r_moment", "pelvis_ty_force"], np.stack([times, 3 * times, knee], axis=1))
    reader = opened(tmp_path, rate_hz=100.0)
    (episode,) = reader.episodes
    np.testing.assert_allclose(episode.columns["load.knee_angle_r_moment"][:, 0], 3 * times, rtol=0, atol=1e-6)
    np.testing.assert_allclose(episode.columns["load.pelvis_ty_force"][:, 0], knee, rtol=0, atol=1e-6)


def test_forces_of_a_part_of_a_trial_are_said_and_two_files_of_them_refused(tmp_path: Path) -> None:
    times = np.arange(100) / 100
    write(tmp_path / "w_ik.mot", ["pelvis_ty"], np.stack([times, 1 + 0 * times], axis=1))
    force = np.stack([times[30:80], 500 + 0 * times[30:80]], axis=1)
    write(tmp_path / "w_grf.mot", ["ground_force_l_vy"], force)
    reader = opened(tmp_path, rate_hz=100.0)
    found = reader.episodes[0].columns["force.left.vy"][:, 0]
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(found)), np.arange(30, 80))
    np.testing.assert_allclose(found[30:80], 500)
    assert "not measured from its first frame to its last" in "\n".join(reader.layout.remarks)
    write(tmp_path / "w_forces.mot", ["ground_force_l_vy"], force)
    with pytest.raises(ValueError, match=r"w_grf\.mot holds forces or loads that another file of its trial holds too"):
        opened(tmp_path)


def test_angles_that_jump_by_a_turn_are_made_one_motion(tmp_path: Path) -> None:
    times = np.arange(200) / 100
    true = 3.0 + np.sin(2 * times)
    wrapped = (true + math.pi) % (2 * math.pi) - math.pi
    write(tmp_path / "w_ik.mot", ["pelvis_ty", "arm_rot_r"], np.stack([times, times, wrapped], axis=1))
    (episode,) = opened(tmp_path, rate_hz=100.0).episodes
    turns = (episode.actions.values[:, 1] - true) / (2 * math.pi)
    np.testing.assert_allclose(turns, round(float(turns[0])), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["nimble_gait/Subject4/walkingTI1_ik.mot", "opensim_gait/coordinates.sto"])
def test_coordinates_come_back_from_rows_and_files(shared: Path, tmp_path: Path, name: str) -> None:
    """Rows to coordinates, to a .mot file, to rows: the same numbers; the walk's path from its start."""
    import torch

    rate = RATES.get(name, 100.0)
    reader = opened(shared / "data" / name, rate_hz=rate)
    (episode,) = reader.episodes
    body = reader.layout.body
    rows = torch.from_numpy(np.array(episode.actions.values, np.float64))
    values = decode_coordinates(body, rows, rate).numpy()
    labels, raw = independent(shared / "data" / name)
    place = next(place for place, label in enumerate(labels) if "pelvis_tx" in label)
    walked = raw[:, 1 + place] - raw[0, 1 + place]
    np.testing.assert_allclose(values[:, body.joints.index("pelvis_tx")], walked, rtol=0, atol=1e-4)
    file = tmp_path / "again.mot"
    write_mot(file, Coordinates(names=body.joints, values=values), rate)
    table = read_table(file)
    assert table.degrees is False and table.labels == body.joints
    np.testing.assert_array_equal(table.values, values)
    (again,) = opened(file, rate_hz=rate).episodes
    np.testing.assert_allclose(again.actions.values, episode.actions.values, rtol=0, atol=2e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["again.mot"]


def test_coordinates_are_exported_as_tables_and_as_nothing_else(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At their own rate, in m and rad; a file of forces alone is left out and said."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("subject01_walk1_ik.mot", "subject01_walk1_grf.mot", "grf_walk.mot"):
        (source / name).write_bytes((shared / "data/opensim_gait" / name).read_bytes())
    words = ["export", str(source), str(tmp_path / "made"), "--data.motion.angles", "deg", "--format"]
    assert main([*words, "mot"]) == 0
    said = capsys.readouterr().err
    assert "grf_walk.mot is left out: it holds forces" in said and "not written: force.right, force.left" in said
    table = read_table(tmp_path / "made/subject01_walk1_ik.mot")
    labels, rows = independent(source / "subject01_walk1_ik.mot")
    knee = table.values[:, table.labels.index("knee_angle_r")]
    np.testing.assert_array_equal(knee, rows[:, 1 + labels.index("knee_angle_r")] * (np.pi / 180))
    np.testing.assert_allclose(table.times_s, np.arange(73) / 60, rtol=0, atol=1e-12)
    for other, why in (("bvh", "it has no skeleton"), ("npz", "coordinates of a model are written with --format mot")):
        assert main([words[0], words[1], str(tmp_path / other), *words[3:], other]) == 78
        assert why in capsys.readouterr().err
        assert not (tmp_path / other).exists()


def test_a_motion_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are not finite: leave out what was not measured"):
        write_mot(tmp_path / "a.mot", Coordinates(names=("pelvis_tx",), values=np.array([[0.0], [np.nan]])), 100.0)
    assert not list(tmp_path.iterdir())


LABELS = ["pelvis_tx", "pelvis_ty", "knee_angle_r"]


def table_of(rate_hz: float = 100.0, frames: int = 40) -> np.ndarray:
    times = np.arange(frames) / rate_hz
    return np.stack([times, times, 1 + 0.1 * times, np.cos(times)], axis=1)


HEADERS = {
    "SIMM": "\n/* some\nname x\ndatacolumns 4\ndatarows 40\notherdata 1\nrange 0 1\n",
    "nothing": "",
    "spaces": "  nRows = 40\n  nColumns=4\n  inDegrees = NO \n",
    "wrong counts": "nRows=30\nnColumns=9\n",
    "4.x": "DataType=double\nversion=3\nOpenSimVersion=4.5\n",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_every_program_are_read(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / "a.mot", LABELS, table_of(), HEADERS[kind])
    table = read_table(file)
    np.testing.assert_array_equal(table.values, table_of()[:, 1:])
    assert table.degrees is (False if kind == "spaces" else None)
    assert bool(table.remarks) == (kind == "wrong counts")
    assert len(opened(file, angles="rad").episodes) == 1


def test_frames_that_were_not_measured_are_masked(tmp_path: Path) -> None:
    rows = table_of()
    rows[10:13, 3] = np.nan
    (episode,) = opened(write(tmp_path / "a.mot", LABELS, rows), rate_hz=100.0).episodes
    assert len(episode.timestamps) == 37 and np.isfinite(episode.actions.values).all()
    assert not set(np.rint(episode.timestamps * 100).astype(int)) & {10, 11, 12}
    text = (tmp_path / "a.mot").read_text().replace("nan", "-1.#IND")
    (tmp_path / "b.mot").write_text(text)
    np.testing.assert_array_equal(read_table(tmp_path / "b.mot").values, rows[:, 1:])
    (tmp_path / "b.mot").write_text(text.replace("-1.#IND", ""))
    np.testing.assert_array_equal(read_table(tmp_path / "b.mot").values, rows[:, 1:])


def test_a_hole_in_time_is_masked_and_equal_times_are_left_out(tmp_path: Path) -> None:
    rows = table_of(frames=60)
    holed = np.concatenate([rows[:20], rows[40:], rows[-1:]])
    reader = opened(write(tmp_path / "a.mot", LABELS, holed), rate_hz=100.0)
    (episode,) = reader.episodes
    frames = np.rint(episode.timestamps * 100).astype(int)
    np.testing.assert_array_equal(frames, [*range(20), *range(40, 60)])
    said = "\n".join(reader.layout.remarks)
    assert "even clock of their usual rate" in said and "time of the row before it is left out" in said
    np.testing.assert_allclose(episode.actions.values[:, 2], np.cos(frames / 100), rtol=0, atol=1e-6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(rate=st.floats(59, 2000), decimals=st.integers(3, 8))
@example(rate=120.0, decimals=3)
@example(rate=600.0, decimals=4)
def test_times_that_were_rounded_are_an_even_clock(tmp_path: Path, rate: float, decimals: int) -> None:
    """Unless they were rounded to a quarter of a period; and a row that is lost among them is found."""
    assume(10.0**-decimals < 0.25 / rate)
    rows = table_of(rate, 300)
    rows[:, 0] = np.round(rows[:, 0], decimals)
    regular = on_even_clock(read_table(write(tmp_path / "a.mot", LABELS, rows)))
    assert regular.rate_hz == pytest.approx(rate, rel=2e-4 + 10.0**-decimals * rate / 299)
    np.testing.assert_array_equal(regular.values, rows[:, 1:])
    lacking = write(tmp_path / "b.mot", LABELS, np.delete(rows, 150, axis=0))
    assert "uneven times" in on_even_clock(read_table(lacking)).remarks[0]


BAD = {
    "backwards": (lambda text: text.replace("0.05\t", "0.02\t", 1), CorruptData, "time runs backwards, from 0.04 to"),
    "cut short": (lambda text: text[:-30], CorruptData, "has 1 values for 4 labels"),
    "word": (lambda text: text.replace("0.05\t", "0.05x\t", 1), CorruptData, "row 5, holds what is no number"),
    "no header": (lambda text: text.partition("endheader\n")[2], CorruptData, "no line `endheader`"),
    "no labels": (lambda text: text.replace("time", "t", 1), CorruptData, "no labels that begin with time"),
    "one row": (lambda text: text.partition("0.01\t")[0], CorruptData, "has 1 rows, a motion has two at least"),
    "half said": (lambda text: text.replace("=no", "=true"), ValueError, "inDegrees=true, which programs read in two"),
    "vectors": (lambda text: "DataType=Vec3\n" + text, ValueError, "holds Vec3, where numbers are expected"),
    "two knees": (
        lambda text: text.replace("pelvis_tx", "knee_angle_r"), CorruptData, "two columns are called knee_angle_r and"
    ),
    "no pelvis": (lambda text: text.replace("pelvis_", "shank_"), ValueError, "no coordinate of a pelvis, force under"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_table_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    change, error, words = BAD[kind]
    file = write(tmp_path / "a.mot", LABELS, table_of())
    file.write_text(change(file.read_text()))
    with pytest.raises(error, match=words) as raised:
        opened(tmp_path)
    assert str(file) in str(raised.value) or str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(error):
        opened(tmp_path)  # what was refused is not taken for known


def test_what_cannot_be_read_is_told_at_every_start(tmp_path: Path) -> None:
    write(tmp_path / "good.mot", LABELS, table_of())
    write(tmp_path / "worse.mot", LABELS, table_of()[::-1])
    for _ in range(2):
        problems: list[ValueError] = []
        reader = open_motion(tmp_path, Selection(), problems.append)
        assert [episode.name.rpartition("/")[2] for episode in reader.episodes] == ["good"]
        (problem,) = problems
        assert "worse.mot: time runs backwards" in str(problem)


def test_the_same_column_twice_is_one(tmp_path: Path) -> None:
    rows = table_of()
    file = write(tmp_path / "a.mot", [*LABELS, "knee_angle_r"], np.concatenate([rows, rows[:, -1:]], axis=1))
    assert opened(file).layout.action_dim == 3


def test_angles_that_cannot_be_radians_are_said(tmp_path: Path) -> None:
    rows = table_of()
    rows[:, 3] *= 60
    reader = opened(write(tmp_path / "a.mot", LABELS, rows))
    assert any("angles reach 60 rad, as if they were in degrees" in remark for remark in reader.layout.remarks)


# Markers.


def test_real_markers_are_where_another_reader_has_them(shared: Path) -> None:
    file = shared / "data/opensim_gait/markers_walk.trc"
    lines = file.read_text().splitlines()
    names = lines[3].split()[2:]
    rows = np.array([line.split() for line in lines[5:] if line.split()], dtype=np.float64)
    found, unit, table = parse_trc(file)
    assert (list(found), unit) == (names, "mm") and len(names) == 41
    np.testing.assert_array_equal(table.times_s, rows[:, 1])
    np.testing.assert_array_equal(table.values, rows[:, 2:])
    reader = opened(file, rate_hz=100.0)
    (episode,) = reader.episodes
    joints = reader.layout.body.joints
    assert reader.layout.body.kind == "positions" and joints[:4] == ("L.ASIS", "L.PSIS", "R.ASIS", "R.PSIS")
    assert joints[4:] == tuple(sorted(set(names) - {*joints[:4]}))
    order = [names.index(joint) for joint in joints]
    assert "y is up, as shoulders and feet say" in "\n".join(reader.layout.remarks)
    places = rows[:, 2:].reshape(len(rows), 41, 3) / 1000
    heights = episode.actions.values[:, 3:].reshape(len(rows), 41, 3)[..., 1]
    np.testing.assert_allclose(heights, places[:, order, 1], rtol=0, atol=1e-6)
    walked = np.linalg.norm(np.diff(places[:, order[0]][:, [0, 2]], axis=0), axis=1) * 100
    found_speed = np.linalg.norm(episode.actions.values[:-1, :2], axis=1)
    np.testing.assert_allclose(found_speed, walked, rtol=0, atol=1e-4)


def trc(file: Path, places: np.ndarray, names: list[str], unit: str = "mm", rate_hz: float = 100.0) -> Path:
    head = [
        "PathFileType\t4\t(X/Y/Z)\tx.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate_hz}\t{rate_hz}\t{len(places)}\t{len(names)}\t{unit}\t{rate_hz}\t1\t{len(places)}",
        "Frame#\tTime\t" + "\t\t\t".join(names),
        "\t\t" + "\t".join(f"{axis}{number + 1}" for number in range(len(names)) for axis in "XYZ"),
        "",
    ]
    lines = [
        "\t".join(
            [str(frame + 1), repr(frame / rate_hz), *("" if np.isnan(x) else repr(x) for x in row.ravel().tolist())]
        )
        for frame, row in enumerate(places)
    ]
    file.write_text("\n".join([*head, *lines]) + "\n")
    return file


MARKERS = ["R.Shoulder", "L.Shoulder", "R.Heel", "L.Heel", "Lost"]


def standing(frames: int = 30) -> np.ndarray:
    """mm, y up, facing x."""
    one = np.array([[0, 1400, 200], [0, 1400, -200], [0, 50, 100], [0, 50, -100], [np.nan] * 3], dtype=np.float64)
    walk = np.zeros((frames, 5, 3))
    walk[..., 0] = 10 * np.arange(frames)[:, None]
    return one + walk


@pytest.mark.parametrize(("axis", "order"), [("y", (0, 1, 2)), ("z", (2, 0, 1)), ("x", (1, 2, 0))])
def test_markers_say_which_axis_is_up(tmp_path: Path, axis: str, order: tuple[int, ...]) -> None:
    file = trc(tmp_path / "a.trc", standing()[..., order], MARKERS)
    reader = opened(file, rate_hz=100.0)
    (episode,) = reader.episodes
    said = "\n".join(reader.layout.remarks)
    assert f"{axis} is up, as shoulders and feet say" in said and "never seen are left out: Lost" in said
    heights = episode.actions.values[:, 3:].reshape(30, 4, 3)[..., 1]
    np.testing.assert_allclose(heights, [[0.05, 1.4, 0.05, 1.4]] * 30, rtol=0, atol=1e-6)  # by the alphabet
    np.testing.assert_allclose(episode.actions.values[:, :3], [[0.0, 1.0, 0.0]] * 30, rtol=0, atol=1e-5)


def test_markers_that_were_hidden_mask_their_frames(tmp_path: Path) -> None:
    places = standing()
    places[5:8, 2] = np.nan
    places[20, 1] = 0.0
    places[-1, 3] = np.nan  # an empty end of the line
    (episode,) = opened(trc(tmp_path / "a.trc", places, MARKERS), rate_hz=100.0).episodes
    kept = np.rint(episode.timestamps * 100).astype(int)
    np.testing.assert_array_equal(kept, sorted(set(range(30)) - {5, 6, 7, 20, 29}))


BAD_MARKERS = {
    "unit": (lambda text: text.replace("\tmm\t", "\tfurlong\t"), ValueError, "says 'furlong' for the unit"),
    "axis": (lambda text: text.replace("Heel", "Elbow"), ValueError, r"give `--data\.motion\.up y`, or x or z"),
    "no head": (lambda text: text.replace("Frame#", "Frames"), CorruptData, "a line that begins with Frame#"),
    "two of a name": (lambda text: text.replace("L.Heel", "R.Heel"), CorruptData, "or two of one: name each once"),
    "wide": (lambda text: text.replace("\n1\t", "\n1\t1\t1\t1\t1\t"), CorruptData, "values for 17 labels"),
    "nobody": (lambda text: text.replace("Shoulder", "Ear").replace("Heel", "Toe"), ValueError, "say which axis is up"),
}


@pytest.mark.parametrize("kind", BAD_MARKERS)
def test_a_bad_file_of_markers_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    change, error, words = BAD_MARKERS[kind]
    file = trc(tmp_path / "a.trc", np.nan_to_num(standing(), nan=1.0), MARKERS)
    file.write_text(change(file.read_text()))
    with pytest.raises(error, match=words) as raised:
        opened(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_unit_that_a_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    file = trc(tmp_path / "a.trc", standing(), MARKERS)
    file.write_text(file.read_text().replace("Units", "Other"))
    with pytest.raises(ValueError, match=r"does not say the unit of its lengths: give `--data\.motion\.unit mm`"):
        opened(file)
    (episode,) = opened(file, unit="cm", rate_hz=100.0).episodes
    assert episode.actions.values[0, 7] == pytest.approx(14.0)
