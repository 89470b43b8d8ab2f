"""Depth as a picture: each spelling that data store it in, against the arithmetic done again with numpy and PyAV."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from tests.vla.data.recordings import CAMERA, write_v2
from vla import documents
from vla.contract import DataContract, DepthRange
from vla.data.dataset import Dataset, open_dataset
from vla.data.doctor import examine
from vla.data.selection import Selection
from vla.depth import parse_depth
from vla.environment import observe
from vla.settings import DataConfig

NEAR, FAR = 0.2, 1.5
LENGTHS = (6, 6)
MILLIMETRES = np.linspace(0, 2000, 64 * 96).reshape(64, 96).round().astype(np.uint16)
"""No return, nearer than near, all between, farther than far."""


def picture(metres: np.ndarray) -> np.ndarray:
    """Red, green and blue, a pixel at a time and in other words than the product's."""
    image = np.zeros((3, *metres.shape), np.uint8)
    for place in np.ndindex(metres.shape):
        distance = float(metres[place])
        if not (0 < distance < float("inf")):
            continue
        distance = min(max(distance, NEAR), FAR)
        image[(0, *place)] = round(255 * (distance - NEAR) / (FAR - NEAR))
        image[(1, *place)] = round(255 * NEAR * (FAR - distance) / (distance * (FAR - NEAR)))
        image[(2, *place)] = 255
    return image


def of_images(root: Path, values: np.ndarray, info: dict[str, Any], form: str) -> Path:
    """A camera of images in the table."""
    stream = io.BytesIO()
    PIL.Image.fromarray(values).save(stream, format=form)
    column = {CAMERA: lambda length: pa.array([{"bytes": stream.getvalue(), "path": None}] * length)}
    write_v2(root, LENGTHS, camera="image", columns=column)
    return described(root, info)


def of_videos(
    root: Path, values: np.ndarray, info: dict[str, Any], *, codec: str, pixels: str, options: dict[str, str]
) -> Path:
    """A camera of videos whose first channel holds these numbers."""
    write_v2(root, LENGTHS)
    for path in root.rglob("*.mp4"):
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=20, options=options)
            stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
            for _ in range(LENGTHS[0]):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(values, format=pixels)))
            file.mux(stream.encode(None))
    return described(root, info)


def described(root: Path, info: dict[str, Any]) -> Path:
    path = root / "meta/info.json"
    document = json.loads(path.read_text())
    document["features"][CAMERA] |= {"shape": [64, 96, 1], "info": info}
    path.write_text(json.dumps(document))
    return root


LEROBOT = {"video.depth_min": 0.01, "video.depth_max": 10.0, "video.shift": 3.5, "video.use_log": True}
LEROBOT |= {"is_depth_map": True, "depth_unit": "mm"}
LOSSLESS = {"codec": "libx265", "pixels": "gray12le", "options": {"x265-params": "lossless=1:log-level=0"}}


def levels(metres: np.ndarray) -> np.ndarray:
    """LeRobot's 12-bit levels, as its description says."""
    low, high = np.log(0.01 + 3.5), np.log(10 + 3.5)
    share = (np.log(metres + 3.5) - low) / (high - low)
    return np.rint(4095 * share).clip(0, 4095).astype(np.uint16)


def undone(stored: np.ndarray) -> np.ndarray:
    low, high = np.log(0.01 + 3.5), np.log(10 + 3.5)
    return np.where(stored == 0, np.nan, np.exp(low + stored / 4095 * (high - low)) - 3.5)


def floats(odd: float = np.nan) -> np.ndarray:
    metres = (MILLIMETRES / 1000).astype(np.float32)
    metres[5] = odd
    return metres


