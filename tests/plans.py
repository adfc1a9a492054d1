"""A single kernel, asked by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from tflite2q.kernels.contracts import Contract, Tensor
from tflite2q.kernels.frame import Built, Kernel
from tflite2q.kernels.refusals import Refusal


def refusal(kernel: Kernel, contract: Contract, target: Any) -> str | None:
    """Why `kernel` leaves `contract` to others, or None if it takes it."""
    answer = kernel.plan(contract, target)
    return answer.reason if isinstance(answer, Refusal) else None


def built(kernel: Kernel, contract: Contract, target: Any) -> Built:
    """What `kernel`, which must take it, builds for `contract`."""
    answer = kernel.plan(contract, target)
    assert not isinstance(answer, Refusal), answer
    return answer.build()


def run(built: Built, made: Any, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The output of a built kernel, every element of which it must have written."""
    module = tvm.compile(tvm.IRModule({"kernel": built.func.with_attr("global_symbol", "kernel")}), target=made)
    assert [Tensor(x.shape, str(x.dtype)) for x in inputs] == list(built.inputs)
    output = tvm.runtime.tensor(np.full(built.output.shape, 77, built.output.dtype))
    module["kernel"](*[tvm.runtime.tensor(a) for a in (*inputs, *built.constants)], output)
    return np.asarray(output.numpy())
