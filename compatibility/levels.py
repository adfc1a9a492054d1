"""The levels of x86 that this processor has, by asking compiled code whether it can run here."""

from __future__ import annotations

import numpy as np

from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import TargetError
from tflite2q.execution import runtime
from tflite2q.lower import targets

FAMILY = "x86-64"


def here() -> tuple[str, ...]:
    """`native`, and every level of this processor's family of which the instructions are all there."""
    return tuple(t.name for t in targets.TARGETS if t.name == "native" or _level(t.name))


def _level(name: str) -> bool:
    if not name.startswith(FAMILY):
        return False
    from tflite2q.lower import machine

    try:
        executable = runtime.compile(_tiny(), name)
        executable.require_runnable()
        if targets.MATRIX_FEATURES & set(executable.manifest.features) and not machine.grants_matrix_unit():
            return False
        executable.run(np.zeros(4, np.int8), np.zeros(4, np.int8))
    except TargetError:
        return False
    return True


def _tiny() -> Graph:
    """A sum of two vectors."""
    kind = TensorType((4,), "int8", Quantization.per_tensor(0.5, 0))
    values = tuple(Value(name, kind) for name in ("a", "b", "sum"))
    return verify(Graph(("a", "b"), ("sum",), values, (Add(inputs=("a", "b"), outputs=("sum",)),), name="tiny"))
