"""The documents agree with the code: equation numbers, the grammar's example, paths, and the worked example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CITED = re.compile(r"\beqs?\. ?(S?\d+(?:(?:,| and| to) S?\d+)*)")
SOURCES = [
    *ROOT.glob("tflite2q/**/*.py"),
    *ROOT.glob("models/*.py"),
    *ROOT.glob("benchmarks/**/*.py"),
    *ROOT.glob("schemes/*.toml"),
    *ROOT.glob("docs/*.md"),
]


def cited(text: str) -> set[str]:
    """Equation numbers that a text names: "eq. 5", "eq. 16, 17", "eq. 8 to 12", "eq. S2, S3"."""
    found: set[str] = set()
    for match in CITED.finditer(" ".join(text.split())):
        parts = re.split(r"(,| and| to) ", match[1])
        found.update(parts[0::2])
        for index, link in enumerate(parts[1::2]):
            if link.strip() == "to":
                found.update(str(n) for n in range(int(parts[2 * index]), int(parts[2 * index + 2])))
    return found


def test_citations_are_understood() -> None:
    assert cited("as eq. 8 to 10, eq. 16, 17 and eq. S2, S3") == {"8", "9", "10", "16", "17", "S2", "S3"}


def test_every_cited_equation_exists_and_every_equation_is_in_order() -> None:
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    numbered = re.findall(r"^\*\*\((S?\d+)\)\*\*", text, re.MULTILINE)
    plain = [int(n) for n in numbered if not n.startswith("S")]
    schemes = [int(n[1:]) for n in numbered if n.startswith("S")]
    assert plain == list(range(1, len(plain) + 1))
    assert schemes == list(range(1, len(schemes) + 1))
    missing = {
        f"{path.relative_to(ROOT)}: eq. {number}"
        for path in SOURCES
        for number in cited(path.read_text(encoding="utf-8")) - set(numbered)
    }
    assert not missing


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_paths_and_links_in_documents_exist(name: str) -> None:
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose) if not link.startswith("http")]
    named = re.findall(r"`((?:tflite2q|docs|tests|schemes|models|benchmarks)/[\w./-]+)`", prose)
    missing = [link for link in links if not (path.parent / link).exists()]
    missing += [file for file in named if not (ROOT / file).exists()]
    assert not missing
