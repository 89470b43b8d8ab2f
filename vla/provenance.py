"""What decides the numbers of a run beside its settings: code, libraries, machine; and what it was made from.

It stands in manifests, policies, cards and reports, and none of it tells who or where: no path, host or user name.
"""

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DISTRIBUTION = "touchstone-vla"
PACKAGES = ("vla", "training")
HUB_CACHE = re.compile(r"(?:models|datasets)--([\w.-]+?)--([\w.-]+)/snapshots/")
"""How the cache of a model hub spells owner and name in a path."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Which version of this package."""

    version: str
    commit: str | None
    """Of the checkout; None where the package does not lie in one, or git cannot tell."""
    modified: bool | None
    """Whether the checkout differs from the commit; None without one."""
    digest: str
    """SHA-256 of all modules: it tells two modified checkouts apart."""

    def __str__(self) -> str:
        """`0.1.0, commit 0a15659, modified`."""
        state = "commit unknown" if self.commit is None else f"commit {self.commit[:12]}"
        return f"{self.version}, {state}" + (", modified" if self.modified else "")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What computes."""

    system: str
    cpu: str
    instructions: str
    """The widest vector instructions that torch uses."""
    cores: int
    """That this process may use."""
    threads: int
    """Of torch, within an operation."""
    device: str
    """The GPU's name, or `cpu`."""
    devices: int
    """GPUs that this process sees."""
    capability: str | None
    """Of the GPU."""
    driver: str | None
    """Of the GPU."""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Everything that decides numbers and is not a setting."""

    code: Code
    python: str
    libraries: Mapping[str, str]
    """Version of each package that this one requires, where it is installed."""
    native: Mapping[str, str]
    """Of libraries in C that come with them: CUDA, cuDNN, NCCL, FFmpeg, HDF5."""
    machine: Machine

    def rows(self) -> list[tuple[str, str]]:
        """What they are, in words, for a card, a report or a terminal."""
        machine = self.machine
        cpu = f"{machine.cpu}, {machine.instructions}, {machine.cores} cores, {machine.threads} threads"
        gpu = f"{machine.devices} x {machine.device}, capability {machine.capability}, driver {machine.driver}"
        return [
            ("Touchstone", str(self.code)),
            ("digest of the code", self.code.digest[:16]),
            ("Python", self.python),
            ("libraries", ", ".join(f"{name} {number}" for name, number in self.libraries.items())),
            ("libraries in C", ", ".join(f"{name} {number}" for name, number in self.native.items())),
            ("system", machine.system),
            ("CPU", cpu),
            ("device", gpu if machine.devices else machine.device),
        ]

    def differences(self, other: "Versions") -> list[str]:
        """What another place has instead of this one's, in words: `torch 2.13.0, here 2.14.0`."""
        found = []
        if self.code.digest != other.code.digest:
            found.append(f"Touchstone {self.code}, here {other.code}")
        pairs: list[tuple[str, str | None, str | None]] = [("Python", self.python, other.python)]
        for ours, theirs in ((self.libraries, other.libraries), (self.native, other.native)):
            pairs += [(name, ours.get(name), theirs.get(name)) for name in sorted(ours.keys() | theirs.keys())]
        for name in ("cpu", "instructions", "device", "driver"):
            pairs.append((name, getattr(self.machine, name), getattr(other.machine, name)))
        return found + [f"{name} {one or 'none'}, here {two or 'none'}" for name, one, two in pairs if one != two]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model or a data set that a policy was made from."""

    name: str
    """Last folder of its path, or its id on a hub."""
    hub: bool
    """Whether that is an id on a hub."""
    license: str | None
    """As its own card says; None where it does not."""
    content: str = ""
    """What it holds, in words."""

    def __str__(self) -> str:
        """`pick (LeRobot v3.0, 12 episodes; licence not stated)`."""
        licence = f"licence {self.license}" if self.license else "licence not stated"
        return f"{self.name} ({'; '.join(filter(None, (self.content, licence)))})"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a policy was made with and from."""

    versions: Versions
    base: Source
    """The backbone, before anything of ours was trained or merged into it."""
    data: tuple[Source, ...]


