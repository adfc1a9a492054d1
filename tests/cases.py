"""Models of one op with random shapes, attributes, parameters and extreme values: `cases(family, count, seed)`.

Each case is a verified graph and inputs for it.  They are written with the project's own writer and judged by LiteRT,
and serve to compare any two ways of running a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import control_cases as control
import hlo_cases as hlo
import hybrid_cases as hybrid
import layer_cases as layers
import movement_cases as moving
import number_cases as numbers
import numpy as np
import product_cases as products
import recurrent_cases as recurrent
from draw import ACTIVATIONS, CODES, Case, Draw, Family, each

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType

EIGHT = ("uint8", "int8")
WITHOUT_REFERENCE = (
    "ELU",
    "CEIL",
    "ROUND",
    "SEGMENT_SUM",
    "STABLEHLO_AND",
    "STABLEHLO_SHIFT_LEFT",
)  # only LiteRT's other kernels have them


def cases(family: str, count: int, seed: int = 0) -> Iterator[Case]:
    """`count` cases of a family of FAMILIES."""
    for index in range(count):
        yield FAMILIES[family](Draw(np.random.default_rng([seed, index, *family.encode()])))


# ------------------------------------------------------------------------------------- pooling and reductions


def _pool(d: Draw, cls: type[Op], dtype: str) -> Case:
    x = d.kind((d.number(1, 2), d.number(4, 9), d.number(4, 9), d.number(1, 5)), dtype)
    return d.case(
        cls,
        (d.input(x),),
        x.with_(shape=()),
        padding=d.pick(("SAME", "VALID")),
        stride_h=d.number(1, 3),
        stride_w=d.number(1, 3),
        filter_h=d.number(1, 4),
        filter_w=d.number(1, 4),
        activation=d.pick(ACTIVATIONS),
    )


def _reduce(d: Draw, cls: type[Op], dtype: str, same: bool = False, **attributes: Any) -> Case:
    x = d.kind(d.shape(d.number(2, 4), 7), dtype)
    rank = len(x.shape)
    axes = [int(a) for a in d.rng.permutation(rank)[: d.number(1, rank - 1)]]
    if cls is ops.Mean and rank == 4 and d.chance(0.5):
        axes = [1, 2]
    axes = [a - rank if d.chance(0.3) else a for a in axes]
    y = x.with_(shape=()) if same or dtype not in CODES else d.kind((), dtype)
    if cls is ops.Sum and dtype in CODES:
        y = d.kind((), dtype, x.scale * float(np.exp(d.rng.uniform(0, 3))))
    return d.case(cls, (d.input(x), d.ints(*axes)), y, keep_dims=d.chance(0.5), **attributes)


def _arg_extremum(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    array = d.data(x)
    array = (array // 16).astype(array.dtype) if dtype != "float32" and d.chance(0.5) else array  # ties
    rank, wide = len(x.shape), d.chance(0.5)
    return d.case(
        ops.ArgExtremum,
        (d.input(x, array), d.ints(d.number(-rank, rank - 1))),
        TensorType((), "int64" if wide else "int32"),
        smallest=d.chance(0.5),
        output_type="INT64" if wide else "INT32",
    )


def _top_k(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 3), 12), dtype)
    array = d.data(x)
    array = (array // 32).astype(array.dtype) if dtype != "float32" else array
    k = d.number(1, x.shape[-1])
    size = d.constant(np.array(k, np.int32))
    return d.case(ops.TopK, (d.input(x, array), size), x.with_(shape=()), TensorType((), "int32"))


# ------------------------------------------------------------------------------------------- element by element


def _two_shapes(d: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Equal shapes, or shapes that broadcast."""
    a = d.shape(d.number(1, 4), 7)
    if d.chance(0.5):
        return a, a
    b = tuple(1 if d.chance(0.5) else n for n in a)[d.number(0, len(a) - 1) :]
    return (a, b) if d.chance(0.5) else (b, a)


