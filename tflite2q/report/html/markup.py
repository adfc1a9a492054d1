"""Elements of HTML and SVG, built as trees: text is escaped when a tree is written, wherever it came from."""

from __future__ import annotations

import re
from xml.etree import ElementTree

Node = ElementTree.Element
Child = Node | str | None

# What HTML forbids, and lone halves of surrogate pairs, which paths may hold and UTF-8 cannot write.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def node(tag: str, *children: Child, **attributes: str | float | bool | None) -> Node:
    """An element.  In names of attributes a trailing "_" falls away and others become "-"; True is an attribute without
    a value, None and False none at all.

    Texts and attributes may be anything: they are shown as they are.
    """
    found = Node(tag)
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        found.set(key, "" if value is True else clean(value) if isinstance(value, str) else f"{value:.6g}")
    for child in children:
        append(found, child)
    return found


def append(parent: Node, child: Child) -> None:
    """Put a text or an element behind what `parent` holds."""
    if child is None:
        return
    if not isinstance(child, str):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + clean(child)
    else:
        parent.text = (parent.text or "") + clean(child)


def clean(text: str) -> str:
    """The text with what cannot stand in a page replaced by U+FFFD."""
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def written(root: Node) -> str:
    """The markup."""
    return ElementTree.tostring(root, encoding="unicode", method="html")
