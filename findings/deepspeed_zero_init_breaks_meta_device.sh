#!/usr/bin/env bash
# deepspeed 0.19.8 with torch 2.13.0, on a machine without a GPU.
#
# Good guess: what deepspeed.zero.Init does to torch ends with its block, so `with torch.device("meta"):` afterwards makes
# every tensor a meta tensor, as it does without DeepSpeed.
# Behaviour: the first `torch.device` block of a process remembers which functions make tensors, for good. If that first
# block stands within zero.Init (as where a model library builds on meta), it remembers DeepSpeed's stand-ins for empty,
# zeros, ones, full, arange, eye, randn and tensor; when zero.Init puts torch's own back, torch.device passes these over for the
# rest of the process: torch.arange gives a tensor on the CPU, torch.linspace beside it one on meta.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 setuptools wheel
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-build-isolation deepspeed==0.19.8
cd "$folder"
export MASTER_ADDR=127.0.0.1 MASTER_PORT=29571 RANK=0 LOCAL_RANK=0 WORLD_SIZE=1
export DS_ACCELERATOR=cpu HOME=$folder PATH="$folder/venv/bin:$PATH" CUDA_VISIBLE_DEVICES=
cat >show.py <<'PYTHON'
import sys

import deepspeed
import torch

names = "empty zeros ones full arange eye randn tensor linspace".split()
arguments = {"full": ((2,), 1.0), "tensor": ([1.0, 2.0],), "linspace": (0, 1, 2)}


def devices():
    with torch.device("meta"):
        return {name: getattr(torch, name)(*arguments.get(name, (2,))).device.type for name in names}


deepspeed.init_distributed("gloo")
if sys.argv[1] == "first before":
    devices()
with deepspeed.zero.Init(config_dict_or_path={"train_batch_size": 1, "zero_optimization": {"stage": 3}}):
    devices()
found = devices()
print(sys.argv[1] + ":", *(name for name in names if found[name] == "meta"), file=open("said", "a"))
PYTHON
for order in "first within" "first before"; do
    venv/bin/python show.py "$order" >log 2>&1 || { cat log >&2; exit 1; }
done
found=$(cat said)
echo "$found"
expected='first within: linspace
first before: empty zeros ones full arange eye randn tensor linspace'
[ "$found" = "$expected" ] || { echo "deepspeed 0.19.8 with torch 2.13.0 behaves otherwise than written here" >&2; exit 1; }
