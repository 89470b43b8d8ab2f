"""Names that data give to files, before they become paths: none leads out of the folder that the data are in."""

import re
import string
from pathlib import Path, PurePosixPath

from vla.errors import CorruptData

FIELD = re.compile(r"(0?\d{0,2}d)?")
"""Formats of a number in a template: `{chunk_index:03d}`."""


def below(root: Path, name: object, where: str) -> Path:
    """The path of the file that metadata call `name`; links that the owner of the data made are followed.

    Raises CorruptData where it is no name, is absolute, or leads upwards.
    """
    if not isinstance(name, str) or "\0" in name:
        raise CorruptData(f"{where} names no file but {str(name)[:80]!r}; restore it")
    parts = PurePosixPath(name).parts
    if not parts or parts[0].startswith("/") or ".." in parts:
        raise CorruptData(f"{where} names {name[:80]!r}, which is not in the folder of the data; move it there")
    return root / name


def filled(root: Path, template: object, where: str, **values: int | str) -> Path:
    """The path that a template like `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet` gives, below the root.

    Raises CorruptData where the template has other fields or formats than that, or leads out of the root.
    """
    if not isinstance(template, str):
        raise CorruptData(f"{where} has no template of paths but {str(template)[:80]!r}; restore it")
    try:
        fields = [
            (field, form, kind) for _, field, form, kind in string.Formatter().parse(template) if field is not None
        ]
    except ValueError as error:
        raise CorruptData(f"{where} has the template {template[:80]!r} ({error}); restore it") from error
    for field, form, kind in fields:
        if field not in values or kind is not None or not FIELD.fullmatch(form or ""):
            raise CorruptData(
                f"{where} has {{{field[:40]}}} in the template {template[:80]!r}; only {', '.join(values)} stand there"
            )
    return below(root, template.format(**values), where)


def check_folder_name(name: str, where: str) -> None:
    """Refuse a name that cannot be that of one folder, as those of cameras must be (CorruptData)."""
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise CorruptData(f"{where} has a feature {name[:80]!r}, which cannot be the name of a folder; rename it")
