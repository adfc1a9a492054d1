"""Android's Neural Networks API, version 1.3 (Android 11), as TensorFlow Lite's delegate offers operators to it."""

from __future__ import annotations

from collections.abc import Mapping

from tflite2q.runtimes.rules import Layer, Rule, Runtime, constant, known, on, types

DELEGATE = (
    "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/delegates/nnapi/nnapi_delegate.cc "
    "(NNAPIDelegateKernel::Validate)"
)
_QUANT = "float32 int8 uint8"
_FLOAT = "float32"

KERNELS: Mapping[str, str] = {
    **dict.fromkeys(
        on("ABS DIV EXP FLOOR L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOG POW RSQRT SIN SQRT SVDF RNN"), _FLOAT
    ),
    **dict.fromkeys(on("UNIDIRECTIONAL_SEQUENCE_RNN LSTM"), _FLOAT),
    **dict.fromkeys(
        on(
            "AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION DEPTH_TO_SPACE ELU HARD_SWISH L2_NORMALIZATION "
            "LEAKY_RELU LOGISTIC "
            "LOG_SOFTMAX MAX_POOL_2D MEAN PACK PAD PADV2 PRELU REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE "
            "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SQUEEZE "
            "STRIDED_SLICE TANH "
            "TRANSPOSE EXPAND_DIMS SPLIT"
        ),
        _QUANT,
    ),
    **dict.fromkeys(on("ADD GATHER MAXIMUM MINIMUM MUL SLICE SUB TILE TOPK_V2"), f"{_QUANT} int32"),
    **dict.fromkeys(on("ARG_MAX ARG_MIN"), "float32>int32 int32>int32 int8>int32 uint8>int32"),
    **dict.fromkeys(on("EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL"), f"{_QUANT} int32 bool"),
    **dict.fromkeys(on("LOGICAL_AND LOGICAL_NOT LOGICAL_OR REDUCE_ANY"), "bool"),
    **dict.fromkeys(on("SUM REDUCE_PROD"), _FLOAT),
    "CAST": "float32 int32 uint8 int8",
    "CONV_2D": "float32*float32 float32*int8 float32*uint8 int8*int8 uint8*uint8",
    "DEPTHWISE_CONV_2D": "float32*float32 int8*int8 uint8*uint8",
    "DEQUANTIZE": "float16 int8 uint8",
    "FULLY_CONNECTED": "float32*float32 float32*int8 float32*uint8 int8*int8 uint8*uint8",
    "QUANTIZE": "float32>int8 float32>uint8",
    "SELECT": "any",
    "TRANSPOSE_CONV": "float32*float32 int8*int8 uint8*uint8",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "float32*float32",
}
# The highest operator version that the delegate passes on; it refuses any later one.
VERSIONS: Mapping[str, int] = {
    **dict.fromkeys(on("CONV_2D FULLY_CONNECTED"), 5),
    **dict.fromkeys(on("DEPTHWISE_CONV_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SUB TRANSPOSE_CONV LSTM"), 3),
    **dict.fromkeys(
        on(
            "ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION DEQUANTIZE L2_NORMALIZATION "
            "LOGISTIC MAX_POOL_2D "
            "MUL PAD PADV2 RELU RELU6 RELU_N1_TO_1 SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH "
            "STRIDED_SLICE TANH TRANSPOSE"
        ),
        2,
    ),
    **dict.fromkeys(on("ABS DIV EXP FLOOR L2_POOL_2D LOG POW RESHAPE RSQRT SIN SQRT SQUEEZE SVDF"), 1),
}
_DEEPEST = 4


def _version(layer: Layer) -> str | None:
    most = VERSIONS[layer.operator]
    return None if layer.op.version <= most else f"it is version {layer.op.version}, the delegate takes {most}"


def _bias(layer: Layer) -> str | None:
    return "it has no bias" if layer.bias is None else None


def _window(layer: Layer) -> str | None:
    sizes = [layer.option(name, 1) for name in ("filter_w", "filter_h")]
    w, h = (size if isinstance(size, int) else 1 for size in sizes)
    quantized = layer.x is not None and layer.x.quantized
    return f"the window is {w}x{h}" if quantized and w * h > 256 else None


def _fused(layer: Layer) -> str | None:
    activation = layer.option("activation", "NONE")
    return None if activation == "NONE" else f"{activation} is fused"


def _rank(layer: Layer) -> str | None:
    deepest = max((len(v.type.shape) for v in layer.maps), default=0)
    return f"a tensor has {deepest} axes" if deepest > _DEEPEST else None


def _open(layer: Layer) -> str | None:
    sizes = [v.name for v in layer.tensors if v.shape_signature is not None and -1 in v.shape_signature]
    return f"the size of {sizes[0]!r} is open" if sizes else None


def _crops(layer: Layer) -> str | None:
    if why := constant(layer, "margins"):
        return why
    return "crops are not 0" if layer.ins["margins"].data.any() else None


RULES = (
    known(KERNELS, DELEGATE, "the delegate offers to NNAPI 1.3"),
    types(KERNELS, DELEGATE),
    Rule("version", "Operators are of versions that the delegate knows.", DELEGATE, _version, frozenset(VERSIONS)),
    Rule("bias", "A convolution has a bias.", DELEGATE, _bias, on("CONV_2D")),
    Rule("window", "A quantized average is of at most 256 elements.", DELEGATE, _window, on("AVERAGE_POOL_2D")),
    Rule("fused", "No activation is fused.", DELEGATE, _fused, on("CONCATENATION L2_NORMALIZATION")),
    Rule("rank", "Tensors have at most 4 axes.", DELEGATE, _rank, on("CONCATENATION SOFTMAX SUB")),
    Rule("crops", "Nothing is cropped.", DELEGATE, _crops, on("BATCH_TO_SPACE_ND")),
    Rule(
        "constant",
        "Shapes, sizes and orders of axes are constant.",
        DELEGATE,
        lambda layer: constant(layer, "shape size order"),
        on("RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR TRANSPOSE TRANSPOSE_CONV"),
    ),
)
NNAPI = Runtime(
    "nnapi",
    "Android NNAPI 1.3 (Android 11 and later), by TensorFlow Lite's delegate",
    "TensorFlow 2.x",
    RULES,
    ("int8", "int8-per-tensor", "asymmetric-uint8"),
)
