"""What of a layer an Ethos-U does not take, in a few words; `ethos.py` has the rules."""

from __future__ import annotations

from math import prod

import numpy as np

from tflite2q.dialect.types import TensorType
from tflite2q.runtimes.rules import Layer, constant, on

_STAYS_32 = on(  # operators that take 32-bit feature maps on the small NPUs
    "ADD ARG_MAX BATCH_MATMUL EXPAND_DIMS FULLY_CONNECTED MIRROR_PAD MUL NEG RESHAPE SQUEEZE SUB SUM TRANSPOSE"
)
_REDUCED_MOST = {"int8": 1 << 24, "uint8": 1 << 23, "int16": 1 << 16}
_LONGEST_AXIS = 4096


def four_bits(layer: Layer) -> str | None:
    small = [value.name for value in layer.tensors if value.type.dtype == "int4"]
    return f"{small[0]!r} is int4" if small else None


def bits_32(layer: Layer) -> str | None:
    wide = [v for v in layer.maps if v.type.dtype == "int32"]
    return f"{wide[0].name!r} is int32" if wide and layer.operator not in _STAYS_32 else None


def bits_64(layer: Layer) -> str | None:
    wide = [v for v in layer.maps if v.type.dtype == "int64"]
    return f"{wide[0].name!r} is int64" if wide else None


def parameters(layer: Layer) -> str | None:
    scaled = [*layer.maps, *layer.role("weights")]
    bare = [v.name for v in scaled if v.type.quantization is None and v.type.dtype not in ("int32", "int64")]
    return f"{bare[0]!r} has no quantization parameters" if bare else None


def per_axis(layer: Layer) -> str | None:
    several = [v.name for v in layer.maps if v.type.quantization is not None and len(v.type.quantization.scale) > 1]
    return f"{several[0]!r} has a scale for each channel" if several else None


def zero_points(layer: Layer) -> str | None:
    odd = [v.name for v in layer.maps if v.type.dtype == "int32" and nonzero(v.type)]
    return f"the zero point of {odd[0]!r} is not 0" if odd else None


def nonzero(kind: TensorType) -> bool:
    return kind.quantization is not None and any(kind.quantization.zero_point)


def bias(layer: Layer) -> str | None:
    bias = layer.bias
    if bias is None:
        return None
    if bias.constant is None:
        return "its bias is computed when the model runs"
    return None if bias.type.dtype in ("int32", "int64") else f"its bias is {bias.type.dtype}"


def weight_type(layer: Layer) -> str | None:
    weights = layer.weights
    if weights is None or weights.type.dtype in ("int8", "uint8"):
        return None
    return f"its weights are {weights.type.dtype}"


def number(layer: Layer, name: str) -> int:
    found = layer.option(name, 1)
    return found if isinstance(found, int) else 1


def strides(layer: Layer) -> str | None:
    strides = number(layer, "stride_w"), number(layer, "stride_h")
    if max(strides) <= 3:
        return None
    still = number(layer, "dilation_w") == number(layer, "dilation_h") == 1 and layer.option("padding") == "VALID"
    if still and layer.operator != "DEPTHWISE_CONV_2D":
        return None
    return f"strides are {strides[0]}x{strides[1]}"


def pool(layer: Layer) -> str | None:
    w, h = number(layer, "filter_w"), number(layer, "filter_h")
    padded = layer.option("padding") == "SAME" and layer.operator == "AVERAGE_POOL_2D"
    fits = max(w, h) <= 8 if padded else w * h <= 1 << 16 and h <= 256
    return None if fits else f"the window is {w}x{h}"


def matmul(layer: Layer) -> str | None:
    if layer.operator == "FULLY_CONNECTED" and (layer.weights is None or layer.weights.constant is not None):
        return None
    return None if layer.x is None or layer.x.dtype == "int8" else f"it multiplies {layer.x.dtype}"


def axes(layer: Layer, slot: str) -> list[int]:
    """The axes that a constant operand names, counted from the first."""
    if not layer.has(slot) or layer.ins[slot].constant is None or layer.x is None:
        return []
    rank = len(layer.x.shape)
    return sorted({int(axis) % rank for axis in layer.ins[slot].data.reshape(-1)}) if rank else []


def argmax(layer: Layer) -> str | None:
    if layer.x is None or not layer.x.shape:
        return None
    if axes(layer, "axis") != [len(layer.x.shape) - 1]:
        return "it is taken along another axis"
    if len(layer.x.shape) == 4 and layer.x.shape[0] != 1:
        return f"the batch is {layer.x.shape[0]}"
    return None if layer.x.shape[-1] <= 127 else f"depth is {layer.x.shape[-1]}"


def argmax_u85(layer: Layer) -> str | None:
    return "it takes the largest of int32" if layer.x is not None and layer.x.dtype == "int32" else None


def extrema(layer: Layer) -> str | None:
    kinds = {(v.type.dtype, v.type.quantization) for v in layer.maps}
    return "they differ" if len(kinds) > 1 else None


