"""TFLite Micro with its portable kernels, and with those of CMSIS-NN for Arm Cortex-M."""

from __future__ import annotations

from collections.abc import Mapping

from tflite2q.runtimes.rules import Layer, Rule, Runtime, known, on, types

FOLDER = "https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro"
RESOLVER = f"{FOLDER}/micro_mutable_op_resolver.h"
KERNELS = f"{FOLDER}/kernels (Prepare and Eval of each operator)"

_FLOAT = "float32"
_COMMON = "float32 int8 int16"
_EIGHT = "float32 int8"
_NUMBERS = "float32 int8 int16 int32"

CASTS = " ".join(
    f"{x}>{y}"
    for x in ("float32", "int8", "int16", "int32", "bool")
    for y in ("float32", "int8", "int16", "int32", "bool")
)

# What the kernel of each operator takes; `types` says how to read it.
MICRO: Mapping[str, str] = {
    **dict.fromkeys(on("CEIL COS EXP FLOOR FLOOR_DIV FLOOR_MOD L2_POOL_2D LOG NEG ROUND SIN SQRT SQUARE"), _FLOAT),
    **dict.fromkeys(
        on(
            "ADD_N BATCH_TO_SPACE_ND CUMSUM DEPTH_TO_SPACE ELU GATHER GATHER_ND HARD_SWISH L2_NORMALIZATION LOG_SOFTMAX"
        ),
        _EIGHT,
    ),
    **dict.fromkeys(
        on("MIRROR_PAD REDUCE_MAX REDUCE_MIN RESIZE_BILINEAR SPACE_TO_BATCH_ND SPACE_TO_DEPTH"),
        _EIGHT,
    ),
    **dict.fromkeys(
        on("ABS AVERAGE_POOL_2D EXPAND_DIMS LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN RELU RELU6 RSQRT SELECT_V2 TANH"),
        _COMMON,
    ),
    **dict.fromkeys(on("RESIZE_NEAREST_NEIGHBOR SUM TRANSPOSE"), _COMMON),
    **dict.fromkeys(on("ADD MAXIMUM MINIMUM MUL PACK PAD PADV2 SLICE SPLIT SPLIT_V SUB UNPACK"), _NUMBERS),
    **dict.fromkeys(on("BROADCAST_TO CALL_ONCE IF RESHAPE REVERSE_V2 SHAPE SQUEEZE VAR_HANDLE WHILE"), "any"),
    **dict.fromkeys(on("ASSIGN_VARIABLE READ_VARIABLE"), "any"),
    **dict.fromkeys(on("EQUAL GREATER_EQUAL LESS LESS_EQUAL NOT_EQUAL"), "bool float32 int8 int32 int64"),
    **dict.fromkeys(on("LOGICAL_AND LOGICAL_NOT LOGICAL_OR REDUCE_ALL"), "bool"),
    **dict.fromkeys(on("CONV_2D DEPTHWISE_CONV_2D"), "float32*float32 int8*int8 int8*int4 int16*int8"),
    "ARG_MAX": "float32>int32 int8>int32",
    "ARG_MIN": "float32>int32 int8>int32",
    "BATCH_MATMUL": "float32*float32 int8*int8 int16*int16",
    "BROADCAST_ARGS": "int32 int64",
    "CAST": CASTS,
    "CONCATENATION": "float32 int8 int16 int32 int64 bool",
    "DEQUANTIZE": "int8 int16 uint8",
    "DIV": "float32 int8 int32",
    "DYNAMIC_UPDATE_SLICE": "float32 int8 int32",
    "EMBEDDING_LOOKUP": "any*float32 any*int8",
    "FILL": "any>float32 any>int8 any>int32",
    "FULLY_CONNECTED": "float32*float32 int8*int8 int16*int8",
    "GREATER": "float32 int8 int16 int32 int64",
    "PRELU": "float32 int8 int16",
    "QUANTIZE": "float32>int8 float32>int16 int8>int8 int8>int16 int8>int32 int8>uint8 int16>int8 int16>int16 "
    "int16>int32 "
    "int32>int8 int32>int16 uint8>int8",
    "SOFTMAX": "float32 int8>int8 int8>int16 int16",
    "SQUARED_DIFFERENCE": "float32 int8 int32",
    "STRIDED_SLICE": "float32 int8 int16 int32 bool",
    "SVDF": "float32*float32 int8*int8",
    "TRANSPOSE_CONV": "float32*float32 int8*int8 int16*int8",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "float32 int8 int16",
    "ZEROS_LIKE": "float32 int8 int32 int64",
}
CUSTOM = on(
    "CIRCULAR_BUFFER TFLite_Detection_PostProcess ethos-u SignalDelay SignalEnergy SignalFftAutoScale SignalFilterBank "
    "SignalFilterBankLog SignalFilterBankSpectralSubtraction SignalFilterBankSquareRoot SignalFramer SignalIrfft "
    "SignalOverlapAdd SignalPCAN SignalRfft SignalStacker SignalWindow"
)
CUSTOM_TYPES = {"TFLite_Detection_PostProcess": "float32"}


