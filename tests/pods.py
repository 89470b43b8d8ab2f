"""A pod without a GPU, for tests of runpod/: its volume, its environment, and programs that record their calls."""

import subprocess
import sys
from pathlib import Path

ENTRYPOINT = Path(__file__).resolve().parents[1] / "runpod" / "entrypoint.sh"

POLICY_FILES = ("config.json", "normalizer.safetensors", "action_expert.safetensors")

FAKE_ACCELERATE = """#!{python}
import os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
call = len(list(here.glob("call-*")))
beside = here / f"recording-{{call}}"
beside.write_bytes(b"\\0".join(os.fsencode(word) for word in sys.argv[1:]))
(here / f"env-{{call}}").write_text("\\n".join(sorted(os.environ)))
beside.rename(here / f"call-{{call}}")
if "--hang" in sys.argv:
    received = []
    def on_signal(number, frame):
        received.append(signal.Signals(number).name)
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    (here / "ready").touch()
    while not received:
        time.sleep(0.02)
    time.sleep(0.5)
    (here / "received").write_text(" ".join(received))
codes = (here / "codes").read_text().split() if (here / "codes").exists() else []
written, status = codes[call].split("/") if call < len(codes) else ("0", "0")
if written == "0":
    policy = pathlib.Path(sys.argv[sys.argv.index("--out") + 1]) / "policy"
    policy.mkdir(parents=True, exist_ok=True)
    for name in {files}:
        (policy / name).write_text("x")
if written != "-":
    pathlib.Path(os.environ["TOUCHSTONE_EXIT_CODE_FILE"]).write_text(written)
sys.exit(int(status))
"""

FAKE_VLA = """#!/bin/bash
here=${0%/*}
calls=("$here"/stage-[0-9]*)
[[ -e ${calls[0]} ]] || calls=()
printf '%s\\0' "$@" >"$here/stage-$(printf %02d ${#calls[@]})"
env | cut -d= -f1 >"$here/stage-env"
if [[ -e $here/hang ]]; then
    trap 'exit 143' TERM
    touch "$here/ready"
    while :; do sleep 0.02; done
fi
[[ ! -e $here/fails-$1 ]] || exit "$(<"$here/fails-$1")"
case $1 in
    import) mkdir "$4" && echo x >"$4/rows" ;;
    curate)
        mkdir -p "$3/pretrain" "$3/sft"
        printf "%$((4 * $#))s" clip >"$3/pretrain/walk.npz"
        echo clip >"$3/sft/walk.npz"
        ;;
    embed)
        while [[ $1 != --out ]]; do shift; done
        echo texts >"$2"
        ;;
esac
"""


class Pod:
    """A pod without a GPU: its volume, its environment, and a launcher that records how it was called."""

    def __init__(self, folder: Path) -> None:
        self.script = ENTRYPOINT
        self.volume = folder / "volume"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.volume.mkdir()
        self.fake("accelerate", FAKE_ACCELERATE.format(python=sys.executable, files=POLICY_FILES))
        self.fake("vla", FAKE_VLA)
        self.fake("nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.base = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "TRAIN_DATA_PATH": "/data/pick",
            "CHECKPOINT_DIR": str(self.volume / "run"),
            "MODEL_VARIANT": "tiny",
        }

    def fake(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def env(self, **changes: str | None) -> dict[str, str]:
        return {name: value for name, value in {**self.base, **changes}.items() if value is not None}

    def start(self, *arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.script), *arguments],
            check=False,
            env=self.env(**changes),
            capture_output=True,
            text=True,
            timeout=240,
            cwd=self.volume,
        )

    def planned(self, **changes: str | None) -> list[list[str]]:
        """The commands of --dry-run, taken apart again by a shell."""
        result = self.start("--dry-run", **changes)
        assert result.returncode == 0, result.stderr
        take = "take() { printf '%s\\0' \"$@\"; printf '\\1\\0'; }\n"
        lines = take + "".join(f"take {line}\n" for line in result.stdout.splitlines())
        words = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True).stdout
        return [command.split("\0")[:-1] for command in words.split("\1\0") if command]

    def calls(self) -> list[list[str]]:
        return [path.read_text().split("\0") for path in sorted(self.bin.glob("call-*"))]

    def stages(self) -> list[list[str]]:
        """The calls of `vla`."""
        return [path.read_text().split("\0")[:-1] for path in sorted(self.bin.glob("stage-[0-9]*"))]

    def codes(self, *pairs: str) -> None:
        """`written/status` of each call: what training writes ("-" for nothing), what the launcher ends with."""
        (self.bin / "codes").write_text(" ".join(pairs))


def after(command: list[str], flag: str) -> str:
    assert command.count(flag) == 1, (flag, command)
    return command[command.index(flag) + 1]


def finish(run: Path) -> None:
    (run / "policy").mkdir(parents=True)
    for name in POLICY_FILES:
        (run / "policy" / name).write_text("x")
