"""docs/security.md names tests that exist."""

from __future__ import annotations

import re

from surroundings import ROOT


def test_every_test_that_security_md_names_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[^`]+)`", text))
    assert len(named) > 15
    assert not [path for path in named if not (ROOT / path).exists()]
