"""Markers in c3d files, written by the package c3d: places, units, axes, what was not seen, where a body faces."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import c3d
import numpy as np
import pytest

from tests.vla.data.motion.clips import by_name, course_deg, files_of, points, read
from vla.errors import CorruptData, MissingPackage
from vla.motion.clip import Points, Poses
from vla.motion.conversion import rows_of

PLUG_IN = {
    "LASI": "lfemur",
    "RASI": "rfemur",
    "LSHO": "lhumerus",
    "RSHO": "rhumerus",
    "C7": "lowerneck",
    "LTOE": "ltoes",
}
"""Markers, and the joint of cmu_walks near which each would be."""
FRAMES = np.arange(24, dtype=np.float32).reshape(2, 4, 3) * 100
LABELS = ("RASI", "C7", "LASI", "LTOE")


def written(
    folder: Path,
    values: np.ndarray = FRAMES,
    labels: Sequence[str] = LABELS,
    *,
    unit: str | None = "mm",
    screen: tuple[str, str] | None = ("+X", "+Z"),
    missing: Sequence[tuple[int, int]] = (),
    others: dict[str, Sequence[str]] | None = None,
    rate_hz: float = 100.0,
) -> Path:
    """A file with places (T, N, 3) and, of other parameters, lists of labels."""
    path = folder / "trial.c3d"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of analog channels that there are none
        writer = c3d.Writer(point_rate=rate_hz, point_scale=-1.0, point_units=unit or "")
        writer.set_point_labels(labels)
        if screen is not None:
            writer.set_screen_axis(*screen)
        for name, listed in (others or {}).items():
            text, width = c3d.Writer.pack_labels(listed)
            writer.point_group.add_str(name, "", text, width, len(listed))
        rows = np.zeros((*values.shape[:2], 5), np.float32)
        rows[..., :3] = values
        for frame, marker in missing:
            rows[frame, marker] = [0, 0, 0, -1, -1]
        writer.add_frames([(row, np.zeros((0, 0))) for row in rows])
        with path.open("wb") as file:
            writer.write(file)
    return path


def test_places_are_in_metres_with_y_up_and_the_pelvis_first(tmp_path: Path) -> None:
    clip = read(written(tmp_path))
    assert isinstance(clip.body, Points)
    assert (clip.name, clip.rate_hz, clip.remarks) == ("trial", 100.0, ())
    assert (clip.body.names, clip.body.unit, clip.body.parents) == (("LASI", "RASI", "C7", "LTOE"), "m", ())
    x, y, z = FRAMES[:, [2, 0, 1, 3]].transpose(2, 0, 1) / 1000
    np.testing.assert_allclose(clip.body.values, np.stack([x, z, -y], axis=-1), atol=1e-6)


@pytest.mark.parametrize(
    ("unit", "metres"), [("m", 1.0), ("cm", 0.01), ("mm", 0.001), ("MM  ", 0.001), ("meters", 1.0)]
)
def test_units_that_a_file_says(tmp_path: Path, unit: str, metres: float) -> None:
    body = points(written(tmp_path, unit=unit), unit="ft")
    np.testing.assert_allclose(np.abs(body.values).max(), metres * FRAMES.max(), rtol=1e-6)


@pytest.mark.parametrize(("screen", "up"), [(("+X", "+Y"), "y"), (("+Y", "+Z"), "z"), (("+Z", "+X"), "x")])
def test_axes_that_a_file_says(tmp_path: Path, screen: tuple[str, str], up: str) -> None:
    path = written(tmp_path, screen=screen)
    np.testing.assert_array_equal(points(path).values, points(path, up=up).values)
    height = points(path).values[..., 1]
    np.testing.assert_allclose(height, FRAMES[:, [2, 0, 1, 3], "xyz".index(up)] / 1000, atol=1e-6)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"unit": None}, r"--data\.motion\.unit"),
        ({"unit": "furlong"}, r"--data\.motion\.unit"),
        ({"screen": None}, r"--data\.motion\.up"),
        ({"screen": ("-X", "-Z")}, r"--data\.motion\.up"),
    ],
)
def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path, others: dict[str, Any], said: str) -> None:
    path = written(tmp_path, **others)
    with pytest.raises(ValueError, match=said):
        read(path)
    read(path, unit="cm", up="z")


def test_a_frame_without_a_marker_was_not_measured(tmp_path: Path) -> None:
    values = np.tile(FRAMES, (2, 1, 1))
    clip = read(written(tmp_path, values, missing=[(1, 0), (3, 2), (3, 3)]))
    assert clip.valid is not None
    assert clip.valid.tolist() == [True, False, True, False]
    rows = rows_of(clip, rate_hz=100.0, kind=None, keep_all=False, given={})
    assert rows.valid.tolist() == [True, False, True, False]
    assert np.isfinite(rows.values).all()


def test_what_is_no_marker_is_left_out_and_said(tmp_path: Path) -> None:
    labels = ("Ann:LASI", "Ann:RASI", "*17", "", "Ann:LKneeAngles", "Ann:RKneeForce", "Ann:LTOE")
    values = np.ones((2, 7, 3), np.float32)
    others = {"ANGLES": ["Ann:LKneeAngles"], "FORCES": ["Ann:RKneeForce", "Ann:LKneeForce"]}
    clip = read(written(tmp_path, values, labels, missing=[(0, 6), (1, 6)], others=others))
    assert isinstance(clip.body, Points)
    assert clip.body.names == ("LASI", "RASI")
    assert clip.remarks == (
        "4 points without a name, or that are no places, are left out",
        "markers never seen are left out: LTOE",
    )
    assert clip.valid is not None
    assert clip.valid.all()


def test_names_of_several_subjects_stay_apart(tmp_path: Path) -> None:
    assert points(written(tmp_path, labels=("A:LASI", "A:RASI", "B:LASI", "B:RASI"))).names[0] == "A:LASI"


def test_more_labels_than_a_parameter_holds(tmp_path: Path) -> None:
    labels = [f"M{number}" for number in range(300)]
    values = np.ones((1, 300, 3), np.float32) * np.arange(300)[:, None]
    path = written(tmp_path, values, labels[:255], others={"LABELS2": labels[255:], "DESCRIPTIONS": ["-"]})
    body = points(path)
    assert body.values[0, body.names.index("M299"), 0] == pytest.approx(0.299)


def walker(shared: Path, folder: Path, names: dict[str, str]) -> tuple[Path, Poses]:
    """Markers where the joints of a real walk are, in mm with z up; and the walk."""
    clip = read(files_of(shared, "cmu_walks", ".npz")[0])
    assert isinstance(clip.body, Poses)
    at = by_name(clip.body)
    x, y, z = np.stack([at[joint] for joint in names.values()], axis=1).transpose(2, 0, 1) * 1000
    return written(folder, np.stack([x, -z, y], axis=-1), [*names], rate_hz=60.0), clip.body


def test_a_walker_faces_where_it_goes(shared: Path, tmp_path: Path) -> None:
    path, body = walker(shared, tmp_path, PLUG_IN)
    clip = read(path)
    assert isinstance(clip.body, Points)
    assert abs(course_deg(clip)) < 10
    for name, own in zip(clip.body.names, clip.body.values.transpose(1, 0, 2), strict=True):
        np.testing.assert_allclose(own, by_name(body)[PLUG_IN[name]], atol=1e-5)


def test_markers_of_other_names_are_named(shared: Path, tmp_path: Path) -> None:
    """Heading needs hips or shoulders: who has other names says which they are."""
    path, _ = walker(shared, tmp_path, {"M1": "lfemur", "M2": "rfemur", "M3": "lowerneck"})
    with pytest.raises(ValueError, match=r"M1 M2 M3 .*--data\.motion\.joints left_hip=M1 right_hip=M3"):
        course_deg(read(path))
    assert abs(course_deg(read(path), left_hip="M1", right_hip="M2")) < 10
    with pytest.raises(ValueError, match="no joint M9 for left_hip"):
        course_deg(read(path), left_hip="M9", right_hip="M2")


def test_rotations_of_markers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--data\.motion\.representation positions"):
        rows_of(read(written(tmp_path)), rate_hz=20.0, kind="rotations", keep_all=False, given={})


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = written(tmp_path, np.tile(FRAMES, (40, 1, 1)))
    whole = path.read_bytes()
    for end in [*range(0, 3000, 61), *range(3000, len(whole) - 512, 511)]:
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptData, match=r"trial\.c3d"):
            read(path)


def test_markers_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="two markers LASI"):
        read(written(tmp_path, labels=("LASI", "RASI", "LASI", "C7")))


def test_without_the_package_the_sentence_has_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setitem(sys.modules, "c3d", None)
    with pytest.raises(
        MissingPackage, match=r"c3d, which is not installed; give `pip install 'touchstone-vla\[motion\]'`"
    ):
        read(path)
