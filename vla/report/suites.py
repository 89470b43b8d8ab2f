"""How safe the motions of a policy are, whatever it is asked for: prompt suites, judged by the critic."""

from collections.abc import Sequence

from vla.report import words
from vla.report.folder import Json
from vla.report.markup import Html, details, element, paragraph, section, table

WORDS = {"good": "good", "acceptable": "open", "poor": "bad"}
"""A word's class in the style sheet."""
NAMES = {"baseline": "baseline, safe", "adversarial": "adversarial, safe", "gap": "gap between them"}


def suite_section(found: Json | None) -> list[Html]:
    """The grades, the suites, every prompt, and what was refused or failed."""
    if found is None:
        return []
    suites = [suite for suite in found.get("suites", ()) if isinstance(suite, dict)]
    limit = words.number((found.get("critic") or {}).get("unsafe_severity"))
    count = words.plural(int(found.get("samples_a_prompt", 0)), "motion")
    told = (
        f"{count} of each prompt, seed {found.get('seed', '-')}. Unsafe is a motion with an issue of severity {limit} "
        "or more. Shares are of motions; their 95 % intervals say what others of these prompts would give, not "
        "those of other prompts."
    )
    return [
        section(
            "Prompt suites",
            "suites",
            paragraph(told),
            *grade_table(found.get("grades") or {}),
            suite_table(suites),
            *(paragraph(str(remark)) for key in ("unjudged", "remarks") for remark in found.get(key) or ()),
            *apart("Errors, which count in no share", found.get("errors") or (), "error"),
            details("All prompts", prompt_table(suites)),
            *apart("Refused, as they should be", found.get("refusals") or (), "refusal", folded=True),
        )
    ]


def grade_table(grades: Json) -> list[Html]:
    """Baseline, adversarial and the gap, in numbers and words."""
    rows = [
        [name, *figures(kind, grade), word(grade.get("word")), word(grade.get("at_worst"))]
        for kind, name in NAMES.items()
        if isinstance(grade := grades.get(kind), dict)
    ]
    head = ("share of motions", "found", "95 % interval", "which is", "at its worse end")
    return [table(head, rows, label="Grades")] if rows else []


def figures(kind: str, grade: Json) -> tuple[str, str]:
    """A grade and its interval, in percent; of a gap in points of them."""
    told = words.percent(grade.get("value")), words.interval(grade)
    return told if kind != "gap" else (told[0].replace(" %", " points"), told[1].replace(" %", " points"))


def word(said: object) -> Html:
    """Good, acceptable or poor, in colour."""
    return element("span", str(said), class_=f"verdict {WORDS.get(str(said), 'open')}")


def suite_table(suites: Sequence[Json]) -> Html:
    """A row a suite."""
    rows = [
        [
            str(suite.get("suite_name")),
            words.number(suite.get("total_prompts")),
            safe(suite),
            between(suite.get("safe_ratio_interval")),
            words.number(suite.get("mean_score"), 3),
            issues(suite.get("issue_distribution")),
        ]
        for suite in suites
    ]
    head = ("suite", "prompts", "safe motions", "95 % interval", "score", "issues")
    return table(head, rows, label="Suites")


def safe(entry: Json) -> str:
    """`38 of 40 (95 %)`; a dash of no motions."""
    good, count = entry.get("safe_samples"), entry.get("total_samples")
    if not isinstance(good, int) or not isinstance(count, int) or not count:
        return "-"
    return f"{good} of {count} ({words.percent(good / count)})"


def between(interval: object) -> str:
    """`86 to 97 %` of a pair of shares."""
    if not isinstance(interval, list) or len(interval) != 2:
        return "-"
    return words.interval(dict(zip(("low", "high"), interval, strict=True)))


def issues(counts: object) -> str:
    """How many motions have which issue."""
    told = ", ".join(f"{check} {count}" for check, count in counts.items()) if isinstance(counts, dict) else ""
    return told or "-"


def prompt_table(suites: Sequence[Json]) -> Html:
    """A row a prompt of which motions were judged."""
    rows = [
        [
            str(prompt.get("prompt_id")),
            str(prompt.get("prompt_text")),
            f"{words.number(prompt.get('seconds'))} s",
            safe(prompt),
            ", ".join(map(str, prompt.get("issue_types", ()))) or "-",
            str(suite.get("suite_name")),
        ]
        for suite in suites
        for prompt in suite.get("prompts", ())
        if isinstance(prompt, dict) and "is_safe" in prompt
    ]
    return table(("prompt", "text", "length", "safe motions", "issues", "suite"), rows, label="Prompts")


def apart(title: str, entries: Sequence[Json], key: str, *, folded: bool = False) -> list[Html]:
    """What has no motions to count."""
    rows = [[str(entry.get("prompt")), str(entry.get(key))] for entry in entries if isinstance(entry, dict)]
    if not rows:
        return []
    listed = table(("prompt", "why"), rows, label=title, stacked=True)
    return [details(title, listed)] if folded else [element("h3", title), listed]
