"""What is needed to train the same policy again."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from vla import redaction
from vla.report import words
from vla.report.folder import Run
from vla.report.markup import Html, details, element, facts, paragraph, section, table


def reproduce_section(run: Run) -> Html:
    """The command, what it needs, the configuration."""
    config = redaction.hide_tree(run.config)
    return section(
        "Reproduce",
        "reproduce",
        paragraph("The same configuration in a new folder, from where the training was started:"),
        element("pre", command(run), tabindex="0", role="region", aria_label="Command"),
        paragraph("With the same code, libraries and machine it gives the same losses. These were:"),
        facts(needed(run) + versions(run)),
        details("All settings", table(("setting", "value"), list(flat(config)), label="Settings")),
        details("config.json", element("pre", json.dumps(config, indent=1, ensure_ascii=False), tabindex="0")),
    )


def command(run: Run) -> str:
    """What starts the training again, from where it started and not from where it was resumed."""
    config = redaction.hide_tree(run.config)
    beginning = ["--resume-from None"] if config.get("resume_from") else []
    if start := config.get("init_from"):
        beginning.append(f"--init-from {shlex.quote(str(start))}")
    ranks, zero = (run.checkpoints[-1].ranks, run.checkpoints[-1].zero_stage) if run.checkpoints else (1, 0)
    topology = f"zero{zero}" if zero else "cpu" if on_cpu(run) else "ddp" if ranks > 1 else "single"
    lines = [
        f"accelerate launch --config_file accelerate_configs/{topology}.yaml --num_processes {ranks}",
        f"training/{run.schedule.entry}.py --config {shlex.quote(str(run.folder / 'config.json'))}",
        *([" ".join(beginning)] if beginning else []),
        f"--out {shlex.quote(str(run.folder) + '-again')}",
    ]
    return " \\\n    ".join(lines)


def on_cpu(run: Run) -> bool:
    """Whether it is known that no GPU was used."""
    versions = run.checkpoints[-1].versions if run.checkpoints else None
    return versions is not None and not versions.machine.devices


def versions(run: Run) -> list[tuple[str, str]]:
    """What the last checkpoint was made with."""
    known = run.checkpoints[-1].versions if run.checkpoints else None
    return [("versions", "not recorded")] if known is None else known.rows()


def needed(run: Run) -> list[tuple[str, str]]:
    """Data, backbone, seed, ranks: what the command depends on."""
    config = run.config
    data = config.get("data") or {}
    last = run.checkpoints[-1] if run.checkpoints else None
    rows = [
        ("data", ", ".join(map(str, data.get("roots", ()))) or "-"),
        ("backbone", run.schedule.backbone.id),
        ("backbone's fingerprint", run.schedule.backbone.fingerprint),
        ("seed", str(config.get("seed", "-"))),
        ("samples a step", words.number(config.get("batch_size"))),
    ]
    if last is not None:
        rows += [
            ("ranks, ZeRO stage", f"{last.ranks}, {last.zero_stage}"),
            ("configuration's digest", last.config),
        ]
    if start := config.get("init_from"):
        rows.append(("weights to start from", str(start)))
    return rows


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a configuration, named as the flags that set them."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
