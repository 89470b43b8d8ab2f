"""Bad input, end to end: one sentence that says what to fix, before training, and earlier files stay as they are."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState, GradientState

from tests.training import launch
from training import loop, recipes
from training.config import RunConfig
from training.flags import parse
from vla.errors import CorruptData

FLAGS = ["--backbone.path", "tiny", "--batch-size", "4", "--micro-batch", "2", "--stage.steps", "1"]
FLAGS += ["--tracker", "jsonl", "--data.workers", "0", "--validation-samples", "2", "--expert.width", "32"]
FLAGS += ["--sensor.width", "32", "--expert.depth", "1"]
TABLE = Path("data/chunk-000/file-000.parquet")
EPISODES = Path("meta/episodes/chunk-000/file-000.parquet")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture
def data(needle: Path, tmp_path: Path) -> Path:
    """A copy of the needle data to damage."""
    return Path(shutil.copytree(needle, tmp_path / "data"))


def config(data: Path, out: Path, *flags: str, recipe: Callable[[], RunConfig] = recipes.stage1) -> RunConfig:
    return parse(recipe(), ["--data.roots", str(data), "--out", str(out), *FLAGS, *flags])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def nan_action(table: pa.Table) -> pa.Table:
    actions = np.array(table["action"].to_pylist(), dtype=np.float32)
    actions[30, 2] = np.nan
    field = table.schema.field("action")
    return table.set_column(table.schema.get_field_index("action"), field, pa.array(actions.tolist(), field.type))


def drop_last_episode(table: pa.Table) -> pa.Table:
    return table.filter(pc.less(table["episode_index"], 11))


def reinstruct(text: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        import pandas as pd

        path = data / "meta" / "tasks.parquet"
        tasks = pd.read_parquet(path)
        tasks.index = pd.Index([text, *tasks.index[1:]], name=tasks.index.name)
        tasks.to_parquet(path)
        edit(data / EPISODES, lambda table: table)

    return change


DAMAGES: dict[str, tuple[Callable[[Path], object], type[ValueError], str]] = {
    "truncated table": (lambda data: truncate(data / TABLE), CorruptData, r"file-000\.parquet"),
    "truncated video": (
        lambda data: truncate(data / "videos/observation.images.wrist/chunk-000/file-000.mp4"),
        CorruptData,
        r"observation\.images\.wrist",
    ),
    "missing video": (
        lambda data: (data / "videos/observation.images.front/chunk-000/file-000.mp4").unlink(),
        ValueError,
        r"observation\.images\.front",
    ),
    "NaN in an action": (
        lambda data: edit(data / TABLE, nan_action),
        CorruptData,
        "action",
    ),
    "episodes that are not there": (lambda data: edit(data / TABLE, drop_last_episode), ValueError, "11"),
    "empty instruction": (reinstruct(""), ValueError, "instruction"),
    "instruction of 10,000 characters": (reinstruct("x" * 10_000), ValueError, "instruction"),
    "no metadata": (lambda data: (data / "meta" / "info.json").unlink(), ValueError, "meta/info.json"),
    "empty folder": (lambda data: (shutil.rmtree(data), data.mkdir()), ValueError, "holds no data"),
    "wrong folder": (shutil.rmtree, ValueError, "is not there"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_is_refused_before_anything_is_written(data: Path, tmp_path: Path, damage: str) -> None:
    hurt, kind, words = DAMAGES[damage]
    hurt(data)
    with pytest.raises(kind, match=words) as refusal:
        loop.train(config(data, tmp_path / "run"))
    assert isinstance(refusal.value, CorruptData) == (kind is CorruptData), "exit 65 is for damage, 78 for the rest"
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


REFUSED_FLAGS = {
    "an episode shorter than the chunk": (["--data.horizon", "40"], "--data.horizon"),
    "a batch that does not divide": (["--batch-size", "5"], "--micro-batch 1, or --batch-size 6"),
    "episodes that do not exist": (["--data.episodes", "3", "99"], "99"),
    "an unknown sensor": (["--data.sensor", "observation.torque"], r"observation\.torque"),
    "weights for other roots": (["--data.weights", "1", "2"], "2 weights were given for 1 root"),
    "a backbone that is not there": (["--backbone.path", "./missing"], "missing"),
    "resume and init at once": (["--resume-from", "auto", "--init-from", "x"], "give one of them"),
    "an unknown flag": (["--stage.lr.sensr", "1e-4"], r"did you mean --stage\.lr\.sensor"),
    "an unknown group": (["--stage.lr.critic", "1e-4"], r"unknown flag --stage\.lr\.critic"),
    "nothing to train": (["--stage.lr.sensor", "None", "--stage.lr.expert", "None"], "trains nothing"),
    "a checkpoint that is not there": (["--resume-from", "nowhere"], "nowhere holds no checkpoint"),
}


@pytest.mark.parametrize("mistake", REFUSED_FLAGS)
def test_a_refused_flag_is_named_with_the_fix(data: Path, tmp_path: Path, mistake: str) -> None:
    flags, words = REFUSED_FLAGS[mistake]
    with pytest.raises(ValueError, match=words) as refusal:
        loop.train(config(data, tmp_path / "run", *flags))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_backbone_folder_without_weights(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(ValueError, match="holds no weights"):
        loop.train(config(data, tmp_path / "run", "--backbone.path", str(folder)))


class TestAgainstAnEarlierRun:
    """Refusals that need a run to go on from; it stays as it is, byte for byte."""

    @pytest.fixture(scope="class")
    @classmethod
    def earlier(cls, needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        out: Path = tmp_path_factory.mktemp("earlier") / "run"
        loop.train(config(needle, out, "--stage.steps", "2", "--save-every", "1"))
        return out

    def refuse(self, run: RunConfig, earlier: Path, words: str, kind: type[ValueError] = ValueError) -> None:
        before = snapshot(earlier)
        with pytest.raises(kind, match=words) as refusal:
            loop.train(run)
        assert "\n" not in str(refusal.value)
        assert snapshot(earlier) == before

    def test_a_run_is_not_overwritten(self, needle: Path, earlier: Path) -> None:
        self.refuse(config(needle, earlier), earlier, "already holds a run; go on with --resume-from auto")

    def test_resume_under_other_settings(self, needle: Path, earlier: Path) -> None:
        flags = ["--stage.steps", "2", "--resume-from", "auto", "--save-every", "1"]
        other = config(needle, earlier, *flags, "--seed", "1")
        self.refuse(other, earlier, r"seed is 1, the checkpoint has 0")
        AcceleratorState._reset_state(True)
        other = config(needle, earlier, *flags, "--stage.lr.expert", "1e-3")
        self.refuse(other, earlier, r"stages\.stage1\.lr\.expert is 0\.001, the checkpoint has 0\.0001")

    def test_resume_with_other_data(self, needle: Path, earlier: Path) -> None:
        other = config(needle, earlier, "--stage.steps", "2", "--resume-from", "auto", "--data.episodes", "0", "1", "2")
        self.refuse(other, earlier, "data.episodes")

    def test_data_of_other_units(self, data: Path, tmp_path: Path) -> None:
        path, out = data / "meta/info.json", tmp_path / "run"
        flags = ["--stage.steps", "2", "--save-every", "1"]

        def say(unit: str) -> None:
            info = json.loads(path.read_text())
            info["features"]["action"]["info"] = {"units": [unit] * 7}
            path.write_text(json.dumps(info))

        say("radians")
        loop.train(config(data, out, *flags, "--stop-after", "1"))
        AcceleratorState._reset_state(True)
        assert json.loads((out / "policy/config.json").read_text())["contract"]["action_units"] == ["rad"] * 7
        say("deg")
        for given in (["--resume-from", "auto"], ["--init-from", str(out), "--out", str(tmp_path / "next")]):
            self.refuse(config(data, out, *flags, *given), out, "expects the unit of the actions to be rad, not deg")
            AcceleratorState._reset_state(True)
        say("")
        loop.train(config(data, out, *flags, "--resume-from", "auto"))

    def test_stage_2_without_stage_1(self, needle: Path, tmp_path: Path, earlier: Path) -> None:
        run = config(needle, tmp_path / "run", recipe=recipes.stage2)
        self.refuse(run, earlier, "stage2 goes on from the weights of another run: give --init-from RUN")

    def test_actions_of_another_width(self, shared: Path, tmp_path: Path, earlier: Path) -> None:
        other = shared / "data" / "g1_pick_bottle_v30"
        run = config(other, tmp_path / "run", "--init-from", str(earlier), recipe=recipes.stage2)
        self.refuse(run, earlier, "expects .*the width of the actions to be 7, not 26")

    def test_another_size_of_expert(self, needle: Path, tmp_path: Path, earlier: Path) -> None:
        flags = ["--init-from", str(earlier), "--expert.width", "64"]
        run = config(needle, tmp_path / "run", *flags, recipe=recipes.stage2)
        self.refuse(run, earlier, r"--expert\.width is 64, the weights of .* have 32: leave it out, or train without")

    def test_weights_without_a_part_that_stage_2_needs(self, needle: Path, tmp_path: Path, earlier: Path) -> None:
        out = tmp_path / "blind"
        loop.train(config(needle, out, "--data.sensor", "none"))
        AcceleratorState._reset_state(True)
        run = config(needle, tmp_path / "run", "--init-from", str(out), recipe=recipes.stage2)
        self.refuse(run, earlier, "expects .*the sensor streams to be none, not observation\\.ft")

    def test_a_part_that_the_weights_do_not_have(
        self, needle: Path, tmp_path: Path, earlier: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ["--init-from", str(earlier), "--camera.width", "32", "--camera.pixels", "32"]
        said = r"tensors of the policy are missing \(first camera\..*, or --allow-missing with a pattern"
        self.refuse(config(needle, tmp_path / "run", *flags), earlier, said)
        AcceleratorState._reset_state(True)
        idle = config(needle, tmp_path / "run", *flags, "--allow-missing", "*camera*", "critic.*")
        self.refuse(idle, earlier, r"--allow-missing critic\.\* names no tensor that is missing or has no place")
        AcceleratorState._reset_state(True)
        capsys.readouterr()
        loop.train(config(needle, tmp_path / "with", *flags, "--allow-missing", "*camera*"))
        assert "fresh, or left out, by --allow-missing: camera." in capsys.readouterr().out
        AcceleratorState._reset_state(True)
        back = ["--init-from", str(tmp_path / "with"), "--allow-missing", "*camera*"]
        loop.train(config(needle, tmp_path / "without", *back))

    def test_another_backbone(self, needle: Path, tmp_path: Path, earlier: Path) -> None:
        from vla.parts.backbone import resolve

        other = Path(shutil.copytree(resolve("tiny"), tmp_path / "other"))
        weights = bytearray((other / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (other / "model.safetensors").write_bytes(bytes(weights))
        run = config(needle, tmp_path / "run", "--init-from", str(earlier), "--backbone.path", str(other))
        self.refuse(run, earlier, "another backbone")

    @pytest.mark.parametrize("harm", ["truncate", "flip", "delete"])
    def test_a_damaged_checkpoint(self, needle: Path, tmp_path: Path, earlier: Path, harm: str) -> None:
        run = Path(shutil.copytree(earlier, tmp_path / "run"))
        shard = next((run / "checkpoints" / "step-00000002").glob("*.safetensors"))
        content = bytearray(shard.read_bytes())
        match harm:
            case "truncate":
                shard.write_bytes(content[:-1])
            case "flip":
                content[len(content) // 2] ^= 1
                shard.write_bytes(content)
            case "delete":
                shard.unlink()
        flags = ["--stage.steps", "2", "--save-every", "1"]
        named = config(needle, run, *flags, "--resume-from", str(shard.parent))
        self.refuse(named, earlier, "step-00000002 is damaged", CorruptData)
        AcceleratorState._reset_state(True)
        loop.train(config(needle, run, *flags, "--resume-from", "auto"))  # goes on from step 1
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == [1, 2]
        assert list((run / "checkpoints").glob(".bad-step-00000002-*")), "the damaged one is kept aside"

    def test_no_valid_checkpoint_is_no_fresh_start(self, needle: Path, tmp_path: Path, earlier: Path) -> None:
        run = Path(shutil.copytree(earlier, tmp_path / "run"))
        for manifest in run.glob("checkpoints/*/manifest.json"):
            manifest.write_text("{")
        named = config(needle, run, "--stage.steps", "2", "--resume-from", "auto")
        self.refuse(named, earlier, "none of the 2 checkpoints", CorruptData)


@pytest.mark.promise(17, "the exit code of a refusal", "65 through accelerate launch, and one sentence", deep=18)
def test_the_launcher_keeps_the_exit_code_and_shows_no_traceback(data: Path, tmp_path: Path) -> None:
    truncate(data / TABLE)
    corrupt = launch.entry("stage1", "zero2", "--data.roots", data, *FLAGS, "--out", tmp_path / "run", ranks=2)
    assert corrupt.returncode == 65, corrupt.stdout[-2000:]
    assert "Traceback" not in corrupt.stdout
    assert corrupt.stdout.count("error: ") == 1
