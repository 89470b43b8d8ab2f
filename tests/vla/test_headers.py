"""Files of tensors with several entries in their header."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vla.headers import write_tensors


def test_the_same_content_is_the_same_bytes_and_safetensors_reads_it(tmp_path: Path) -> None:
    """Safetensors' own writer gives two files in about half of the cases, so 16 agree by chance in 1 of 32,768."""
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.arange(3, dtype=torch.uint8), "c": torch.zeros(0, 2)}
    entries = {"said": 'a "quoted" wörd\n', "format": "pt", "and": "x" * 7}
    written = set()
    for _ in range(16):
        write_tensors(tensors, tmp_path / "file.safetensors", entries)
        written.add((tmp_path / "file.safetensors").read_bytes())
    assert len(written) == 1
    read = load_file(tmp_path / "file.safetensors")
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "file.safetensors", framework="pt") as opened:
        assert opened.metadata() == entries