def _binary(d: Draw, cls: type[Op], dtype: str, same: bool = False, powers: bool = False, **attributes: Any) -> Case:
    shapes = (d.shape(3),) * 2 if powers else _two_shapes(d)
    if dtype in CODES and d.chance(0.2):
        shapes = ((64, 64), (64, 64))
    kinds = [d.kind(shape, dtype) for shape in shapes]
    y = d.kind((), dtype)
    if powers:
        finer = d.number(-14, -8)
        y = d.kind((), dtype, 2.0**finer)
        kinds[0] = kinds[0].with_(quantization=y.quantization)
        kinds[1] = kinds[1].with_(quantization=Quantization.per_tensor(2.0 ** (finer - d.number(0, 4)), 0))
        kinds = kinds[:: d.pick((1, -1))]
    elif cls in (ops.Mul, ops.Div) and dtype in CODES:
        a, b = kinds[0].scale, kinds[1].scale
        typical = a * b * 100 if cls is ops.Mul else a / b / 50
        typical = typical * (100 if dtype == "int16" and cls is ops.Mul else 1)
        y = d.kind((), dtype, float(np.float32(typical * np.exp(d.rng.uniform(-1, 1)))))
    elif cls is ops.Add and dtype in CODES:
        y = d.kind((), dtype, float(np.float32(max(k.scale for k in kinds) * np.exp(d.rng.uniform(-0.5, 1)))))
    elif cls is ops.SquaredDifference and dtype in CODES:
        y = d.kind((), dtype, float(np.float32(max(k.scale for k in kinds) ** 2 * np.exp(d.rng.uniform(2, 5)))))
    if same:
        kinds = [kind.with_(quantization=y.quantization) for kind in kinds]
    if cls is ops.Compare and dtype in CODES:
        # LiteRT's comparisons are undefined for scales from 1 on, also after a conversion that doubles them.
        kinds = [d.kind(shape, dtype, min(d.scale(), 0.4)) for shape in shapes]
        if d.chance(0.5):
            kinds[1] = kinds[1].with_(quantization=kinds[0].quantization)
    arrays = [d.data(kind) for kind in kinds]
    if cls in (ops.Div, ops.FloorDiv):
        zero = kinds[1].zero_point if dtype in CODES else 0
        arrays[1] = np.where(arrays[1] == zero, zero + (1 if zero < 100 else -1), arrays[1]).astype(arrays[1].dtype)
    operands = [d.input(kind, array) for kind, array in zip(kinds, arrays, strict=True)]
    y = TensorType((), "bool") if cls is ops.Compare else y if dtype in CODES else TensorType((), dtype)
    if "activation" in {f.name for f in cls.attributes()} and dtype != "int32":
        attributes["activation"] = d.pick(ACTIVATIONS)
    return d.case(cls, operands, y, **attributes)


def _prelu(d: Draw, dtype: str) -> Case:
    x = d.kind((1, 5, 5, d.number(1, 6)), dtype)
    alpha = d.kind(
        (1, 1, x.shape[3]), "int8" if dtype == "int16" else dtype, zero_point=0 if dtype == "int16" else None
    )
    y = d.kind((), dtype, x.scale * float(np.exp(d.rng.uniform(-1, 1)))) if dtype in CODES else TensorType((), dtype)
    return d.case(ops.Prelu, (d.input(x), d.constant(d.data(alpha), alpha)), y)


RESCALED = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "ABS", "HARD_SWISH")


def _lookup(d: Draw, function: str, dtype: str) -> Case:
    x = d.kind((256 if dtype != "int16" else 4096,), dtype)
    array = d.data(x)
    if dtype in EIGHT:
        low, high = x.range
        array = np.arange(low, high + 1).astype(dtype)
    y = d.kind((), dtype)
    attributes: dict[str, Any] = {"function": function}
    if function == "LEAKY_RELU":
        attributes["alpha"] = float(np.float32(d.pick((0.01, 0.1, 0.2, 0.3, 1.5, 0.5))))
    if function == "GELU":
        attributes["approximate"] = d.chance(0.5)
    op = ops.Lookup(inputs=("x",), outputs=("y",), **attributes)
    fixed = op.fixed_result(dtype) if dtype in CODES else None
    if fixed is not None:
        y = y.with_(quantization=fixed)
    elif function in RESCALED and dtype in CODES:
        y = d.kind((), dtype, x.scale * float(np.exp(d.rng.uniform(0 if function == "HARD_SWISH" else -1, 1))))
    if function == "NEG" and dtype in CODES:
        y = x.with_(shape=())
    if function in ("SQRT", "RSQRT", "LOG"):
        if dtype in CODES:
            x = x.with_(quantization=Quantization.per_tensor(x.scale, x.range[0] if dtype != "int16" else 0))
            array = np.maximum(array, x.zero_point + (0 if function == "SQRT" else 1)).astype(array.dtype)
        else:
            array = np.abs(array) + np.float32(0.01)
    if function in ("ABS", "RSQRT", "LEAKY_RELU") and dtype == "int16":
        y = y.with_(quantization=Quantization.per_tensor(y.scale, 0))
    return d.case(ops.Lookup, (d.input(x, array),), y, **attributes)


