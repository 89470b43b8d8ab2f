#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0, on a machine without a GPU.
#
# Good guess: `accelerate launch --num_processes 2` starts two processes, with `--num_machines 2 --machine_rank 0` and an
# address it waits for the other machine, a configuration of distributed_type MULTI_CPU starts as many as it names, and
# what cannot be done is refused.
# Behaviour: which launcher is used follows from the GPUs that are seen and from the type, not from the numbers. In all
# three cases the script is started once, as rank 0 of 1: nothing says that the numbers were dropped, and the exit code is
# 0, so that each of two machines would train alone. Two gloo ranks come from distributed_type MULTI_GPU, which is the
# name of the torchrun launcher, GPU or not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
export HOME=$folder CUDA_VISIBLE_DEVICES=
cat >show.py <<'PYTHON'
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
with open(f"rank-{accelerator.process_index}", "a") as file:
    print(f"rank {accelerator.process_index} of {accelerator.num_processes}", file=file)
PYTHON
for type in MULTI_CPU MULTI_GPU; do
    cat >"$type.yaml" <<YAML
compute_environment: LOCAL_MACHINE
distributed_type: $type
num_machines: 1
num_processes: 2
mixed_precision: "no"
YAML
done
found=$(
    for flags in "--num_processes 2" \
        "--num_processes 2 --num_machines 2 --machine_rank 0 --main_process_ip 127.0.0.1 --main_process_port 29561" \
        "--config_file MULTI_CPU.yaml --main_process_port 29562" "--config_file MULTI_GPU.yaml --main_process_port 29563"; do
        # shellcheck disable=SC2086
        venv/bin/accelerate launch $flags show.py >said 2>&1 && code=0 || code=$?
        echo "$(cat rank-* | tr '\n' ',') exit code $code, $(grep -c 'num_processes' said || true) lines name num_processes"
        rm -f rank-*
    done
)
echo "$found"
expected='rank 0 of 1, exit code 0, 0 lines name num_processes
rank 0 of 1, exit code 0, 0 lines name num_processes
rank 0 of 1, exit code 0, 0 lines name num_processes
rank 0 of 2,rank 1 of 2, exit code 0, 0 lines name num_processes'
[ "$found" = "$expected" ] || { echo "accelerate 1.15.0 behaves otherwise than written here" >&2; exit 1; }
