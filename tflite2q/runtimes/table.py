"""The runtimes that tflite2q knows, by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from tflite2q.errors import UsageError
from tflite2q.lower.targets import micro
from tflite2q.runtimes.edgetpu import EDGE_TPU
from tflite2q.runtimes.ethos import ETHOS_U55, ETHOS_U65, ETHOS_U85
from tflite2q.runtimes.micro import CMSIS_NN, TFLITE_MICRO
from tflite2q.runtimes.nnapi import NNAPI
from tflite2q.runtimes.rules import Runtime
from tflite2q.runtimes.shift import SHIFT_ONLY
from tflite2q.runtimes.xnnpack import XNNPACK

RUNTIMES: Mapping[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        TFLITE_MICRO,
        CMSIS_NN,
        ETHOS_U55,
        ETHOS_U65,
        ETHOS_U85,
        EDGE_TPU,
        XNNPACK,
        NNAPI,
        SHIFT_ONLY,
    )
}


def find(name: str) -> Runtime:
    """The runtime of that name.  Raises UsageError with the nearest name."""
    if name in RUNTIMES:
        return RUNTIMES[name]
    if micro(name) is not None:
        raise UsageError(f"{name} is a microcontroller; `tflite2q.fits` says whether a model fits it")
    near = difflib.get_close_matches(name, RUNTIMES, 1, 0.4)
    hint = f", did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"runtime {name!r} is not known{hint}; known are {', '.join(RUNTIMES)}")
