"""Convolutions and dense layers as calls of kernels: constants packed, zero points folded, rescaling proven."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.errors import UnsupportedError
from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Conv2DContract, DenseContract, DepthwiseConv2DContract
from tflite2q.micro.calls import MOST_TIED, Call, kind_of, rescale_text, tied, words, wrapper
from tflite2q.micro.program import POINTER, Array, Table, packed_nibbles, packed_words
from tflite2q.micro.rescaling import Form, form_of

Convolution = Conv2DContract | DepthwiseConv2DContract

SETTLED = 15  # bits of a step of channels without weights; codes of 8 bits stay below MOST_TIED
BAND = 8  # pixels that the kernels for Helium take at a time


def product(name: str, contract: Convolution | DenseContract, dtype: str, family: str) -> Call:
    """The call of a convolution or dense layer; `dtype` of the weights says whether they have 4 bits.

    Raises UnsupportedError for types that no kernel has.
    """
    conv = contract.conv2d() if isinstance(contract, DenseContract) else contract
    if conv.x_dtype in ("int8", "uint8"):
        conv = settled(conv)
    weights = layout.centered_weights(conv)
    narrow = dtype == "int4"
    if conv.x_dtype == "uint8" and conv.rescale.dtype == "uint8":
        return _of_bytes(name, conv, family)
    if weights.min(initial=0) < -128 or weights.max(initial=0) > 127:
        raise UnsupportedError("weights minus their zero point need more than 8 bits; convert to int8")
    if conv.x_dtype == "int16" and conv.rescale.dtype == "int16":
        return _wide(name, conv, weights, narrow)
    if conv.x_dtype != "int8" or conv.rescale.dtype != "int8":
        raise UnsupportedError(f"codes are {conv.x_dtype} and {conv.rescale.dtype}; there are kernels for one type")
    return _eight(name, conv, weights, narrow, family)


def _of_bytes(name: str, conv: Convolution, family: str) -> Call:
    """uint8: codes of weights stay as they are, for 8 bits do not hold them without their zero point."""
    if conv.weights.dtype != np.uint8 or len(set(conv.weight_zero_points)) != 1:
        raise UnsupportedError(f"weights of uint8 codes are {conv.weights.dtype}; there are kernels for uint8")
    if 255 * 255 * (conv.weights.size // conv.out_c) >= 2**31:
        raise UnsupportedError("sums may leave 32 bits")
    return _eight(name, conv, conv.weights.view(np.int8).astype(np.int64), False, family, True)


def _eight(name: str, conv: Convolution, weights: Array, narrow: bool, family: str, of_bytes: bool = False) -> Call:
    """The call of a product of 8-bit codes; `weights` as they lie in flash."""
    bound = layout.accumulator_bound(conv)
    if bound.max(initial=0) >= 2**31:
        raise UnsupportedError("sums may leave 32 bits")
    form = form_of(conv.rescale, conv.out_c, bound)
    if isinstance(conv, DepthwiseConv2DContract):
        return _depthwise(name, conv, weights, narrow, form, family, of_bytes)
    return _conv(name, conv, weights, narrow, form, family, of_bytes)


def settled(conv: Convolution) -> Convolution:
    """The same codes by biases alone, with factors of their own, for channels that give one code whatever the input.

    Converters leave such channels with weights near 0 and huge biases, which would need wider arithmetic for all.
    Channels that need none stay, so that those of a layer may share their factor.
    """
    if conv.rescale.arithmetic != "fixed" or conv.bias is None or conv.accumulator != "int32":
        return conv
    bias = conv.bias.astype(np.int64)
    reach = (layout.accumulator_bound(conv) - np.abs(bias)).astype(np.int64)
    ends = np.stack([bias - reach, bias + reach])
    inside = (np.abs(ends) < 2**31).all(axis=0)
    codes = conv.rescale.meaning(NUMPY, ends.clip(-(2**31), 2**31 - 1).astype(np.int32)).astype(np.int64)
    shift = np.broadcast_to(conv.rescale.fixed_point()[1], bias.shape)
    easy = (np.abs(bias) + reach < MOST_TIED) & (shift < 0)
    one = inside & (codes[0] == codes[1]) & (shift <= 0) & ~easy
    if not one.any():
        return conv
    real = np.broadcast_to(np.asarray(conv.rescale.real), bias.shape)
    zero = conv.along_channels(np.asarray(conv.weight_zero_points, conv.weights.dtype))
    return replace(
        conv,
        weights=np.where(conv.along_channels(one), zero, conv.weights),
        bias=np.where(one, (codes[0] - conv.rescale.zero_point) << SETTLED, bias),
        rescale=replace(conv.rescale, real=tuple(np.where(one, 2.0**-SETTLED, real).tolist())),
    )


def _geometry(conv: Convolution) -> str:
    small = (*conv.kernel, *conv.strides, *conv.dilation)
    if max(conv.in_h, conv.in_w, conv.in_c, conv.out_h, conv.out_w, conv.out_c, *conv.padding[:2]) > 65535:
        raise UnsupportedError("an extent above 65535")
    if max(small) > 255:
        raise UnsupportedError("a window, stride or dilation above 255")
    return (
        f".in_h = {conv.in_h}, .in_w = {conv.in_w}, .in_c = {conv.in_c}, .out_h = {conv.out_h}, "
        f".out_w = {conv.out_w}, .out_c = {conv.out_c}, .top = {conv.padding[0]}, .left = {conv.padding[1]}, "
        f".batch = {conv.batch}, .kh = {conv.kernel[0]}, .kw = {conv.kernel[1]}, .sh = {conv.strides[0]}, "
        f".sw = {conv.strides[1]}, .dh = {conv.dilation[0]}, .dw = {conv.dilation[1]}"
    )


@dataclass(frozen=True)
class _Layout:
    """How a family computes a convolution: kernel, its text in `c/`, rows of weights side by side and taps of each in
    turn (0: rows as they are), bytes of scratch."""

    kernel: str
    text: str
    rows: int
    taps: int
    scratch: int


def _layout(conv: Conv2DContract, narrow: bool, family: str, of_bytes: bool) -> _Layout:
    depth = conv.weights.size // conv.out_c
    stride = -(-depth // 4) * 4
    direct = _pointwise(conv)
    if family == "mve" and conv.groups == 1:
        image = 0 if direct else BAND * depth
        if narrow:
            return _Layout("q_fours_narrow", "conv_mve", 4, 16, image + 4 * stride)
        return _Layout("q_fours", "conv_mve", 4, 16, image)
    if family == "dsp" and conv.groups == 1:
        aligned = direct and depth == stride
        if narrow:
            return _Layout("q_pairs_narrow", "conv_dsp", 2, 4, (6 if aligned else 7) * stride)
        if aligned and conv.out_h * conv.out_w == 1 and not of_bytes:
            return _Layout("q_single", "conv_dsp", 4, 4, 2 * stride)
        return _Layout("q_pairs", "conv_dsp", 2, 4, (4 if aligned else 5) * stride)
    if family == "dsp":
        return _Layout("q_rows", "conv_dsp", 1, 0, 7 * stride + 4)
    unpacked = 2 * stride + 4 if narrow else 0
    return _Layout("q_convolve", "conv_plain", 1, 0, unpacked + (0 if direct else 2 * depth))


def _conv(
    name: str, conv: Conv2DContract, weights: Array, narrow: bool, form: Form, family: str, of_bytes: bool
) -> Call:
    way = _layout(conv, narrow, family, of_bytes)
    rows = weights.reshape(conv.out_c, -1)
    depth = rows.shape[1]
    stride = -(-depth // 4) * 4
    padded = np.pad(rows, ((0, 0), (0, stride - depth)))
    data = interleaved(padded if way.taps or not narrow else rows, way.rows, way.taps)
    data = packed_words(data) if narrow else data
    bias = layout.folded_bias(conv, conv.x_zero_point)
    kind = kind_of(form, tied(form, bias))
    constants, tables = _channels(name, form, bias, way.kernel)
    struct = (
        f"static const q_conv {name} = {{.w = {name}_w, {constants}, .depth = {depth}, "
        f".stride = {stride}, {_geometry(conv)}, .groups = {conv.groups}, {_codes(conv, narrow, of_bytes)}}};\n"
    )
    kernel = f"{way.kernel}_bytes" if of_bytes else way.kernel
    function = f"{kernel}_{kind[2:].lower()}"
    return Call(
        f"{function}(&{name}, {{x0}}, {{y0}}, {{scratch}});",
        ("conv", way.text),
        wrapper(function, kernel, "q_conv", kind, ("int8_t", "int8_t"), True) + "\0" + struct,
        (Table(f"{name}_w", data, True), *tables),
        -(-way.scratch // 4) * 4,
        _gap(conv, 1, _pointwise(conv), BAND if family == "mve" else 2),
    )


def _codes(conv: Convolution, narrow: bool, of_bytes: bool) -> str:
    """The fields that say what codes mean."""
    zero = conv.x_zero_point - 256 if conv.x_zero_point > 127 else conv.x_zero_point  # a byte, whatever its sign
    known = f".zero = {zero}, .narrow = {int(narrow)}"
    return f"{known}, .weight_zero = {conv.weight_zero_points[0]}" if of_bytes else known


def _channels(name: str, form: Form, bias: Array, kernel: str) -> tuple[str, tuple[Table, ...]]:
    """The initializers of biases and rescaling, and their tables: one for each, or one of channels by twos or fours."""
    together = tied(form, bias)
    rescale, tables = rescale_text(name, form, tied=together)
    size = {"q_pairs": 2, "q_pairs_narrow": 2, "q_fours": 4, "q_fours_narrow": 4}.get(kernel)
    firsts = words(form, bias, together, size == 4)
    if size is None:
        return f".bias = {name}_b, .r = {rescale}", (Table(f"{name}_b", firsts, True), *tables)
    missing = (0, -len(bias) % size)
    biases, m = (np.pad(part, missing).reshape(-1, size).astype(np.int32) for part in (firsts, form.m))
    if not together:  # factors are in tables of their own
        return f".pairs = {name}_p, .r = {rescale}", (Table(f"{name}_p", biases, True), *tables)
    rescale = rescale.replace(f"{name}_m", "0")
    grouped: Array = np.concatenate([biases, m], axis=1)
    paired = Table(f"{name}_p", grouped, True, m.nbytes)
    return f".pairs = {name}_p, .r = {rescale}", (paired,)


def interleaved(rows: Array, group: int, taps: int) -> Array:
    """int8 rows, groups of them side by side, so many taps of each in turn and then what is left of each; missing rows
    of the last group are zeros."""
    padded: Array = np.pad(rows, ((0, -len(rows) % group), (0, 0))).astype(np.int8)
    if not taps:
        return padded
    grouped = padded.reshape(-1, group, rows.shape[1])
    whole = rows.shape[1] // taps * taps
    blocks = grouped[:, :, :whole].reshape(len(grouped), group, -1, taps).transpose(0, 2, 1, 3)
    rest = grouped[:, :, whole:]
    return np.concatenate([part.reshape(len(grouped), -1) for part in (blocks, rest)], axis=1)


def _pointwise(conv: Convolution) -> bool:
    return (
        conv.kernel == (1, 1) and conv.strides == (1, 1) and conv.padding[:2] == (0, 0)
        and getattr(conv, "groups", 1) == 1 and (conv.out_h, conv.out_w) == (conv.in_h, conv.in_w)
    )  # fmt: skip


def _gap(conv: Convolution, width: int, pixels: bool, band: int = 2) -> int | None:
    """Bytes before the input at which the output may begin, if it is written in order, `band` pixels at a time.

    Of a pointwise layer every pixel is dead once it is computed; of others, the rows above the window.
    """
    if conv.batch != 1:
        return None
    if pixels:
        count = conv.out_h * conv.out_w
        return max(min(p + band, count) * conv.out_c - p * conv.in_c for p in range(0, count, band)) * width
    return rows_gap(conv, 0, band) * width


def rows_gap(conv: Convolution, ahead: int, band: int = 1) -> int:
    """The same in elements for kernels that write rows in order, and have read `ahead` rows beyond the window's first
    when they write; `band` pixels at a time may reach into the next row."""
    gap = 0
    for y in range(conv.out_h):
        written = ((y + 1) * conv.out_w + band - 1) * conv.out_c
        first = min(max(0, y * conv.strides[0] - conv.padding[0] + ahead), conv.in_h)
        gap = max(gap, min(written, conv.output.size) - first * conv.in_w * conv.in_c)
    return gap


@dataclass(frozen=True)
class _Way:
    """How a family computes a depthwise layer: kernel, texts, weights as they lie in flash, whether the input's zero
    point is in the biases, channels that tables have room for, scratch, rows read before the first is written."""

    kernel: str
    texts: tuple[str, ...]
    weights: Array
    folded: bool
    room: int
    scratch: int
    ahead: int


def _way(conv: DepthwiseConv2DContract, weights: Array, narrow: bool, family: str, of_bytes: bool) -> _Way:
    plain = conv.depth_multiplier == 1 and conv.batch == 1
    window = conv.kernel == (3, 3) and conv.dilation == (1, 1) and conv.strides in ((1, 1), (2, 2))
    rings = family == "dsp" or (family == "mve" and of_bytes)  # eight lanes of 16 bits do not hold products of bytes
    if rings and plain and window and conv.in_c % 4 == 0 and conv.padding[1] <= 1 and _within(conv):
        step = (conv.in_w + conv.padding[1] + 3) // 2
        packed = np.pad(weights.reshape(9, -1).T.reshape(-1), (0, 3))
        texts = ("conv", "depthwise", "depthwise_dsp")
        scratch = 12 * conv.in_c * step + (packed.size + 8 if narrow else 0)
        return _Way("q_depthwise_3x3", texts, packed, True, conv.out_c, scratch, 3)
    if family == "mve" and plain and weights.min() >= -127 and not of_bytes:
        room = -(-conv.out_c // 8) * 8
        scratch = POINTER * conv.kernel[0] * conv.kernel[1] + conv.in_c + (weights.size + 8 if narrow else 0)
        return _Way(
            "q_depthwise_lanes", ("conv", "depthwise", "depthwise_mve"), weights.reshape(-1), True, room, scratch, 0
        )
    return _Way("q_depthwise_plain", ("depthwise",), weights.reshape(-1), False, conv.out_c, 0, 0)


def _within(conv: Convolution) -> bool:
    """Whether windows reach at most two columns beyond the image on the right, for which the ring has room."""
    return (conv.out_w - 1) * conv.strides[1] + 3 <= conv.in_w + conv.padding[1] + 2


def _depthwise(
    name: str, conv: DepthwiseConv2DContract, weights: Array, narrow: bool, form: Form, family: str, of_bytes: bool
) -> Call:
    way = _way(conv, weights, narrow, family, of_bytes)
    pack = packed_nibbles if way.kernel == "q_depthwise_plain" else packed_words
    data = pack(way.weights.reshape(1, -1)) if narrow else way.weights.astype(np.int8)
    bias = layout.folded_bias(conv, conv.x_zero_point if way.folded else 0)
    together = tied(form, bias)
    rescale, tables = rescale_text(name, form, way.kernel == "q_depthwise_plain", together)
    kind = kind_of(form, together)
    bias = words(form, bias, together, way.kernel == "q_depthwise_lanes")
    more = way.room - conv.out_c
    tables = tuple(replace(table, data=np.pad(table.data, (0, more))) for table in tables)
    struct = (
        f"static const q_depthwise {name} = {{.w = {name}_w, .bias = {name}_b, .r = {rescale}, {_geometry(conv)}, "
        f".multiplier = {conv.depth_multiplier}, {_codes(conv, narrow, of_bytes)}}};\n"
    )
    kernel = f"{way.kernel}_bytes" if of_bytes else way.kernel
    function = f"{kernel}_{kind[2:].lower()}"
    return Call(
        f"{function}(&{name}, {{x0}}, {{y0}}{', {scratch}' if way.scratch else ''});",
        way.texts,
        wrapper(function, kernel, "q_depthwise", kind, ("int8_t", "int8_t"), way.scratch > 0) + "\0" + struct,
        (Table(f"{name}_w", data, True), Table(f"{name}_b", np.pad(bias, (0, more)), True), *tables),
        -(-way.scratch // 4) * 4,
        rows_gap(conv, way.ahead) if conv.batch == 1 else None,
        way.kernel == "q_depthwise_lanes",
    )


def _wide(name: str, conv: Convolution, weights: Array, narrow: bool) -> Call:
    if conv.x_zero_point:
        raise UnsupportedError(f"16-bit codes with zero point {conv.x_zero_point}")
    bound = layout.accumulator_bound(conv)
    wide = bound.max(initial=0) >= 2**31
    form = form_of(conv.rescale, conv.out_c, bound)
    if wide and form.kind not in ("linear", "double", "float32"):
        raise UnsupportedError("sums of 64 bits in this arithmetic")
    flat = weights.reshape(1, -1)
    data = packed_nibbles(flat) if narrow else flat.astype(np.int8)
    rescale, tables = rescale_text(name, form)
    depthwise = isinstance(conv, DepthwiseConv2DContract)
    bias = layout.wide_bias(conv, 0)
    kind = kind_of(form)
    struct = (
        f"static const q_wide {name} = {{.w = {name}_w, .bias{'64' if wide else ''} = {name}_b, .r = {rescale}, "
        f"{_geometry(conv)}, .groups = {getattr(conv, 'groups', 1)}, .narrow = {int(narrow)}, "
        f".depthwise = {int(depthwise)}}};\n"
    )
    function = f"q_wide_{kind[2:].lower()}{'_narrow' if narrow else ''}{'_64' if wide else ''}"
    body = wrapper(
        function, "q_wide_all", "q_wide", f"{kind}, {int(narrow)}, {int(wide)}", ("int16_t", "int16_t"), False
    )
    return Call(
        f"{function}(&{name}, {{x0}}, {{y0}});",
        ("wide",),
        body + "\0" + struct,
        (
            Table(f"{name}_w", data, True),
            Table(f"{name}_b", bias if wide else bias.astype(np.int32), True),
            *tables,
        ),
        0,
        _gap(conv, 2, False),
    )
