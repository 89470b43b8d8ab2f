"""Which stages of a job have been done, of which data, by which settings and code: a file on the volume for each.

runpod/entrypoint.sh asks, with the paths of a marker (DATA/.stages/STAGE.json), of what is read and of what is written:

    python3 training/markers.py begin MARKER INPUT OUTPUT [--force] [--dry-run] -- WORDS   `done`, or `run`
    python3 training/markers.py end MARKER OUTPUT CODE                                     how it ended
    python3 training/markers.py vouch MARKER OUTPUT                   refuses what is not as the stage has left it

Input is known by names, sizes and times of change in whole seconds: reading all of it over a network would take as long
as the stage itself, and file systems keep fractions of a second differently. A volume that was copied with new times is
done again. Output is known by names and sizes, which a copy keeps, so it is read wherever it was taken. Hidden files,
which no reader looks at, count nowhere. Nothing of ours is imported, so that any Python 3 runs this.
"""

import errno
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REFUSED, STORAGE = 78, 34
UNSUITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
CODE = Path(__file__).resolve().parent.parent / "vla"
"""What stages run: a change in it makes them run again."""
DIFFERS = {"input": "its data are not those of then", "settings": "its settings are not those of then"}
DIFFERS["code"] = "the code is not that of then"


def digest(value: object) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode("utf-8", "surrogatepass")).hexdigest()


def listing(place: Path) -> "list[tuple[str, int, int]]":
    """Name, bytes and second of change of each file at a place, by name; hidden ones are left out."""
    if place.is_file():
        return [(place.name, place.stat().st_size, int(place.stat().st_mtime))]
    found, seen = [], set()
    for folder, below, names in os.walk(place, followlinks=True):
        seen.add(os.path.realpath(folder))
        below[:] = [name for name in below if name[0] != "." and os.path.realpath(Path(folder, name)) not in seen]
        for file in (Path(folder, name) for name in names if name[0] != "."):
            if file.is_file():
                status = file.stat()
                found.append((file.relative_to(place).as_posix(), status.st_size, int(status.st_mtime)))
    return sorted(found)


def left(place: Path) -> "dict[str, object]":
    """What is known of an output."""
    files = [(name, size) for name, size, _ in listing(place)]
    return {"files": len(files), "bytes": sum(size for _, size in files), "output": digest(files)}


def code() -> str:
    """SHA-256 of the modules that stages run."""
    return digest([(str(file.relative_to(CODE)), file.read_text("utf-8")) for file in sorted(CODE.rglob("*.py"))])


def within(place: Path, data: Path) -> str:
    """A place as it is called in the data's folder, wherever that is mounted."""
    return str(place.relative_to(data)) if place.is_relative_to(data) else str(place)


