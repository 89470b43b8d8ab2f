"""What every test shares: one thread, no network, a cache of its own, and where the data lies."""

import functools
import gc
import importlib.util
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# Before torch and transformers are imported, and inherited by the processes that tests start.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    MPLBACKEND="Agg",
)
# The user's own caches are neither used nor written: the tiny backbone is built once a session.
CACHE = tempfile.TemporaryDirectory(prefix="touchstone-tests-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
os.environ["HF_HOME"] = str(Path(CACHE.name) / "huggingface")
os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(CACHE.name) / "torch_extensions")
os.environ["MPLCONFIGDIR"] = str(Path(CACHE.name) / "matplotlib")

import jaxtyping._import_hook as checker  # noqa: E402

bytecode_of_checked = checker._optimized_cache_from_source


def bytecode_of(which: str, path: str, debug_override: bool | None = None) -> str:
    """Where the bytecode of a module lies that is imported while the checker of shapes imports one of ours.

    It would have all libraries that ours import compiled anew, past the bytecode that was installed with them.
    """
    if Path(path).is_relative_to(REPOSITORY / "vla"):
        return bytecode_of_checked(which, path, debug_override)
    return importlib.util.cache_from_source(path, debug_override)


checker._optimized_cache_from_source = bytecode_of

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from xdist.scheduler import LoadFileScheduling  # noqa: E402

from tests.book import Book  # noqa: E402
from tests.faults.matrix import FAULTS, PROMISES, Matrix  # noqa: E402
from tests.forkserver import ForkServer  # noqa: E402

torch.set_num_threads(1)
# A shell without job control starts what runs in the background deaf to SIGINT, and so would be what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Properties are tested, not the speed of a machine that may be doing other work.
hypothesis.settings.register_profile("touchstone", deadline=None)
hypothesis.settings.load_profile("touchstone")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite-golden` stores what the golden tests see now; read the difference before it is committed."""
    parser.addoption("--rewrite-golden", action="store_true", help="store the golden losses anew")


def pytest_configure(config: pytest.Config) -> None:
    """Register the tables that are printed at the end."""
    config.pluginmanager.register(Matrix("promise", "promises", PROMISES), "promises")
    config.pluginmanager.register(Matrix("fault", "fault matrix", FAULTS), "fault-matrix")


class OneForkServer(LoadFileScheduling):
    """Both cores by file, and every file that asks for the fork server on the same one: it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(super()._split_scope(nodeid))


@functools.cache
def scope_of(file: str) -> str:
    """What the tests of a file are run with: "lives" with all that ask for the fork server, or alone."""
    return "lives" if "ForkServer" in (REPOSITORY / file).read_text() else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneForkServer:
    """Which test runs in which process."""
    return OneForkServer(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_collection_finish() -> None:
    """Spare what is imported by now the garbage collections that each training asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that does not ship with the repository: a folder `shared` beside it, with `data` inside."""
    path = REPOSITORY.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip("needs real data: no folder ../shared/data beside the repository")
    return path


@pytest.fixture(scope="session")
def needle() -> Path:
    """The data set that ships with the repository: LeRobot v3.0, 12 simulated needle insertions."""
    return REPOSITORY / "examples" / "needle"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts trainings, and functions in processes of their own."""
    with ForkServer(tmp_path_factory.mktemp("lives")) as started:
        yield started


@pytest.fixture(scope="session")
def book(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """Runs that several tests look at; none changes them."""
    kept = Book(server, tmp_path_factory.mktemp("book"))
    yield kept
    kept.check()
