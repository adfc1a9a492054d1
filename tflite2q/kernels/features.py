"""Which instructions a target has."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def has(target: Any, *features: str) -> bool:
    """Whether `target` (a tvm.target.Target for LLVM) has all of `features`, by LLVM's names.

    LLVM sets up a whole processor to answer, and every layer asks for every level of every kernel.
    """
    from tvm.target import codegen

    return bool(codegen.llvm_cpu_has_features(features, target))
