"""A single kernel, asked by itself."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from tflite2q.kernels.contracts import Contract, Tensor
from tflite2q.kernels.frame import Built, Kernel
from tflite2q.kernels.refusals import Refusal
from tflite2q.lower.codegen import KERNEL, Compiler


def refusal(kernel: Kernel, contract: Contract, target: Any) -> str | None:
    """Why `kernel` leaves `contract` to others, or None if it takes it."""
    answer = kernel.plan(contract, target)
    return answer.reason if isinstance(answer, Refusal) else None


def built(kernel: Kernel, contract: Contract, target: Any, parts: bool = False) -> Built:
    """What `kernel`, which must take it, builds for `contract`; `parts`: threads made its inputs."""
    answer = kernel.plan(contract, target)
    assert not isinstance(answer, Refusal), answer
    return answer.build(parts)


# By target and key.  Compiling takes most of the tests' time, and that equal keys are equal texts is what the lowering
# relies on too: a key that says too little gives wrong codes here.
_compiled: dict[tuple[str, Hashable], Any] = {}


def compiled(built: Built, made: Any) -> Any:
    """A module whose function `kernel` is what was built."""
    place = (str(made), built.key)
    if place not in _compiled:
        function = built.func.with_attrs({"global_symbol": "kernel", KERNEL: True})
        _compiled[place] = Compiler(made).module({"kernel": function})
    return _compiled[place]


def run(built: Built, made: Any, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The output of a built kernel, every element of which it must have written."""
    module = compiled(built, made)
    assert [Tensor(x.shape, str(x.dtype)) for x in inputs] == list(built.inputs)
    output = tvm.runtime.tensor(np.full(built.output.shape, 77, built.output.dtype))
    module["kernel"](*[tvm.runtime.tensor(a) for a in (*inputs, *built.constants)], output)
    return np.asarray(output.numpy())


def assembly(built: Built, made: Any) -> str:
    """The machine's instructions for what was built."""
    return str(compiled(built, made).inspect_source("asm"))
