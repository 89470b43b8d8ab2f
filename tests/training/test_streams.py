"""Two sensor streams of one policy, a wrench at 1 kHz and a tactile array at 60 Hz: from recordings to a verdict."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.forkserver import ForkServer
from vla.__main__ import main
from vla.batch import collate
from vla.contract import StreamContract
from vla.data.dataset import open_dataset
from vla.data.episode import Episode, Layout, Stream
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.writing.writer import write_lerobot
from vla.policy_folder import load_policy
from vla.settings import DataConfig

WRENCH, TACTILE = "observation.wrench", "observation.tactile"
WINDOWS = {
    "sensor/wrench": StreamContract(key=WRENCH, channels=6, samples=50, rate_hz=1000.0, names=tuple("abcdef")),
    "sensor/tactile": StreamContract(key=TACTILE, channels=4, samples=8, rate_hz=60.0),
}
FLAGS = ["--data.sensor", "wrench", "tactile", "--data.sensor-samples", "wrench=50", "tactile=8"]
FLAGS += ["--batch-size", "4", "--micro-batch", "4", "--stage.steps", "6", "--data.workers", "0", "--tracker", "jsonl"]
FLAGS += ["--backbone.path", "tiny", "--sensor.width", "32", "--sensor.max-tokens", "8", "--expert.width", "32"]
FLAGS += ["--data.validation-share", "0.4", "--data.compand", "sensor", "--stage.lr.expert", "1e-3"]


@dataclass(frozen=True)
class Given:
    """A reader of given episodes."""

    layout: Layout
    episodes: list[Episode]
    sources: tuple[Path, ...] = ()


@pytest.fixture(scope="module")
def touched(needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five needle insertions; what the wrench feels presses on four pads, too, which the second episode lacks."""
    source = open_lerobot(needle)
    episodes = []
    for place, episode in enumerate(source.episodes[:5]):
        wrench = episode.streams["observation.ft"]
        newest = np.searchsorted(wrench.timestamps, times := np.arange(0, episode.timestamps[-1], 1 / 60), side="right")
        pads = np.abs(wrench.values[newest - 1] @ np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32))
        streams = {WRENCH: wrench, TACTILE: Stream(timestamps=times, values=pads.astype(np.float32))}
        episodes.append(replace(episode, streams={WRENCH: wrench} if place == 1 else streams))
    layout = replace(source.layout, streams={stream.key: stream for stream in WINDOWS.values()})
    root = tmp_path_factory.mktemp("touched") / "set"
    write_lerobot(Given(layout, episodes), root)
    return root


@pytest.fixture(scope="module")
def run(server: ForkServer, touched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on both streams."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert server.run([*FLAGS, "--data.roots", touched, "--out", out]) == [0]
    return out


def test_a_stopped_run_ends_bitwise_equal(server: ForkServer, touched: Path, run: Path, tmp_path: Path) -> None:
    flags = [*FLAGS, "--data.roots", touched, "--out", tmp_path / "run"]
    assert server.run([*flags, "--stop-after", "3"]) == [0]
    assert server.run([*flags, "--resume-from", "auto"]) == [0]
    weights = sorted((run / "policy").glob("*.safetensors"))
    assert len(weights) == 5
    for file in weights:
        assert file.read_bytes() == (tmp_path / "run" / "policy" / file.name).read_bytes(), file.name
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (run, tmp_path / "run")]
    straight, resumed = ([(line["step"], line["loss"]) for line in map(json.loads, own)] for own in lines)
    assert straight == resumed