MAKERS: dict[str, tuple[Callable[[Path], Path], np.ndarray]] = {
    "png in mm": (lambda root: of_images(root, MILLIMETRES, {}, "PNG"), MILLIMETRES / 1000),
    "png of 0.1 mm, marked": (
        lambda root: of_images(root, MILLIMETRES, {"is_depth_map": True, "depth_unit": "0.1mm"}, "PNG"),
        MILLIMETRES / 10_000,
    ),
    "tiff of whole mm": (lambda root: of_images(root, MILLIMETRES, {"depth_unit": "mm"}, "TIFF"), MILLIMETRES / 1000),
    "tiff of floats": (lambda root: of_images(root, floats(), {"is_depth_map": True}, "TIFF"), floats()),
    "tiff of floats in mm": (
        lambda root: of_images(root, 1000 * floats(np.inf), {"depth_unit": "millimeters"}, "TIFF"),
        floats(np.inf),
    ),
    "8 bits of cm": (
        lambda root: of_images(root, (MILLIMETRES // 10).astype(np.uint8), {"depth_unit": "cm"}, "PNG"),
        MILLIMETRES // 10 / 100,
    ),
    "16 bits in a video": (
        lambda root: of_videos(root, MILLIMETRES, {}, codec="ffv1", pixels="gray16le", options={}),
        MILLIMETRES / 1000,
    ),
    "10 bits of 2 mm": (
        lambda root: of_videos(
            root, MILLIMETRES // 2, {"depth_unit": "2mm"}, codec="ffv1", pixels="gray10le", options={}
        ),
        MILLIMETRES // 2 * 0.002,
    ),
    "lerobot's levels": (
        lambda root: of_videos(root, levels(MILLIMETRES / 1000), LEROBOT, **LOSSLESS),
        undone(levels(MILLIMETRES / 1000)),
    ),
    "linear levels": (
        lambda root: of_videos(root, MILLIMETRES, LEROBOT | {"video.use_log": False}, **LOSSLESS),
        np.where(MILLIMETRES == 0, np.nan, 0.01 + MILLIMETRES / 4095 * 9.99),
    ),
}


def opened(root: Path, *words: str, **config: Any) -> Dataset:
    return open_dataset(DataConfig(roots=(str(root),), horizon=4, workers=0, depth=words, **config), 0)


@pytest.mark.parametrize("spelling", MAKERS)
def test_depth_is_read_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    make, metres = MAKERS[spelling]
    root = make(tmp_path / "set")
    data = opened(root, f"front={NEAR}:{FAR}")
    assert data.contract.depth == {CAMERA: DepthRange(near_m=NEAR, far_m=FAR)}
    expected = picture(metres)
    for index in (0, 5):
        difference = np.abs(np.asarray(data.everything[index].images[0]).astype(int) - expected)
        assert difference.max() <= 1, "a half may be rounded either way"
        assert (difference > 0).mean() < 3e-3
    assert f"{CAMERA} is read as depth from 0.2 to 1.5 m" in " ".join(" ".join(data.table()).split())
    (report,) = examine([root], selection=Selection(depth=(f"front={NEAR}:{FAR}",))).roots
    assert report.problems == ()


def test_lerobots_levels_are_undone_to_half_a_level() -> None:
    metres = np.linspace(0.011, 9.99, 5000)
    assert np.abs(undone(levels(metres)) - metres).max() < 0.5 * 13.5 * np.log(13.5 / 3.51) / 4095 * 1.001


def test_what_nothing_says_the_distance_of_is_refused(tmp_path: Path) -> None:
    def refuse(make: Callable[[Path], Path], words: str, *depth: str) -> None:
        root = make(tmp_path / f"set{len(list(tmp_path.iterdir()))}")
        with pytest.raises(ValueError, match=words) as refusal:
            opened(root, *(depth or ("front=0.2:1.5",)))
        assert "\n" not in str(refusal.value)

    def png(root: Path) -> Path:
        return MAKERS["png in mm"][0](root)

    small = (MILLIMETRES // 10).astype(np.uint8)
    narrow = {"codec": "ffv1", "pixels": "gray10le", "options": {}}
    refuse(lambda root: of_images(root, small, {}, "PNG"), "has depth of 8 bits, and .* does not say their unit")
    refuse(lambda root: of_videos(root, MILLIMETRES // 2, {}, **narrow), "has depth of 10 bits, .*write `depth_unit`")
    refuse(
        lambda root: of_videos(root, MILLIMETRES, LEROBOT, codec="ffv1", pixels="gray16le", options={}),
        "has depth of 16 bits, and meta/info.json says levels of 12 bits",
    )
    refuse(lambda root: described(write_v2(root, LENGTHS), LEROBOT), r"has colours \(yuv420p\), which are no depth")
    refuse(lambda root: of_images(root, np.zeros((64, 96, 3), np.uint8), {}, "PNG"), r"has colours \(RGB\)")
    refuse(lambda root: of_images(root, MILLIMETRES, {"depth_unit": "deg"}, "PNG"), "depth_unit deg of .*; m or mm are")
    half = {key: value for key, value in LEROBOT.items() if key != "video.shift"}
    refuse(lambda root: of_videos(root, MILLIMETRES, half, **LOSSLESS), "says depth_min of .* and no shift; restore")
    refuse(png, r"has no camera frnt for --data\.depth: did you mean front\?", "frnt=1:2")
    refuse(png, r"--data\.depth names .*front of .* twice", "front=1:2", f"{CAMERA}=1:2")


@pytest.mark.parametrize(
    "word", ["front", "front=1", "=1:2", "front=0:2", "front=2:1", "front=1:inf", "front=a:b", "front=1:2:3"]
)
def test_a_range_is_written_in_one_way(word: str) -> None:
    with pytest.raises(ValueError, match=r"--data\.depth has .*, expected CAMERA=NEAR:FAR in metres"):
        parse_depth([word])


def test_a_depth_camera_among_others(tmp_path: Path) -> None:
    root = MAKERS["lerobot's levels"][0](tmp_path / "set")
    with pytest.raises(ValueError, match=r"which is no colour: say .* `--data\.depth front=NEAR:FAR`"):
        opened(root, cameras=("front",))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.side"] = info["features"][CAMERA]
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"--data\.depth names .*side, which --data\.cameras leaves out"):
        opened(root, "side=1:2", "front=1:2", cameras=("front",))
    data = opened(root, "front=1:2", cameras=("front",))
    assert any(
        line.endswith("side left out: depth is no colour; --data.depth CAMERA=NEAR:FAR reads it")
        for line in data.remarks
    )


def test_a_policy_of_depth_is_used_with_its_own_range(tmp_path: Path) -> None:
    root = MAKERS["png in mm"][0](tmp_path / "set")
    contract = opened(root, f"front={NEAR}:{FAR}").contract
    assert documents.from_json(DataContract, json.dumps(documents.to_json(contract)), "x", exact=True) == contract
    other = opened(root, "front=0.2:2").contract
    assert contract.differences(other) == [f"the depth of {CAMERA} to be 0.2 to 1.5 m, not 0.2 to 2 m"]
    row = {"task": "go", "observation.state": np.zeros(2, np.float32), CAMERA: floats()}
    (shown,) = observe([row], contract).images[0]
    assert np.abs(shown.numpy().astype(int) - picture(floats())).max() <= 1
    with pytest.raises(
        ValueError, match=r"reads .*front as depth, but the environment shows it with shape \[64, 96, 3\]"
    ):
        observe([row | {CAMERA: np.zeros((64, 96, 3), np.uint8)}], contract)
