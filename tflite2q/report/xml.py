"""Documents in XML, whatever the texts in them hold."""

from __future__ import annotations

from xml.etree import ElementTree

# What XML 1.0 cannot hold: control characters, halves of pairs, and two that are no characters.
FORBIDDEN = dict.fromkeys(
    (*range(9), 11, 12, *range(14, 32), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}"
)


def document(root: ElementTree.Element) -> str:
    """The document of an element; what it cannot hold is replaced, as names of files may hold anything."""
    for element in root.iter():
        element.text = element.text and element.text.translate(FORBIDDEN)
        for key, text in element.attrib.items():
            element.set(key, text.translate(FORBIDDEN))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
