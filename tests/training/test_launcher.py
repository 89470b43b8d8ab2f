"""The launcher's hook acts for our entry points alone."""

from pathlib import Path

from training import launcher

HERE = Path(launcher.__file__).resolve().parent


def test_it_recognises_a_launcher_of_our_entry_points() -> None:
    ours = str(HERE / "stage1.py")
    assert launcher.launches_ours(["/venv/bin/accelerate", "launch", "--config_file", "x.yaml", ours, "--out", "run"])
    assert launcher.launches_ours(["/site-packages/accelerate/commands/launch.py", "--num_processes", "2", ours])
    assert launcher.launches_ours(["/venv/bin/torchrun", "--nproc-per-node", "2", ours])


def test_it_leaves_other_programs_alone() -> None:
    assert not launcher.launches_ours(["/venv/bin/accelerate", "launch", "/home/me/train.py", "--config", "stage1.py"])
    assert not launcher.launches_ours([str(HERE / "stage1.py"), "--out", "run"])
    assert not launcher.launches_ours(["/venv/bin/pytest", str(HERE / "stage1.py")])
    assert not launcher.launches_ours([])
