"""XNNPACK, the default delegate of LiteRT on processors: what breaks a rule runs on LiteRT's own kernels."""

from __future__ import annotations

from collections.abc import Mapping

from tflite2q.dialect.types import TensorType, Value
from tflite2q.runtimes.rules import Layer, Rule, Runtime, constant, known, on, types

README = "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/delegates/xnnpack/README.md"
DELEGATE = "tensorflow/lite/delegates/xnnpack/xnnpack_delegate.cc (Visit and Check functions)"

_FLOAT = "float32"
_CODES = "float32 int8 uint8"
XNNPACK_KERNELS: Mapping[str, str] = {
    **dict.fromkeys(
        on(
            "ABS AVERAGE_POOL_2D CEIL COS DIV EXP FLOOR GELU HARD_SWISH LOG MAXIMUM MINIMUM NEG PRELU RELU "
            "RELU6 RELU_N1_TO_1 "
            "ROUND RSQRT SIN SOFTMAX SQRT SQUARE SQUARED_DIFFERENCE"
        ),
        _FLOAT,
    ),
    **dict.fromkeys(
        on(
            "ADD CONCATENATION DEPTH_TO_SPACE LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN MUL PAD REDUCE_MAX "
            "REDUCE_MIN RESHAPE "
            "RESIZE_BILINEAR SLICE SPACE_TO_DEPTH SPLIT STRIDED_SLICE SUB SUM TANH TRANSPOSE"
        ),
        _CODES,
    ),
    "BATCH_MATMUL": "float32*float32 float32*int8",
    "CONV_2D": "float32*float32 float32*int8 int8*int8 uint8*uint8",
    "DEPTHWISE_CONV_2D": "float32*float32 int8*int8 uint8*uint8",
    "DEQUANTIZE": "float16 int8 uint8",
    "ELU": "float32 int8",
    "FULLY_CONNECTED": "float32*float32 float32*int8 float32*int4 int8*int8 int8*int4 uint8*uint8",
    "QUANTIZE": "float32>int8 float32>uint8 int8>int8 uint8>uint8",
    "TRANSPOSE_CONV": "float32*float32 float32*int8 int8*int8 uint8*uint8",
}


SMALLEST_SUM, SMALLEST_PRODUCT, LARGEST_RATIO = 2.0**-10, 2.0**-16, 2.0**8  # ratios of scales


def _pool(layer: Layer) -> str | None:
    w, h = (_number(layer, f"filter_{side}") for side in "wh")
    strides = _number(layer, "stride_w"), _number(layer, "stride_h")
    if strides[0] > w or strides[1] > h:
        return f"the window is {w}x{h}, strides are {strides[0]}x{strides[1]}"
    return None


def _number(layer: Layer, name: str) -> int:
    found = layer.option(name, 1)
    return found if isinstance(found, int) else 1


def _block(layer: Layer) -> str | None:
    return "the block is 1" if _number(layer, "block") < 2 else None


def _beta(layer: Layer) -> str | None:
    beta = layer.option("beta", 1.0)
    return None if beta == 1.0 else f"beta is {beta:g}" if isinstance(beta, float) else None


