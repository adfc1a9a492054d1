"""Instructions that this machine may lack, in terms of AVX2 and of small C functions.

Vectors of 64 bytes stay what they are: LLVM makes two of 32 bytes of them.  What has no portable form is written here
from Intel's definition (Software Developer's Manual, Intrinsics Guide).  The matrix unit's registers are kept by
`tiles.c`, one set for each thread.

A kernel is built for the target it is meant for; only then are its instructions replaced, and machine code made for the
processor at hand.  What is proven is the kernel's text, its packed constants and its memory accesses.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
from emulate.trees import Rewriter, callee, operands
from tvm import tirx

Expr = Any
Bind = Callable[[Expr], Expr]
KERNEL = "tflite2q.kernel"


def emulated(func: Any) -> Any:
    """A kernel (tirx.PrimFunc) with every instruction beyond AVX2 replaced."""
    return Rewriter(_replaced).function(func)


def emulated_module(module: Any) -> Any:
    """A lowered module with every kernel's instructions replaced."""
    tiles()
    functions = {
        var: emulated(f) if isinstance(f, tirx.PrimFunc) and f.attrs and KERNEL in f.attrs else f
        for var, f in module.functions.items()
    }
    return tvm.IRModule(functions, attrs=module.attrs)


def _replaced(call: Expr, bind: Bind) -> Expr:
    name = callee(call)
    if name == "syscall":
        return tirx.IntImm("int64", 0)
    if name.startswith("llvm.x86.") and name.removeprefix("llvm.x86.") in TILES:
        function = f"tflite2q_{name.removeprefix('llvm.x86.')}"
        return tirx.call_extern("int32", function, *operands(call))
    if name in VECTORS:
        bound = [bind(each) if _vector(each) else each for each in operands(call)]
        more = (bind,) if name in BINDING else ()
        return VECTORS[name](*bound, *more)
    assert not name.startswith(("llvm.x86.avx512", "llvm.x86.avx10", "llvm.x86.t")), f"{name} has no emulation"
    return call


def _vector(x: Expr) -> bool:
    return not isinstance(x, tirx.IntImm | tirx.FloatImm)


# --- vectors ---


def _lanes(x: Expr) -> int:
    return int(x.ty.dtype.lanes)


def _take(x: Expr, indices: Any) -> Expr:
    return tirx.Shuffle([x], [int(i) for i in indices])


