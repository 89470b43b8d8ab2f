"""The README's Python, run as it stands there."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def test_the_lines_of_the_readme_train_a_policy_that_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE")  # tracked by metrics.jsonl alone
    names: dict[str, object] = {}
    exec("\n".join(blocks), names)
    assert len((tmp_path / "runs" / "first" / "metrics.jsonl").read_text().splitlines()) == 2
    actions = names["actions"]
    assert isinstance(actions, torch.Tensor)
    assert actions.shape == (8, 7)
    assert torch.isfinite(actions).all()