def test_each_stream_has_an_encoder_scales_and_a_token_of_its_own(run: Path, touched: Path) -> None:
    policy, folder = load_policy(run / "policy"), run / "policy"
    assert dict(policy.contract.streams) == WINDOWS
    assert policy.encoders == ("sensor/wrench", "sensor/tactile", "state")
    wrench, tactile = (load_file(folder / f"sensor_encoder.{name}.safetensors") for name in ("wrench", "tactile"))
    assert (wrench["embed.weight"].shape, tactile["embed.weight"].shape) == ((32, 7), (32, 5))
    assert not torch.equal(wrench["no_sensor"], tactile["no_sensor"])
    scales = load_file(folder / "normalizer.safetensors")
    assert [scales[f"{name}.offset"].shape for name in WINDOWS] == [(6,), (4,)]
    assert scales["sensor/wrench.companded"].all()
    told = (folder / "README.md").read_text()
    assert f"| Sensor encoder | `{WRENCH}`, the last 50 samples of 6 channels at 1000 Hz |" in told
    assert f"| Sensor encoder | `{TACTILE}`, the last 8 samples of 4 channels at 60 Hz |" in told
    groups = json.loads(next(run.glob("checkpoints/*/manifest.json")).read_text())["groups"]
    trained = [parameter for name in WINDOWS for parameter in policy.get_submodule(name).parameters()]
    assert sum(groups[f"sensor/{kind}"]["parameters"] for kind in ("decay", "plain")) == sum(
        parameter.numel() for parameter in trained
    )
    config = DataConfig(
        roots=(str(touched),), sensor=("wrench", "tactile"), sensor_samples=("wrench=50", "tactile=8"), workers=0
    )
    samples = list(open_dataset(config, 0).everything)
    lacking = next(sample for sample in samples if not sample.streams["sensor/tactile"].valid.any())
    whole = next(sample for sample in samples if all(reading.valid.all() for reading in sample.streams.values()))
    assert lacking.weight == whole.weight == 2.0
    observation = collate([lacking, whole], 0, "validation").observation
    noise = torch.zeros(2, policy.contract.horizon, policy.contract.action_dim)
    with torch.no_grad():
        before = policy.act(observation, noise)
        policy.get_submodule("sensor/tactile").no_sensor += 1
        after = policy.act(observation, noise)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1]), "its token stands only where the stream is not there"


def test_each_stream_is_measured_and_ablated(
    run: Path, touched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run / "policy"), "--data.roots", str(touched), "--data.workers", "0", "--samples", "6"]
    words += ["--data.validation-share", "0", "--steps", "1", "--out", str(tmp_path)]
    assert main(["ablate", *words, "--inputs", "wrench", TACTILE, "state"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    found = json.loads((tmp_path / "ablation.json").read_text())["inputs"]
    assert [entry["input"] for entry in found] == [*WINDOWS, "state"]
    for entry in found[:2]:
        assert [kind["kind"] for kind in entry["kinds"]] == ["zeroed", "shuffled", "delayed", "frozen"]
        assert all(kind["change"] != 0 for kind in entry["kinds"])
    assert main(["ablate", *words, "--inputs", "tactle"]) == 78
    assert "did you mean tactile?" in capsys.readouterr().err
    assert main(["evaluate", *words]) == 0
    with np.load(tmp_path / "episode.npz") as arrays:
        for name, stream in WINDOWS.items():
            assert np.diff(arrays[f"{name}_times_s"]) == pytest.approx(1 / stream.rate_hz, abs=1e-6)
            assert arrays[name].shape[1] == stream.channels


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data.sensor", "wrench", "tactle"],
            "has no sensor stream tactle among .*: did you mean tactile",
        ),
        (["--data.sensor", "wrench", WRENCH], f"names {WRENCH} of .* twice: give each sensor stream once"),
        (["--data.sensor", "tactile", "tactile"], "names tactile twice"),
        (["--data.sensor", "auto"], f"several features that may be sensors: {WRENCH}, {TACTILE}; name one or more"),
        (["--data.sensor-samples", "wrench=50", "pads=8"], "names pads, which is no sensor stream of this training"),
    ],
)
def test_streams_that_are_not_there_are_refused(
    server: ForkServer, touched: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    life = server.start([*FLAGS, *flags, "--data.roots", touched, "--out", tmp_path / "run"])
    assert life.wait() == [78]
    assert re.search(message, life.report()), life.report()
    assert not (tmp_path / "run").exists()
