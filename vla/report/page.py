"""The page: what was trained and how good it is at the top, everything below."""

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vla.contract import DataContract
from vla.report import words
from vla.report.ablation import ablation_section, inputs, verdict
from vla.report.closed_loop import closed_loop_section, limits
from vla.report.folder import Run, read_run
from vla.report.markup import Html, element, facts, paragraph
from vla.report.motions import motion_section
from vla.report.open_loop import open_loop_section
from vla.report.reproduce import reproduce_section
from vla.report.style import STYLE
from vla.report.suites import suite_section
from vla.report.traces import trace_section
from vla.report.training import checkpoint_section, quarantine_section, training_section

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""The page runs no script and asks the network for nothing, whatever a text in it says."""


def write_report(folder: Path, out: Path) -> int:
    """Write the report of a run; returns its bytes.

    Raises:
        ValueError: the folder is not a run, or the file cannot be written.
        CorruptData: a file of the run is damaged.
    """
    content = page(read_run(folder), datetime.now(UTC)).encode()
    beside = out.with_name(out.name + ".tmp")
    try:
        beside.write_bytes(content)
        beside.replace(out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror}); give another file with --out") from error
    return len(content)


def page(run: Run, now: datetime) -> Html:
    """The whole document."""
    name = run.folder.resolve().name
    sections = [
        *motion_section(run.evaluation.motions, run.evaluation.folder),
        *suite_section(run.evaluation.suites),
        *closed_loop_section(run.evaluation),
        *ablation_section(run.evaluation.ablation),
        *trace_section(run),
        *open_loop_section(run),
        training_section(run),
        checkpoint_section(run),
        *quarantine_section(run.left_out),
        reproduce_section(run),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{name}: training report"),
        element("link", rel="icon", href=Html("data:,")),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element("header", *header(run, name)),
        element("nav", *map(link, sections), aria_label="Sections"),
        element("main", *sections),
        element("footer", paragraph(f"Written {moment(now)} by vla report from {run.folder}.")),
    )
    return Html("<!doctype html>\n" + element("html", head, body, lang="en") + "\n")


def link(section: Html) -> Html:
    """A link to a section."""
    found = re.match(r'<section id="([^"]*)"><h2>(.*?)</h2>', section)
    assert found is not None
    return element("a", Html(found[2]), href=f"#{found[1]}")


def header(run: Run, name: str) -> list[Html]:
    """Name, state, what was trained, and the numbers one looks for first."""
    return [
        element("h1", name),
        paragraph(f"{state(run)} Last written {moment(run.written)}.", "lead"),
        element("div", *tiles(run), class_="tiles"),
        *verdicts(run),
        facts(trained(run)),
    ]


def moment(time: datetime) -> str:
    """A time as one says it."""
    return time.strftime("%-d %B %Y, %H:%M UTC")


def state(run: Run) -> str:
    """Whether the run has ended; a policy alone does not say so, because --stop-after exports one too."""
    done, planned = int(run.metrics.last("step") or 0), run.schedule.end
    if run.policy is not None and done >= planned:
        return f"Finished after {words.plural(done, 'step')}."
    return f"Under way or stopped, at step {done:,} of {planned:,}." if done else "Has not made a step yet."


def tile(value: str, name: str, more: str = "") -> Html:
    """A number to see at once."""
    parts = [element("b", value), element("span", name), *([element("small", more)] if more else [])]
    return element("div", *parts, class_="tile")


def tiles(run: Run) -> list[Html]:
    """Success, losses, samples, time."""
    metrics, found = run.metrics, []
    for entry in limits(run.evaluation.closed_loop or {})[:1]:
        episodes = f", {entry['episodes']:,} episodes" if isinstance(entry.get("episodes"), int) else ""
        found.append(
            tile(
                words.percent(entry["rate"]), f"success within {entry['steps']} steps", words.interval(entry) + episodes
            )
        )
    if (loss := metrics.last("loss")) is not None:
        found.append(tile(words.number(loss, 3), "last training loss"))
    if run.validations:
        first, last = run.validations[0]["loss"], run.validations[-1]["loss"]
        found.append(tile(words.number(last, 3), "held-out loss", f"from {words.number(first, 3)}"))
    if open_loop := run.evaluation.open_loop:
        found.append(tile(words.number(open_loop.get("mae"), 3), "action error", "open loop, data units"))
    if (seen := metrics.last("samples_seen")) is not None:
        found.append(
            tile(words.short(seen) if seen >= 1e6 else f"{seen:,.0f}", "samples seen", f"{len(metrics):,} steps")
        )
    if (seconds := trained_s(run)) is not None:
        found.append(tile(words.duration(seconds), "training steps took"))
    return found


def trained_s(run: Run) -> float | None:
    """Seconds of all steps, from their samples and rates."""
    columns = run.metrics.columns
    if not {"samples_seen", "samples_per_s"} <= set(columns):
        return None
    samples = np.diff(columns["samples_seen"], prepend=0.0)
    seconds = samples / columns["samples_per_s"]
    return float(np.nansum(seconds[np.isfinite(seconds)]))


def verdicts(run: Run) -> list[Html]:
    """What the policy uses, in a line."""
    entries = inputs(run.evaluation.ablation)
    if not entries:
        return []
    items = [element("li", str(entry.get("input")), " ", verdict(entry)) for entry in entries]
    return [element("ul", *items, class_="verdicts", aria_label="What the policy uses")]


def trained(run: Run) -> list[tuple[str, str]]:
    """Stages, backbone and data in a line each."""
    rows = []
    for stage in run.schedule.stages:
        groups = ", ".join(f"{group} at {words.number(rate, 3)}" for group, rate in stage.rates.items())
        rows.append((stage.name, f"{words.plural(stage.end - stage.start, 'step')}: {groups}"))
    data, backbone = run.config.get("data") or {}, run.config.get("backbone") or {}
    rows.append(("data", ", ".join(map(str, data.get("roots", ()))) or "-"))
    rows.append(("backbone", str(backbone.get("path", "-"))))
    rows.append(("inputs", interface(run.schedule.contract)))
    return rows


def interface(contract: DataContract) -> str:
    """The policy's inputs and outputs in words."""
    parts = [f"camera {camera.rsplit('.', 1)[-1]}" for camera in contract.cameras]
    if contract.instructed:
        parts.append("instruction")
    if contract.state_dim:
        parts.append(f"state of {contract.state_dim} numbers")
    if contract.body is not None:
        seconds = contract.horizon / contract.fps
        moved = f"{words.number(seconds, 3)} s of {contract.body.kind} of {len(contract.body.joints)} joints"
        return f"{'; '.join(parts)}. It makes {moved} at {words.number(contract.fps)} Hz."
    for stream in contract.streams.values():
        window = f"{stream.samples} samples of {stream.channels} channels"
        parts.append(f"{stream.key}, {window} at {words.number(stream.rate_hz)} Hz")
    answer = f"{contract.horizon} actions of {contract.action_dim} numbers"
    return f"{'; '.join(parts)}. It answers {answer} at {words.number(contract.fps)} Hz."
