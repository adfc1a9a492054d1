"""Arm Ethos-U55, U65 and U85, as their compiler Vela places operators: what breaks a rule is left to the processor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tflite2q.runtimes import npu
from tflite2q.runtimes.rules import Layer, Rule, Runtime, constant, known, on

REPORT = "SUPPORTED_OPS.md of ethos-u-vela 5.2 (vela --supported-ops-report)"
SMALL = f"{REPORT}, Ethos-U55 and Ethos-U65 TFLite"
LARGE = f"{REPORT}, Ethos-U85 TFLite"

_BOTH = on(
    "ABS ADD ARG_MAX AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D ELU EXP EXPAND_DIMS "
    "FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL "
    "NEG PACK PAD "
    "PADV2 PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT SLICE SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE "
    "STRIDED_SLICE SUB SUM "
    "TANH TILE TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK"
)
_ON_U85 = _BOTH | on("ASSIGN_VARIABLE CAST DIV GATHER READ_VARIABLE SCATTER_ND")
# Vela's report lists comparisons, logic and REDUCE_ALL for the U85 too, but Vela 5.2 ends with KeyError on booleans.

_CONVOLUTIONS = on("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV")
_UNSCALED = on("ARG_MAX EXPAND_DIMS MIRROR_PAD PAD PADV2 QUANTIZE TRANSPOSE")
_MOVES = on("RESHAPE SQUEEZE")
_WEIGHT_SUM = 127 * (1 << 16)


def _types(allowed: str) -> Rule:
    kinds = frozenset(allowed.split())

    def broken(layer: Layer) -> str | None:
        odd = [value for value in layer.maps if value.type.dtype not in kinds]
        return f"{odd[0].name!r} is {odd[0].type.dtype}" if odd else None

    names = ", ".join(sorted(kinds))
    return Rule("types", f"Feature maps are {names}.", REPORT, broken, final=True)


def _weight_sum(most_16: int) -> Rule:
    def broken(layer: Layer) -> str | None:
        weights = layer.weights
        if weights is None or weights.constant is None or weights.type.quantization is None or layer.x is None:
            return None
        most = most_16 if layer.x.dtype == "int16" else _WEIGHT_SUM
        codes = weights.data.astype(np.int64)
        axis = layer.op.channel_axis % codes.ndim
        zeros = weights.type.quantization.zero_points(codes.shape[axis])
        shape = [1] * codes.ndim
        shape[axis] = -1
        over = tuple(k for k in range(codes.ndim) if k != axis)
        largest = int(np.abs(codes - zeros.reshape(shape)).sum(axis=over).max(initial=0))
        return f"the weights of a channel sum up to {largest}" if largest > most else None

    says = f"The absolute weights of a channel sum up to at most {_WEIGHT_SUM} ({most_16} for int16)."
    return Rule("weight-sum", says, REPORT, broken, _CONVOLUTIONS)


def _same_types(allowed: str) -> Rule:
    kinds = allowed.split()

    def broken(layer: Layer) -> str | None:
        if layer.x is None or layer.y is None or (layer.x.dtype == layer.y.dtype and layer.x.dtype in kinds):
            return None
        return f"it computes {layer.x.dtype} to {layer.y.dtype}"

    return Rule("function-types", f"Operand and result are both {' or '.join(kinds)}.", REPORT, broken)


def _about(rule: Rule, operators: str, name: str = "") -> Rule:
    """The rule for those operators."""
    return Rule(name or rule.id, rule.says, rule.source, rule.broken, on(operators), rule.final)


_FIRST = Rule(
    "int4",
    "No tensor is int4: Vela 5 divides by the size of an element in bytes, which is 0, and ends with SIGFPE "
    "while it reads the "
    "file; earlier ones end with KeyError: 17.",
    "observed with ethos-u-vela 3.12, 4.5 and 5.2; SUPPORTED_OPS.md: weight tensors must be 8-bit precision",
    npu.four_bits,
    final=True,
)
_CONSTANTS = "axes paddings begin size end strides order"
_COMMON = (
    Rule(
        "64-bit", "Feature maps are not int64.", REPORT, npu.bits_64, frozenset(_BOTH - on("ARG_MAX TRANSPOSE RESHAPE"))
    ),
    Rule("per-axis", "Only weights have a scale for each channel.", REPORT, npu.per_axis),
    Rule("zero-point", "Zero points of int32 are 0.", REPORT, npu.zero_points),
    Rule("weights", "Weights are int8 or uint8.", REPORT, npu.weight_type, _CONVOLUTIONS),
    Rule("bias", "A bias is constant, int32 or int64.", REPORT, npu.bias, _CONVOLUTIONS),
    Rule(
        "constant",
        "Shapes, axes, paddings and slices are constant.",
        REPORT,
        lambda layer: constant(layer, _CONSTANTS),
        on("MIRROR_PAD PAD PADV2 SLICE STRIDED_SLICE TRANSPOSE MEAN"),
    ),
    Rule(
        "pool",
        "A window has at most 65536 elements and is at most 256 high; a padded average's at most 8x8.",
        REPORT,
        npu.pool,
        on("AVERAGE_POOL_2D MAX_POOL_2D"),
    ),
    _about(_same_types("int8"), "ELU", "elu-types"),
    _about(_same_types("int8 uint8"), "GELU", "gelu-types"),
    _about(_same_types("int8 int16"), "LOG", "log-types"),
    Rule(
        "rsqrt-types",
        "RSQRT takes int8 or int16.",
        REPORT,
        lambda layer: None if layer.x is None or layer.x.dtype in ("int8", "int16") else f"it takes {layer.x.dtype}",
        on("RSQRT"),
    ),
    Rule(
        "extrema",
        "Both operands of MAXIMUM and MINIMUM have the parameters of the result.",
        REPORT,
        npu.extrema,
        on("MAXIMUM MINIMUM"),
    ),
    Rule(
        "mean",
        "A mean is of int8, uint8 or int16, of a batch of 1, over axes of at most 4096, over depth only where "
        "height, width or "
        "depth is 1, and of at most 2^24 (int8), 2^23 (uint8) or 2^16 (int16) elements.",
        REPORT,
        npu.reduction,
        on("MEAN"),
    ),
    Rule("softmax", "A softmax has fewer than 65536 rows.", REPORT, npu.softmax, on("SOFTMAX")),
    Rule(
        "strided-slice",
        "A strided slice steps forward, and along height and width only.",
        REPORT,
        npu.strided,
        on("STRIDED_SLICE"),
    ),
    Rule(
        "transpose-conv-shape",
        "A transposed convolution makes its operand `stride` times as large (SAME), and larger by kernel - "
        "stride (VALID).",
        REPORT,
        npu.transposed_shape,
        on("TRANSPOSE_CONV"),
    ),
    Rule(
        "first-axis",
        "The axis is not -rank; with it Vela does not read the file. 0 is the same axis.",
        "observed with ethos-u-vela 5.2",
        npu.first_axis,
        on("ARG_MAX SPLIT"),
    ),
    Rule(
        "slopes",
        "Not all slopes of several channels are negative; then Vela ends with an error.",
        "observed with ethos-u-vela 5.2",
        npu.slopes,
        on("PRELU"),
    ),
    Rule(
        "intermediates",
        "Tensors that hold only the parameters of numbers inside an LSTM have the shape [0].",
        "observed with ethos-u-vela 5.2 (Operation has shapeless tensor)",
        lambda layer: next((f"{v.name!r} is not empty" for v in layer.op.intermediates if v.type.size), None),
        on("UNIDIRECTIONAL_SEQUENCE_LSTM"),
    ),
    Rule(
        "lstm",
        "An LSTM has all four gates, and no other options.",
        REPORT,
        npu.lstm,
        on("UNIDIRECTIONAL_SEQUENCE_LSTM"),
    ),
)


def _scales(operators: frozenset[str]) -> Rule:
    return Rule(
        "parameters", "Feature maps and weights have quantization parameters.", REPORT, npu.parameters, operators
    )


def _known(operators: frozenset[str], source: str) -> Rule:
    kernels: Mapping[str, str] = dict.fromkeys(operators, "any")
    return known(kernels, source, "Vela places on the NPU")


_U55_RULES = (
    _FIRST,
    _known(_BOTH, SMALL),
    _types("int8 uint8 int16 int32 int64"),
    Rule("32-bit", "Feature maps of this operator are not int32.", SMALL, npu.bits_32),
    _scales(_BOTH - _UNSCALED - _MOVES),
    *_COMMON,
    _weight_sum(_WEIGHT_SUM),
    Rule(
        "stride",
        "Strides are at most 3, or more without dilation and padding; those of depthwise convolutions at most 3.",
        SMALL,
        npu.strides,
        on("AVERAGE_POOL_2D CONV_2D DEPTHWISE_CONV_2D MAX_POOL_2D"),
    ),
    Rule("matmul", "Products of two activations are of int8.", SMALL, npu.matmul, on("BATCH_MATMUL FULLY_CONNECTED")),
    Rule("argmax", "ARG_MAX is taken along a depth of at most 127, of a batch of 1.", SMALL, npu.argmax, on("ARG_MAX")),
    Rule(
        "resize",
        "A picture becomes 2, 4 or 8 times as large in both directions (bilinear with half_pixel_centers: 2 times).",
        SMALL,
        npu.resize,
        on("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR"),
    ),
    Rule("reverse", "No axis is reversed.", SMALL, lambda layer: "it reverses one", on("REVERSE_V2")),
    Rule(
        "transpose-int32",
        "An int32 tensor has at most four axes, of which height and width, or width and depth, change places.",
        SMALL,
        npu.moved_32,
        on("TRANSPOSE"),
    ),
    Rule(
        "transpose-conv-stride",
        "Strides of a transposed convolution are 1x1 or 2x2, or 2x1 and 1x2 along a line of pixels.",
        SMALL,
        npu.transposed_strides,
        on("TRANSPOSE_CONV"),
    ),
)
_U85_RULES = (
    _FIRST,
    _known(_ON_U85, LARGE),
    _types("int8 uint8 int16 int32 int64"),
    _scales(_ON_U85 - _UNSCALED - on("ASSIGN_VARIABLE GATHER READ_VARIABLE SCATTER_ND") | on("RESHAPE SQUEEZE")),
    *_COMMON,
    _weight_sum(2130706432),
    Rule("argmax", "ARG_MAX is not of int32.", LARGE, npu.argmax_u85, on("ARG_MAX")),
    Rule(
        "resize",
        "A picture becomes at most 1024 times as large (align_corners: 2048), bilinear by powers of two; "
        "align_corners and "
        "half_pixel_centers exclude each other.",
        LARGE,
        npu.resize_u85,
        on("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR"),
    ),
    Rule(
        "int32",
        "This operator does not take int32: Vela ends with SIGSEGV.",
        "observed with ethos-u-vela 5.2",
        lambda layer: "it does" if layer.x is not None and layer.x.dtype == "int32" else None,
        on("QUANTIZE SQUARED_DIFFERENCE"),
    ),
    Rule("gather", "GATHER has axis equal to batch_dims, and constant indices.", LARGE, npu.gather, on("GATHER")),
    Rule("scatter", "SCATTER_ND has constant indices and shape.", LARGE, npu.indices, on("SCATTER_ND")),
)
_SCHEMES = ("int8", "int8-per-tensor", "symmetric-int8", "int16x8", "asymmetric-uint8")


def _npu(name: str, rules: tuple[Rule, ...]) -> Runtime:
    title = f"Arm {name.replace('ethos-u', 'Ethos-U')}, compiled by Vela"
    return Runtime(name, title, "Vela 5.2", rules, _SCHEMES, checker="ethos-u-vela")


ETHOS_U55, ETHOS_U65 = _npu("ethos-u55", _U55_RULES), _npu("ethos-u65", _U55_RULES)
ETHOS_U85 = _npu("ethos-u85", _U85_RULES)
