"""Nothing is unpickled or evaluated, no file runs code, no name leaves its folder, no secret comes out.

docs/security.md says what is promised; the parts of vla/ have tests of their own.
"""

import ast
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forkserver import ForkServer
from tests.policies import manifest
from training.checkpoints import checkpoint
from training.run import records
from vla import documents
from vla.__main__ import main
from vla.errors import CorruptData

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for folder in ("vla", "training", "runpod", "examples", "tools") for path in (ROOT / folder).rglob("*.py")
)

MODULES = {"_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"}
CALLS = {
    "__import__", "compile", "eval", "exec", "os.popen", "os.system", "pty.spawn", "shutil.unpack_archive",
    "subprocess.getoutput", "subprocess.getstatusoutput", "torch.jit.load", "torch.load", "torch.save",
    "torch.serialization.add_safe_globals", "torch.serialization.safe_globals",
    "yaml.full_load", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
}  # fmt: skip
METHODS = {
    # archives, tables and DeepSpeed's and accelerate's checkpoints, whatever the object is called
    "extract", "extractall", "load_checkpoint", "load_state", "read_pickle", "save_checkpoint", "save_state",
    "to_pickle",
    # torch's collectives that unpickle what another rank sends
    "all_gather_object", "broadcast_object_list", "gather_object", "recv_object_list", "scatter_object_list",
    "send_object_list",
}  # fmt: skip
ONLY = {
    "allow_pickle": False,
    "shell": False,
    "trust_remote_code": False,
    "use_safetensors": True,
    "weights_only": True,
}
"""The one value that an argument of this name may have."""
NEEDS = {
    "torch.load": {"weights_only"},
    "numpy.load": {"allow_pickle"},
    "numpy.save": {"allow_pickle"},
    "numpy.lib.format.read_array": {"allow_pickle"},
    "numpy.lib.format.write_array": {"allow_pickle"},
    "transformers.AutoTokenizer.from_pretrained": {"trust_remote_code", "local_files_only"},
    "transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained": {"use_safetensors", "local_files_only"},
}
"""Arguments that must be given: their defaults are not safe, or were not always."""


def unsafe(text: str) -> Iterator[str]:
    """What in a module's syntax tree could run what it reads."""
    tree = ast.parse(text)
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    meaning |= {alias.asname: alias.name} if alias.asname else {top: top}
            case ast.ImportFrom():
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                meaning |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            case _:
                continue
        yield from (f"line {node.lineno}: import {name}" for name in names if MODULES & set(name.split(".")))
        yield from (f"line {node.lineno}: import {name}" for name in names if name in CALLS)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        words = dotted(node.func)
        name = ".".join([meaning.get(words[0], words[0]), *words[1:]]) if words else ""
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
            yield f"line {node.lineno}: {ast.unparse(node.func)}()"
        for argument, value in given.items():
            if argument in ONLY and not (isinstance(value, ast.Constant) and value.value is ONLY[argument]):
                yield f"line {node.lineno}: {argument}={ast.unparse(value)}"
        if missing := NEEDS.get(name, set()) - given.keys():
            yield f"line {node.lineno}: {name}() without {', '.join(sorted(missing))}"


def dotted(node: ast.expr) -> list[str]:
    """`a.b.c` as words; nothing for what is no plain name."""
    match node:
        case ast.Name():
            return [node.id]
        case ast.Attribute():
            return [*words, node.attr] if (words := dotted(node.value)) else []
        case _:
            return []


