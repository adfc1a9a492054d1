"""What steps are made of: calls of kernels, their wrappers, and rescaling as C."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tflite2q.micro.program import Array, Table
from tflite2q.micro.rescaling import Form

MOST_TIED = 2**23  # what biases stay below that share a word with a shift
KINDS = {"fixed": "Q_APART", "linear": "Q_LINEAR", "double": "Q_DOUBLE", "exact": "Q_EXACT", "float32": "Q_FLOAT"}


@dataclass(frozen=True)
class Call:
    """What a layer needs: C of the call, texts of kernels, own text, tables, scratch bytes and gap; `pointers`: scratch
    begins with them."""

    call: str
    kernels: tuple[str, ...]
    text: str
    tables: tuple[Table, ...]
    scratch: int
    gap: int | None
    pointers: bool = False


def tied(form: Form, bias: Array) -> bool:
    """Whether biases and shifts of channels share words."""
    return form.kind == "fixed" and bool(np.abs(bias.astype(np.int64)).max(initial=0) < MOST_TIED)


def kind_of(form: Form, tied: bool = False) -> str:
    """The C constant of a form's kind; `tied`: biases and shifts share words."""
    if not tied:
        return KINDS[form.kind]
    return "Q_FULL" if (form.low, form.high) == (-128, 127) else "Q_FIXED"


def words(form: Form, bias: Array, tied: bool, left: bool) -> Array:
    """int32: biases, and where they are tied shifts in their last bytes: to the right, or to the `left`."""
    wide = bias.astype(np.int64)
    return (wide << 8 | (-form.n if left else form.n) & 255 if tied else wide).astype(np.int32)


def rescale_text(name: str, form: Form, shared: bool = True, tied: bool = False) -> tuple[str, tuple[Table, ...]]:
    """The C initializer of a q_rescale, and its tables; with `shared`, channels with one factor share an entry; `tied`
    shifts are elsewhere."""
    parts = [part for part in (form.m, None if tied else form.n, form.lower) if part is not None]
    one = shared and all((part == part[:1]).all() for part in parts)
    if one:
        form = replace(form, m=form.m[:1], n=form.n[:1], lower=None if form.lower is None else form.lower[:1])
    zero = 2 * form.zero + 1 if form.kind == "fixed" else form.zero
    tables = [Table(f"{name}_m", form.m.astype(np.int32))]
    shifts = "0" if tied else f"{name}_n"
    if not tied:
        tables.append(Table(shifts, form.n.astype(np.int8)))
    lower = "0"
    if form.lower is not None:
        lower = f"{name}_l"
        tables.append(Table(lower, form.lower.astype(np.int32)))
    numbers = f"{zero}, {form.low}, {form.high}, {form.positive}, {form.negative}, {lower}, {0 if one else -1}"
    return f"{{{name}_m, {shifts}, {numbers}}}", tuple(tables)


def wrapper(name: str, kernel: str, layer: str, kind: str, types: tuple[str, str], scratch: bool) -> str:
    """The function of one kind of rescaling: shared by all layers that have it."""
    more, passed = (", int8_t *scratch", "scratch, ") if scratch else ("", "")
    return (
        f"Q_KERNEL void {name}(const {layer} *l, const {types[0]} *x, {types[1]} *y{more}) "
        f"{{ {kernel}(l, x, y, {passed}{kind}); }}\n"
    )
