"""What `vla evaluate --suites` does with a policy of human motion."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla.commandline import progress
from vla.commands.measuring import Measuring
from vla.commands.recordings import open_policy
from vla.critic_settings import CriticConfig

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.evaluation.motion.robustness import Robustness
    from vla.evaluation.motion.suites import Suite

NAME = "adversarial_eval"
SAMPLES = 8
"""Motions of each prompt, unless said otherwise: of one alone an interval says little."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a policy is to be tried with."""

    suites: "Mapping[str, Suite]"
    remarks: tuple[str, ...]
    """Where suites are from that do not ship, and what the policy is not shown."""
    samples: int
    """Motions of each prompt."""
    critic: CriticConfig


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of the suites, and of which policy."""

    content: Mapping[str, Any]
    """Of adversarial_eval.json."""
    found: "Robustness"

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump."""
        return dict(self.content)

    def lines(self) -> list[str]:
        """The table in 80 columns."""
        return self.found.lines()

    def check(self) -> None:
        """Refuse to end well where prompts failed and no motion was judged. ValueError."""
        if self.found.errors and not self.found.judged:
            where, reason = self.found.errors[0]
            raise ValueError(f"no motion of any prompt could be judged; the first, {where}: {reason}")


def check_suites(suites: tuple[str, ...] | None, file: Path | None, samples: int) -> None:
    """Refuse settings that would have no effect, before anything is loaded. ValueError."""
    idle = ["--suites-file"] * (file is not None) + ["--samples-a-prompt"] * (samples != SAMPLES)
    if suites is None and idle:
        raise ValueError(
            f"{' and '.join(idle)} would have no effect without prompt suites: add --suites, or leave that out"
        )


def open_suites(
    names: tuple[str, ...], file: Path | None, samples: int, critic: CriticConfig, contract: "DataContract"
) -> Asked:
    """What a policy is to be tried with.

    Raises:
        ValueError: the policy makes no motion, or a suite is not there or does not fit.
    """
    from vla.evaluation.motion.suites import choose

    if contract.body is None:
        raise ValueError("--suites is of policies of human motion, which this is not: leave it out")
    if contract.body.kind == "coordinates":
        raise ValueError(
            "--suites judges where joints are, which coordinates of a model do not say: give a policy of rotations or "
            "positions"
        )
    suites, remarks = choose(names, file)
    if contract.cameras:
        remarks.append("the policy can look at pictures, and is shown none")
    return Asked(suites=suites, remarks=tuple(remarks), samples=samples, critic=critic)


def against_prompts(command: Measuring, asked: Asked, device: str, adapters: Sequence[str] = ()) -> Tried:
    """Motions of every prompt, judged: adversarial_eval.json. One that is there already is kept under its time.

    `adapters` are on.
    """
    from vla.critic.critic import Critic
    from vla.evaluation.motion.robustness import try_policy
    from vla.policy_folder import digest

    policy = open_policy(
        command.policy, command.backbone, device, command.sampling, command.embeddings, adapters=adapters
    ).to(device)
    policy.set_mode(training=False)
    with progress(sum(len(suite.prompts) for suite in asked.suites.values()), "prompts") as bar:
        found = try_policy(
            policy,
            asked.suites,
            Critic(config=asked.critic),
            samples=asked.samples,
            seed=command.seed or 0,
            steps=command.steps,
            remarks=asked.remarks,
            progress=bar.update,
        )
    content = {
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": str(command.policy),
        "policy_sha256": digest(command.policy / "config.json"),
        "sampler": command.sampler,
        "guidance": command.guidance,
        "adapters": policy.blend.weights,
        **found.to_json(),
    }
    out = command.results
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{NAME}.json"
    if (kept := put_aside(file)) is not None:
        print(f"the {file.name} that was there is {kept} now", file=sys.stderr)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{file.name} is in {out}", file=sys.stderr)
    return Tried(content=content, found=found)


def put_aside(file: Path) -> Path | None:
    """Call a file by the time at which it was written, too; where it is now, None where it is not there."""
    if not file.exists():
        return None
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    kept = file.with_name(f"{file.stem}_{written:%Y%m%dT%H%M%S.%fZ}{file.suffix}")
    return file.rename(kept)
