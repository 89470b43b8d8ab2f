"""poselib's files: what they say, and that nothing in one is executed."""

import collections
import contextlib
import io
import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tests.vla.data.motion.clips import body_of_sticks, by_name, placed, poses, read, some_motion, tree
from vla.data.formats.motion.arrays_only import read_objects
from vla.data.formats.motion.files import kind_of
from vla.errors import CorruptData, ForeignLayout
from vla.motion.clip import Poses


def tensor(values: np.ndarray) -> dict[str, Any]:
    return {"arr": values, "context": {"dtype": values.dtype.name}}


def content_of(body: Poses, **others: Any) -> collections.OrderedDict[str, Any]:
    """What poselib writes of a motion, by its description."""
    turns = np.ascontiguousarray(body.turns, np.float32)
    tree = collections.OrderedDict(
        node_names=list(body.skeleton.names),
        parent_indices=tensor(np.array(body.skeleton.parents)),
        local_translation=tensor(body.skeleton.offsets.astype(np.float32)),
    )
    return collections.OrderedDict(
        {
            "rotation": tensor(turns),
            "root_translation": tensor(body.root.astype(np.float32)),
            "global_velocity": tensor(np.zeros((len(body), len(body.skeleton), 3), np.float32)),
            "global_angular_velocity": tensor(np.zeros((len(body), len(body.skeleton), 3), np.float32)),
            "skeleton_tree": tree,
            "is_local": True,
            "fps": np.array(60),
            "__name__": "SkeletonMotion",
            **others,
        }
    )


def saved(path: Path, content: Any) -> Path:
    np.save(path, content, allow_pickle=True)
    return path


def pickled(path: Path, payload: bytes) -> Path:
    """An npy file of one object, whose pickle is given."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(head.getvalue() + payload)
    return path


@pytest.fixture
def body() -> Poses:
    return some_motion(body_of_sticks())


def test_it_is_read_as_it_is_written(body: Poses, tmp_path: Path) -> None:
    clip = read(saved(tmp_path / "walk.npy", content_of(body)))
    assert isinstance(clip.body, Poses)
    assert (clip.name, clip.rate_hz, clip.body.skeleton.names[0]) == ("walk", 60.0, "pelvis")
    for name, places in by_name(clip.body).items():
        np.testing.assert_allclose(places, by_name(body)[name], atol=1e-6)


@pytest.mark.parametrize("name", ["walk", "cartwheel"])
def test_a_real_motion_is_that_of_its_npz(shared: Path, tmp_path: Path, name: str) -> None:
    """The clips of amp_cmu_motions were files of poselib: put back into one, they give the same, z up and all."""
    npz = shared / "data/amp_cmu_motions" / f"amp_humanoid_{name}.npz"
    values = np.load(npz, allow_pickle=False)
    content = collections.OrderedDict(
        rotation=tensor(values["rotation_xyzw"]),
        root_translation=tensor(values["root_translation"]),
        skeleton_tree=collections.OrderedDict(
            node_names=values["node_names"].tolist(),
            parent_indices=tensor(values["parent_indices"]),
            local_translation=tensor(values["local_translation"]),
        ),
        is_local=True,
        fps=np.array(int(values["fps"])),
        __name__="SkeletonMotion",
    )
    first, second = read(saved(tmp_path / npz.stem, content).with_suffix(".npy")), read(npz)
    assert isinstance(first.body, Poses)
    assert isinstance(second.body, Poses)
    assert first.body.skeleton == second.body.skeleton
    np.testing.assert_array_equal(first.body.turns, second.body.turns)
    np.testing.assert_array_equal(first.body.root, second.body.root)
    assert (first.rate_hz, first.remarks) == (second.rate_hz, ("z is up, as the skeleton at rest says",))


def test_a_body_of_z_up_stands_along_y_moving_and_at_rest(shared: Path) -> None:
    """Where scipy puts its joints, turned by a quarter about x; and a file of it without a word on axes stands, too."""
    npz = shared / "data/amp_cmu_motions/amp_humanoid_walk.npz"
    values = np.load(npz, allow_pickle=False)
    names, parents = values["node_names"].tolist(), values["parent_indices"].tolist()
    offsets = values["local_translation"] * (np.array(parents) >= 0)[:, None]
    turns = {name: Rotation.from_quat(values["rotation_xyzw"][:, joint]) for joint, name in enumerate(names)}
    quarter = Rotation.from_euler("x", -90, degrees=True)
    body = poses(npz)
    for name, places in placed(tree(names, parents, offsets), values["root_translation"], turns).items():
        np.testing.assert_allclose(by_name(body)[name], quarter.apply(places), atol=1e-6)
    at_rest = dict(zip(body.skeleton.names, body.skeleton.rest, strict=True))
    assert at_rest["head"][1] > 0.4
    assert at_rest["left_foot"][1] < -0.8


def test_turns_against_the_world_are_made_such_against_parents(body: Poses, tmp_path: Path) -> None:
    world: dict[str, Rotation] = {}
    for joint, (name, parent) in enumerate(zip(body.skeleton.names, body.skeleton.parents, strict=True)):
        own = Rotation.from_quat(body.turns[:, joint])
        world[name] = own if parent < 0 else world[body.skeleton.names[parent]] * own
    turns = np.stack([world[name].as_quat() for name in body.skeleton.names], axis=1).astype(np.float32)
    path = saved(tmp_path / "global.npy", content_of(body, rotation=tensor(turns), is_local=False))
    local = {name: Rotation.from_quat(body.turns[:, joint]) for joint, name in enumerate(body.skeleton.names)}
    for name, places in placed(body.skeleton, body.root, local).items():
        np.testing.assert_allclose(by_name(poses(path))[name], places, atol=1e-5)


def legacy(content: Any, protocol: int, module: bytes) -> bytes:
    """A pickle as an older numpy or Python writes it."""
    data = pickle.dumps(np.array(content, dtype=object), protocol=protocol)
    return data.replace(b"numpy._core.multiarray", module) if protocol < 4 else data


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_older_files_are_read(body: Poses, tmp_path: Path, protocol: int) -> None:
    content = content_of(body)
    content["fps"] = np.int32(50)
    path = pickled(tmp_path / "old.npy", legacy(content, protocol, b"numpy.core.multiarray"))
    if protocol == 2:
        with pytest.raises(ForeignLayout, match=r"_codecs\.encode"):
            read(path)
    else:
        assert read(path).rate_hz == 50.0


# What a hostile file may try.


class Calls:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def build(state: bytes) -> bytes:
    """A pickle that sets the state of a class that may be named: what stands for numpy's arrays."""
    return b"\x80\x03cnumpy\nndarray\n" + state + b"b."


