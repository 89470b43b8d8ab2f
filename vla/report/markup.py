"""HTML from Python: elements, tables, pictures. Every text is escaped and free of secrets, whatever it holds."""

import base64
import html
import re
from collections.abc import Sequence

from vla import redaction

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
"""Control characters, and those that turn the direction of the text around them."""
VOID = {"meta", "link", "img"}
"""Elements without content."""


MANY_LETTERS = 28
"""Shorter texts of a table do not break."""


class Html(str):
    """Markup; every other text is escaped when it becomes part of some."""

    __slots__ = ()


def text(content: str) -> Html:
    """A text as markup: escaped, without secrets, control characters and halves of characters."""
    whole = redaction.hide(content).encode("utf-8", "replace").decode()
    return Html(html.escape(UNSEEN.sub("\ufffd", whole)))


def element(tag: str, *children: str, **attributes: str) -> Html:
    """An element. `class_` is written `class`, `aria_label` `aria-label`; an attribute of no text stands alone."""
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + (f'="{text(value)}"' if value else "")
        for name, value in attributes.items()
    )
    if tag in VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: str) -> Html:
    """Several pieces, one after the other."""
    return Html("".join(child if isinstance(child, Html) else text(child) for child in children))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, label: str, stacked: bool = False) -> Html:
    """A table that scrolls within itself; its first column names the row.

    `stacked`: on a phone, the cells of a row stand below one another.
    """
    first = element("tr", *(element("th", name, scope="col") for name in head))
    others = [
        element(
            "tr",
            element("th", row[0], scope="row", **long(row[0])),
            *(element("td", cell, **long(cell)) for cell in row[1:]),
        )
        for row in rows
    ]
    whole = element(
        "table", element("thead", first), element("tbody", *others), class_="stacked" if stacked else "flat"
    )
    return element("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def long(cell: str) -> dict[str, str]:
    """The class of a cell whose text may break."""
    return {"class_": "long"} if len(cell) > MANY_LETTERS and not isinstance(cell, Html) else {}


def facts(rows: Sequence[tuple[str, str]]) -> Html:
    """Names and their values."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in rows))


def details(summary: str, *children: str) -> Html:
    """What opens when its line is pressed."""
    return element("details", element("summary", summary), *children)


def paragraph(content: str, class_: str = "note") -> Html:
    """A paragraph."""
    return element("p", content, class_=class_)


def section(title: str, name: str, *children: str) -> Html:
    """A part of the page with a heading, found under `name`."""
    return element("section", element("h2", title), *children, id=name)


def data_uri(content: bytes, kind: str) -> str:
    """A file within the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
