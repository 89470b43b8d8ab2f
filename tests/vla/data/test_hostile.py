"""Data that was made to do harm: names that lead elsewhere, files that send a reader to other files or programs."""

import json
import shutil
import socket
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from tests.vla.data.recordings import CAMERA, write_v2, write_v3
from vla.data.containers import read_frame_index
from vla.data.formats.insertion.hdf5 import read_hdf5
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.formats.lerobot.stored import StoredImages
from vla.data.images import decode_image
from vla.data.places import below, filled
from vla.data.video import VideoFrames
from vla.data.writing.videos import VideoWriter
from vla.errors import CorruptData


@pytest.fixture(params=["v2.1", "v3.0"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    return write_v3(folder) if request.param == "v3.0" else write_v2(folder, version=request.param)


def edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def refuse(root: Path, words: str) -> None:
    with pytest.raises(CorruptData, match=words) as refusal:
        open_lerobot(root)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize("place", ["../outside", "{absolute}/outside", "videos/../../outside"])
def test_templates_do_not_lead_out_of_the_data(root: Path, tmp_path: Path, key: str, place: str) -> None:
    """The file that the template leads to is there and whole, so that only its place is wrong."""
    info = json.loads((root / "meta" / "info.json").read_text())
    folder, _, rest = info[key].partition("/")
    shutil.copytree(root / folder, tmp_path / "outside")
    edit(root, lambda info: info.update({key: f"{place.replace('{absolute}', str(tmp_path))}/{rest}"}))
    refuse(root, "which is not in the folder of the data")


def test_links_of_the_owner_are_followed(root: Path, tmp_path: Path) -> None:
    for folder in ("data", "videos"):
        shutil.move(root / folder, tmp_path / f"large-{folder}")
        (root / folder).symlink_to(tmp_path / f"large-{folder}")
    assert len(open_lerobot(root).episodes[0].cameras[CAMERA].read([0])) == 1


@pytest.mark.parametrize(
    "template",
    [
        "data/{chunk_index.__class__}.parquet", "data/{chunk_index:99999999}.parquet", "data/{", "data/{}.parquet",
        "data/{nothing}.parquet", "data/{chunk_index!r}.parquet", "data/{0}.parquet", "", 5, None, ["data"], "data/\0",
    ],
)  # fmt: skip
def test_templates_have_plain_fields(root: Path, template: object) -> None:
    edit(root, lambda info: info.update(data_path=template))
    refuse(root, r"meta/info\.json")


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", ".", "", "/evil", "a\\b", "a\0b"])
def test_features_have_names_of_folders(root: Path, tmp_path: Path, name: str) -> None:
    """An import makes a folder of a camera's name."""
    edit(root, lambda info: info["features"].update({name: info["features"][CAMERA]}))
    refuse(root, "cannot be the name of a folder")
    with pytest.raises(CorruptData, match="cannot be the name of a folder"):
        VideoWriter(tmp_path / "written", name, 10)


def test_places_below_a_folder(tmp_path: Path) -> None:
    assert below(tmp_path, "a/b.mp4", "it") == tmp_path / "a" / "b.mp4"
    assert below(tmp_path, "a..b/.hidden", "it") == tmp_path / "a..b" / ".hidden"
    assert filled(tmp_path, "v/{key}/{n:03d}-{m:d}-{m}", "it", key="x", n=7, m=1) == tmp_path / "v/x/007-1-1"
    for name in ("/etc/passwd", "../x", "a/../../x", "..", "", ".", "a\0", 5, None, b"a"):
        with pytest.raises(CorruptData):
            below(tmp_path, name, "it")
    with pytest.raises(CorruptData):
        filled(tmp_path, "v/{key}", "it", key="../../x")


def test_stored_images_lie_below_the_data(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for folder in (tmp_path, tmp_path / "set"):
        PIL.Image.new("RGB", (4, 4)).save(folder / "image.png")
    paths = ["image.png", "../image.png", str(tmp_path / "image.png"), None]
    column = pa.chunked_array([pa.array([{"bytes": None, "path": path} for path in paths])])
    images = StoredImages(
        timestamps=np.arange(4.0), column=column, folder=tmp_path / "set", table=tmp_path / "table", name="it"
    )
    assert images.read([0])[0].shape == (3, 4, 4)
    for index in (1, 2, 3):
        with pytest.raises(CorruptData, match=r"table: image \d of it names"):
            images.read([index])


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes EPS with Ghostscript."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(CorruptData):
        decode_image(BytesIO(eps), "it")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ts", ".txt"])
@pytest.mark.parametrize("kind", ["playlist", "playlist of files", "list", "session"])
def test_a_video_sends_nobody_elsewhere(root: Path, tmp_path: Path, suffix: str, kind: str) -> None:
    real = next(root.rglob("*.mp4"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.01)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"
        texts = {
            "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
            "playlist of files": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{real}\n#EXT-X-ENDLIST\n",
            "list": f"ffconcat version 1.0\nfile {real.name}\n",
            "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        }
        path = real.with_name(f"hostile{suffix}")
        path.write_text(texts[kind])
        index = read_frame_index(real)
        frames = VideoFrames(path=path, timestamps=np.arange(3) / 20, index=index, frames=np.arange(3))
        for attempt in (lambda: read_frame_index(path), lambda: frames.read([0])):
            with pytest.raises(CorruptData):
                attempt()
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("kind", ["link", "storage", "view"])
@pytest.mark.parametrize("key", ["observations/images/front", "action"])
def test_a_recording_shows_no_other_file(tmp_path: Path, kind: str, key: str) -> None:
    path, other = tmp_path / "episode_0.h5", tmp_path / "other.h5"
    shape = (20, 4, 4, 3) if "images" in key else (20, 7)
    (tmp_path / "raw").write_bytes(b"secret" * 2000)
    with h5py.File(other, "w") as file:
        file["values"] = np.ones(shape, dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file["timestamp"] = 1e9 + np.arange(20) / 10
        file["action"] = np.zeros((20, 7), dtype=np.float32)
        for name in ("observations/qpos", "observations/ee_pose"):
            file[name] = np.zeros((20, 6), dtype=np.float32)
        file["observations/images/front"] = np.zeros((20, 4, 4, 3), dtype=np.uint8)
    assert read_hdf5(path).cameras["observation.images.front"].read(0).shape == (3, 4, 4)
    with h5py.File(path, "a") as file:
        del file[key]
        match kind:
            case "link":
                file[key] = h5py.ExternalLink(str(other), "/values")
            case "storage":
                external = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset(key, shape, np.uint8, external=external)
            case "view":
                layout = h5py.VirtualLayout(shape, np.uint8)
                layout[:] = h5py.VirtualSource(str(other), "values", shape)
                file.create_virtual_dataset(key, layout)
    with pytest.raises(CorruptData, match="lies in another file"):
        read_hdf5(path)
