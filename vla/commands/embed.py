"""`vla embed`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla.commandline import progress
from vla.commands.recordings import Columns, choose_device
from vla.errors import UsageError
from vla.instruction import check_instruction
from vla.settings import BackboneConfig, PoolingName


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The sentence encoder."""

    path: str
    """`hash`, `minilm`, or the folder or hub id of another one."""
    pooling: PoolingName = "auto"
    """What it makes of its tokens: their mean, or the first; auto: as its own files say."""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Embed every instruction of data sets, for --backbone.embeddings of trainings."""

    roots: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATA [DATA ...]")]]
    """Dataset folders."""
    backbone: Encoder
    """The sentence encoder."""
    out: Path = Path("embeddings.safetensors")
    """File to write; it must not exist."""
    data: Columns = field(default_factory=Columns)
    """How the data are read."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was written as JSON."""


def embed(command: Embed) -> None:
    """`vla embed`."""
    if not command.roots:
        raise UsageError("give at least one dataset folder: vla embed DATA --backbone.path minilm")
    if command.out.exists():
        raise ValueError(f"{command.out} exists; give another file with --out, or remove it")

    import torch

    from vla.parts.backbone import kind_of, load_backbone, resolve
    from vla.parts.text import TextBackbone

    config = BackboneConfig(path=command.backbone.path, pooling=command.backbone.pooling)
    if (kind := kind_of(resolve(config.path))).sees:
        raise ValueError(f"{config.path} is {kind.words}; give a sentence encoder: hash, minilm, or a folder or hub id")
    texts = texts_of(command.roots, command.data)
    encoder = load_backbone(config, torch.float32)
    assert isinstance(encoder, TextBackbone), "a backbone that does not see reads"
    device = torch.device(choose_device("auto"))
    with progress(len(texts), "texts") as bar:
        for text in texts:
            encoder.embed([text], device)
            bar.update()
    digest, name = encoder.save(command.out), encoder.name
    found = {"file": str(command.out), "texts": len(texts), "width": name.width, "pooling": name.pooling}
    found |= {"encoder": name.id, "fingerprint": name.fingerprint, "digest": digest}
    print(json.dumps(found, indent=2) if command.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def texts_of(roots: Sequence[Path], columns: Columns) -> list[str]:
    """The different instructions of some data, in the order in which they occur.

    Raises:
        ValueError: the data cannot be read, or an instruction cannot be meant.
        CorruptData: the data are damaged.
    """
    from vla.data.formats import open_folder
    from vla.data.selection import Selection, check_left_out

    readers = [open_folder(root, Selection(missing_cameras="mask", **vars(columns))) for root in roots]
    check_left_out({reader.layout.root: reader.layout.left_out for reader in readers}, columns.without)
    for reader in readers:
        for remark in reader.layout.remarks:
            print(f"{reader.layout.root}: {remark}", file=sys.stderr)
    texts: dict[str, None] = {}
    for episode in (episode for reader in readers for episode in reader.episodes):
        for text in episode.instructions.different:
            check_instruction(text, episode.name)
            texts[text] = None
    return list(texts)
