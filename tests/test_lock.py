"""The locked dependencies: complete, pinned, with digests, installed here, and not affected by what is known."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    )
    if Requirement(text).name != PROJECT["name"]  # one extra may hold another
]
PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Pin:
    """One entry of the lock."""

    name: str
    version: Version
    marker: Marker | None
    digests: tuple[str, ...]

    def holds(self, python: str) -> bool:
        """Whether it counts on Linux x86-64 with this Python."""
        environment = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
        environment |= {"platform_machine": "x86_64", "platform_system": "Linux", "extra": ""}
        return self.marker is None or self.marker.evaluate({**default_environment(), **environment})


def read_pins() -> Iterator[Pin]:
    text = "".join(line for line in LOCK.read_text().splitlines(keepends=True) if not line.lstrip().startswith("#"))
    for entry in text.replace("\\\n", " ").splitlines():
        words, *digests = re.split(r"\s+--hash=", entry.strip())
        found = re.fullmatch(r"([a-z0-9][a-z0-9._-]*)==([^\s;]+)(?:\s*;\s*(.+))?", words)
        assert found is not None, f"not pinned: {words}"
        marker = Marker(found[3]) if found[3] else None
        yield Pin(found[1], Version(found[2]), marker, tuple(digests))


PINS = list(read_pins())


def pins_for(python: str) -> dict[str, Pin]:
    chosen = [pin for pin in PINS if pin.holds(python)]
    by_name = {pin.name: pin for pin in chosen}
    assert len(by_name) == len(chosen), "two versions of one package"
    return by_name


def tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_has_digests() -> None:
    for pin in PINS:
        assert pin.digests, pin.name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in pin.digests), pin.name
        assert pin.version.local is None, f"{pin.name} is a build of one machine, which is in no package index"


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_locked_within_its_range(python: str) -> None:
    pins = pins_for(python)
    assert len(pins) > 100
    for requirement in REQUIREMENTS:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version, prereleases=True), requirement


def test_the_lock_follows_from_the_dependencies_as_they_are() -> None:
    assert f"sha256:{tool('lock').digest_of_dependencies()}\n" in LOCK.read_text().split("\n\n")[0][:400], (
        "the dependencies of pyproject.toml have changed since requirements.lock was written: run `make lock`"
    )


def test_the_lock_names_no_machine() -> None:
    assert not re.search(
        r"://|--index|--extra-index|--find-links|--trusted|file:|/home/|/root/|/opt/", LOCK.read_text()
    )


def test_pins_hold_for_the_python_versions_of_the_project() -> None:
    for python in PYTHONS:
        assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.5")


def test_a_newer_python_is_not_refused() -> None:
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.14.0")


def test_what_was_run_lies_in_the_ranges() -> None:
    """Of docs/versions.md: the first row is the locked combination."""
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) ", (ROOT / "docs" / "versions.md").read_text(), re.MULTILINE)
    torch = next(requirement for requirement in REQUIREMENTS if requirement.name == "torch")
    assert len(rows) > 2
    assert Version(rows[0][1]) == pins_for("3.11")["torch"].version
    for python, version in rows:
        assert SpecifierSet(PROJECT["requires-python"]).contains(python)
        assert torch.specifier.contains(version)


def installed_closure() -> dict[str, Version]:
    """What is installed because the project or its tests need it, by name."""
    found: dict[str, Version] = {}
    todo = [(requirement, "") for requirement in REQUIREMENTS]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        distribution = importlib.metadata.distribution(requirement.name)
        if name not in found or requirement.extras:
            found[name] = Version(distribution.version)
            needs = [Requirement(text) for text in distribution.requires or ()]
            todo += [(need, wanted) for need in needs for wanted in ("", *requirement.extras)]
    return found


def test_what_is_installed_is_what_is_locked() -> None:
    """torch may be another build of the same version; its CUDA libraries are installed with the CUDA build alone."""
    pins = pins_for(f"{sys.version_info.major}.{sys.version_info.minor}")
    installed = installed_closure()
    assert len(installed) > 90
    unlocked = sorted(installed.keys() - pins.keys())
    assert not unlocked, "run `make lock`"
    other = {
        name: f"{version} instead of {pins[name].version}"
        for name, version in installed.items()
        if Version(version.public) != pins[name].version
    }
    if other and not (ROOT / "build" / "constraints.txt").exists():
        pytest.skip(f"this environment was not installed from the lock: {other}")
    assert not other, "install what is locked with `make`, or lock what is installed with `make lock UPGRADE=--upgrade`"


def test_every_locked_package_is_needed() -> None:
    """Besides what is installed here, the lock holds the CUDA build's libraries and what other platforms need."""
    rest = {pin.name for pin in PINS} - installed_closure().keys()
    assert {name for name in rest if not name.startswith(("nvidia-", "cuda-"))} <= {
        "triton", "colorama", "httpx2-jsfetch", "hf-xet", "setuptools",
    }  # fmt: skip


