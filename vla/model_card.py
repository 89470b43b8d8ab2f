"""The model card of a policy."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vla.contract import DataContract
from vla.parts import PARTS, fitting, row_of
from vla.policy import Policy


def card(policy: Policy, learned: Mapping[str, Tensor]) -> str:
    """The model card, with the front matter that model hubs read."""
    config, contract = policy.config, policy.contract
    count = sum(tensor.numel() for tensor in learned.values())
    base = config.backbone.path
    is_hub_id = base.count("/") == 1 and not base.startswith((".", "/", "~"))
    adapter = "none" if config.lora is None else f"LoRA of rank {config.lora.rank} in `adapter/`, for plain peft"
    parts = "\n".join(
        f"| {PARTS[row_of(name)].label} | {PARTS[row_of(name)].describe(name, settings, contract)} |"
        for name, settings in fitting(config.encoders, contract).items()
    )
    return f"""\
---
library_name: touchstone
pipeline_tag: robotics
{f"base_model: {base}" if is_hub_id else f"# base_model: {Path(base).name}, a local folder"}
tags:
- robotics
- vision-language-action
- diffusion
- qwen2_5_vl
---

# A vision-language-action policy

Looks at {len(contract.cameras)} camera images, an instruction and what the table names, and gives the next
{contract.horizon} actions. Trained with Touchstone.

| | |
|---|---|
| Backbone | `{Path(base).name if not is_hub_id else base}`, not contained; its fingerprint is in `config.json` |
| Adapter | {adapter} |
| Learned parameters | {count:,} |
| Cameras, in order | {", ".join(f"`{camera}`" for camera in contract.cameras) or "none"} |
{parts}
| Actions | {contract.horizon} steps of {contract.action_dim} at {contract.fps:g} Hz{names(contract)} |
| Diffusion | {config.diffusion.path} path, {config.diffusion.prediction} prediction, \
{config.diffusion.sampler} in {config.diffusion.sampling_steps} steps |

Inputs and outputs are in the units of the data it was trained on; `normalizer.safetensors` holds the scales.

## How to load

```python
import torch
from vla.policy_folder import load_policy

policy = load_policy("path/to/this/folder")  # backbone_path=... where the backbone lies elsewhere
contract = policy.contract
noise = torch.randn(1, contract.horizon, contract.action_dim)
actions = policy.act(observation, noise)  # vla.batch.Observation -> {contract.horizon} x {contract.action_dim}
```

`vla evaluate path/to/this/folder --data.roots DATA` measures it on recorded demonstrations.
"""


def names(contract: DataContract) -> str:
    """The action dimensions by name, where they have names."""
    return f": {', '.join(contract.action_names)}" if contract.action_names else ""
