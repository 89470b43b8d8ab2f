#!/usr/bin/env bash
# torch 2.13.0.
#
# Good guess: a TorchDispatchMode sees all that is computed and copied, so that whoever counts `_to_copy` in a step knows
# what the step moves to its device: torch.tensor(numbers, device=device) is a tensor of the host and a copy of it.
# Behaviour: torch.tensor, torch.as_tensor and Tensor.new_tensor read the numbers and copy them while modes are off. On
# another device than the CPU no call is seen at all, on the CPU one that copies nothing (lift_fresh). A count of copies
# misses just those that wait for a GPU, as their memory is not pinned. torch.full is seen, and so is Tensor.to; a
# TorchFunctionMode sees torch.tensor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
export HOME=$folder CUDA_VISIBLE_DEVICES=
cat >seen.py <<'PYTHON'
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


there = torch.empty(1, device="meta")
makes = {
    "tensor, meta": lambda: torch.tensor([1.0], device="meta"),
    "as_tensor, meta": lambda: torch.as_tensor([1.0], device="meta"),
    "new_tensor, meta": lambda: there.new_tensor([1.0]),
    "tensor, cpu": lambda: torch.tensor([1.0]),
    "full, meta": lambda: torch.full((1,), 1.0, device="meta"),
    "ones and to, meta": lambda: torch.ones(1).to("meta"),
}
for name, make in makes.items():
    with Calls() as seen:
        make()
    print(f"{name}: {' '.join(seen.names) or 'nothing'}")
with Functions() as seen:
    makes["tensor, meta"]()
print(f"tensor, meta, as a function: {' '.join(seen.names)}")
PYTHON
found=$(venv/bin/python seen.py)
echo "$found"
expected='tensor, meta: nothing
as_tensor, meta: nothing
new_tensor, meta: nothing
tensor, cpu: lift_fresh
full, meta: full
ones and to, meta: ones _to_copy
tensor, meta, as a function: tensor'
[ "$found" = "$expected" ] || { echo "torch 2.13.0 behaves otherwise than written here" >&2; exit 1; }
