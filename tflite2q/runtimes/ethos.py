"""Arm Ethos-U55, U65 and U85, as their compiler Vela places operators: what breaks a rule is left to the processor."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from tflite2q.dialect.types import TensorType
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
_STAYS_32 = on(  # operators that take 32-bit feature maps on the small NPUs
    "ADD ARG_MAX BATCH_MATMUL EXPAND_DIMS FULLY_CONNECTED MIRROR_PAD MUL NEG RESHAPE SQUEEZE SUB SUM TRANSPOSE"
)
_UNSCALED = on("ARG_MAX EXPAND_DIMS MIRROR_PAD PAD PADV2 QUANTIZE TRANSPOSE")
_MOVES = on("RESHAPE SQUEEZE")
_REDUCED_MOST = {"int8": 1 << 24, "uint8": 1 << 23, "int16": 1 << 16}
_WEIGHT_SUM = 127 * (1 << 16)
_LONGEST_AXIS = 4096


def _four_bits(layer: Layer) -> str | None:
    small = [value.name for value in layer.tensors if value.type.dtype == "int4"]
    return f"{small[0]!r} is int4" if small else None


def _types(allowed: str) -> Rule:
    kinds = frozenset(allowed.split())

    def broken(layer: Layer) -> str | None:
        odd = [value for value in layer.maps if value.type.dtype not in kinds]
        return f"{odd[0].name!r} is {odd[0].type.dtype}" if odd else None

    names = ", ".join(sorted(kinds))
    return Rule("types", f"Feature maps are {names}.", REPORT, broken, final=True)


def _32_bits(layer: Layer) -> str | None:
    wide = [v for v in layer.maps if v.type.dtype == "int32"]
    return f"{wide[0].name!r} is int32" if wide and layer.operator not in _STAYS_32 else None


def _64_bits(layer: Layer) -> str | None:
    wide = [v for v in layer.maps if v.type.dtype == "int64"]
    return f"{wide[0].name!r} is int64" if wide else None


def _parameters(layer: Layer) -> str | None:
    scaled = [*layer.maps, *layer.role("weights")]
    bare = [v.name for v in scaled if v.type.quantization is None and v.type.dtype not in ("int32", "int64")]
    return f"{bare[0]!r} has no quantization parameters" if bare else None


def _per_axis(layer: Layer) -> str | None:
    several = [v.name for v in layer.maps if v.type.quantization is not None and len(v.type.quantization.scale) > 1]
    return f"{several[0]!r} has a scale for each channel" if several else None


def _zero_points(layer: Layer) -> str | None:
    odd = [v.name for v in layer.maps if v.type.dtype == "int32" and _nonzero(v.type)]
    return f"the zero point of {odd[0]!r} is not 0" if odd else None


def _nonzero(kind: TensorType) -> bool:
    return kind.quantization is not None and any(kind.quantization.zero_point)


def _bias(layer: Layer) -> str | None:
    bias = layer.bias
    if bias is None:
        return None
    if bias.constant is None:
        return "its bias is computed when the model runs"
    return None if bias.type.dtype in ("int32", "int64") else f"its bias is {bias.type.dtype}"


def _weight_type(layer: Layer) -> str | None:
    weights = layer.weights
    if weights is None or weights.type.dtype in ("int8", "uint8"):
        return None
    return f"its weights are {weights.type.dtype}"


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


def _number(layer: Layer, name: str) -> int:
    found = layer.option(name, 1)
    return found if isinstance(found, int) else 1


def _strides(layer: Layer) -> str | None:
    strides = _number(layer, "stride_w"), _number(layer, "stride_h")
    if max(strides) <= 3:
        return None
    still = _number(layer, "dilation_w") == _number(layer, "dilation_h") == 1 and layer.option("padding") == "VALID"
    if still and layer.operator != "DEPTHWISE_CONV_2D":
        return None
    return f"strides are {strides[0]}x{strides[1]}"


def _pool(layer: Layer) -> str | None:
    w, h = _number(layer, "filter_w"), _number(layer, "filter_h")
    padded = layer.option("padding") == "SAME" and layer.operator == "AVERAGE_POOL_2D"
    fits = max(w, h) <= 8 if padded else w * h <= 1 << 16 and h <= 256
    return None if fits else f"the window is {w}x{h}"


def _matmul(layer: Layer) -> str | None:
    if layer.operator == "FULLY_CONNECTED" and (layer.weights is None or layer.weights.constant is not None):
        return None
    return None if layer.x is None or layer.x.dtype == "int8" else f"it multiplies {layer.x.dtype}"


def _axes(layer: Layer, slot: str) -> list[int]:
    """The axes that a constant operand names, counted from the first."""
    if not layer.has(slot) or layer.ins[slot].constant is None or layer.x is None:
        return []
    rank = len(layer.x.shape)
    return sorted({int(axis) % rank for axis in layer.ins[slot].data.reshape(-1)}) if rank else []


def _argmax(layer: Layer) -> str | None:
    if layer.x is None or not layer.x.shape:
        return None
    if _axes(layer, "axis") != [len(layer.x.shape) - 1]:
        return "it is taken along another axis"
    if len(layer.x.shape) == 4 and layer.x.shape[0] != 1:
        return f"the batch is {layer.x.shape[0]}"
    return None if layer.x.shape[-1] <= 127 else f"depth is {layer.x.shape[-1]}"


def _argmax_u85(layer: Layer) -> str | None:
    return "it takes the largest of int32" if layer.x is not None and layer.x.dtype == "int32" else None


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


def _extrema(layer: Layer) -> str | None:
    kinds = {(v.type.dtype, v.type.quantization) for v in layer.maps}
    return "they differ" if len(kinds) > 1 else None


def _reduction(layer: Layer) -> str | None:
    x, axes = layer.x, _axes(layer, "axes")
    if x is None or not axes:
        return constant(layer, "axes")
    if x.dtype not in _REDUCED_MOST:
        return f"it averages {x.dtype}"
    count = prod(x.shape[axis] for axis in axes)
    if count > _REDUCED_MOST[x.dtype]:
        return f"it averages {count} elements"
    if len(x.shape) > 3 and x.shape[0] != 1:
        return f"the batch is {x.shape[0]}"
    if max(x.shape[axis] for axis in axes) > _LONGEST_AXIS:
        return f"it averages over an axis of {max(x.shape[axis] for axis in axes)}"
    depth = len(x.shape) - 1 in axes and len(x.shape) > 2
    return "it averages over depth" if depth and min(x.shape[-3:]) != 1 else None


def _upscaling(layer: Layer) -> tuple[float, float] | None:
    """How many times as high and wide a resized picture becomes; None where its size stays or it is one pixel."""
    x, y = layer.x, layer.y
    if x is None or y is None or len(x.shape) != 4 or x.shape[1:3] in ((1, 1), y.shape[1:3]):
        return None
    less = 1 if layer.option("align_corners") else 0
    sizes = zip(y.shape[1:3], x.shape[1:3], strict=True)
    h, w = ((after - less) / (before - less) if before > less else float("inf") for after, before in sizes)  # as Vela
    return h, w


def _resize(layer: Layer) -> str | None:
    if _upscaling(layer) is None or layer.y is None:
        return None
    h, w = _upscaling(layer) or (1, 1)
    if h != w and not ((layer.y.shape[1] == 1 and h == 1) or (layer.y.shape[2] == 1 and w == 1)):
        return f"it becomes {h:.4g} times as high and {w:.4g} times as wide"
    fits = (2,) if layer.operator == "RESIZE_BILINEAR" and layer.option("half_pixel_centers") else (2, 4, 8)
    return None if max(h, w) in fits else f"it becomes {max(h, w):.4g} times as large"


def _resize_u85(layer: Layer) -> str | None:
    if layer.option("align_corners") and layer.option("half_pixel_centers"):
        return "it has both"
    if _upscaling(layer) is None:
        return None
    factors = _upscaling(layer) or (1, 1)
    most = 2048 if layer.option("align_corners") else 1024
    powers = layer.operator == "RESIZE_BILINEAR"
    fits = all(
        (f <= most or (f == float("inf") and not powers))
        and (not powers or (f >= 1 and float(np.log2(f)).is_integer()))
        for f in factors
    )
    return None if fits else f"it becomes {factors[0]:.4g} times as high and {factors[1]:.4g} times as wide"


def _first_axis(layer: Layer) -> str | None:
    fixed = [v for v in layer.ins if v is not None and v.constant is not None and v.data.size == 1]
    axis = next(iter(fixed), None)
    if layer.x is None or axis is None:
        return None
    return f"it is {int(axis.data.item())}" if int(axis.data.item()) == -len(layer.x.shape) else None


def _softmax(layer: Layer) -> str | None:
    if layer.x is None or prod(layer.x.shape[:-1]) < 1 << 16:
        return None
    return f"it has {prod(layer.x.shape[:-1])} rows"


def _strided(layer: Layer) -> str | None:
    if why := constant(layer, "begin end strides"):
        return why
    if layer.x is None:
        return None
    strides = layer.ins["strides"].data.reshape(-1)
    if (strides < 0).any():
        return "a stride is negative"
    rank = len(layer.x.shape)
    stepped = [axis - rank for axis in range(len(strides)) if strides[axis] != 1]
    return None if set(stepped) <= {-2, -3} else "it steps along another axis than height and width"


def _moved_32(layer: Layer) -> str | None:
    if layer.x is None or layer.x.dtype != "int32" or layer.ins["order"].constant is None:
        return None
    order = tuple(int(axis) for axis in layer.ins["order"].data.reshape(-1))
    rank = len(order)
    if rank > 4:
        return f"it has {rank} axes"
    full = (*range(4 - rank), *(axis + 4 - rank for axis in order))
    return None if full in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)) else "it is another order of axes"


def _transposed_strides(layer: Layer) -> str | None:
    w, h = _number(layer, "stride_w"), _number(layer, "stride_h")
    if layer.x is None or layer.weights is None or (w, h) in ((1, 1), (2, 2)):
        return None
    flat = layer.x.shape[1] == layer.weights.type.shape[1] == 1
    thin = layer.x.shape[2] == layer.weights.type.shape[2] == 1
    fits = ((w, h) == (2, 1) and flat) or ((w, h) == (1, 2) and thin)
    return None if fits else f"strides are {w}x{h}"


def _transposed_shape(layer: Layer) -> str | None:
    if layer.x is None or layer.y is None or layer.weights is None:
        return None
    strides = _number(layer, "stride_h"), _number(layer, "stride_w")
    same = layer.option("padding") == "SAME"
    for axis, stride in zip((1, 2), strides, strict=True):
        rest = 0 if same else max(layer.weights.type.shape[axis] - stride, 0)
        if layer.y.shape[axis] != layer.x.shape[axis] * stride + rest:
            return f"axis {axis} grows from {layer.x.shape[axis]} to {layer.y.shape[axis]}"
    return None


def _slopes(layer: Layer) -> str | None:
    alpha = layer.ins["alpha"]
    if alpha.constant is None or not alpha.type.quantized or alpha.data.size < 2:
        return None
    return "all are" if (alpha.data < alpha.type.zero_point).all() else None


def _lstm(layer: Layer) -> str | None:
    if not layer.has("input_to_input"):
        return "it has no weights of the input gate"
    for slot in layer.op.slots:
        if slot.name.startswith(("peephole", "projection", "normalization")) and layer.has(slot.name):
            return f"it has {slot.name}"
    return None


def _gather(layer: Layer) -> str | None:
    axis, batch = layer.option("axis", 0), layer.option("batch_axes", 0)
    return constant(layer, "indices") if axis == batch else f"axis is {axis}, batch_dims {batch}"


def _indices(layer: Layer) -> str | None:
    return constant(layer, "indices shape")


_FIRST = Rule(
    "int4",
    "No tensor is int4: Vela 5 divides by the size of an element in bytes, which is 0, and ends with SIGFPE "
    "while it reads the "
    "file; earlier ones end with KeyError: 17.",
    "observed with ethos-u-vela 3.12, 4.5 and 5.2; SUPPORTED_OPS.md: weight tensors must be 8-bit precision",
    _four_bits,
    final=True,
)
_CONSTANTS = "axes paddings begin size end strides order"
_COMMON = (
    Rule("64-bit", "Feature maps are not int64.", REPORT, _64_bits, frozenset(_BOTH - on("ARG_MAX TRANSPOSE RESHAPE"))),
    Rule("per-axis", "Only weights have a scale for each channel.", REPORT, _per_axis),
    Rule("zero-point", "Zero points of int32 are 0.", REPORT, _zero_points),
    Rule("weights", "Weights are int8 or uint8.", REPORT, _weight_type, _CONVOLUTIONS),
    Rule("bias", "A bias is constant, int32 or int64.", REPORT, _bias, _CONVOLUTIONS),
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
        _pool,
        on("AVERAGE_POOL_2D MAX_POOL_2D"),
    ),
    _about(_same_types("int8"), "ELU"),
    _about(_same_types("int8 uint8"), "GELU"),
    _about(_same_types("int8 int16"), "LOG"),
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
        _extrema,
        on("MAXIMUM MINIMUM"),
    ),
    Rule(
        "mean",
        "A mean is of int8, uint8 or int16, of a batch of 1, over axes of at most 4096, over depth only where "
        "height, width or "
        "depth is 1, and of at most 2^24 (int8), 2^23 (uint8) or 2^16 (int16) elements.",
        REPORT,
        _reduction,
        on("MEAN"),
    ),
    Rule("softmax", "A softmax has fewer than 65536 rows.", REPORT, _softmax, on("SOFTMAX")),
    Rule(
        "strided-slice",
        "A strided slice steps forward, and along height and width only.",
        REPORT,
        _strided,
        on("STRIDED_SLICE"),
    ),
    Rule(
        "transpose-conv-shape",
        "A transposed convolution makes its operand `stride` times as large (SAME), and larger by kernel - "
        "stride (VALID).",
        REPORT,
        _transposed_shape,
        on("TRANSPOSE_CONV"),
    ),
    Rule(
        "first-axis",
        "The axis is not -rank; with it Vela does not read the file. 0 is the same axis.",
        "observed with ethos-u-vela 5.2",
        _first_axis,
        on("ARG_MAX SPLIT"),
    ),
    Rule(
        "slopes",
        "Not all slopes of several channels are negative; then Vela ends with an error.",
        "observed with ethos-u-vela 5.2",
        _slopes,
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
        "lstm", "An LSTM has all four gates, and no other options.", REPORT, _lstm, on("UNIDIRECTIONAL_SEQUENCE_LSTM")
    ),
)


def _scales(operators: frozenset[str]) -> Rule:
    return Rule("parameters", "Feature maps and weights have quantization parameters.", REPORT, _parameters, operators)


def _known(operators: frozenset[str], source: str) -> Rule:
    kernels: Mapping[str, str] = dict.fromkeys(operators, "any")
    return known(kernels, source, "Vela places on the NPU")


_U55_RULES = (
    _FIRST,
    _known(_BOTH, SMALL),
    _types("int8 uint8 int16 int32 int64"),
    Rule("32-bit", "Feature maps of this operator are not int32.", SMALL, _32_bits),
    _scales(_BOTH - _UNSCALED - _MOVES),
    *_COMMON,
    _weight_sum(_WEIGHT_SUM),
    Rule(
        "stride",
        "Strides are at most 3, or more without dilation and padding; those of depthwise convolutions at most 3.",
        SMALL,
        _strides,
        on("AVERAGE_POOL_2D CONV_2D DEPTHWISE_CONV_2D MAX_POOL_2D"),
    ),
    Rule("matmul", "Products of two activations are of int8.", SMALL, _matmul, on("BATCH_MATMUL FULLY_CONNECTED")),
    Rule("argmax", "ARG_MAX is taken along a depth of at most 127, of a batch of 1.", SMALL, _argmax, on("ARG_MAX")),
    Rule(
        "resize",
        "A picture becomes 2, 4 or 8 times as large in both directions (bilinear with half_pixel_centers: 2 times).",
        SMALL,
        _resize,
        on("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR"),
    ),
    Rule("reverse", "No axis is reversed.", SMALL, lambda layer: "it reverses one", on("REVERSE_V2")),
    Rule(
        "transpose-int32",
        "An int32 tensor has at most four axes, of which height and width, or width and depth, change places.",
        SMALL,
        _moved_32,
        on("TRANSPOSE"),
    ),
    Rule(
        "transpose-conv-stride",
        "Strides of a transposed convolution are 1x1 or 2x2, or 2x1 and 1x2 along a line of pixels.",
        SMALL,
        _transposed_strides,
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
    Rule("argmax", "ARG_MAX is not of int32.", LARGE, _argmax_u85, on("ARG_MAX")),
    Rule(
        "resize",
        "A picture becomes at most 1024 times as large (align_corners: 2048), bilinear by powers of two; "
        "align_corners and "
        "half_pixel_centers exclude each other.",
        LARGE,
        _resize_u85,
        on("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR"),
    ),
    Rule(
        "int32",
        "This operator does not take int32: Vela ends with SIGSEGV.",
        "observed with ethos-u-vela 5.2",
        lambda layer: "it does" if layer.x is not None and layer.x.dtype == "int32" else None,
        on("QUANTIZE SQUARED_DIFFERENCE"),
    ),
    Rule("gather", "GATHER has axis equal to batch_dims, and constant indices.", LARGE, _gather, on("GATHER")),
    Rule("scatter", "SCATTER_ND has constant indices and shape.", LARGE, _indices, on("SCATTER_ND")),
)
_SCHEMES = ("int8", "int8-per-tensor", "symmetric-int8", "int16x8", "asymmetric-uint8")


def _npu(name: str, rules: tuple[Rule, ...]) -> Runtime:
    title = f"Arm {name.replace('ethos-u', 'Ethos-U')}, compiled by Vela"
    return Runtime(name, title, "Vela 5.2", rules, _SCHEMES, checker="ethos-u-vela")


ETHOS_U55, ETHOS_U65 = _npu("ethos-u55", _U55_RULES), _npu("ethos-u65", _U55_RULES)
ETHOS_U85 = _npu("ethos-u85", _U85_RULES)
