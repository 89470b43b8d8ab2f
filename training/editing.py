"""Forgetting in closed form: the adapter of the text projection is computed from instructions alone, without a step."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float64
from torch import Tensor, nn

from training import checking, distributed, launching, recipes
from training.checkpoints.beginning import load_weights
from training.config import RunConfig
from training.exporting import made_by
from training.opening import Run, open_run
from training.ranks import rank
from training.run.folder import RunFolder
from vla.adapters.file import WEIGHTS_FILE
from vla.adapting import base_of, save_adapter
from vla.assembling import assemble
from vla.closed_form import factors
from vla.concepts import content_of
from vla.data.facts import parse_words
from vla.documents import to_json
from vla.parts.expert import child_of
from vla.parts.groups import FROZEN, group_of
from vla.parts.text import TextBackbone
from vla.policy import Policy
from vla.redaction import hide_tree

PROJECTION = f"expert.context.projections.{child_of('backbone')}.1"
"""The layer through which the expert hears a text; what it is given is that of the layer before it."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Instructions by what becomes of them."""

    forgotten: Sequence[str]
    """Those of the forgotten episodes, and the concepts themselves."""
    preserved: Sequence[str]
    anchor: str
    """What the forgotten ones are heard as; empty: as the mean of the preserved ones."""


def edit(config: RunConfig) -> None:
    """Write RUN/adapter, computed on one rank, or say with --dry-run what would be refused.

    Raises:
        ValueError: it cannot be computed, or would overwrite something; nothing was written.
        CorruptData: a data file or the weights are damaged.
    """
    check_computed(config)
    if config.dry_run:
        lines = checking.check(config, os.environ)
        if rank() == 0:
            print(*lines, sep="\n")
        return
    place = Path(config.out) / "adapter"
    if config.resume_from is not None:
        raise ValueError("--method uce takes no steps that could be resumed: leave out --resume-from")
    if place.exists():
        raise ValueError(f"{place.parent} already holds an adapter; choose another --out")
    launching.check(ignore_cluster=config.ignore_cluster)
    accelerator = distributed.start_accelerator()
    run = open_run(config, RunFolder(config, accelerator), accelerator)
    accelerator.print(*run.data.table(), sep="\n")
    if accelerator.is_main_process:
        write(run, place, accelerator)
    accelerator.wait_for_everyone()


def check_computed(config: RunConfig) -> None:
    """Refuse settings of an adapter that is computed (ValueError): its layer and rank follow from what is forgotten."""
    usual = replace(recipes.unlearn().adapter, name=config.adapter.name)
    if changed := [key for key, value in vars(config.adapter).items() if value != vars(usual)[key]]:
        raise ValueError(
            f"--adapter.{changed[0]} would have no effect: --method uce computes an adapter of the text projection, "
            "whose rank is the number of forgotten instructions; leave it out"
        )


def write(run: Run, place: Path, accelerator: Accelerator) -> None:
    """Compute the adapter, say what it does, and write it with the settings beside it."""
    (stage,) = run.config.stages.values()
    assert run.initial is not None, "it begins with weights: open_run has refused it otherwise"
    lora = any("lora_" in name for name in run.initial)
    settings = replace(run.config.policy(stage, lora=lora), adapter=None)
    policy = assemble(settings, run.data.contract, run.normalizers, dtype=torch.float32, seed=run.config.seed)
    learned = [name for name, _ in policy.named_parameters() if group_of(name, ()) != FROZEN]
    load_weights(policy, run.initial, learned, (), opening=True, allowed=run.config.allow_missing)
    base = base_of(policy)
    name = run.config.adapter.name
    accelerator.print(*computed(policy, name, texts_of(run), run.config), sep="\n")
    place.parent.mkdir(parents=True, exist_ok=True)
    said = to_json(run.config) | {"init_from": run.config.init_from}
    (place.parent / "config.json").write_text(json.dumps(hide_tree(said), indent=1) + "\n")
    save_adapter(policy, name, place, base=base, made=made_by(run, 0), origin=run.origin())
    accelerator.print(f"adapter: {place} ({(place / WEIGHTS_FILE).stat().st_size:,} bytes)")


def texts_of(run: Run) -> Texts:
    """The instructions of a run's episodes by their role."""
    words = parse_words(run.config.data.where, "--data.where")
    forgotten, preserved = dict[str, None](), dict[str, None]()
    for samples in (run.data.everything, run.data.validation):
        for episode in (own for root in samples.episodes() for own in root):
            own = forgotten if all(word.holds(episode) for word in words) else preserved
            own |= dict.fromkeys(episode.instructions.different)
    named = [" ".join(content_of(concept)) for concept in run.config.forget.concept]
    forgotten |= dict.fromkeys(named)
    kept = [text for text in preserved if text not in forgotten]
    return Texts(forgotten=[*forgotten], preserved=kept, anchor=run.config.forget.anchor)


def computed(policy: Policy, name: str, texts: Texts, config: RunConfig) -> list[str]:
    """Put the adapter on a policy, and say how far it moves what the layer gives.

    Raises:
        ValueError: the policy does not hear a text as one vector.
    """
    if not isinstance(policy.backbone, TextBackbone):
        raise ValueError(
            "--method uce changes how one vector a text is heard, and this policy's backbone reads texts beside "
            "pictures: leave it out, which trains an adapter"
        )
    layer = policy.get_submodule(PROJECTION)
    assert isinstance(layer, nn.Linear), "the projection is linear"
    weight = layer.weight.detach().double()
    forgotten, preserved = keys(policy, texts.forgotten), keys(policy, texts.preserved)
    aim = keys(policy, [texts.anchor]) if texts.anchor else preserved.mean(dim=0, keepdim=True)
    values = (aim @ weight.T).expand(len(forgotten), -1)
    down, up = factors(weight, forgotten, values, preserved, config.forget.ridge)
    count = len(forgotten)
    policy.adapters.add(replace(config.adapter, rank=count, alpha=count, dropout=0.0, targets=(re.escape(PROJECTION),)))
    update = policy.adapters.updates(name)[PROJECTION]
    update.down.weight.data.copy_(down)
    update.up.weight.data.copy_(up)
    policy.adapters.set({name: 1.0})
    left = relative(values - forgotten @ (weight + up @ down).T, values - forgotten @ weight.T)
    moved = relative(preserved @ (up @ down).T, preserved @ weight.T)
    heard = repr(texts.anchor) if texts.anchor else "the mean of the others"
    return [
        f"{count} instructions are heard as {heard}, {len(preserved)} as before; lambda {config.forget.ridge:g}",
        f"forgotten: {left:.2g} of the way there is left; preserved: moved by {moved:.2g} of what they were",
    ]


@torch.no_grad()
def keys(policy: Policy, texts: Sequence[str]) -> Float64[Tensor, "K I"]:
    """What the projection is given of some texts."""
    assert isinstance(policy.backbone, TextBackbone), "checked before"
    before = policy.get_submodule(PROJECTION.removesuffix("1") + "0")
    heard: Tensor = before(policy.backbone.embed(texts, torch.device("cpu")).float())
    return heard.double()


def relative(change: Tensor, whole: Tensor) -> float:
    """The norm of a change as a share of another."""
    return float(change.norm() / whole.norm())
