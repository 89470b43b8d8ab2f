"""What holds for the repository as a whole: its files, its modules, its configurations, its README."""

import ast
import graphlib
import importlib.metadata
import json
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vla", "training")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

TOP_LEVEL = (
    "pyproject.toml", "accelerate_configs", "ds_configs", "vla", "training", "tests", "runpod", "README.md", "LICENSE",
    "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".ci/run", "training/stage1.py", "training/stage2.py",
    "training/two_stage.py", "training/pretrain.py", "training/sft.py", "training/adapter.py", "training/unlearn.py",
    "runpod/entrypoint.sh",
    "runpod/sft_entrypoint.sh", "runpod/preparation.sh",
    "examples/needle/meta/info.json",
)  # fmt: skip


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_it_is_there(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", [".ci/run", "runpod/entrypoint.sh", "runpod/sft_entrypoint.sh", "examples/demo.sh"])
def test_scripts_can_be_run_and_parse(name: str) -> None:
    assert (ROOT / name).stat().st_mode & stat.S_IXUSR
    assert "set -euo pipefail" in (ROOT / name).read_text()
    subprocess.run(["bash", "-n", str(ROOT / name)], check=True)


def test_no_entry_point_shadows_another_module() -> None:
    """`accelerate launch training/stage1.py` puts training/ first on the path: a module there replaces a namesake."""
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions()) - set(PACKAGES)
    ours = {path.stem for path in (ROOT / "training").glob("*.py")} - {"__init__"}
    ours |= {path.name for path in (ROOT / "training").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert not ours & taken
    assert not ours & {"torch", "vla", "training"}


def test_no_module_is_a_grab_bag() -> None:
    assert not [
        path for path in MODULES if path.stem in {"utils", "util", "helpers", "common", "misc", "base", "tools"}
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_have_a_readable_size(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 70, f"{node.name} is longer than 70 lines"


def imports_of(path: Path) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it the import stands."""
    names = {module_name(other) for other in MODULES}
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                yield from names & {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                inner = names & {f"{module}.{alias.name}" for alias in node.names}
                # `from training.run import lease` needs lease; what else a package defines is the package's own.
                yield from inner if len(inner) == len(node.names) else inner | (names & {module})


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_import_runs_in_a_circle() -> None:
    """Layers alone would allow it within one; imports within functions count, too."""
    imports = {module_name(path): sorted(set(imports_of(path))) for path in MODULES}
    assert sum(map(len, imports.values())) > len(imports), "they are found"
    tuple(graphlib.TopologicalSorter(imports).static_order())  # raises CycleError, which names the circle


def test_most_modules_of_training_are_private_to_their_room() -> None:
    """A room is a folder of training/; what lies beside them, and vla's own rooms, have layers alone."""
    doors = {
        name
        for path in MODULES
        for name in imports_of(path)
        if name.startswith("training.") and name.count(".") == 2
        if not module_name(path).startswith(name.rpartition(".")[0])
    }
    assert 10 < len(doors) <= 20, sorted(doors)


FORBIDDEN = (
    r"\bhasattr\(",
    r"\bpickle\b",
    r"\bdill\b",
    r"torch\.(save|load)\(",
    r"allow_pickle\s*=\s*True",
    r"weights_only\s*=\s*False",
    r"trust_remote_code\s*=\s*True",
    r"yaml\.load\(",
    r"shell\s*=\s*True",
    r"(?<!\.)\beval\(",
    r"\bexec\(",
    r"os\.system\(",
    r"from __future__ import annotations",
    r"\.forward\(",
)
"""Nothing that runs what it reads, asks for an attribute that may not be there, or goes round a module's hooks."""


READS_PICKLES = ROOT / "vla" / "data" / "formats" / "motion" / "arrays_only.py"
"""The one file that may name them; tests/test_security.py says what it may do."""
LOADS_ARCHIVES = ROOT / "vla/data/formats/motion/archives.py"
"""The one module that may load PyTorch's own files, and only so: tests/test_security.py asks it for `weights_only`."""
WRITES_ARCHIVES = LOADS_ARCHIVES.with_name("clip_list.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unsafe_or_evasive_call(path: Path) -> None:
    archives = dict.fromkeys((LOADS_ARCHIVES, WRITES_ARCHIVES), (r"torch\.(save|load)\(",))
    allowed = ({READS_PICKLES: (r"\bpickle\b",)} | archives).get(path, ())
    pattern = re.compile("|".join(word for word in FORBIDDEN if word not in allowed))
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert line.lstrip().startswith("#") or not pattern.search(line), f"line {number}: {line}"


BANNED_WRITER = "safetensors.numpy"


def imported(tree: ast.Module) -> Iterator[str]:
    """What a file imports, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_uses_the_writer_that_scrambles_arrays() -> None:
    """safetensors.numpy of 0.8 writes the memory of an array that is not C-ordered under the shape that it shows."""
    files = [path for folder in (*PACKAGES, "tests", "tools") for path in (ROOT / folder).rglob("*.py")]
    users = [path for path in files for name in imported(ast.parse(path.read_text())) if name.startswith(BANNED_WRITER)]
    assert users == []
    for text in ("import safetensors.numpy", "from safetensors import numpy", "from safetensors.numpy import save"):
        assert any(name.startswith(BANNED_WRITER) for name in imported(ast.parse(text))), text


def attribute_lookups(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_getattr_has_no_default(path: Path) -> None:
    assert all(len(call.args) == 2 for call in attribute_lookups(ast.parse(path.read_text())))


def test_every_module_stands_in_a_layer() -> None:
    """`lint-imports` checks the order; here: the contracts are exhaustive, and cover what is there."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = {container: contract for contract in contracts for container in contract.get("containers", ())}
    assert set(layered) == {
        "vla", "vla.adapters", "vla.benchmarks.needle", "vla.commands", "vla.critic", "vla.curation", "vla.data",
        "vla.data.formats.insertion", "vla.data.formats.lerobot", "vla.data.formats.motion", "vla.data.writing",
        "vla.evaluation", "vla.evaluation.adapted", "vla.evaluation.motion", "vla.foreign", "vla.motion", "vla.parts",
        "vla.planning", "vla.report", "training", "training.checkpoints", "training.ending", "training.engine",
        "training.feeding", "training.run", "training.verify",
    }  # fmt: skip
    for container, contract in layered.items():
        assert contract["exhaustive"]
        listed = {name.strip(" ()") for layer in contract["layers"] for name in re.split(r"[|:]", layer)}
        folder = ROOT.joinpath(*container.split("."))
        there = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
        there |= {path.parent.name for path in folder.glob("*/__init__.py")}
        assert there == listed


DEEPSPEED = sorted((ROOT / "ds_configs").glob("*.json"))
ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
OWNED_BY_PYTHON = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
}  # fmt: skip
"""Values of the command line that DeepSpeed wants too: "auto" takes them from there."""
ABOUT_ZERO = {"zero_optimization", "zero_force_ds_cpu_optimizer", "zero_allow_untested_optimizer"}


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.name)
def test_deepspeed_configurations_say_how_state_is_sharded_and_nothing_else(path: Path) -> None:
    config = json.loads(path.read_text())
    assert set(config) <= OWNED_BY_PYTHON | ABOUT_ZERO
    assert {key: config.get(key) for key in OWNED_BY_PYTHON} == dict.fromkeys(OWNED_BY_PYTHON, "auto")
    stage = config["zero_optimization"]["stage"]
    assert path.stem.startswith(f"zero{stage}")
    assert ("offload_optimizer" in config["zero_optimization"]) == path.stem.endswith("_offload")
    if path.stem.endswith("_offload"):
        assert config["zero_force_ds_cpu_optimizer"] is False, "the optimizer is torch's own AdamW everywhere"


def test_there_is_a_configuration_for_every_topology() -> None:
    sharded = {"zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"}
    assert {path.stem for path in DEEPSPEED} == sharded
    assert {path.stem for path in ACCELERATE} == {"cpu", "single", "ddp"} | sharded


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.name)
def test_accelerate_configurations_name_their_files_and_own_no_precision(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    # MULTI_CPU and NO start one process, whatever --num_processes says.
    assert config["distributed_type"] in {"MULTI_GPU", "DEEPSPEED"}
    assert config.get("mixed_precision", "no") == "no", "the policy owns its precision"
    assert "gradient_accumulation_steps" not in config
    deepspeed = config.get("deepspeed_config", {})
    assert (config["distributed_type"] == "DEEPSPEED") == bool(deepspeed)
    if deepspeed:
        file = ROOT / deepspeed["deepspeed_config_file"]
        assert file in DEEPSPEED
        assert path.stem == file.stem


def documents() -> list[Path]:
    return sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")})


def commands(path: Path) -> list[list[str]]:
    """The commands of a document's shell blocks, one list of words each."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_the_documents_name_are_there(path: Path) -> None:
    there = {
        name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert set(re.findall(r"`(test_\w+)`", path.read_text())) <= there


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_the_documents_name_what_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(path):
        assert words[0] != "make" or words[1] in targets, words
        for word in words:
            if re.match(r"(training|accelerate_configs|ds_configs|runpod|examples|tests)/", word):
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_the_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "docs/motion.md"])
def test_flags_of_the_documents_exist(page: str) -> None:
    """Each training command parses into a configuration."""
    from training import recipes
    from training.flags import parse

    found = 0
    for words in commands(ROOT / page):
        entry = next((word for word in words if re.fullmatch(r"training/\w+\.py", word)), None)
        if entry is None:
            continue
        flags = words[words.index(entry) + 1 :]
        stem = Path(entry).stem
        if stem == "verify_resume":  # what stands behind -- are the flags of the entry point it tries
            stem, flags = flags[flags.index("--recipe") + 1], flags[flags.index("--") + 1 :]
        parse(recipes.RECIPES[stem](), flags)
        found += 1
    assert found >= 2, "one GPU and eight, or pretrain and sft"