def hostile(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would create the canary, or change our classes, and what their refusal names."""
    touch = f"touch {canary}".encode()
    call = pickle.dumps(Calls(Path.touch, canary), protocol=3)
    return {
        "reduce": (call, r"builtins\.getattr"),
        "system": (b"cos\nsystem\n(X" + len(touch).to_bytes(4, "little") + touch + b"tR.", r"os\.system"),
        "posix": (pickle.dumps(Calls(os.system, touch.decode())), r"posix\.system"),
        "inst": (b"(S'" + touch + b"'\nios\nsystem\n.", r"os\.system"),
        "stack": (pickle.dumps(Calls(eval, f"open({str(canary)!r}, 'w')"), protocol=4), r"builtins\.eval"),
        "inside": (pickle.dumps({"rotation": [1, Calls(open, str(canary), "w")]}, protocol=2), r"\.open"),
        "in an array": (pickle.dumps(np.array([Calls(os.mkdir, str(canary))], dtype=object)), r"posix\.mkdir"),
        "attribute": (b"\x80\x04cnumpy\n_core.os.system\n(X" + b"\x01\x00\x00\x00xtR.", r"numpy\._core\.os\.system"),
        "frombuffer": (b"cnumpy.core.numeric\n_frombuffer\n.", r"_frombuffer"),
        "class": (pickle.dumps(Path("x")), r"pathlib"),
        "persistent": (b"\x80\x03Pid\n.", "cannot be read"),
        "extension": (b"\x80\x03\x82\x01.", "cannot be read"),
        "class state": (build(b"}X\x05\x00\x00\x00givenK\x01s"), "cannot be read"),
        "class slots": (build(b"N}X\x0c\x00\x00\x00__setstate__K\x01s\x86"), "cannot be read"),
        "bytes": (b"\x80\x03C\x04abcd.", "type bytes"),
        "a type": (b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R.", "type type"),
        "numpy itself": (b"\x80\x03cnumpy\nndarray\n.", "type type"),
    }


@pytest.mark.parametrize("name", [*hostile(Path("canary"))])
def test_nothing_of_a_file_is_executed(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    payload, said = hostile(canary)[name]
    path = pickled(tmp_path / "clip.npy", payload)
    assert kind_of(path) == "poselib"
    with pytest.raises(ValueError, match=said) as refused:
        read(path)
    assert isinstance(refused.value, CorruptData if said == "cannot be read" else ForeignLayout)
    assert str(path) in str(refused.value)
    assert not canary.exists()
    check_still_reads(tmp_path)


def test_the_canary_sings_where_it_is_let(tmp_path: Path) -> None:
    """The same files would do harm in numpy's own reader."""
    path = pickled(tmp_path / "clip.npy", hostile(tmp_path / "canary")["reduce"][0])
    np.load(path, allow_pickle=True)
    assert (tmp_path / "canary").exists()


def check_still_reads(folder: Path) -> None:
    """No file has changed what the next one meets."""
    path = saved(folder / "next.npy", content_of(some_motion(body_of_sticks())))
    assert read(path).rate_hz == 60.0


def array_of(kind: Any, shape: Any, content: Any, text: str = "f4") -> bytes:
    """A pickle of an array as numpy writes it, with a state of our choice."""

    class Other:
        def __reduce__(self) -> tuple[Any, ...]:
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(text), kind, content)

    return pickle.dumps(Other(), protocol=3)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (array_of(False, (3,), b"\0" * 8), CorruptData),
        (array_of(False, (-1, 2), b"\0" * 7), CorruptData),
        (array_of(False, ("x",), b"\0" * 8), CorruptData),
        (array_of(False, (2,), 5), CorruptData),
        (array_of(False, 2, b"\0" * 8), ForeignLayout),
        (array_of(False, (), [], "O"), CorruptData),
        (array_of(False, (1,), b"\0" * 8, "O"), ForeignLayout),
        (array_of(False, (1,), b"\0" * 8, "M8"), ForeignLayout),
        (array_of(False, (1,), b"\0" * 16, "f4,i4"), ForeignLayout),
        (b"\x80\x03]q\x00h\x00a.", CorruptData),  # a list that holds itself
        (b"\x80\x03}r\xff\xff\xff\x7f.", CorruptData),  # would remember two thousand million things
        (b"", CorruptData),
        (b".", CorruptData),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path: Path, payload: bytes, error: type[ValueError]) -> None:
    with pytest.raises(error, match=r"clip\.npy"):
        read_objects(pickled(tmp_path / "clip.npy", payload))


