"""JSON files of ours, written from dataclasses and read as the same dataclasses."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vla.errors import CorruptData

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Document = TypeVar("Document")


def to_json(document: Any) -> Any:
    """A dataclass as plain JSON values: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(document)))


def to_bytes(document: Any) -> bytes:
    """A dataclass as the content of its file."""
    return json.dumps(to_json(document), indent=1).encode() + b"\n"


def from_json(kind: type[Document], text: str | bytes, file: Path | str, *, exact: bool = False) -> Document:
    """What `to_bytes` gave; floats keep every bit. Keys that the dataclass does not have are passed over, or refused.

    Raises:
        CorruptData: it is no JSON, or lacks something, or holds a value of another type; names the first such place.
        ValueError: with `exact`, it holds a key that is unknown.
    """
    from pydantic import ValidationError

    try:
        document: Document = _adapter(cast("Any", kind)).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise CorruptData(f"{file} is damaged ({what}); restore it from a copy") from error
    if exact and (unknown := _unknown(json.loads(text), to_json(document))):
        raise ValueError(f"{file} has the unknown key {unknown[0]!r}; use the version that wrote it")
    return document


@functools.cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    """What reads documents of a kind; to make one takes longer than to read a short document."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _unknown(given: Any, known: Any, place: str = "") -> list[str]:
    """Keys of one tree of JSON values that another one does not have."""
    if not isinstance(given, dict) or not isinstance(known, dict):
        return []
    found = sorted(f"{place}{key}" for key in given.keys() - known.keys())
    for key in given.keys() & known.keys():
        found += _unknown(given[key], known[key], f"{place}{key}.")
    return found


def schema_of(text: str | bytes) -> int | None:
    """The number of a document's layout; None where it says none."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    schema = content.get("schema") if isinstance(content, dict) else None
    return schema if isinstance(schema, int) and not isinstance(schema, bool) else None