def read(marker: Path) -> "dict[str, object] | None":
    """What a marker says; None where there is none. ValueError where it is damaged."""
    try:
        found = json.loads(marker.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{marker} is damaged ({error}); remove it, and the stage is done again") from error
    if not isinstance(found, dict) or "state" not in found:
        raise ValueError(f"{marker} is damaged (it says no state); remove it, and the stage is done again")
    return found


def write(marker: Path, content: "dict[str, object]") -> None:
    """Put a marker in its place, whole."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    beside = marker.with_name(f"{marker.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(marker)


def begin(marker: Path, source: Path, output: Path, words: "Sequence[str]", *, force: bool, dry_run: bool) -> str:
    """`done` where a stage need not run, else `run`, once its earlier output is aside and its marker says: started.

    Raises:
        ValueError: there is nothing to read, or what is written would be read with it.
    """
    stage, data = marker.stem, marker.parent.parent
    if not source.exists():
        if dry_run:
            return "run"
        raise ValueError(f"{source}, which STAGE={stage} reads, is not there; put the data there")
    for place in {data, output} - ({source} - {data}):
        if place.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"STAGE={stage} would write into {source}, which it reads; give a folder below {data}")
    files = listing(source)
    if not files:
        raise ValueError(f"{source}, which STAGE={stage} reads, holds no file; put the data there")
    now: dict[str, object] = {"stage": stage, "input": digest(files), "code": code(), "place": within(output, data)}
    now["settings"] = digest([word if word[0:1] != "/" else within(Path(word), data) for word in words])
    found = read(marker)
    if not (why := reason(found, now, output, force=force)):
        say(f"{stage} is done, of the same data, settings and code: {output}")
        return "done"
    say(f"{stage}: {why}")
    if found is not None and output != source and os.path.lexists(output):
        name = f"{output.name}.earlier-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        aside = next(
            place
            for number in itertools.count()
            if not os.path.lexists(place := output.with_name(name + (f"-{number}" if number else "")))
        )
        say(f"{output} {'would be' if dry_run else 'is'} set aside as {aside}; remove that when nobody needs it")
        if not dry_run:
            output.rename(aside)
    if not dry_run:
        write(marker, {**now, "state": "started"})
    return "run"


def reason(found: "dict[str, object] | None", now: "dict[str, object]", output: Path, *, force: bool) -> str:
    """Why a stage runs; empty where it need not."""
    if found is None:
        return "it was not done yet"
    if found["state"] != "done":
        ended = f"ended with exit code {found.get('exit_code')}"
        return "it was started and did not end" if found["state"] == "started" else f"it {ended}"
    if force:
        return "FORCE_REGENERATE asks for it again"
    differing = [f"{words}; it is done again" for name, words in DIFFERS.items() if found.get(name) != now[name]]
    if found.get("place") != now["place"] or found.get("output") != left(output)["output"]:
        differing.append(f"{output} is not what it left; it is done again")
    return next(iter(differing), "")


def end(marker: Path, output: Path, status: int) -> None:
    """Write how a stage ended. ValueError where it ended well and left nothing."""
    found = read(marker) or {}
    if status == 0 and not output.exists():
        write(marker, {**found, "state": "failed", "exit_code": REFUSED})
        raise ValueError(f"STAGE={marker.stem} ended well, but {output} is not there; start it again")
    ended = {"state": "done", **left(output)} if status == 0 else {"state": "failed"}
    write(marker, {**found, **ended, "exit_code": status, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})


def vouch(marker: Path, output: Path) -> None:
    """Refuse an output that is not what its stage has left (ValueError)."""
    found, stage = read(marker), marker.stem
    if found is None:
        raise ValueError(f"{output} is not known to be whole: {marker} is not there; start STAGE={stage} first")
    if found["state"] != "done":
        ended = "has not ended" if found["state"] == "started" else f"ended with exit code {found.get('exit_code')}"
        raise ValueError(f"{output} is not whole: STAGE={stage} {ended}; start it again")
    if found.get("place") != (place := within(output, marker.parent.parent)):
        raise ValueError(
            f"STAGE={stage} has left {found.get('place')}, not {place}; start it again with these variables"
        )
    there = left(output)
    if there["output"] != found.get("output"):
        counts = ", ".join(f"{there[name]:,} {name} for {found.get(name):,}" for name in ("files", "bytes"))
        raise ValueError(f"{output} is not what STAGE={stage} left ({counts}); start it again")


def say(sentence: str) -> None:
    """Print a sentence for a person."""
    print(sentence, file=sys.stderr)


def main(argv: "list[str]") -> int:
    """Answer; the exit code."""
    what, marker, *rest = argv
    try:
        if what == "begin":
            source, output, *asked = rest
            flags, words = asked[: asked.index("--")], asked[asked.index("--") + 1 :]
            force, dry_run = "--force" in flags, "--dry-run" in flags
            print(begin(Path(marker), Path(source), Path(output), words, force=force, dry_run=dry_run))
        elif what == "end":
            end(Path(marker), Path(rest[0]), int(rest[1]))
        else:
            vouch(Path(marker), Path(rest[0]))
    except ValueError as error:
        say(str(error))
        return REFUSED
    except OSError as error:
        say(f"{error.filename} cannot be used ({error.strerror}); give another DATA_PATH, or mend the storage")
        return REFUSED if error.errno in UNSUITABLE else STORAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