def reduction(layer: Layer) -> str | None:
    x, reduced = layer.x, axes(layer, "axes")
    if x is None or not reduced:
        return constant(layer, "axes")
    if x.dtype not in _REDUCED_MOST:
        return f"it averages {x.dtype}"
    count = prod(x.shape[axis] for axis in reduced)
    if count > _REDUCED_MOST[x.dtype]:
        return f"it averages {count} elements"
    if len(x.shape) > 3 and x.shape[0] != 1:
        return f"the batch is {x.shape[0]}"
    if max(x.shape[axis] for axis in reduced) > _LONGEST_AXIS:
        return f"it averages over an axis of {max(x.shape[axis] for axis in reduced)}"
    depth = len(x.shape) - 1 in reduced and len(x.shape) > 2
    return "it averages over depth" if depth and min(x.shape[-3:]) != 1 else None


def upscaling(layer: Layer) -> tuple[float, float] | None:
    """How many times as high and wide a resized picture becomes; None where its size stays or it is one pixel."""
    x, y = layer.x, layer.y
    if x is None or y is None or len(x.shape) != 4 or x.shape[1:3] in ((1, 1), y.shape[1:3]):
        return None
    less = 1 if layer.option("align_corners") else 0
    sizes = zip(y.shape[1:3], x.shape[1:3], strict=True)
    h, w = ((after - less) / (before - less) if before > less else float("inf") for after, before in sizes)  # as Vela
    return h, w


def resize(layer: Layer) -> str | None:
    if upscaling(layer) is None or layer.y is None:
        return None
    h, w = upscaling(layer) or (1, 1)
    if h != w and not ((layer.y.shape[1] == 1 and h == 1) or (layer.y.shape[2] == 1 and w == 1)):
        return f"it becomes {h:.4g} times as high and {w:.4g} times as wide"
    fits = (2,) if layer.operator == "RESIZE_BILINEAR" and layer.option("half_pixel_centers") else (2, 4, 8)
    return None if max(h, w) in fits else f"it becomes {max(h, w):.4g} times as large"


def resize_u85(layer: Layer) -> str | None:
    if layer.option("align_corners") and layer.option("half_pixel_centers"):
        return "it has both"
    if upscaling(layer) is None:
        return None
    factors = upscaling(layer) or (1, 1)
    most = 2048 if layer.option("align_corners") else 1024
    powers = layer.operator == "RESIZE_BILINEAR"
    fits = all(
        (f <= most or (f == float("inf") and not powers))
        and (not powers or (f >= 1 and float(np.log2(f)).is_integer()))
        for f in factors
    )
    return None if fits else f"it becomes {factors[0]:.4g} times as high and {factors[1]:.4g} times as wide"


def first_axis(layer: Layer) -> str | None:
    fixed = [v for v in layer.ins if v is not None and v.constant is not None and v.data.size == 1]
    axis = next(iter(fixed), None)
    if layer.x is None or axis is None:
        return None
    return f"it is {int(axis.data.item())}" if int(axis.data.item()) == -len(layer.x.shape) else None


def softmax(layer: Layer) -> str | None:
    if layer.x is None or prod(layer.x.shape[:-1]) < 1 << 16:
        return None
    return f"it has {prod(layer.x.shape[:-1])} rows"


def strided(layer: Layer) -> str | None:
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


def moved_32(layer: Layer) -> str | None:
    if layer.x is None or layer.x.dtype != "int32" or layer.ins["order"].constant is None:
        return None
    order = tuple(int(axis) for axis in layer.ins["order"].data.reshape(-1))
    rank = len(order)
    if rank > 4:
        return f"it has {rank} axes"
    full = (*range(4 - rank), *(axis + 4 - rank for axis in order))
    return None if full in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)) else "it is another order of axes"


def transposed_strides(layer: Layer) -> str | None:
    w, h = number(layer, "stride_w"), number(layer, "stride_h")
    if layer.x is None or layer.weights is None or (w, h) in ((1, 1), (2, 2)):
        return None
    flat = layer.x.shape[1] == layer.weights.type.shape[1] == 1
    thin = layer.x.shape[2] == layer.weights.type.shape[2] == 1
    fits = ((w, h) == (2, 1) and flat) or ((w, h) == (1, 2) and thin)
    return None if fits else f"strides are {w}x{h}"


def transposed_shape(layer: Layer) -> str | None:
    if layer.x is None or layer.y is None or layer.weights is None:
        return None
    strides = number(layer, "stride_h"), number(layer, "stride_w")
    same = layer.option("padding") == "SAME"
    for axis, stride in zip((1, 2), strides, strict=True):
        rest = 0 if same else max(layer.weights.type.shape[axis] - stride, 0)
        if layer.y.shape[axis] != layer.x.shape[axis] * stride + rest:
            return f"axis {axis} grows from {layer.x.shape[axis]} to {layer.y.shape[axis]}"
    return None


def slopes(layer: Layer) -> str | None:
    alpha = layer.ins["alpha"]
    if alpha.constant is None or not alpha.type.quantized or alpha.data.size < 2:
        return None
    return "all are" if (alpha.data < alpha.type.zero_point).all() else None


def lstm(layer: Layer) -> str | None:
    if not layer.has("input_to_input"):
        return "it has no weights of the input gate"
    for slot in layer.op.slots:
        if slot.name.startswith(("peephole", "projection", "normalization")) and layer.has(slot.name):
            return f"it has {slot.name}"
    return None


def gather(layer: Layer) -> str | None:
    axis, batch = layer.option("axis", 0), layer.option("batch_axes", 0)
    return constant(layer, "indices") if axis == batch else f"axis is {axis}, batch_dims {batch}"


def indices(layer: Layer) -> str | None:
    return constant(layer, "indices shape")
