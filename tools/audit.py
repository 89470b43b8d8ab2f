"""`make audit`: look every locked package up among the known advisories, and keep the answer.

    python tools/audit.py PIP_AUDIT     PIP_AUDIT is the program pip-audit

The answer is docs/security/audit.json; tests/test_lock.py reads it, without a network. pip-audit says "no known
vulnerabilities" of a package that it could not look up; here that counts as not looked up.

Exit codes: 0 all were looked up and none is affected, 1 some are affected, 75 some could not be looked up.
"""

import datetime as dt
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
RESULT = ROOT / "docs" / "security" / "audit.json"
CLEAN, AFFECTED, NOT_LOOKED_UP = 0, 1, 75


def ask(program: str) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of each package, and its last words on standard error."""
    command = [program, "--requirement", str(LOCK), "--no-deps", "--disable-pip", "--format", "json"]
    said = subprocess.run(
        [*command, "--progress-spinner", "off"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = said.stderr.strip().splitlines()[-1:] or ["no word"]
    return (json.loads(said.stdout)["dependencies"] if said.stdout.strip() else []), last[0]


def summarize(answers: list[dict[str, Any]], last_words: str) -> dict[str, Any]:
    """The answer as it is kept: how many packages were looked up, which are affected, and why others were not."""
    skipped = [answer for answer in answers if "skip_reason" in answer]
    reason = None
    if not answers:
        reason = last_words.split(":", maxsplit=1)[0]
    elif skipped:
        reason = "the advisory service did not answer for " + ", ".join(answer["name"] for answer in skipped[:3])
        reason += " and others" * (len(skipped) > 3)
    return {
        "packages": len(answers),
        "looked_up": len(answers) - len(skipped),
        "affected": [
            {
                "package": answer["name"],
                "version": answer["version"],
                "id": found["id"],
                "aliases": found["aliases"],
                "fixed": found["fix_versions"],
            }
            for answer in answers
            for found in answer.get("vulns", ())
        ],
        "not_looked_up_because": reason,
    }


def replaces(answer: dict[str, Any], kept: dict[str, Any] | None) -> bool:
    """Whether an answer is worth more than the one kept: not if that is whole, of the same lock, and this is not."""
    whole = kept is not None and kept["lock"] == answer["lock"] and not kept["not_looked_up_because"]
    return not (whole and answer["not_looked_up_because"] and not answer["affected"])


def main() -> int:
    """Ask, keep the answer, and say it in one line."""
    program = sys.argv[1]
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    result = summarize(*ask(program))
    kept = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "tool": version,
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        **result,
    }
    if replaces(kept, json.loads(RESULT.read_text()) if RESULT.exists() else None):
        RESULT.write_text(json.dumps(kept, indent=1) + "\n")
    for found in result["affected"]:
        print(f"{found['package']} {found['version']}: {found['id']}, fixed in {', '.join(found['fixed']) or 'none'}")
    if result["affected"]:
        return AFFECTED
    if result["not_looked_up_because"]:
        print(f"{result['looked_up']} of {result['packages']} packages were looked up, none of them affected")
        print(f"{result['not_looked_up_because']}: run `make audit` where it can be reached")
        return NOT_LOOKED_UP
    print(f"{result['packages']} packages, none affected by a known advisory")
    return CLEAN


if __name__ == "__main__":
    sys.exit(main())