READS_PICKLES = ROOT / "vla" / "data" / "formats" / "motion" / "arrays_only.py"
"""The one file that may name them: tests/vla/data/motion/test_poselib.py tries to have it execute something."""
LOADS_ARCHIVES = READS_PICKLES.with_name("archives.py")
"""The one file that loads PyTorch's own, with `weights_only`, which NEEDS asks for."""
WRITES_CLIP_LISTS = READS_PICKLES.with_name("clip_list.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_ours_runs_what_it_reads(path: Path) -> None:
    found = [what.partition(": ")[2] for what in unsafe(path.read_text())]
    allowed = {
        READS_PICKLES: ["import pickle"],
        LOADS_ARCHIVES: ["torch.serialization.safe_globals()", "torch.load()"],
        WRITES_CLIP_LISTS: ["torch.save()"],
    }
    assert found == allowed.get(path, [])


def test_the_one_reader_of_pickles_looks_no_name_up() -> None:
    """It uses the base of a reader that has its own way with names, and an error, and nothing else that could load."""
    tree = ast.parse(READS_PICKLES.read_text())
    used = {".".join(words) for node in ast.walk(tree) if isinstance(node, ast.Attribute) if (words := dotted(node))}
    assert {word for word in used if word.startswith("pickle.")} == {"pickle.Unpickler", "pickle.UnpicklingError"}
    readers = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases)
    ]
    assert [[inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)] for node in readers] == [
        ["find_class"]
    ]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names.isdisjoint({"getattr", "importlib", "super", "sys"})


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from multiprocessing import pickle", "import dill as d", "from torch import load",
        "from cloudpickle import loads", "import torch\ntorch.load(file, weights_only=True)", "eval(text)",
        "import torch as t\nt.save(x, file)", "import numpy as np\nnp.load(file)", "from os import system",
        "import torch\ntorch.load(file)",
        "import numpy as np\nnp.load(file, allow_pickle=True)", "import numpy\nnumpy.load(file, allow_pickle=given)",
        "import yaml\nyaml.load(text, Loader)", "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)", "archive.extractall(folder)", "engine.load_checkpoint(folder)",
        "accelerator.load_state(folder)", "import torch.distributed as dist\ndist.all_gather_object(boxes, value)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)", "import pandas\npandas.read_pickle(file)",
        "from transformers import AutoTokenizer\nAutoTokenizer.from_pretrained(folder)",
    ],
)  # fmt: skip
def test_what_would_run_code_is_found(line: str) -> None:
    assert list(unsafe(line))


@pytest.mark.parametrize(
    "line",
    [
        "import numpy as np\nnp.load(file, allow_pickle=False)", "import re\nre.compile(text)", "policy.eval()",
        "import yaml\nyaml.safe_load(text)", "import subprocess\nsubprocess.run(words)", "import json\njson.load(file)",
    ],
)  # fmt: skip
def test_what_is_safe_is_not_found(line: str) -> None:
    assert not list(unsafe(line))


NAMES = [
    "../policy.json",
    "/etc/passwd",
    "a/b.safetensors",
    "..",
    ".",
    "",
    "x/../../y",
    "policy.json/",
    "a\0b",
    5,
    None,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_names_files_of_its_own_folder_only(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoints" / "policy.json").write_text("{}")
    content = documents.to_json(manifest(1)) | {"files": [{"name": name, "bytes": 2, "sha256": ""}]}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CorruptData, match="outside its directory" if isinstance(name, str) else "files.0.name"):
        checkpoint.read(folder)


# A whole run, watched.

CANARY = "canary7f3a9c51"
KEY_LINES = [os.urandom(24).hex() for _ in range(3)]
SECRETS = {
    "HF_TOKEN": f"hf_{CANARY}",
    "WANDB_API_KEY": CANARY * 3,
    "RUNPOD_API_KEY": f"rpa_{CANARY}",
    "MY_SECRET_TOKEN": CANARY,
    "DEPLOY_KEY": "\n".join(["-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----"]),
}
FLAGS = ["--backbone.path", "tiny", "--batch-size", "4", "--micro-batch", "2", "--validation-samples", "2"]
FLAGS += ["--expert.width", "32", "--sensor.width", "32", "--expert.depth", "1", "--stage.steps", "3"]


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def watch() -> None:
    """Have this process, and loader processes of it, tell of the classes that it looks up to unpickle something.

    Called by a rank before it trains; what it tells goes to the file WATCHED.
    """
    seen = set()

    def told(event: str, values: tuple[object, ...]) -> None:
        if event == "pickle.find_class":
            name, caller = ".".join(map(str, values[1:])), sys._getframe(1).f_code.co_filename
            if (name, caller) not in seen:
                seen.add((name, caller))
                with Path(os.environ["WATCHED"]).open("a") as file:
                    file.write(f"{caller}\t{name}\n")

    sys.addaudithook(told)


def watched_command(*words: str) -> None:
    """A command of vla, as `watch` has it."""
    watch()
    sys.argv[1:] = words
    sys.exit(main())


def leaks(folder: Path, *outputs: str) -> list[str]:
    """Where a secret stands, or a part of one: in these outputs, or in the content of any file of a folder."""
    told = (CANARY, "7f3a9c5", *KEY_LINES)
    places = [f"output {number}" for number, text in enumerate(outputs) if any(secret in text for secret in told)]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return places + [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in told)]


