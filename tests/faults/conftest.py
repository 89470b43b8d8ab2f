"""What the rows of the fault matrix share: one run that nothing happened to."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.book import Book
from tests.faults import runs


@pytest.fixture(scope="session")
def flags(needle: Path) -> list[str]:
    """A run of a tiny policy, dropout on; all checkpoints are kept."""
    return runs.flags(needle)


@pytest.fixture(scope="session")
def golden(book: Book, flags: list[str]) -> Path:
    """That run on 2 ranks, uninterrupted. Copy it before you change it."""
    return book.of(flags, ranks=2)


@pytest.fixture
def accelerator() -> Accelerator:
    """For what is called in this process."""
    return Accelerator(cpu=True)
