"""Folders of clips of human motion as one: curation and training read the labels.csv of one folder alone.

    python3 training/collecting.py RAW OUT     RAW/*/labels.csv and the files beside them, as OUT with one labels.csv
    python3 training/collecting.py RAW         refuses labels that nothing would read where they lie

A file of OUT is a link to that of RAW where the file system has hard links, else a copy. Rows are those of the labels,
with the file as it is called in OUT, and `source`, which curation limits, is the folder of RAW where they name none.
Nothing of ours is imported, so that any Python 3 runs this.
"""

import csv
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

LABELS = "labels.csv"
LONGEST_CELL = 2**24
"""Characters, as where labels are read."""
CORRUPT, REFUSED, STORAGE = 65, 78, 34


class Damaged(ValueError):
    """A file of labels is no table."""


def files_below(root: Path) -> "Iterator[Path]":
    """The files of a folder, by name, as paths in it, without hidden ones and those of hidden folders."""
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if name[0] != ".")
        yield from (Path(folder, name).relative_to(root) for name in sorted(names) if name[0] != ".")


def check(raw: Path) -> None:
    """Refuse labels below the folder itself, whose captions nothing would read (ValueError)."""
    if not raw.is_dir() or (raw / "meta" / "info.json").exists():
        return
    nested = [place for place in files_below(raw) if place.name == LABELS and len(place.parts) > 1]
    if nested:
        raise ValueError(
            f"{raw} has {len(nested):,} {LABELS} in folders of its own, {raw / nested[0]} first, which nothing reads "
            "there; set PREP_IMPORT=clips, which makes one folder of them"
        )


def rows_of(file: Path, place: Path) -> "list[dict[str, str]]":
    """The rows of labels in a folder that is called `place` in the whole.

    Raises:
        Damaged: it is no table, or has no column `file`.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened, skipinitialspace=True, strict=True, restkey="", restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Damaged(f"{file} is no table ({error}): save it as UTF-8, close its quotes") from error
    for row in rows:
        if not row.get("file") or "" in row:
            raise Damaged(f"{file} has a row without a file, or with more cells than columns: mend {row}")
        row["file"] = (place / row["file"]).as_posix()
        row["source"] = row.get("source") or (place.parts[0] if place.parts else "")
    return rows


def collect(raw: Path, out: Path) -> str:
    """Write the folder, there when it is complete; a sentence on what it holds.

    Raises:
        ValueError: there is no folder of clips, or something lies where it is to be.
        Damaged: labels cannot be read.
    """
    if not raw.is_dir() or (raw / "meta" / "info.json").exists():
        raise ValueError(f"{raw} is no folder of folders of clips; leave PREP_IMPORT=clips out")
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; remove it, or give another DATA_PATH")
    beside = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    rows: list[dict[str, str]] = []
    copied = linked = 0
    for place in files_below(raw):
        if place.name == LABELS:
            rows += rows_of(raw / place, place.parent)
            continue
        target = beside / place
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(raw / place), target)
            linked += 1
        except OSError:
            shutil.copy2(raw / place, target)
            copied += 1
    columns = list(dict.fromkeys(["file", "text", *(name for row in rows for name in row)]))
    with (beside / LABELS).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)
    beside.replace(out)
    return f"{out}: {linked:,} files linked, {copied:,} copied, {len(rows):,} labels"


def main(argv: "list[str]") -> int:
    """Check, or collect; the exit code."""
    try:
        if argv[1:]:
            print(collect(Path(argv[0]), Path(argv[1])), file=sys.stderr)
        else:
            check(Path(argv[0]))
    except ValueError as error:
        print(f"error: {error}" if argv[1:] else error, file=sys.stderr)
        return CORRUPT if isinstance(error, Damaged) else REFUSED
    except OSError as error:
        print(f"error: {error.filename} cannot be used ({error.strerror})", file=sys.stderr)
        return STORAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