@pytest.mark.promise(19, "nothing of others is unpickled", "in a run, its resume, evaluation; no secret told", deep=7)
def test_a_run_unpickles_nothing_of_others_and_tells_no_secret(
    server: ForkServer, needle: Path, tmp_path: Path
) -> None:
    """Train on two ranks under ZeRO, resume on one, evaluate; secrets in environment and paths, pickles everywhere."""
    data = Path(shutil.copytree(needle, tmp_path / CANARY / "data"))
    run, canary, watched = tmp_path / "runs" / f"of-{CANARY}", tmp_path / "sung", tmp_path / "unpickled"
    environment = SECRETS | {"WATCHED": str(watched), "WANDB_SILENT": "false"}
    flags = ["--data.roots", data, "--out", run, *FLAGS, "--tracker", "wandb", "--data.workers", "1"]
    options: dict[str, Any] = {"prepare": "tests.test_security:watch", "environment": environment}
    first = server.start([*flags, "--stop-after", 2], ranks=2, topology="zero2", **options)
    assert first.wait() == [0, 0], first.report()
    step = run / "checkpoints" / "step-00000002"
    for folder in (run, run / "checkpoints", step, run / "policy", data, data / "meta"):
        for name in (
            "pytorch_model.bin",
            "optimizer.pt",
            "random_states_0.pkl",
            "mp_rank_00_model_states.pt",
            "data.pkl",
        ):
            torch.save(Touch(canary), folder / name)
    second = server.start([*flags, "--resume-from", "auto"], **options)
    assert second.wait() == [0], second.report()
    assert "at step 2 of 3" in second.output()
    words = ["evaluate", run / "policy", "--data.roots", data, "--samples", 2, "--data.workers", 0]
    evaluation = server.call(watched_command, *map(str, words), environment=environment)
    assert evaluation.wait() == [0], evaluation.report()
    doctor = server.call(watched_command, "doctor", data, environment=environment)
    assert doctor.wait() == [0], doctor.report()

    assert not canary.exists(), "a pickle was loaded"
    told = {tuple(line.split("\t")) for line in watched.read_text().splitlines()}
    assert any(name.endswith("Batch") for _, name in told), "the watch sees what the loader processes hand over"
    pipes = ("multiprocessing/queues.py", "multiprocessing/connection.py")
    others = {f"{name} in {caller}" for caller, name in told if not caller.endswith(pipes)}
    assert not others, "only loader processes hand over what is unpickled"
    files = [path for path in run.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files), "the tracker wrote its files"
    outputs = [log.read_text() for life in (first, second, evaluation, doctor) for log in life.logs]
    assert leaks(tmp_path / "runs", *outputs) == []
    assert "HIDDEN" in second.output(), "the run folder is named, without its secret"


def crash() -> None:
    """Let a rank fail with secrets in what it prints and in its error as soon as it has a step to record."""

    def fail(*_: object) -> None:
        secret = os.environ["MY_SECRET_TOKEN"]
        print("half of it:", secret[:6], end="", flush=True)
        print(secret[6:])
        raise RuntimeError(f"401 for https://user:{secret}@host with {dict(os.environ)}")

    records.Records.add_step = fail  # type: ignore[method-assign]


@pytest.mark.deep
def test_a_crash_tells_no_secret(server: ForkServer, needle: Path, tmp_path: Path) -> None:
    flags = ["--data.roots", needle, "--out", tmp_path / "run", *FLAGS, "--data.workers", "0", "--tracker", "wandb"]
    environment = SECRETS | {"WANDB_SILENT": "false"}
    life = server.start(flags, prepare="tests.test_security:crash", environment=environment)
    assert life.wait() == [1], life.report()
    said = life.output()
    assert "Traceback" in said
    assert "401 for https://user:HIDDEN@host" in said
    assert "half of it: HIDDEN" in said
    assert leaks(tmp_path / "run", said) == []


REFUSED = [
    ["--batch-size", CANARY * 8],
    [f"--stage.lr.sensr={CANARY}"],
    ["--data.roots", f"https://user:{CANARY}@host/data"],
    ["--backbone.path", f"./{CANARY}"],
    ["--resume-from", f"runs/{CANARY}"],
    ["--config", f"{CANARY}.json"],
]


@pytest.mark.deep
@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[0].partition("=")[0])
def test_a_refusal_tells_no_secret(server: ForkServer, needle: Path, tmp_path: Path, words: list[str]) -> None:
    given = ["--data.roots", needle, "--out", tmp_path / "run", "--backbone.path", "tiny", "--data.workers", 0, *words]
    life = server.start(given, environment=SECRETS | {"COLUMNS": "80"})
    assert life.wait() == [2 if "sensr" in words[0] else 78], life.report()
    said = life.output()
    assert "error: " in said or "usage: " in said, said
    assert "HIDDEN" in said
    assert "Traceback" not in said
    assert leaks(tmp_path, said.replace(str(tmp_path), "")) == []
