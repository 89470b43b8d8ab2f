"""The demos' scripts: what they run, and on how many processes. What comes of them, `make demo` shows."""

import os
import subprocess
from pathlib import Path

from training import recipes
from training.flags import parse

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def words_of(folder: Path, *, gpu: bool, demo: str = "demo.sh") -> list[str]:
    """The commands that a script runs, one a line."""
    told = folder / "told"
    for name in ("accelerate", "vla"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >>"{told}"\n')
    (folder / "python").write_text(f"#!/bin/sh\nexit {0 if gpu else 1}\n")
    for name in ("accelerate", "vla", "python"):
        (folder / name).chmod(0o755)
    # As the Makefile has it: one thread a process.
    environment = os.environ | {"BIN": str(folder), "RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    script = EXAMPLES / demo
    subprocess.run(["bash", str(script)], env=environment, check=True, capture_output=True, cwd=EXAMPLES.parent)
    return told.read_text().splitlines()


def test_it_trains_on_two_cores_where_there_are_two(tmp_path: Path) -> None:
    lines = words_of(tmp_path, gpu=False)
    commands = [" ".join(line.split()[:2]) for line in lines]
    assert commands == ["vla needle", "accelerate launch", "accelerate launch", "vla evaluate", "vla report"]
    ranks = min(2, len(os.sched_getaffinity(0)))
    for line, stage in zip(lines[1:3], ("stage1", "stage2"), strict=True):
        assert f"--config_file accelerate_configs/cpu.yaml --main_process_port 0 --num_processes {ranks} " in line
        assert f"training/{stage}.py" in line
        assert f"--config examples/needle.json --data.roots {tmp_path}/runs/demonstrations " in line


def test_one_gpu_trains_in_one_process(tmp_path: Path) -> None:
    for line in words_of(tmp_path, gpu=True)[1:3]:
        assert "--config_file accelerate_configs/single.yaml" in line
        assert "--num_processes" not in line


def test_the_demo_of_motion_trains_on_the_clips_that_ship(tmp_path: Path) -> None:
    """And is judged by clips that it does not train on, by one judge but for the styles, which it must tell apart."""
    lines = words_of(tmp_path, gpu=False, demo="demo-motion.sh")
    commands = [" ".join(line.split()[:2]) for line in lines]
    both = ["vla evaluate", *["accelerate launch"] * 3, "vla calibrate", "vla sample"]
    assert commands[:3] == ["accelerate launch", "vla sample", "vla view"]
    assert sorted(commands[3:9]) == sorted(both), "in any order: figures are made beside the trainings"
    assert commands[9:] == ["vla report", "vla evaluate", "vla evaluate"]
    words = lines[0].split()
    place = words.index("training/pretrain.py")
    config = parse(recipes.pretrain(), words[place + 1 :])
    assert config.data.roots == ("examples/motion/cmu/train", "examples/motion/amp")
    assert config.data.balance == "action", "else four actions of one clip each are lost among the walks"
    assert all((EXAMPLES.parent / root / "labels.csv").is_file() for root in config.data.roots)
    judged = [line for line in lines if line.startswith("vla evaluate")]
    for line in judged:
        assert "--data.roots examples/motion/cmu/test --training examples/motion/cmu/train examples/motion/amp" in line
        assert "--seed 0 " in f"{line} "
    assert sorted(line.partition("--suites ")[2].partition(" ")[0] for line in judged) == ["", "style", "unlearning"]


def test_the_styles_of_the_demo_are_captions_of_clips_that_ship(tmp_path: Path) -> None:
    lines = words_of(tmp_path, gpu=False, demo="demo-motion.sh")
    trained = [line for line in lines if "training/adapter.py" in line]
    captions = (EXAMPLES / "motion" / "cmu" / "train" / "labels.csv").read_text()
    for style, line in zip(("slowly", "briskly"), sorted(trained, key=lambda line: "briskly" in line), strict=True):
        assert f"--data.where instruction=a person walks {style} forward --data.text a person walks forward" in line
        assert f",a person walks {style} forward,walking," in captions
    assert ",a person jumps,jumping," in captions
    (forgotten,) = (line for line in lines if "training/unlearn.py" in line)
    assert "--concept jumping --anchor a person walks forward" in forgotten
