"""A plan in words, within 80 columns, and as JSON."""

import textwrap
from collections.abc import Mapping
from typing import Any

from vla.planning.constants import CONSTANTS
from vla.planning.memory import Memory
from vla.planning.plan import Plan, Row
from vla.planning.workload import Number

WIDTH = 80
PARTS = ("frozen", "trained", "gradients", "moments", "averages", "activations", "buffers")
LIMITS: Mapping[str, str] = {
    "matrices": "products of matrices limit it: a faster GPU, or less to compute (fewer pixels, more frozen blocks)",
    "traffic": "memory traffic limits it: small kernels between the products of matrices read and write more than "
    "these compute",
    "launches": "launches limit it: the GPU waits for Python to start kernels, so a larger --micro-batch costs nothing",
    "communication": "communication limits it: larger batches, or a topology that sends less",
    "optimizer": "the optimizer's step limits it: more samples a step make it rarer",
}
"""What a person can do about each part of a step."""


def lines(plan: Plan, title: str) -> list[str]:
    """The whole plan."""
    return [
        *wrapped(title),
        *wrapped(parameters(plan)),
        *wrapped(sample(plan)),
        *wrapped(f"checkpoint {size(plan.costs.counts.checkpoint)}, policy {size(plan.costs.counts.policy)}"),
        "",
        *table(plan),
        "",
        *memory_table(plan),
        "",
        *(line for sentence in reasons(plan) for line in wrapped(sentence)),
        *wrapped(ERRORS),
    ]


ERRORS = (
    "Errors: parameters, state, checkpoint and bytes sent are counted; activations within 25 %; of samples/s "
    "the range is in brackets, without what DeepSpeed's own hooks cost. No GPU has measured the times yet: --json has "
    "every constant with its source."
)


def wrapped(text: str) -> list[str]:
    """In 80 columns."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def count(number: Number) -> str:
    """`163.3 M`."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number:,.0f}"


def size(number: Number) -> str:
    """Bytes."""
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def work(flops: Number) -> str:
    """FLOPs."""
    return f"{flops / 1e12:.3g} TFLOP" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP"


def figure(number: Number) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def parameters(plan: Plan) -> str:
    """What trains."""
    counts = plan.costs.counts
    told = ", ".join(f"{group} {count(number)}" for group, number in sorted(counts.groups.items()))
    return f"parameters: {count(counts.trained)} trained ({told}), {count(counts.frozen)} frozen"


def sample(plan: Plan) -> str:
    """What one costs."""
    flops, kept = plan.costs.flops, plan.costs.kept
    parts = {name: cost.forward + cost.backward for name, cost in flops.parts.items()}
    told = ", ".join(
        f"{name} {number / flops.model:.0%}" for name, number in parts.items() if number > 5e-3 * flops.model
    )
    again = f", and {work(flops.again)} of checkpointing again" if flops.again else ""
    traffic = plan.costs.demand["value"].traffic
    return (
        f"a sample: {work(flops.model)} ({told}){again}; {size(traffic)} through memory beside them; "
        f"{size(kept.sample)} of activations"
    )


def table(plan: Plan) -> list[str]:
    """A line a topology."""
    room = f"of {plan.cluster.gpu.memory / 1e9:.0f} GB"
    priced = plan.price is not None
    head = f"{'topology':<13}{'micro':>5}{'memory':>7} {room:<10}{'samples/s':<20}{'hours':>7}"
    found = [head + (f"{'cost':>8}" if priced else "") + f"{'GB sent':>8}"]
    for row in plan.rows:
        rate = rate_of(plan, row) if row.fits else "-"
        hours = figure(plan.hours(row)) if row.fits else "-"
        cost = plan.cost(row)
        priced_at = (f"{price(cost):>8}" if cost is not None and row.fits else f"{'-':>8}") if priced else ""
        sent = f"{row.sent.sent(plan.cluster.ranks) / 1e9:>8.3g}"
        fits = "fits" if row.fits else "too large"
        memory = f"{row.memory.device / 1e9:.1f}"
        found.append(
            f"{row.topology:<13}{row.micro_batch:>5}{memory:>7} {fits:<10}{rate:<20}{hours:>7}{priced_at}{sent}"
        )
    return found


def price(cost: Number) -> str:
    """An amount of money in seven letters."""
    return figure(cost) if cost < 1e5 else f"{cost / 1e3:,.0f}k"


def rate_of(plan: Plan, row: Row) -> str:
    """Samples a second, and their range."""
    value, slow, fast = (plan.rate(row, which) for which in ("value", "slow", "fast"))
    if fast < 10_000:
        return f"{figure(value)} ({figure(slow)}-{figure(fast)})"
    return f"{value / 1000:.3g}k ({slow / 1000:.3g}k-{fast / 1000:.3g}k)"