def _steps(layer: Layer) -> str | None:
    if why := constant(layer, "begin end strides"):
        return why
    if (layer.ins["strides"].data != 1).any():
        return "a stride is not 1"
    used = [name for name in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask") if layer.option(name)]
    return f"it uses {', '.join(used)}" if used else None


def _parameters(layer: Layer) -> set[object]:
    return {v.type.quantization for v in layer.maps if v.type.quantized}


def _same(layer: Layer) -> str | None:
    return "they differ" if len(_parameters(layer)) > 1 else None


def _ratios(layer: Layer) -> str | None:
    """The ratios that XNNPACK checks: each operand's scale to the result's, or both operands' product to it."""
    kinds = [value.type for value in (*layer.role("activation"), *layer.outs)]
    if not all(kind.quantized and kind.parameters.axis is None for kind in kinds) or len(kinds) != 3:
        return None
    a, b, y = (kind.scale for kind in kinds)
    product = layer.operator == "MUL"
    least = SMALLEST_PRODUCT if product else SMALLEST_SUM
    odd = [ratio for ratio in ((a * b / y,) if product else (a / y, b / y)) if not least <= ratio < LARGEST_RATIO]
    return f"one is {odd[0]:.3g}" if odd else None


def _bias(layer: Layer) -> str | None:
    for name, value in (("weights", layer.weights), ("bias", layer.bias)):
        if value is not None and not _static(layer, value):
            return f"its {name} {'are' if name == 'weights' else 'is'} computed when the model runs"
    return None


def _static(layer: Layer, value: Value) -> bool:
    """Whether a value is constant, or the real numbers of one, which XNNPACK unpacks when it is set up."""
    maker = layer.graph.producers.get(value.name)
    if value.constant is not None or maker is None or maker.builtin.name != "DEQUANTIZE":
        return value.constant is not None
    return all(operand is not None and operand.constant is not None for operand in layer.graph.ins(maker))


def _blocks(layer: Layer) -> str | None:
    weights = layer.weights
    if weights is None or weights.type.dtype != "int4":
        return None
    kind: TensorType = weights.type
    if kind.shape[-1] % 2:
        return f"rows have {kind.shape[-1]} elements"
    return None


def _transposed(layer: Layer) -> str | None:
    if layer.option("padding") != "SAME" or layer.weights is None:
        return None
    kernel = layer.weights.type.shape[1:3]
    strides = _number(layer, "stride_h"), _number(layer, "stride_w")
    small = any(size < stride for size, stride in zip(kernel, strides, strict=True))
    return f"the kernel is {kernel[0]}x{kernel[1]}, strides are {strides[0]}x{strides[1]}" if small else None


def _sizes(layer: Layer) -> str | None:
    if why := constant(layer, "begin size"):
        return why
    return "a size is -1" if (layer.ins["size"].data < 0).any() else None


def _parts(layer: Layer) -> str | None:
    return None if 2 <= len(layer.outs) <= 4 else f"it has {len(layer.outs)}"


_CONVOLUTIONS = on("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV")
RULES = (
    known(XNNPACK_KERNELS, DELEGATE, "XNNPACK takes"),
    types(XNNPACK_KERNELS, README),
    Rule(
        "scales",
        "Scales of a sum's operands are 2^-10 to 2^8 times the result's, the product of a MUL's 2^-16 to 2^8 times.",
        DELEGATE,
        _ratios,
        on("ADD MUL SUB"),
    ),
    Rule("constant", "Weights and biases are constant.", README, _bias, _CONVOLUTIONS),
    Rule(
        "pool",
        "A pooling window is at least as large as its strides.",
        DELEGATE,
        _pool,
        on("AVERAGE_POOL_2D MAX_POOL_2D"),
    ),
    Rule("block", "Blocks are of 2 or more pixels.", DELEGATE, _block, on("DEPTH_TO_SPACE SPACE_TO_DEPTH")),
    Rule("softmax", "A softmax has beta 1.", README, _beta, on("SOFTMAX")),
    Rule("slice", "A strided slice has strides of 1 and keeps all axes.", DELEGATE, _steps, on("STRIDED_SLICE")),
    Rule("sizes", "A slice has constant sizes, none of them -1.", DELEGATE, _sizes, on("SLICE")),
    Rule(
        "transpose-conv",
        "The kernel of a transposed convolution with padding SAME is at least as large as its strides.",
        DELEGATE,
        _transposed,
        on("TRANSPOSE_CONV"),
    ),
    Rule("parts", "A split has two to four parts.", DELEGATE, _parts, on("SPLIT")),
    Rule("int4", "Rows of int4 weights have an even number of elements.", DELEGATE, _blocks, on("FULLY_CONNECTED")),
    Rule(
        "equal-parameters",
        "Operands and results have equal quantization parameters.",
        DELEGATE,
        _same,
        on("CONCATENATION MAX_POOL_2D PAD RESHAPE SLICE SPLIT STRIDED_SLICE TRANSPOSE DEPTH_TO_SPACE"),
    ),
)
XNNPACK = Runtime(
    "xnnpack",
    "XNNPACK, LiteRT's default on processors",
    "LiteRT 2.3",
    RULES,
    ("int8",),
    checker="ai-edge-litert",
)