ADVISORIES = json.loads((ROOT / "docs" / "security" / "advisories.json").read_text())["advisories"]


def is_affected(version: Version, advisory: dict[str, str]) -> bool:
    return any(SpecifierSet(part).contains(version, prereleases=True) for part in advisory["affected"].split("||"))


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda advisory: f"{advisory['package']}-{advisory['ids'][0]}")
def test_no_locked_version_is_affected_by_what_is_known(advisory: dict[str, str]) -> None:
    assert not [pin for pin in PINS if pin.name == advisory["package"] and is_affected(pin.version, advisory)]
    if advisory["fixed"] is not None:
        assert not is_affected(Version(advisory["fixed"]), advisory), "the advisory contradicts itself"


def test_no_range_begins_with_an_affected_version() -> None:
    """Who installs without the lock may get any version of a range."""
    for requirement in REQUIREMENTS:
        lowest = Version(next(part.version for part in requirement.specifier if part.operator == ">="))
        known = [advisory for advisory in ADVISORIES if advisory["package"] == canonicalize_name(requirement.name)]
        assert not [advisory["ids"] for advisory in known if is_affected(lowest, advisory)], requirement


def test_an_affected_version_would_be_found() -> None:
    versions = {
        "torch": "2.9.1",
        "transformers": "5.2.0",
        "lerobot": "0.5.1",
        "lightning": "2.6.3",
        "litellm": "1.82.7",
    }
    versions |= {"deepspeed": "0.19.7", "pillow": "11.2.1"}
    for package, version in versions.items():
        found = [advisory for advisory in ADVISORIES if advisory["package"] == package]
        assert any(is_affected(Version(version), advisory) for advisory in found), package


def test_the_last_audit_found_nothing() -> None:
    audit = json.loads((ROOT / "docs" / "security" / "audit.json").read_text())
    assert audit["affected"] == []
    if audit["lock"] != hashlib.sha256(LOCK.read_bytes()).hexdigest():
        pytest.skip(f"the audit of {audit['date']} was of another lock; run `make audit` where there is a network")
    if reason := audit["not_looked_up_because"]:
        pytest.skip(f"{audit['looked_up']} of {audit['packages']} packages were looked up on {audit['date']}: {reason}")
    assert audit["looked_up"] == audit["packages"] >= len(pins_for("3.11"))


PIP_AUDIT = """#!{python}
import pathlib, sys
if "--version" in sys.argv:
    print("pip-audit 9")
else:
    print("No known vulnerabilities found", file=sys.stderr)
    print(pathlib.Path(__file__).with_name("answer").read_text(), end="")
"""
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"}
CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("answers", "status", "says"),
    [
        ([CLEAN, CLEAN], 0, "2 packages, none affected"),
        ([CLEAN, SKIPPED], 75, "1 of 2 packages were looked up"),
        ([CLEAN, SKIPPED, BAD], 1, "c 2: PYSEC-1, fixed in 3"),
        (None, 75, "0 of 0 packages were looked up"),
    ],
)
def test_a_package_that_was_not_looked_up_is_not_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[dict[str, object]] | None, status: int, says: str
) -> None:
    """pip-audit itself says "no known vulnerabilities" and exits with 0 where its service knows no package at all."""
    audit = tool("audit")
    program = tmp_path / "pip-audit"
    program.write_text(PIP_AUDIT.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "answer").write_text(json.dumps({"dependencies": answers}) if answers is not None else "")
    monkeypatch.setattr(audit, "RESULT", tmp_path / "audit.json")
    monkeypatch.setattr(sys, "argv", ["audit.py", str(program)])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert audit.main() == status
    assert says in printed.getvalue()
    kept = json.loads((tmp_path / "audit.json").read_text())
    assert (kept["not_looked_up_because"] is None) == (answers is not None and SKIPPED not in answers)


def test_a_whole_answer_is_not_replaced_by_half_of_one() -> None:
    audit = tool("audit")
    whole = {"lock": "x", "not_looked_up_because": None, "affected": []}
    half = whole | {"not_looked_up_because": "no network"}
    assert audit.replaces(half, None)
    assert audit.replaces(whole, half)
    assert not audit.replaces(half, whole)
    assert audit.replaces(half | {"lock": "y"}, whole)
    assert audit.replaces(half | {"affected": ["c"]}, whole)
