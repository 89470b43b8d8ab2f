"""What the rows of the fault matrix share: the fork server, and one run that nothing happened to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.faults import runs
from tests.faults.forkserver import ForkServer
from tests.faults.matrix import Matrix


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and the plugin that prints the table."""
    config.addinivalue_line("markers", "fault(number, fault, asserted): a row of the fault matrix")
    config.pluginmanager.register(Matrix(), "fault-matrix")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows start several processes."""
    for item in items:
        if item.get_closest_marker("fault"):
            item.add_marker(pytest.mark.ranks)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts trainings."""
    with ForkServer(tmp_path_factory.mktemp("lives")) as started:
        yield started


@pytest.fixture(scope="session")
def flags(needle: Path) -> list[str]:
    """A run of 30 steps of a tiny policy, dropout on, saved every 5; all checkpoints are kept."""
    return runs.flags(needle)


@pytest.fixture(scope="session")
def golden(server: ForkServer, flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run on 2 ranks, uninterrupted. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("golden") / "run"
    assert server.run([*flags, "--out", folder], ranks=2) == [0, 0]
    return folder


@pytest.fixture
def accelerator() -> Accelerator:
    """For what is called in this process."""
    return Accelerator(cpu=True)