def memory_table(plan: Plan) -> list[str]:
    """Memory by part, in GB."""
    short = {"activations": "activ.", "gradients": "grads"}
    head = "".join(f"{short.get(part, part):>9}" for part in PARTS)
    found = ["GB a rank" + " " * (len("zero3_offload") - 8) + head[1:]]
    return [*found, *(f"{row.topology:<13}{cells(row.memory)}" for row in plan.rows)]


def cells(memory: Memory) -> str:
    """The parts of a rank's memory."""
    return "".join(f"{memory.parts[part] / 1e9:>9.2f}" for part in PARTS)


def reasons(plan: Plan) -> list[str]:
    """Which is fastest, and why."""
    best = plan.best
    if best is None:
        least = min(plan.rows, key=lambda row: row.memory.device)
        return [
            f"Nothing fits: {least.topology} needs least, {least.memory.device / 1e9:.1f} GB a rank.",
            "Give more or larger GPUs, fewer pixels, or --gradient-checkpointing.",
        ]
    seconds = best.step.seconds
    shares = ", ".join(
        f"{name} {part / seconds:.0%}" for name, part in best.step.parts.items() if part > 0.005 * seconds
    )
    asked = "" if best.topology == "single" else f" with accelerate_configs/{best.topology}.yaml"
    rate = f"{figure(plan.rate(best))} samples/s, MFU {plan.mfu(best):.2g}"
    found = [
        f"Fastest: {best.topology}{asked} and --micro-batch {best.micro_batch}, {rate}.",
        f"Why: of a step of {figure(seconds * 1e3)} ms {shares}; {LIMITS[best.step.limit]}.",
        *rivals(plan, best),
    ]
    hosts = ", ".join(f"{row.topology} {size(row.memory.host)}" for row in plan.rows if row.memory.host)
    return [*found, f"In host memory, a rank: {hosts}."]


def rivals(plan: Plan, best: Row) -> list[str]:
    """What the next best does worse."""
    others = [row for row in plan.rows if row.fits and row is not best]
    if not others:
        return ["No other topology fits."] if len(plan.rows) > 1 else []
    second = min(others, key=lambda row: row.step.seconds)
    ranks = plan.cluster.ranks
    own, other = best.sent.sent(ranks), second.sent.sent(ranks)
    if own < other:
        return [f"{second.topology} sends {size(other)} a step and rank where {best.topology} sends {size(own)}."]
    longer = {part: second.step.parts[part] - own for part, own in best.step.parts.items()}
    part = max(longer, key=lambda name: longer[name])
    why = f"its {part} takes {figure(longer[part] * 1e3)} ms a step longer"
    return [f"{second.topology} follows with {figure(plan.rate(second))} samples/s: {why}."]


def to_json(plan: Plan, title: str) -> dict[str, Any]:
    """Everything, bytes and seconds as they are."""
    counts, flops, kept = plan.costs.counts, plan.costs.flops, plan.costs.kept
    best = plan.best
    return {
        "training": title,
        "gpu": {name: value for name, value in vars(plan.cluster.gpu).items() if name != "reports"},
        "gpus": plan.cluster.gpus,
        "machines": plan.cluster.machines,
        "batch_size": plan.batch_size,
        "steps": plan.num_steps,
        "parameters": {"trained": counts.trained, "frozen": counts.frozen, "groups": dict(counts.groups)},
        "checkpoint_bytes": counts.checkpoint,
        "policy_bytes": counts.policy,
        "sample": {
            "flops": flops.model,
            "flops_by_part": {name: cost._asdict() for name, cost in flops.parts.items()},
            "flops_computed_again": flops.again,
            "traffic_bytes": plan.costs.demand["value"].traffic,
            "activation_bytes": kept.sample,
            "activation_bytes_by_part": dict(kept.parts),
            "peak_bytes": kept.peak,
        },
        "rows": [row_to_json(plan, row) for row in plan.rows],
        "fastest": None if best is None else best.topology,
        "why": reasons(plan),
        "constants": {name: vars(constant) for name, constant in CONSTANTS.items()},
    }


def row_to_json(plan: Plan, row: Row) -> dict[str, Any]:
    """A topology."""
    return {
        "topology": row.topology,
        "micro_batch": row.micro_batch,
        "accumulation": row.accumulation,
        "fits": row.fits,
        "memory_bytes": row.memory.device,
        "memory_bytes_by_part": dict(row.memory.parts),
        "host_bytes": row.memory.host,
        "samples_per_s": plan.rate(row),
        "samples_per_s_range": [plan.rate(row, "slow"), plan.rate(row, "fast")],
        "mfu": plan.mfu(row),
        "hours": plan.hours(row),
        "cost": plan.cost(row),
        "handed_over_bytes": vars(row.sent),
        "sent_bytes": row.sent.sent(plan.cluster.ranks),
        "step_seconds_by_part": dict(row.step.parts),
        "limit": row.step.limit,
    }