@given(st.data())
def test_any_damage_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = saved(folder / "clip.npy", content_of(some_motion(body_of_sticks(), frames=2))).read_bytes()
    begin = 128
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(begin, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(begin, len(whole))))
    (folder / "clip.npy").write_bytes(damaged[:end])
    with contextlib.suppress(ValueError):  # whatever else there is, ends the test
        read(folder / "clip.npy")


def test_other_things_of_poselib_are_named(body: Poses, tmp_path: Path) -> None:
    with pytest.raises(ForeignLayout, match="SkeletonState"):
        read(saved(tmp_path / "pose.npy", content_of(body, __name__="SkeletonState")))
    with pytest.raises(ForeignLayout, match="holds list"):
        read(saved(tmp_path / "list.npy", np.array([1, "a", None], dtype=object)))
    lacking = content_of(body)
    del lacking["skeleton_tree"]
    with pytest.raises(CorruptData, match="skeleton_tree"):
        read(saved(tmp_path / "lacking.npy", lacking))
    with pytest.raises(CorruptData, match="do not fit"):
        read(saved(tmp_path / "short.npy", content_of(body, root_translation=tensor(np.zeros((3, 3), np.float32)))))
    with pytest.raises(CorruptData, match="0 frames a second"):
        read(saved(tmp_path / "still.npy", content_of(body, fps=0)))
    np.save(tmp_path / "numbers.npy", np.zeros((3, 263)))
    assert kind_of(tmp_path / "numbers.npy") is None


def test_the_pickles_here_are_what_they_seem() -> None:
    """Each is a whole program, so that what refuses it is our reader."""
    for payload, _ in hostile(Path("canary")).values():
        assert list(pickletools.genops(payload))[-1][0].name == "STOP"