def _requantize(d: Draw, source: str, target: str) -> Case:
    shape = d.shape(d.number(1, 3), 30)
    x = d.kind(shape, source)
    if source == "float32":
        return d.case(ops.Requantize, (d.input(x),), d.kind((), target))
    if source == "int32":
        x = x.with_(quantization=Quantization.per_tensor(d.scale(), 0))
    scale = x.scale * float(np.exp(d.rng.uniform(-1.5, 1.5)))
    y = TensorType((), target, Quantization.per_tensor(scale, d.zero_point(target) if target in CODES else 0))
    if {source, target} == {"int8", "uint8"} and d.chance(0.4):
        y = d.kind((), target, x.scale, x.zero_point + (128 if target == "uint8" else -128))
    return d.case(ops.Requantize, (d.input(x),), y)


def _dequantize(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 3), 30), dtype)
    return d.case(ops.Dequantize, (d.input(x),), TensorType((), "float32"))


def _rows(d: Draw, cls: type[Op], dtype: str) -> Case:
    """Softmax and its kin."""
    x = d.kind(d.shape(d.number(1, 4), 20), dtype, d.scale(1e-3, 1.0))
    attributes = {"beta": float(np.float32(d.pick((1.0, 0.5, 2.0, 1.3))))} if cls is ops.Softmax else {}
    y = TensorType((), dtype)
    if dtype in CODES:
        y = y.with_(quantization=cls(inputs=("x",), outputs=("y",)).fixed_result(dtype))
    return d.case(cls, (d.input(x),), y, **attributes)


def _select(d: Draw, dtype: str, broadcasts: bool) -> Case:
    a, b = _two_shapes(d) if broadcasts else (d.shape(3),) * 2
    full = tuple(np.broadcast_shapes(a, b))
    y = d.kind(full, dtype)
    condition = TensorType(full if not broadcasts or d.chance(0.5) else (1,) * len(full), "bool")
    operands = (d.input(condition), d.input(y.with_(shape=a)), d.input(y.with_(shape=b)))
    return d.case(ops.Select, operands, y.with_(shape=()), broadcasts=broadcasts)


def _logical(d: Draw, function: str) -> Case:
    a, b = _two_shapes(d)
    operands = [d.input(TensorType(shape, "bool")) for shape in ((a,) if function == "LOGICAL_NOT" else (a, b))]
    return d.case(ops.Logical, operands, TensorType((), "bool"), function=function)


def _cast(d: Draw, source: str, target: str) -> Case:
    x = TensorType(d.shape(d.number(1, 3)), source)
    array = d.data(x)
    if source == "float32":
        array = np.clip(array, *((0, 255) if target == "uint8" else (-100, 100))).astype(np.float32)
    name = {"bool": "BOOL"}
    kinds = {"in_type": name.get(source, source.upper()), "out_type": name.get(target, target.upper())}
    return d.case(ops.Cast, (d.input(x, array),), TensorType((), target), **kinds)


REAL = ("float32",)
NUMBERS = (*CODES, "float32")
GLUE = ("float32", "int32")
LOOKUPS = {
    **dict.fromkeys(("LOGISTIC", "TANH", "LEAKY_RELU", "GELU", "RELU", "RELU6"), (*CODES, *REAL)),
    **dict.fromkeys(("HARD_SWISH", "RELU_N1_TO_1", "RELU_0_TO_1"), (*EIGHT, *REAL)),
    "EXP": ("int8", "int16", "float32"),
    "LOG": ("int8", "int16", "float32"),
    "ABS": ("int8", "int16", "float32", "int32"),
    "RSQRT": ("int8", "int16", "float32"),
    "SQRT": ("int8", "int16", "float32"),
    "NEG": ("int8", "int16", "float32", "int32"),
    "SQUARE": REAL,
    "FLOOR": REAL,
    "SIGN": REAL,
    "CEIL": REAL,
    "ROUND": REAL,
    "ELU": ("int8", "float32"),
}
RELATIONS = ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
CASTS = (("uint8", "int32"), ("int32", "float32"), ("float32", "int32"), ("int8", "float32"), ("float32", "uint8"),
         ("bool", "float32"), ("int32", "bool"), ("int32", "int64"), ("int32", "uint8"))  # fmt: skip