def _lstm(layer: Layer) -> str | None:
    if not layer.has("input_to_input"):
        return "it has no weights of the input gate"
    odd = [slot for slot in layer.op.slots if slot.name.startswith(("peephole", "projection", "normalization"))]
    used = [slot.name for slot in odd if layer.has(slot.name)]
    return f"it has {', '.join(used)}" if used else None


def _intermediates(layer: Layer) -> str | None:
    full = [value.name for value in layer.op.intermediates if value.type.size]
    return f"{full[0]!r} is not empty" if full else None


def _svdf(layer: Layer) -> str | None:
    if layer.x is None or layer.x.dtype != "float32" or layer.has("bias"):
        return None
    return "it has no bias"


LSTM = Rule(
    "lstm",
    "An LSTM has all four gates, and neither peepholes, projection nor layer normalization.",
    f"{FOLDER}/kernels/lstm_eval.cc (LstmTensors::ValidateTensorStatus)",
    _lstm,
    on("UNIDIRECTIONAL_SEQUENCE_LSTM"),
)
INTERMEDIATES = Rule(
    "intermediates",
    "Tensors that hold only the parameters of numbers inside an LSTM have the shape [0].",
    f"{FOLDER}/kernels/unidirectional_sequence_lstm.cc",
    _intermediates,
    on("UNIDIRECTIONAL_SEQUENCE_LSTM"),
)
SVDF = Rule(
    "svdf-bias",
    "An SVDF of float32 has a bias; without one the kernel reads none and ends the program.",
    f"{FOLDER}/kernels/svdf_common.cc",
    _svdf,
    on("SVDF"),
)


def _rules(kernels: Mapping[str, str]) -> tuple[Rule, ...]:
    return (
        known(kernels, RESOLVER, "TFLite Micro has a kernel for", CUSTOM),
        types({**kernels, **CUSTOM_TYPES}, KERNELS),
        LSTM,
        INTERMEDIATES,
        SVDF,
    )


# Operators that CMSIS-NN computes, and in which types; other operators run on the portable kernels.
CMSIS: Mapping[str, str] = {
    **dict.fromkeys(on("ADD AVERAGE_POOL_2D MAX_POOL_2D MUL"), "int8 int16"),
    **dict.fromkeys(on("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED"), "int8*int8 int8*int4 int16*int8"),
    **dict.fromkeys(on("MAXIMUM MINIMUM PAD TRANSPOSE"), "int8"),
    "BATCH_MATMUL": "int8*int8 int16*int16",
    "SOFTMAX": "int8>int8 int8>int16 int16>int16",
    "SVDF": "int8*int8",
    "TRANSPOSE_CONV": "int8*int8",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "int8 int16",
}
_FAST = types(CMSIS, "")


def _moves_integers(layer: Layer) -> bool:
    """Shapes and indices are no work for CMSIS-NN."""
    return layer.x is not None and layer.x.dtype in ("int32", "int64", "bool")


OPTIMIZED = Rule(
    "cmsis-nn",
    "Operators that CMSIS-NN computes have a type that it takes; else they run on the portable kernels, many "
    "times slower.",
    f"{FOLDER}/kernels/cmsis_nn (Eval of each operator)",
    lambda layer: None if _moves_integers(layer) else _FAST.broken(layer),
    frozenset(CMSIS),
)

_SCHEMES = ("int8", "int8-per-tensor", "int16x8", "symmetric-int8")

TFLITE_MICRO = Runtime(
    "tflite-micro",
    "TensorFlow Lite for Microcontrollers, portable kernels",
    "main of October 2026",
    _rules(MICRO),
    _SCHEMES,
    checker="tflite-micro",
)
CMSIS_NN = Runtime(
    "cmsis-nn",
    "TensorFlow Lite for Microcontrollers with the kernels of CMSIS-NN (Arm Cortex-M)",
    "main of October 2026",
    (*_rules({**MICRO, "FULLY_CONNECTED": f"{MICRO['FULLY_CONNECTED']} int8*int4"}), OPTIMIZED),
    _SCHEMES,
)
