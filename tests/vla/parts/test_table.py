"""A part is one row of the table and a file of its own: shown by adding one to a copy of the code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from vla.errors import DONE

pytestmark = pytest.mark.deep  # a training and four programs: 40 CPU seconds

FILE = '''
"""How often a sample was pushed so far: a part made for a test."""

import torch
from torch import nn


class PushEncoder(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Linear(channels, width)

    def forward(self, sensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embed(sensor.abs().mean(dim=1))[:, None], torch.ones(len(sensor), 1, dtype=torch.bool)
'''
SETTINGS = '''
@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Size of the push encoder."""

    width: int = 8
    """Width of its token."""


def _push(_: str, config: PushConfig, contract: DataContract, __: Widths) -> "nn.Module":
    from vla.parts.push import PushEncoder

    return PushEncoder(contract.streams["sensor"].channels, config.width)


PARTS'''
ROW = '''    "push": Part(
        label="Push encoder",
        group="push",
        file="push_encoder.safetensors",
        config=PushConfig,
        names=lambda _, contract: ("push",) if contract.streams else (),
        build=_push,
        see=lambda _, module, seen, __: module(seen.streams["sensor"].values),
        describe=lambda _, config, __: f"one token of {config.width} numbers",
        rate="Push encoder.",
    ),
}
"""In the order in which'''


@pytest.fixture(scope="module")
def copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with a third part."""
    root = tmp_path_factory.mktemp("copy")
    for package in ("vla", "training"):
        shutil.copytree(repository / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "vla" / "parts" / "push.py").write_text(FILE)
    table = root / "vla" / "parts" / "__init__.py"
    text = table.read_text()
    assert text.count("\nPARTS") == text.count('}\n"""In the order in which') == 1
    table.write_text(text.replace("\nPARTS", SETTINGS, 1).replace('}\n"""In the order in which', ROW, 1))
    return root


def run(root: Path, *words: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, *map(str, words)], cwd=root, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == DONE, ended.stdout + ended.stderr
    return ended.stdout


def test_a_third_part_trains_is_saved_and_told_of(copy: Path, needle: Path, tmp_path: Path) -> None:
    help_text = run(copy, "training/stage1.py", "--help-all")
    assert "--push.width" in help_text
    assert "--stage.lr.push" in help_text
    flags = ["--backbone.path", "tiny", "--batch-size", "2", "--micro-batch", "2", "--data.workers", "0"]
    flags += ["--stage.steps", "2", "--tracker", "jsonl", "--validation-samples", "2", "--push.width", "12"]
    out = tmp_path / "run"
    printed = run(copy, "training/stage1.py", "--data.roots", needle, "--out", out, *flags, "--stage.lr.push", "3e-4")
    assert "push/decay" in printed
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["grad_norm"]["push"] > 0
    assert line["lr"]["push"] / line["lr"]["expert"] == pytest.approx(3)
    assert {
        name: tensor.shape[0] for name, tensor in load_file(out / "policy" / "push_encoder.safetensors").items()
    } == {
        "embed.weight": 12,
        "embed.bias": 12,
    }
    assert "| Push encoder | one token of 12 numbers |" in (out / "policy" / "README.md").read_text()
    assert json.loads((out / "policy" / "config.json").read_text())["policy"]["encoders"]["push"] == {"width": 12}
    manifest = json.loads(next(out.glob("checkpoints/*/manifest.json")).read_text())
    assert {"push/decay", "push/plain"} <= manifest["groups"].keys()
    run(copy, "-c", f"from vla.policy_folder import load_policy; load_policy({str(out / 'policy')!r})")


def test_a_third_part_changes_no_weight_of_the_others(
    copy: Path, needle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"""
import hashlib, sys
import torch
from vla.data.dataset import open_dataset
from vla.normalize import Normalizer
from vla.parts import Encoders
from vla.assembling import assemble
from vla.policy_settings import PolicyConfig
from vla.settings import BackboneConfig, CameraConfig, DataConfig

data = open_dataset(DataConfig(roots=({str(needle)!r},), workers=0), 0)
config = PolicyConfig(backbone=BackboneConfig(path="tiny"), encoders=Encoders(camera=CameraConfig(width=8)))
normalizers = {{name: Normalizer.of(data.statistics[name], "quantile") for name in data.contract.normalized}}
policy = assemble(config, data.contract, normalizers, torch.float32, 3)
digest = hashlib.sha256()
for name, parameter in sorted(policy.named_parameters()):
    if "push" not in name:
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
print(policy.encoders, digest.hexdigest())
"""
    exec(code, {})
    ours, theirs = (text.split(")") for text in (capsys.readouterr().out, run(copy, "-c", code)))
    assert "push" in theirs[0]
    assert "push" not in ours[0]
    assert ours[1] == theirs[1]
