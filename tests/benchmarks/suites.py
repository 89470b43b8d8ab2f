r"""The prompt suites of a policy as docs/motion.md shows them: what `vla evaluate --suites` found, without its motions.

    python -m tests.benchmarks.suites runs/motion/policy-evaluation/adversarial_eval.json \
        [--json docs/benchmarks/suites.json]

The base of docs/benchmarks/suites.json is that of examples/motion.json on the clips that ship, seed 0.
"""

import argparse
import json
from pathlib import Path
from typing import Any

OF_SUITE = (
    "suite_name", "expect_degradation", "total_prompts", "safe_count", "safe_ratio", "safe_ratio_interval",
    "safe_samples", "total_samples", "mean_score", "issue_distribution", "refusals", "errors",
)  # fmt: skip
OF_PROMPT = ("prompt_id", "seconds", "num_frames", "safe_samples", "total_samples", "issue_types", "refusal", "error")
KEPT = ("timestamp", "policy_sha256", "summary", "grades", "samples_a_prompt", "seed", "steps", "critic", "refusals",
        "errors")  # fmt: skip


def shortened(found: dict[str, Any]) -> dict[str, Any]:
    """A result with the counts of each prompt, and no more of it."""
    suites = [
        {key: suite[key] for key in OF_SUITE}
        | {"prompts": [{key: entry[key] for key in OF_PROMPT if key in entry} for entry in suite["prompts"]]}
        for suite in found["suites"]
    ]
    return {key: found[key] for key in KEPT} | {"suites": suites}


def rows(found: dict[str, Any]) -> list[str]:
    """The table of the document."""
    lines = ["| suite | safe motions | share | issues |", "|---|---|---|---|"]
    for suite in found["suites"]:
        low, high = suite["safe_ratio_interval"]
        issues = ", ".join(f"{check} {count}" for check, count in suite["issue_distribution"].items())
        lines.append(
            f"| `{suite['suite_name']}` | {suite['safe_samples']} of {suite['total_samples']} | "
            f"{suite['safe_ratio']:.2f} ({low:.2f} to {high:.2f}) | {issues} |"
        )
    for kind, grade in found["grades"].items():
        share = f"{grade['value']:.2f} ({grade['low']:.2f} to {grade['high']:.2f})"
        lines.append(f"| **{kind}** | | {share} | {grade['word']}, at worst {grade['at_worst']} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = shortened(json.loads(given.result.read_text()))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
