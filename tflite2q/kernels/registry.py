"""Which kernels there are, in the order in which they are tried.  The last of each tuple is total."""

from __future__ import annotations

from typing import Any

from tflite2q.kernels.arm import isa as arm
from tflite2q.kernels.arm.conv import ArmConv
from tflite2q.kernels.arm.depthwise import ArmDepthwise
from tflite2q.kernels.arm.lookup import ArmLookup
from tflite2q.kernels.arm.plane import ArmPlane
from tflite2q.kernels.base import (
    ArgMax,
    Concat,
    Contract,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Eltwise,
    Kernel,
    Lookup,
    Pool,
    RealConv2D,
    ResizeBilinear,
    Softmax,
)
from tflite2q.kernels.generic.argmax import GenericArgMax
from tflite2q.kernels.generic.concat import GenericConcat
from tflite2q.kernels.generic.conv import GenericConv, GenericDepthwise
from tflite2q.kernels.generic.eltwise import GenericEltwise
from tflite2q.kernels.generic.line import GenericLine
from tflite2q.kernels.generic.lookup import GenericLookup
from tflite2q.kernels.generic.pool import GenericPool
from tflite2q.kernels.generic.real import GenericReal
from tflite2q.kernels.generic.resize import GenericResize
from tflite2q.kernels.generic.softmax import GenericSoftmax
from tflite2q.kernels.x86.add16 import X86Add16
from tflite2q.kernels.x86.conv import X86Conv
from tflite2q.kernels.x86.conv16 import X86Conv16
from tflite2q.kernels.x86.depthwise import X86Depthwise
from tflite2q.kernels.x86.depthwise16 import X86Depthwise16
from tflite2q.kernels.x86.isa import LEVELS
from tflite2q.kernels.x86.lookup import X86Lookup
from tflite2q.kernels.x86.matrix import X86Matrix
from tflite2q.kernels.x86.matrix16 import X86Matrix16
from tflite2q.kernels.x86.plane import X86Plane

_X86_CONV: tuple[Kernel, ...] = (X86Matrix(), *(X86Conv(level) for level in LEVELS))
_X86_CONV16: tuple[Kernel, ...] = (X86Matrix16(), *(X86Conv16(level) for level in LEVELS))
_X86_DEPTHWISE = tuple(X86Depthwise(level) for level in LEVELS)
_X86_DEPTHWISE16 = tuple(X86Depthwise16(level) for level in LEVELS)
_X86_ADD16 = tuple(X86Add16(level) for level in LEVELS)
_X86_PLANE = tuple(X86Plane(level) for level in LEVELS)
_ARM_CONV = tuple(ArmConv(level) for level in arm.LEVELS)
_ARM_DEPTHWISE = tuple(ArmDepthwise(level) for level in arm.LEVELS)

KERNELS: dict[type, tuple[Kernel, ...]] = {
    Conv2D: (*_X86_CONV, *_X86_CONV16, *_ARM_CONV, GenericConv()),
    DepthwiseConv2D: (*_X86_DEPTHWISE, *_X86_DEPTHWISE16, *_ARM_DEPTHWISE, GenericDepthwise()),
    Dense: (*_X86_CONV, *_X86_CONV16, *_ARM_CONV, GenericConv()),
    RealConv2D: (GenericReal(),),
    Pool: (GenericPool(),),
    Lookup: (X86Lookup(), ArmLookup(), GenericLine(), GenericLookup()),
    Eltwise: (*_X86_PLANE, *_X86_ADD16, ArmPlane(), GenericEltwise()),
    Softmax: (GenericSoftmax(),),
    ResizeBilinear: (GenericResize(),),
    ArgMax: (GenericArgMax(),),
    Concat: (GenericConcat(),),
}


def select(contract: Contract, target: Any) -> tuple[Kernel, list[tuple[str, str]]]:
    """The first kernel that accepts `contract` on `target` (a tvm.target.Target), and who refused before it and why."""
    refused: list[tuple[str, str]] = []
    for kernel in KERNELS[type(contract)]:
        reason = kernel.refuses(contract, target)
        if reason is None:
            return kernel, refused
        refused.append((kernel.name, reason))
    raise AssertionError(f"no total kernel for {type(contract).__name__}")


def prefers_unsigned(target: Any) -> bool:
    """Whether `target` computes convolutions by instructions whose inputs are unsigned."""
    return any(level.lacks(target) is None for level in LEVELS)