def _halves(x: Expr) -> tuple[Expr, Expr]:
    n = _lanes(x)
    return _take(x, range(n // 2)), _take(x, range(n // 2, n))


def _joined(a: Expr, b: Expr) -> Expr:
    return tirx.Shuffle([a, b], list(range(_lanes(a) + _lanes(b))))


def _constant(dtype: str, value: int, lanes: int) -> Expr:
    return tirx.Broadcast(tirx.IntImm(dtype, value), lanes)


def _call(dtype: str, name: str, *args: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def _by_halves(operation: Callable[..., Expr]) -> Callable[..., Expr]:
    """An operation on vectors of 64 bytes as two of 32."""

    def both(*args: Expr) -> Expr:
        low, high = zip(*(_halves(each) for each in args), strict=True)
        return _joined(operation(*low), operation(*high))

    return both


# Products are taken apart within 32-bit lanes, by shifts: shuffles of long vectors keep LLVM busy for minutes.


def _wrapping(a: Expr, b: Expr) -> Expr:
    unsigned = f"uint32x{_lanes(a)}"
    return tirx.reinterpret(f"int32x{_lanes(a)}", tirx.reinterpret(unsigned, a) + tirx.reinterpret(unsigned, b))


def _field(x: Expr, first: int, width: int, signed: bool) -> Expr:
    """So many bits of each 32-bit lane, from bit `first` on, as a number."""
    n = _lanes(x)
    up, down = _constant("int32", 32 - width - first, n), _constant("int32", 32 - width, n)
    if signed:
        return tirx.shift_right(tirx.shift_left(x, up), down)
    return tirx.bitwise_and(tirx.shift_right(x, _constant("int32", first, n)), _constant("int32", 2**width - 1, n))


def _vpdpbusd(lanes: int) -> Callable[..., Expr]:
    """accumulator + four products of an unsigned and a signed byte, modulo 2**32."""

    def whole(acc: Expr, a: Expr, b: Expr) -> Expr:
        x, w = (tirx.reinterpret(f"int32x{lanes}", each) for each in (a, b))
        products = [_field(x, 8 * i, 8, False) * _field(w, 8 * i, 8, True) for i in range(4)]
        return _wrapping(acc, products[0] + products[1] + products[2] + products[3])

    return whole


def _word_products(lanes: int, a: Expr, b: Expr) -> Expr:
    """Sums of two products of signed words, modulo 2**32."""
    x, w = (tirx.reinterpret(f"int32x{lanes}", each) for each in (a, b))
    return _wrapping(*(_field(x, 16 * i, 16, True) * _field(w, 16 * i, 16, True) for i in range(2)))


def _vpdpwssd(lanes: int) -> Callable[..., Expr]:
    """accumulator + two products of signed words, modulo 2**32."""
    return lambda acc, a, b: _wrapping(acc, _word_products(lanes, a, b))


def _vpdpwssds(lanes: int) -> Callable[..., Expr]:
    """accumulator + two products of signed words, summed exactly and then saturated.

    The sum of products alone leaves 32 bits in one case, twice (-2**15)**2, which no other sum looks like.  (LLVM's own
    saturating addition would do, but LLVM 22 simplifies some chains of it for ever.)
    """

    def constant(value: int) -> Expr:
        return _constant("int32", value, lanes)

    def whole(acc: Expr, a: Expr, b: Expr, bind: Bind) -> Expr:
        total = bind(_word_products(lanes, a, b))
        result = bind(_wrapping(acc, total))
        changed = tirx.bitwise_and(tirx.bitwise_xor(acc, result), tirx.bitwise_xor(total, result))
        beyond = tirx.Select(tirx.EQ(total, constant(-(2**31))), tirx.bitwise_xor(acc, constant(-1)), changed)
        nearest = tirx.bitwise_xor(tirx.shift_right(acc, constant(31)), constant(2**31 - 1))
        return tirx.Select(beyond < constant(0), nearest, result)

    return whole


def _pack(dtype: str, name: str) -> Callable[..., Expr]:
    """Packs work within 128 bits, so two vectors of 32 bytes go the same way."""
    return _by_halves(lambda a, b: _call(dtype, name, a, b))


def _cvtps2dq(x: Expr, source: Expr, mask: Expr, rounding: Expr) -> Expr:
    """float32 to int32 by the rounding mode in force, all lanes."""
    assert int(mask.value) in (-1, 0xFFFF) and int(rounding.value) == 4
    return _by_halves(lambda half: _call("int32x8", "llvm.x86.avx.cvt.ps2dq.256", half))(x)


def _vpermi2b(a: Expr, indices: Expr, b: Expr) -> Expr:
    """Bytes of a and b by the lower seven bits of each index."""

    def sixteenth(k: int) -> Expr:
        return _take((a, b)[k // 4], [16 * (k % 4) + i % 16 for i in range(32)])

    def half(index: Expr) -> Expr:
        place = tirx.bitwise_and(index, _constant("int8", 15, 32))
        number = tirx.bitwise_and(index, _constant("int8", 0x70, 32))
        found = _constant("int8", 0, 32)
        for k in range(8):
            read = _call("int8x32", "llvm.x86.avx2.pshuf.b", sixteenth(k), place)
            found = tirx.Select(tirx.EQ(number, _constant("int8", 16 * k, 32)), read, found)
        return found

    return _joined(*(half(each) for each in _halves(indices)))


VECTORS: dict[str, Callable[..., Expr]] = {
    "llvm.x86.avx512.vpdpbusd.512": _vpdpbusd(16),
    "llvm.x86.avx512.vpdpbusd.256": _vpdpbusd(8),
    "llvm.x86.avx512.vpdpwssd.512": _vpdpwssd(16),
    "llvm.x86.avx512.vpdpwssd.256": _vpdpwssd(8),
    "llvm.x86.avx512.vpdpwssds.512": _vpdpwssds(16),
    "llvm.x86.avx512.vpdpwssds.256": _vpdpwssds(8),
    "llvm.x86.avx512.packssdw.512": _pack("int16x16", "llvm.x86.avx2.packssdw"),
    "llvm.x86.avx512.packsswb.512": _pack("int8x32", "llvm.x86.avx2.packsswb"),
    "llvm.x86.avx512.packuswb.512": _pack("int8x32", "llvm.x86.avx2.packuswb"),
    "llvm.x86.avx512.mask.cvtps2dq.512": _cvtps2dq,
    "llvm.x86.avx512.vpermi2var.qi.512": _vpermi2b,
}

BINDING = [name for name in VECTORS if "vpdpwssds" in name]  # what takes `bind` as well


# --- tiles ---

TILES = ("ldtilecfg", "tilerelease", "tilezero", "tileloadd64", "tilestored64", "tdpbssd", "tdpbusd")


@functools.cache
def tiles() -> Any:
    """`tiles.c`, compiled and loaded where LLVM's code finds its functions."""
    folder = tempfile.mkdtemp(prefix="tflite2q-tiles-")
    library = Path(folder) / "tiles.so"
    source = Path(__file__).with_name("tiles.c")
    subprocess.run(["cc", "-O2", "-fPIC", "-shared", "-o", str(library), str(source)], check=True)
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    loaded.tflite2q_tile_faults.restype = ctypes.c_char_p
    return loaded


def take_tile_fault() -> str | None:
    """What a processor would have refused since the last call: the first such instruction."""
    fault = tiles().tflite2q_tile_faults()
    return fault.decode() if fault else None
