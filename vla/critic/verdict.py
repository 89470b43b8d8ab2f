"""What a critic says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Check = Literal["frozen", "repetitive", "jitter", "speed", "acceleration", "ground", "quality", "step", "force"]
SEVERITY: Mapping[Check, float] = {
    "frozen": 0.9,
    "repetitive": 0.7,
    "jitter": 0.6,
    "speed": 0.8,
    "acceleration": 0.7,
    "ground": 0.6,
    "quality": 0.5,
    "step": 0.8,
    "force": 0.9,
}
"""From 0, no matter, to 1, critical. The first seven are of motions, the last two and speed of a robot's actions."""
WORST = 3.0
"""Sum of severities at which nothing is left of a score."""


@dataclass(frozen=True, kw_only=True)
class Issue:
    """Something that is wrong."""

    check: Check
    value: float
    """What was found."""
    limit: float
    """What it was to keep."""
    detail: str
    """Both, in words and units."""

    @property
    def severity(self) -> float:
        """From 0 to 1."""
        return SEVERITY[self.check]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All that is wrong with one motion or one chunk of actions."""

    issues: tuple[Issue, ...]
    unsafe_severity: float
    """Of an issue that makes it unsafe."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name; those of a motion are of `Measures` and `Quality`."""
    unjudged: tuple[str, ...] = ()
    """Checks that could not be made, each with its reason."""

    @property
    def is_safe(self) -> bool:
        """Whether no issue is severe enough to reject it."""
        return not self.rejections

    @property
    def rejections(self) -> tuple[Issue, ...]:
        """The issues for which it is rejected."""
        return tuple(issue for issue in self.issues if issue.severity >= self.unsafe_severity)

    @property
    def score(self) -> float:
        """1 of what has no issue, down to 0."""
        return max(0.0, 1.0 - sum(issue.severity for issue in self.issues) / WORST)

    def get_rejection_reasons(self) -> list[str]:
        """Why it is rejected, a few words each; empty where it is safe."""
        return [f"{issue.check}: {issue.detail}" for issue in self.rejections]

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump."""
        return {
            "is_safe": self.is_safe,
            "overall_score": self.score,
            "issue_count": len(self.issues),
            "issue_types": [issue.check for issue in self.issues],
            "rejection_reasons": self.get_rejection_reasons(),
            "check_results": dict(self.values),
            "issues": [
                {
                    "check": issue.check,
                    "severity": issue.severity,
                    "value": issue.value,
                    "limit": issue.limit,
                    "detail": issue.detail,
                }
                for issue in self.issues
            ],
            "unjudged": list(self.unjudged),
        }
