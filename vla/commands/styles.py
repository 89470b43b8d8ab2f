"""What `vla evaluate --suites style` does: style adapters of a policy of human motion, alone or two of them blended."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vla.commandline import progress
from vla.commands.adapted import AdapterSettings, opened, stored_of
from vla.commands.measuring import Measuring
from vla.commands.motions import open_clips
from vla.commands.recordings import as_body_of
from vla.commands.suites import put_aside

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.evaluation.adapted.blending import Blended

NAME = "style"
DRAWN = 2
"""Motions of each weight in its picture."""
USUAL = "walking"
"""The action whose caption is asked for, where nothing else is said."""


def measure_styles(
    command: Measuring,
    *,
    adapters: Sequence[str],
    training: Sequence[str],
    motions: int,
    settings: AdapterSettings,
    contract: "DataContract",
    device: str,
) -> "Blended":
    """Style adapters over their weights: style.json, style.html and a picture a weight.

    Raises:
        ValueError: there are more than two, or what they do or are asked for is shown by no training clip.
    """
    from vla import adapting
    from vla.evaluation.adapted import blending
    from vla.evaluation.adapted.bench import Bench
    from vla.evaluation.adapted.concepts import asked_by, captions_of, told_apart

    if len(adapters) > 2:
        raise ValueError(f"--suites style blends two adapters at most, and {len(adapters)} were given: leave some out")
    if any((asked := adapting.parse(word)).weight != 1 or asked.quantity for word in adapters):
        raise ValueError("--suites style chooses the weights itself: give --adapter FILE without one")
    motion = as_body_of(contract, command.data.motion)
    known = [open_clips(root, contract, motion) for root in training]
    held_out = [open_clips(root, contract, motion) for root in command.data.roots]
    policy = opened(command, device)
    read = stored_of(policy, adapters, command.policy)
    made = [stored.description.made if stored.description else {} for stored in read]
    styles = settings.styles or tuple(filter(None, map(style_of, made)))
    known, held_out = told_apart(known, styles), told_apart(held_out, styles)
    captions = captions_of(known)
    check_styles(styles, len(adapters), captions)
    prompt, action = prompt_of(settings.prompt, made, captions)
    bench = Bench.of(policy, known, held_out, command.seed or 0, command.steps)
    for line in adapting.blend(policy, adapters, command.policy):
        print(line.rpartition(",")[0], file=sys.stderr)
    names = policy.adapters.names
    policy.adapters.set({})
    texts = {other: asked_by(some) for other, some in sorted(captions.items())}
    total = len(blending.WEIGHTS) + len(set(texts) - {action, *styles})
    with progress(total, "questions") as bar:
        plan = blending.Plan(
            adapters=names,
            styles=styles,
            prompt=prompt,
            action=action,
            texts=texts,
            motions=motions,
            seed=command.seed or 0,
            progress=bar.update,
        )
        found, drawn = blending.measure(bench, policy, plan)
    write(command, found, drawn)
    return found


def check_styles(styles: Sequence[str], count: int, captions: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse styles that are not one an adapter, or that no training clip shows (ValueError)."""
    if len(styles) != count:
        raise ValueError(
            f"what the {count} adapters do is not said of each: name an action or a caption of the training clips for "
            f"each with --styles, of {', '.join(sorted(captions))}"
        )
    if missing := [style for style in styles if style not in captions]:
        raise ValueError(
            f"no clip of --training shows {missing[0]}, so no judge can tell it: give clips that do, or name what the "
            f"adapter does with --styles, of {', '.join(sorted(captions))}"
        )


def style_of(made: Mapping[str, Any]) -> str | None:
    """The action, or the caption, that an adapter's header says it was trained on."""
    from vla.data.facts import INSTRUCTION
    from vla.evaluation.adapted.concepts import WHERE

    conditions = [str(word) for word in (made.get("roles") or {}).get("where", ())]
    found = [condition[2] for word in conditions if (condition := WHERE.fullmatch(word)) is not None]
    found += [text for fact, _, text in (word.partition("=") for word in conditions) if fact == INSTRUCTION]
    return found[0] if len(found) == 1 else None


def prompt_of(
    asked: str | None, made: Sequence[Mapping[str, Any]], captions: Mapping[str, Mapping[str, int]]
) -> tuple[str, str]:
    """What is asked for: a training caption of one action, that of the adapters' training before a usual one."""
    taught = [str(text) for own in made if (text := (own.get("roles") or {}).get("text"))]
    usual = max(captions[USUAL], key=captions[USUAL].__getitem__) if USUAL in captions else None
    prompt = asked or (taught[0] if taught else usual)
    actions = [action for action, some in captions.items() if prompt in some]
    if prompt is None or len(actions) != 1:
        what = "nothing says what to ask for" if prompt is None else f"{prompt!r} is no training caption of one action"
        raise ValueError(f"{what}: give one with --prompt, such as {next(iter(next(iter(captions.values()))))!r}")
    return prompt, actions[0]


def write(command: Measuring, found: "Blended", drawn: Mapping[float, Sequence[Any]]) -> None:
    """style.json, which is kept under its time where one is there, a page, and a picture a weight."""
    from vla.motion.drawing import strip
    from vla.report.styles import page

    out = command.results
    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for weight, motions in drawn.items():
        pictures[weight] = out / f"{NAME}_{round(100 * weight):03d}.png"
        strip([motion.figure(f"weight {weight:g}") for motion in motions[:DRAWN]]).save(pictures[weight])
    for file in (out / f"{NAME}.json", out / f"{NAME}.html"):
        if (kept := put_aside(file)) is not None:
            print(f"the {file.name} that was there is {kept} now", file=sys.stderr)
    content = {"policy": str(command.policy), **found.to_json()}
    (out / f"{NAME}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (out / f"{NAME}.html").write_text(page(found, str(command.policy), pictures), encoding="utf-8")
    print(f"{NAME}.json and {NAME}.html are in {out}", file=sys.stderr)
