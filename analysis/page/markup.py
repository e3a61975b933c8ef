"""HTML built from values. A plain string is text and is escaped; only `Html` goes onto the page as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


class Html(str):
    """Markup, already escaped."""

    __slots__ = ()


def escape(text: str) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(text))


def join(parts: Iterable[str], separator: str = "") -> Html:
    return Html(escape(separator).join(escape(part) for part in parts))


def element(name: str, *children: str, **attributes: str) -> Html:
    """`<name ...>children</name>`; an attribute's trailing underscore is dropped (`class_`), others become hyphens."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def bullets(items: Iterable[str]) -> Html:
    return element("ul", *(element("li", item) for item in items))


def link(text: str, url: str) -> Html:
    """A link to a web address; the bare text where the address is none."""
    if not url.startswith(("http://", "https://")):
        return escape(text)
    return element("a", text, href=url, rel="noopener noreferrer")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    heading: str
    align: Literal["left", "right"] = "right"


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, label: str) -> Html:
    """A table that scrolls sideways where the page is narrow; `label` names it for screen readers."""
    kinds = ["text" if column.align == "left" else "number" for column in columns]
    head = join(
        element("th", column.heading, class_=kind, scope="col") for column, kind in zip(columns, kinds, strict=True)
    )
    body = join(
        element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    )
    return element(
        "div",
        element("table", element("thead", element("tr", head)), element("tbody", body)),
        class_="scroll",
        role="region",
        tabindex="0",
        aria_label=label,
    )
