"""Contracts: what the lowering asks kernels to compute, and nothing about how.  Nothing here needs TVM.

A contract is a value that says everything about one hot operation: geometry, types, zero points, constants, rescaling.
"""

from tflite2q.kernels.contracts.base import Array, Contract, Tensor
from tflite2q.kernels.contracts.maps import (
    MOST_TAPS_OF_16_BITS,
    ArgMaxContract,
    ConcatContract,
    CopyContract,
    EltwiseContract,
    FixedSum,
    LookupContract,
    PoolContract,
    ResizeBilinearContract,
    ResizedArgMaxContract,
    SoftmaxContract,
)
from tflite2q.kernels.contracts.products import (
    Conv2DContract,
    ConvolutionContract,
    DenseContract,
    DepthwiseConv2DContract,
    DynamicConv2DContract,
    FloatConv2DContract,
    MatmulContract,
    ProductContract,
    TransposeConv2DContract,
)

__all__ = [
    "MOST_TAPS_OF_16_BITS",
    "ArgMaxContract",
    "Array",
    "ConcatContract",
    "Contract",
    "Conv2DContract",
    "ConvolutionContract",
    "CopyContract",
    "DenseContract",
    "DepthwiseConv2DContract",
    "DynamicConv2DContract",
    "EltwiseContract",
    "FixedSum",
    "FloatConv2DContract",
    "LookupContract",
    "MatmulContract",
    "PoolContract",
    "ProductContract",
    "ResizeBilinearContract",
    "ResizedArgMaxContract",
    "SoftmaxContract",
    "Tensor",
    "TransposeConv2DContract",
]
