"""JSON files of ours, written from dataclasses and read as the same dataclasses; YAML files that a person writes."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vla.errors import CorruptData
from vla.names import hint

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


def written(kind: type[Document], file: Path) -> Document:
    """What a person has written into a YAML file, as a dataclass.

    Raises:
        ValueError: it cannot be read, a key stands twice or is unknown, one is missing, or a value is of another type;
            says where. Unknown keys are found in dataclasses whose `__pydantic_config__` forbids extra ones.
    """
    import yaml
    from pydantic import ValidationError

    if not file.is_file():
        raise ValueError(f"{file} is no file; give one of YAML")
    try:
        text = json.dumps(from_yaml(file.read_text(encoding="utf-8")), default=str)  # YAML knows dates, too
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    adapter = _adapter(cast("Any", kind))
    try:
        document: Document = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        first = next((entry for entry in found if entry["type"] == "unexpected_keyword_argument"), found[0])
        place = ".".join(map(str, first["loc"])) or "its beginning"
        what = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        if first["type"] == "unexpected_keyword_argument":
            schema = adapter.json_schema()
            parts = (schema, *schema.get("$defs", {}).values())
            what = hint(str(first["loc"][-1]), sorted({name for part in parts for name in part.get("properties", ())}))
            raise ValueError(f"{file} has the unknown key {place}: {what}") from error
        raise ValueError(f"{file} does not fit at {place}: {what}") from error
    return document


def from_yaml(text: str) -> Any:
    """The values of a document, of plain types. ValueError where a name stands twice."""
    import yaml

    loader = yaml.SafeLoader(text)
    root = loader.get_single_node()
    nodes = [] if root is None else [root]
    for node in nodes:  # which grows
        if isinstance(node, yaml.MappingNode):
            once([(name.value, value) for name, value in node.value if not name.tag.endswith(":merge")])
            nodes += [value for _, value in node.value if value not in nodes]
        elif isinstance(node, yaml.SequenceNode):
            nodes += [value for value in node.value if value not in nodes]
    return None if root is None else loader.construct_document(root)


def once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """An object of these names and values. ValueError where a name stands twice, of which the last would count."""
    names = [name for name, _ in pairs]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"{twice[0]} stands there twice")
    return dict(pairs)


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
