"""What tells the pictures of one data set from those of another, wherever it lies."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vla import cache
from vla.listing import visible

WORDS = {".csv", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".log"}
"""Endings of files that say something of the data and hold no picture."""
BLOCKS = 1 << 16
"""Of 4 KiB, that are read of all files together."""


def content_of(root: Path) -> str:
    """SHA-256 of the names, sizes and some blocks of the files of a folder, but for those of words.

    A file that was written anew differs in nearly all blocks, so a few of each tell; none is read whole unless small.
    """
    files = [file for file in visible(root.rglob("*")) if file.suffix.lower() not in WORDS and file.is_file()]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    each = max(1, min(cache.BLOCKS, BLOCKS // max(1, len(files))))
    with ThreadPoolExecutor(cache.THREADS) as threads:
        contents = threads.map(lambda file: cache.content(file, each), files)
        lines = [f"{file.relative_to(root).as_posix()} {own}" for file, own in zip(files, contents, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
