"""Coral's Edge TPU, as its compiler maps operators: what breaks a rule, and all behind it, runs on the processor."""

from __future__ import annotations

from math import prod

from tflite2q.runtimes.rules import Layer, Rule, Runtime, constant, known, on

PAGE = "https://coral.ai/docs/edgetpu/models-intro/"
REQUIREMENTS = f"{PAGE}#model-requirements"
OPERATIONS = f"{PAGE}#supported-operations"

OPERATORS = on(
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION "
    "LOGISTIC LSTM "
    "MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 "
    "RELU_N1_TO_1 RESHAPE "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE "
    "SQUEEZE STRIDED_SLICE "
    "SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM"
)
_LONGEST_SOFTMAX = 16_000
_IN_8_BITS = ("int8", "uint8")


def _eight_bits(layer: Layer) -> str | None:
    odd = [v for v in (*layer.maps, *layer.role("weights")) if v.type.dtype not in _IN_8_BITS or not v.type.quantized]
    if not odd:
        return None
    kind = odd[0].type
    return f"{odd[0].name!r} is {kind.dtype}{'' if kind.dtype not in _IN_8_BITS else ' without parameters'}"


def _open(layer: Layer) -> str | None:
    sizes = [v.name for v in layer.tensors if v.shape_signature is not None and -1 in v.shape_signature]
    return f"the size of {sizes[0]!r} is open" if sizes else None


def _constant(layer: Layer) -> str | None:
    run = [v.name for v in (*layer.role("weights"), *layer.role("bias")) if v.constant is None]
    return f"{run[0]!r} is computed when the model runs" if run else None


def _outer(layer: Layer) -> str | None:
    deep = [v for v in layer.maps if prod(v.type.shape[:-3]) != 1]
    return f"{deep[0].name!r} is {'x'.join(map(str, deep[0].type.shape))}" if deep else None


def _fused(layer: Layer) -> str | None:
    activation = layer.option("activation", "NONE")
    return None if activation == "NONE" else f"{activation} is fused"


def _dilation(layer: Layer) -> str | None:
    w, h = layer.option("dilation_w", 1), layer.option("dilation_h", 1)
    return None if w == h else f"dilation is {w}x{h}"


def _one_row(layer: Layer) -> str | None:
    return None if layer.y is None or prod(layer.y.shape[:-1]) == 1 else f"it has {prod(layer.y.shape[:-1])} rows"


def _zeros(layer: Layer) -> str | None:
    fixed = [v for v in layer.role("activation") if v.constant is not None]
    if not fixed:
        return None
    if len(layer.role("activation")) > 2:
        return "a constant is one of more than two operands"
    zero = fixed[0].type.quantization
    return None if zero is not None and (fixed[0].data == zero.zero_point[0]).all() else "a constant is not 0"


def _axes(layer: Layer) -> list[int]:
    if layer.x is None or not layer.has("axes") or layer.ins["axes"].constant is None:
        return []
    return [int(axis) % max(len(layer.x.shape), 1) for axis in layer.ins["axes"].data.reshape(-1)]


def _batch(layer: Layer) -> str | None:
    full = layer.x is not None and len(layer.x.shape) == 4
    return "it works along the batch" if full and 0 in _axes(layer) else constant(layer, "axes")


def _depth(layer: Layer) -> str | None:
    if why := _batch(layer):
        return why
    x = layer.x
    deep = x is not None and len(x.shape) - 1 in _axes(layer) and x.shape[-1] % 4
    return f"it averages over a depth of {x.shape[-1]}" if deep and x is not None else None


def _padded(layer: Layer) -> str | None:
    if why := constant(layer, "paddings"):
        return why
    amounts = layer.ins["paddings"].data.reshape(-1, 2)
    return "the batch is padded" if len(amounts) == 4 and amounts[0].any() else None


def _axis(layer: Layer) -> str | None:
    axis = layer.option("axis", None)
    if layer.has("axis") and layer.ins["axis"].constant is not None:
        axis = int(layer.ins["axis"].data.reshape(-1)[0])
    rank = 0 if layer.x is None else len(layer.x.shape)
    return "it works along the batch" if isinstance(axis, int) and rank >= 4 and axis % rank == 0 else None


def _slopes(layer: Layer) -> str | None:
    shape = layer.ins["alpha"].type.shape
    return None if prod(shape[:-1]) == 1 else f"slopes are {'x'.join(map(str, shape))}"


def _vector(layer: Layer) -> str | None:
    if layer.x is None:
        return None
    if prod(layer.x.shape[:-1]) != 1:
        return f"it has {prod(layer.x.shape[:-1])} rows"
    return None if layer.x.shape[-1] <= _LONGEST_SOFTMAX else f"it has {layer.x.shape[-1]} elements"


def _steps(layer: Layer) -> str | None:
    if why := constant(layer, "begin end strides"):
        return why
    if (layer.ins["strides"].data != 1).any():
        return "a stride is not 1"
    used = [name for name in ("ellipsis_mask", "new_axis_mask") if layer.option(name)]
    return f"it uses {', '.join(used)}" if used else None


RULES = (
    known(dict.fromkeys(OPERATORS, "any"), OPERATIONS, "the Edge TPU supports"),
    Rule("8-bit", "Activations and weights are quantized, int8 or uint8.", REQUIREMENTS, _eight_bits, final=True),
    Rule("sizes", "Sizes of tensors are constant.", REQUIREMENTS, _open),
    Rule("constant", "Weights and biases are constant.", REQUIREMENTS, _constant),
    Rule("axes", "Only the three innermost axes of a tensor are larger than 1.", REQUIREMENTS, _outer),
    Rule("fused", "No activation is fused.", OPERATIONS, _fused, on("AVERAGE_POOL_2D CONCATENATION MAX_POOL_2D")),
    Rule(
        "dilation", "Dilation is the same in both directions.", OPERATIONS, _dilation, on("CONV_2D DEPTHWISE_CONV_2D")
    ),
    Rule("dense", "The result of a dense layer has one axis.", OPERATIONS, _one_row, on("FULLY_CONNECTED")),
    Rule("concat", "A constant is all zeros, and one of two operands.", OPERATIONS, _zeros, on("CONCATENATION")),
    Rule(
        "mean", "A mean leaves the batch alone, and depth unless it is a multiple of 4.", OPERATIONS, _depth, on("MEAN")
    ),
    Rule("reduce", "Reductions leave the batch alone.", OPERATIONS, _batch, on("REDUCE_MAX REDUCE_MIN SUM")),
    Rule("pad", "The batch is not padded.", OPERATIONS, _padded, on("PAD")),
    Rule("batch", "The batch is neither packed nor split.", OPERATIONS, _axis, on("PACK SPLIT")),
    Rule("prelu", "Slopes have one axis.", OPERATIONS, _slopes, on("PRELU")),
    Rule("softmax", "A softmax is of one vector of at most 16,000 elements.", OPERATIONS, _vector, on("SOFTMAX")),
    Rule(
        "strided-slice",
        "A strided slice has strides of 1, no ellipsis and no new axes.",
        OPERATIONS,
        _steps,
        on("STRIDED_SLICE"),
    ),
)
EDGE_TPU = Runtime(
    "edgetpu",
    "Coral Edge TPU, by edgetpu_compiler",
    "edgetpu_compiler 16",
    RULES,
    ("int8", "int8-per-tensor", "asymmetric-uint8"),
)