def source(path: str, folder: Path | None, content: str = "") -> Source:
    """A model or data set by the path that was given, and the folder it lies in.

    An id on a hub is known where it was given as one, or where the folder lies in the hub's cache.
    """
    cached = HUB_CACHE.search(f"{folder or path}/")
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) is not None and not Path(path).is_dir()
    name = "/".join(cached.groups()) if cached else path if is_id else Path(path).expanduser().resolve().name
    return Source(
        name=name, hub=bool(cached) or is_id, license=None if folder is None else license_of(folder), content=content
    )


def license_of(folder: Path) -> str | None:
    """The licence that the card of a model or data set names in its front matter."""
    import yaml
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    try:
        said = (metadata_load(card) or {}) if card.is_file() else {}
    except (ValueError, OSError, yaml.YAMLError):
        return "unknown, its README.md cannot be read"  # no reason to refuse a training
    licence = said.get("license_name") if said.get("license") == "other" else None
    licence = licence or said.get("license")
    return None if licence is None else ", ".join(licence) if isinstance(licence, list) else str(licence)


def here() -> Versions:
    """Those of this process. Loads torch."""
    return Versions(
        code=code(), python=platform.python_version(), libraries=libraries(), native=native(), machine=machine()
    )


@functools.cache
def code() -> Code:
    """Which version of this package runs."""
    root = Path(__file__).resolve().parents[1]
    commit, modified = _checkout(root)
    return Code(version=version(), commit=commit, modified=modified, digest=_digest(root))


def version() -> str:
    """Of the installed distribution.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"{DISTRIBUTION} is not installed in this environment; run `make`") from error


def _digest(root: Path) -> str:
    whole = hashlib.sha256()
    for file in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        whole.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return whole.hexdigest()


def _checkout(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout whose root this is, and whether it was changed since."""
    if not (root / ".git").exists():  # installed, perhaps within somebody else's checkout
        return None, None
    commit, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return (None, None) if commit is None or status is None else (commit, bool(status))


def _git(root: Path, *words: str) -> str | None:
    """What git says; None where it cannot: it is not installed, or refuses a checkout of another user."""
    if (program := shutil.which("git")) is None:
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [program, "--no-optional-locks", "-C", str(root), *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def libraries() -> dict[str, str]:
    """The versions of what this package requires, but for its tests, where installed."""
    version()
    names = []
    for requirement in importlib.metadata.requires(DISTRIBUTION) or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if name != DISTRIBUTION and 'extra == "test"' not in requirement:
            names.append(name)
    found = {}
    for name in sorted(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def native() -> dict[str, str]:
    """The versions of libraries in C, by name."""
    import av
    import h5py
    import torch

    found: dict[str, str | None] = {
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "cuDNN": str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else None,
        "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
        "HDF5": h5py.version.hdf5_version,
    }
    found |= {f"FFmpeg {name}": ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}
    return {name: number for name, number in found.items() if number is not None}


def machine() -> Machine:
    """What this process computes on."""
    import torch

    on_gpu = torch.cuda.is_available()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        cpu=_field(Path("/proc/cpuinfo"), r"^model name\s*: (.+)$") or platform.processor() or "unknown",
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        devices=torch.cuda.device_count() if on_gpu else 0,
        capability=".".join(map(str, torch.cuda.get_device_capability())) if on_gpu else None,
        driver=_field(Path("/proc/driver/nvidia/version"), r"Kernel Module.*?\s(\d+\.[\d.]+)\s") if on_gpu else None,
    )


def _field(file: Path, pattern: str) -> str | None:
    """What the kernel says of something; None where it says nothing of it."""
    found = re.search(pattern, file.read_text(), re.MULTILINE) if file.exists() else None
    return None if found is None else found[1].strip()
