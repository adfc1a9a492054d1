"""Which kernels there are, in the order in which they are tried.  The last of each tuple is total."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tflite2q.kernels.arm import isa as arm
from tflite2q.kernels.arm.conv import ArmConv
from tflite2q.kernels.arm.depthwise import ArmDepthwise
from tflite2q.kernels.arm.fma_add import ArmFmaAdd
from tflite2q.kernels.arm.lookup import ArmLookup
from tflite2q.kernels.contracts import (
    ArgMaxContract,
    ConcatContract,
    Contract,
    Conv2DContract,
    DenseContract,
    DepthwiseConv2DContract,
    DynamicConv2DContract,
    EltwiseContract,
    FloatConv2DContract,
    LookupContract,
    MatmulContract,
    PoolContract,
    ResizeBilinearContract,
    ResizedArgMaxContract,
    SoftmaxContract,
    TransposeConv2DContract,
)
from tflite2q.kernels.frame import Kernel, Plan
from tflite2q.kernels.generic.argmax import GenericArgMax
from tflite2q.kernels.generic.concat import GenericConcat
from tflite2q.kernels.generic.conv import GenericConv, GenericDepthwise
from tflite2q.kernels.generic.dynamic_conv import GenericDynamicConv
from tflite2q.kernels.generic.eltwise import GenericEltwise
from tflite2q.kernels.generic.enlarged_argmax import GenericEnlargedArgMax
from tflite2q.kernels.generic.float_conv import GenericFloatConv
from tflite2q.kernels.generic.float_depthwise import FloatDepthwise
from tflite2q.kernels.generic.float_gemm import FloatGemm
from tflite2q.kernels.generic.linear_lookup import GenericLinearLookup
from tflite2q.kernels.generic.lookup import GenericLookup
from tflite2q.kernels.generic.matmul import GenericMatmul
from tflite2q.kernels.generic.pool import GenericPool
from tflite2q.kernels.generic.resize import GenericResize
from tflite2q.kernels.generic.resized_argmax import GenericResizedArgMax
from tflite2q.kernels.generic.softmax import GenericSoftmax
from tflite2q.kernels.generic.transpose_conv import GenericTransposeConv
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.x86.add16 import X86Add16
from tflite2q.kernels.x86.conv import X86Conv
from tflite2q.kernels.x86.conv16 import X86Conv16
from tflite2q.kernels.x86.depthwise import X86Depthwise
from tflite2q.kernels.x86.depthwise16 import X86Depthwise16
from tflite2q.kernels.x86.dynamic_conv import X86DynamicConv
from tflite2q.kernels.x86.fma_add import X86FmaAdd
from tflite2q.kernels.x86.isa import LEVELS
from tflite2q.kernels.x86.lookup import X86Lookup
from tflite2q.kernels.x86.matrix import X86Matrix
from tflite2q.kernels.x86.matrix16 import X86Matrix16

_X86_CONV: tuple[Kernel, ...] = (X86Matrix(), *(X86Conv(level) for level in LEVELS))
_X86_DYNAMIC = tuple(X86DynamicConv(level) for level in LEVELS)
_X86_CONV16: tuple[Kernel, ...] = (X86Matrix16(), *(X86Conv16(level) for level in LEVELS))
_X86_DEPTHWISE = tuple(X86Depthwise(level) for level in LEVELS)
_X86_DEPTHWISE16 = tuple(X86Depthwise16(level) for level in LEVELS)
_X86_ADD16 = tuple(X86Add16(level) for level in LEVELS)
_X86_FMA_ADD = tuple(X86FmaAdd(level) for level in LEVELS)
_ARM_CONV = tuple(ArmConv(level) for level in arm.LEVELS)
_ARM_DEPTHWISE = tuple(ArmDepthwise(level) for level in arm.LEVELS)

KERNELS: dict[type[Contract], tuple[Kernel, ...]] = {
    Conv2DContract: (*_X86_CONV, *_X86_CONV16, *_ARM_CONV, GenericConv()),
    DepthwiseConv2DContract: (*_X86_DEPTHWISE, *_X86_DEPTHWISE16, *_ARM_DEPTHWISE, GenericDepthwise()),
    DenseContract: (*_X86_CONV, *_X86_CONV16, *_ARM_CONV, GenericConv()),
    FloatConv2DContract: (FloatDepthwise(), FloatGemm(), GenericFloatConv()),
    DynamicConv2DContract: (*_X86_DYNAMIC, GenericDynamicConv()),
    MatmulContract: (GenericMatmul(),),
    PoolContract: (GenericPool(),),
    LookupContract: (X86Lookup(), ArmLookup(), GenericLinearLookup(), GenericLookup()),
    EltwiseContract: (*_X86_FMA_ADD, *_X86_ADD16, ArmFmaAdd(), GenericEltwise()),
    SoftmaxContract: (GenericSoftmax(),),
    ResizeBilinearContract: (GenericResize(),),
    ArgMaxContract: (GenericArgMax(),),
    ResizedArgMaxContract: (GenericEnlargedArgMax(), GenericResizedArgMax()),
    ConcatContract: (GenericConcat(),),
    TransposeConv2DContract: (GenericTransposeConv(lambda contract, target: select(contract, target).plan),),
}


@dataclass(frozen=True, eq=False)
class Selection:
    """The first kernel that takes a contract, how it computes it, and who refused before it and why."""

    kernel: Kernel
    plan: Plan
    refusals: tuple[tuple[str, Refusal], ...]


def select(contract: Contract, target: Any) -> Selection:
    """What computes `contract` on `target` (a tvm.target.Target)."""
    refused: list[tuple[str, Refusal]] = []
    for kernel in KERNELS[type(contract)]:
        answer = kernel.plan(contract, target)
        if isinstance(answer, Plan):
            return Selection(kernel, answer, tuple(refused))
        refused.append((kernel.name, answer))
    raise AssertionError(f"no total kernel for {type(contract).__name__}")


def prefers_unsigned(target: Any) -> bool:
    """Whether `target` computes convolutions by instructions whose inputs are unsigned."""
    return any(level.lacks(target) is None for level in LEVELS)