REQUANTIZES = (("uint8", "uint8"), ("uint8", "int8"), ("int8", "uint8"), ("int8", "int8"), ("int16", "int16"),
               ("int16", "int8"), ("int16", "int32"), ("int32", "int16"), ("int32", "int8"), ("float32", "uint8"),
               ("float32", "int8"), ("float32", "int16"))  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    **each("CONV_2D", NUMBERS, products.convolution, ops.Conv2D),
    **each("DEPTHWISE_CONV_2D", NUMBERS, products.convolution, ops.DepthwiseConv2D),
    **each("TRANSPOSE_CONV", NUMBERS, products.transpose_conv),
    **each("FULLY_CONNECTED", NUMBERS, products.dense),
    **each("BATCH_MATMUL", ("int8", "int16", "float32"), products.batch_matmul),
    **each("AVERAGE_POOL_2D", NUMBERS, _pool, ops.AveragePool2D),
    **each("MAX_POOL_2D", NUMBERS, _pool, ops.MaxPool2D),
    **each("MEAN", NUMBERS, _reduce, ops.Mean),
    **each("SUM", ("uint8", "float32", "int32"), _reduce, ops.Sum),
    **each("REDUCE_MAX", (*NUMBERS, "int32"), _reduce, ops.ReduceExtremum, same=True, smallest=False),
    **each("REDUCE_MIN", (*NUMBERS, "int32"), _reduce, ops.ReduceExtremum, same=True, smallest=True),
    **each("ARG_MAX", (*EIGHT, "float32", "int32"), _arg_extremum),
    **each("TOPK_V2", (*NUMBERS, "int32"), _top_k),
    **each("ADD", (*NUMBERS, "int32"), _binary, ops.Add, pot_scale_int16=False),
    **each("SUB", (*NUMBERS, "int32"), _binary, ops.Add, subtract=True, pot_scale_int16=False),
    **each("ADD-pot", ("int16",), _binary, ops.Add, powers=True),
    **each("SUB-pot", ("int16",), _binary, ops.Add, powers=True, subtract=True),
    **each("MUL", (*NUMBERS, "int32"), _binary, ops.Mul),
    **each("DIV", (*CODES, *GLUE), _binary, ops.Div),
    **each("FLOOR_DIV", GLUE, _binary, ops.FloorDiv),
    **each("FLOOR_MOD", GLUE, _binary, ops.FloorDiv, remainder=True),
    **each("SQUARED_DIFFERENCE", ("int8", *GLUE), _binary, ops.SquaredDifference),
    **each("MAXIMUM", (*NUMBERS, "int32"), _binary, ops.Extremum, same=True),
    **each("MINIMUM", (*NUMBERS, "int32"), _binary, ops.Extremum, same=True, smallest=True),
    **each("PRELU", (*CODES, *REAL), _prelu),
    **{k: f for r in RELATIONS for k, f in each(r, (*CODES, *GLUE), _binary, ops.Compare, relation=r).items()},
    **{name: partial(_logical, function=name) for name in ("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT")},
    **each("SELECT_V2", NUMBERS, _select, broadcasts=True),
    **each("SELECT", NUMBERS, _select, broadcasts=False),
    **{k: f for name, dtypes in LOOKUPS.items() for k, f in each(name, dtypes, _lookup, name).items()},
    **{f"QUANTIZE-{a}-{b}": partial(_requantize, source=a, target=b) for a, b in REQUANTIZES},
    **each("DEQUANTIZE", CODES, _dequantize),
    **each("SOFTMAX", NUMBERS, _rows, ops.Softmax),
    **each("LOG_SOFTMAX", (*EIGHT, *REAL), _rows, ops.LogSoftmax),
    **each("L2_NORMALIZATION", (*EIGHT, *REAL), _rows, ops.L2Norm),
    **{f"CAST-{a}-{b}": partial(_cast, source=a, target=b) for a, b in CASTS},
    **moving.FAMILIES,
    **hybrid.FAMILIES,
    **numbers.FAMILIES,
    **layers.FAMILIES,
    **hlo.FAMILIES,
    **recurrent.FAMILIES,
    **control.FAMILIES,
}
