"""Starts worker scripts and entry points on several ranks, as a user would, with a time limit each."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def worker(script: str, *arguments: object, ranks: int, timeout: float = 900) -> None:
    """Run a worker script of this folder on `ranks` gloo ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    run([*command, str(ROOT / "tests" / "training" / script), *map(str, arguments)], timeout)


def entry(
    script: str, config: str, *flags: object, ranks: int = 1, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` one of our entry points; the result is not checked."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{config}.yaml"]
    command += ["--num_processes", str(ranks), "--main_process_port", "0"]
    return execute([*command, f"training/{script}.py", *map(str, flags)], timeout)


def run(command: list[str], timeout: float) -> str:
    """Run to the end and return the output; a failure shows its last lines."""
    result = execute(command, timeout)
    assert result.returncode == 0, f"exit {result.returncode}:\n{result.stdout[-3000:]}"
    return result.stdout


def execute(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command from the root of the repository, both outputs together."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
