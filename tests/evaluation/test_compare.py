"""The comparison's own front: its options."""

from __future__ import annotations

from pathlib import Path

import pytest

import tflite2q
from tflite2q.errors import UsageError


@pytest.mark.parametrize(
    ("keyword", "hint"), [("lables", "did you mean 'labels'"), ("thread", "did you mean 'threads'"), ("x", "it takes")]
)
def test_a_misspelt_option_is_named_with_the_right_one(digits: Path, keyword: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"compare\(\) has no keyword '{keyword}'; {hint}"):
        tflite2q.compare(digits, digits, **{keyword: 1})
