#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0: LoraConfig(target_modules=[whole names of some layers]), saved, loaded on a model that has
# more layers, whose names end alike (a further head of the same blocks).
#
# Good guess: the saved configuration lists the layers that were named, so the adapter sits on these alone wherever it is
# loaded; whether 18 or 20 of them were named is no matter.
# Behaviour: from 20 names on the list is replaced by the shortest suffixes that tell the named layers from the others OF
# THE MODEL IT WAS MADE ON, here `k` and `q`. On the other model these match layers that nobody named, which get fresh
# factors; with init_lora_weights=False in the file these are random, and the output of layers that were never trained
# changes. A UserWarning of missing keys is all that is said. With 18 names the list is kept, and nothing of it happens.
set -euo pipefail
VERSION=0.21.2
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "peft==$VERSION" "torch==2.13.0"
cat >"$folder/show.py" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + torch.tanh(self.k(self.q(x)))


class Net(nn.Module):
    def __init__(self, body, head):
        super().__init__()
        self.body = nn.ModuleList(Block() for _ in range(body))
        self.head = nn.ModuleList(Block() for _ in range(head))

    def forward(self, x):
        for block in [*self.body, *self.head]:
            x = block(x)
        return x


for depth in (9, 10):
    torch.manual_seed(0)
    named = [f"body.{block}.{layer}" for block in range(depth) for layer in "qk"]
    config = LoraConfig(r=2, target_modules=named, init_lora_weights=False)
    folder = Path(sys.argv[1]) / str(depth)
    get_peft_model(Net(depth, 0), config).save_pretrained(folder)
    stored = sorted(json.loads((folder / "adapter_config.json").read_text())["target_modules"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = PeftModel.from_pretrained(Net(depth, 2), folder)
    unnamed = {name: value for name, value in loaded.named_parameters() if "lora_" in name and ".head." in name}
    moved = sum(bool(value.abs().max() > 0) for name, value in unnamed.items() if "lora_B" in name)
    kept = "as given" if stored == sorted(named) else " ".join(stored)
    print(f"{len(named)} named, stored {kept}: {moved} unnamed layers moved, {len(said)} warnings")
PYTHON
found=$("$folder/venv/bin/python" "$folder/show.py" "$folder")
echo "$found"
expected='18 named, stored as given: 0 unnamed layers moved, 0 warnings
20 named, stored k q: 4 unnamed layers moved, 1 warnings'
[ "$found" = "$expected" ] || { echo "peft $VERSION behaves otherwise than written here" >&2; exit 1; }
