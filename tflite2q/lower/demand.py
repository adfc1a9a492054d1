"""What data must fulfil at run time: compiled code checks it, and says so where they do not.

The reference kernels refuse data such as a divisor of zero or an index beyond a tensor.  A processor would end the
process there, or read what is not the model's.  A check is a copy of the operand that stops at the first element whose
mark is zero, with an error that `errors.refusal` finds again.
"""

from __future__ import annotations

from typing import Any

from tflite2q.errors import REFUSED
from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.tir import Buffer, T, demand, function, view


def demanding(tensor: Tensor, message: str) -> Any:
    """A PrimFunc of (x, marks int8, y): y is x, unless a mark is zero."""

    def body(x: Buffer, marks: Buffer, y: Buffer) -> None:
        flat = [view(buffer, (tensor.size,), str(buffer.dtype)) for buffer in (x, marks, y)]
        with T.serial(tensor.size) as i:
            with demand(T.NE(flat[1][i], T.int8(0)), REFUSED + message):
                T.buffer_store(flat[2], flat[0][i], [i])

    return function([tensor, Tensor(tensor.shape, "int8")], [], tensor, body)
