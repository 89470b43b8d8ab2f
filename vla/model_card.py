"""The model card of a policy: only what is true of this one."""

from collections.abc import Mapping

from torch import Tensor

from vla.contract import DataContract
from vla.parts import PARTS, fitting, row_of
from vla.policy import Policy
from vla.provenance import Origin, Source, source
from vla.settings import DiffusionConfig


def card(policy: Policy, learned: Mapping[str, Tensor], origin: Origin | None, *, merged: bool = False) -> str:
    """The model card, with the front matter that model hubs read; a `merged` policy has its backbone within."""
    config, contract = policy.config, policy.contract
    reads_alone = policy.backbone.size is None
    kind = "language-action" if reads_alone and not contract.cameras else "vision-language-action"
    base = origin.base if origin is not None else None if merged else source(config.backbone.path, None)
    elsewhere = "" if merged else "  # backbone_path=... where the backbone lies elsewhere"
    return f"""\
---
library_name: touchstone
pipeline_tag: robotics
{front_matter(base, () if origin is None else origin.data)}
tags:
- robotics
- {kind}
- diffusion
- {"sentence-encoder" if reads_alone else "qwen2_5_vl"}
---

# A {kind} policy

Looks at {", ".join(inputs(contract))}, and gives the next {contract.horizon} actions.

| | |
|---|---|
| Backbone | {backbone(base, merged=merged)} |
| Trained of the backbone | {trained_of_backbone(policy, learned, merged=merged)} |
{parts(policy, learned)}
| Actions | {contract.horizon} steps of {contract.action_dim} at {contract.fps:g} Hz{names(contract)} |
| Diffusion | {diffusion(config.diffusion)} |

Inputs and outputs are in the units of the data it was trained on; `normalizer.safetensors` holds the scales.

## How to load

```python
import torch
from vla.policy_folder import load_policy

policy = load_policy("path/to/this/folder", fold=True){elsewhere}
contract = policy.contract
noise = torch.randn(1, contract.horizon, contract.action_dim)
actions = policy.act(observation, noise)  # vla.batch.Observation -> {contract.horizon} x {contract.action_dim}
```

`vla evaluate path/to/this/folder --data.roots DATA` measures it on recorded demonstrations.

## Where it comes from

{provenance(base, origin)}
"""


def front_matter(base: Source | None, data: tuple[Source, ...]) -> str:
    """Base model and data sets as hubs read them: those with an id on a hub; the others in a comment."""
    lines = []
    if base is not None:
        lines.append(f"base_model: {base.name}" if base.hub else f"# base_model: {base.name}, not on a hub")
    if on_hub := [entry.name for entry in data if entry.hub]:
        lines += ["datasets:", *(f"- {name}" for name in on_hub)]
    lines += [f"# dataset: {entry.name}, not on a hub" for entry in data if not entry.hub]
    return "\n".join([*lines, "# license: not stated"])


def diffusion(config: DiffusionConfig) -> str:
    """How it was trained to undo noise, and how it samples."""
    found = [f"{config.path} path", f"{config.prediction} prediction"]
    found += [f"{config.unconditional:.3g} of the samples without the instruction"] if config.unconditional else []
    found += [f"{config.sampler} in {config.sampling_steps} steps"]
    found += [f"guidance {config.guidance:g}"] if config.guidance != 1 else []
    return ", ".join(found)


def inputs(contract: DataContract) -> list[str]:
    """What it looks at, in words."""
    cameras = len(contract.cameras)
    found = [f"{cameras} camera image{'' if cameras == 1 else 's'}"] if cameras else []
    found += ["an instruction"] if contract.instructed else []
    found += [f"a state of {contract.state_dim} numbers"] if contract.state_dim else []
    return found + [f"a window of `{stream.key}`" for stream in contract.streams.values()]


def backbone(base: Source | None, *, merged: bool) -> str:
    """Which backbone, and where it is."""
    named = "of unknown name" if base is None else f"`{base.name}`"
    where = "contained in `backbone/` with what was trained merged into it" if merged else "not contained"
    return f"{named}, {where}; its fingerprint is in `config.json`"


def trained_of_backbone(policy: Policy, learned: Mapping[str, Tensor], *, merged: bool) -> str:
    """What is not as it was in the backbone."""
    found = []
    if policy.config.lora is not None:
        layers = "" if policy.config.lora.layers == "all" else f" on the layers {policy.config.lora.layers}"
        found.append(f"LoRA of rank {policy.config.lora.rank}{layers} in `adapter/`, for plain peft")
    if blocks := [name for name in learned if name.startswith("backbone.") and "lora_" not in name]:
        found.append(f"{len(blocks)} tensors of its last blocks in `backbone_blocks.safetensors`")
    return "; ".join(found) or ("as merged" if merged else "nothing")


def parts(policy: Policy, learned: Mapping[str, Tensor]) -> str:
    """Rows of the parts that this policy has."""
    contract = policy.contract
    rows = [
        ("Learned parameters", f"{sum(tensor.numel() for tensor in learned.values()):,}"),
        ("Cameras, in order", ", ".join(shown(camera, contract) for camera in contract.cameras) or "none"),
    ]
    rows += [
        (PARTS[row_of(name)].label, PARTS[row_of(name)].describe(name, settings, contract))
        for name, settings in fitting(policy.config.encoders, contract).items()
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def shown(camera: str, contract: DataContract) -> str:
    """A camera by its key, with the distances that its pictures show where they are of depth."""
    return f"`{camera}`" + (f" (depth, {contract.depth[camera]})" if camera in contract.depth else "")


def names(contract: DataContract) -> str:
    """The action dimensions by name, where they have names."""
    return f": {', '.join(contract.action_names)}" if contract.action_names else ""


def provenance(base: Source | None, origin: Origin | None) -> str:
    """Base model, data, licences and versions, as far as they are known."""
    rows = [("Licence", "not stated for this policy; mind those of the base model and the data")]
    rows.append(("Base model", "unknown" if base is None else str(base)))
    if origin is None:
        return table([*rows, ("Trained on", "unknown: it was not written by a training")])
    return table(rows + [("Trained on", str(entry)) for entry in origin.data] + origin.versions.rows())


def table(rows: list[tuple[str, str]]) -> str:
    """A table in Markdown."""
    cells = ((name, value.replace("|", "\\|")) for name, value in rows)
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
