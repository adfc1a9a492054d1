"""A program as C: the kernels it needs, its constants, one function; and the header."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from importlib import resources

import numpy as np

from tflite2q.micro.memory import Plan, scratch_name
from tflite2q.micro.program import CTYPES, Port, Program, Step, Table
from tflite2q.version import __version__

PER_LINE = 24


def source(program: Program, plan: Plan) -> str:
    """The C file, complete: it includes stdint.h and stddef.h, and the header."""
    shared, own = _texts(program)
    parts = [
        f"/* {program.name}: made by tflite2q {__version__}. */",
        f'#include "{program.stem}.h"\n#include <stddef.h>\n#include <stdint.h>\n',
        kernel("common"),
    ]
    wanted = [name for step in program.steps for name in step.kernels]
    parts += [_table(table) for table in _unique(program) if table.name.startswith("q_")]  # which kernels name
    parts += [kernel(name) for name in dict.fromkeys(wanted)]
    parts += shared
    parts += [_table(table) for table in _unique(program) if not table.name.startswith("q_")]
    parts += own
    parts += [_reset(program), _invoke(program, plan)]
    return "\n".join(parts)


def _unique(program: Program) -> list[Table]:
    return list({table.name: table for table in program.tables}.values())


def _texts(program: Program) -> tuple[list[str], list[str]]:
    """What steps share (functions of kernels, each once), and what is their own."""
    shared: dict[str, None] = {}
    own = []
    for step in program.steps:
        common, _, alone = step.text.partition("\0")
        if common:
            shared[common] = None
        if alone:
            own.append(alone)
    return list(shared), own


@functools.cache
def kernel(name: str) -> str:
    """The text of the kernels in `c/NAME.h`."""
    return (resources.files("tflite2q.micro") / "c" / f"{name}.h").read_text()


def _table(table: Table) -> str:
    flat = table.data.reshape(-1)
    kind = CTYPES[str(flat.dtype)]
    words = [_number(value) for value in flat] if flat.dtype.kind == "f" else [str(v) for v in flat.astype(np.int64)]
    if flat.dtype == np.int32:
        words = ["INT32_MIN" if word == "-2147483648" else word for word in words]
    elif flat.dtype == np.int64:
        words = ["INT64_MIN" if word == str(-(2**63)) else f"INT64_C({word})" for word in words]
    lines = [",".join(words[i : i + PER_LINE]) for i in range(0, len(words), PER_LINE)]
    body = ",\n".join(lines)
    align = "Q_ALIGNED " if flat.dtype.itemsize == 1 else ""
    return f"static const {align}{kind} {table.name}[{flat.size}] = {{\n{body}}};\n"


def _number(value: np.generic) -> str:
    return f"{float(value).hex()}f" if math.isfinite(float(value)) else f"{float(value)}"


def _invoke(program: Program, plan: Plan) -> str:
    places = _places(program, plan)
    lines = []
    for index, step in enumerate(program.steps):
        lines.append(f"  {_called(step, index, places, plan)}")
    for number, port in enumerate(program.outputs):
        place = f"outputs[{number}]" if plan.outputs is None else _inside(plan.outputs[number])
        if places[port.source] != place:
            lines.append(f"  q_copy({place}, {places[port.source]}, {port.bytes});")
    body = "\n".join(lines)
    kept = "  int8_t *const s = (int8_t *)state;\n  (void)s;\n" if program.states else ""
    kept += "  int failed = 0;\n" if program.fails else ""
    unused = "".join(f"  (void){name};\n" for name in ("q", "inputs", "outputs"))
    return (
        f"{signature(program)} {{\n  int8_t *const q = (int8_t *)arena;\n{unused}{kept}"
        f"{body}\n  return {'failed' if program.fails else '0'};\n}}\n"
    )


def signature(program: Program) -> str:
    """The declaration of the function that runs the model, without a semicolon."""
    state = ", void *state" if program.states else ""
    return f"int {program.name}_invoke(const void *const *inputs, void *const *outputs, void *arena{state})"


def _reset(program: Program) -> str:
    """The function that puts variables back to their first data; nothing for a model without them."""
    if not program.states:
        return ""
    lines = []
    for state in program.states:
        at = f"s + {state.offset}"
        fill = f"q_fill({at}, {state.byte}, {state.bytes});"
        lines.append(f"  q_copy({at}, {state.initial.name}, {state.bytes});" if state.byte is None else f"  {fill}")
    body = "\n".join(lines)
    return f"void {program.name}_reset(void *state) {{\n  int8_t *const s = (int8_t *)state;\n{body}\n}}\n"


def _places(program: Program, plan: Plan) -> dict[str, str]:
    """C expressions of where each tensor is."""
    places = {port.name: f"inputs[{number}]" for number, port in enumerate(program.inputs)}
    places |= {name: f"(const void *){table}" for name, table in program.named.items()}
    places |= {state.name: f"(void *)(s + {state.offset})" for state in program.states}
    places |= {name: _inside(offset) for name, offset in plan.offsets.items()}
    for number, port in enumerate(program.outputs):
        places.setdefault(port.source, f"outputs[{number}]")
    return places


def _called(step: Step, index: int, places: Mapping[str, str], plan: Plan) -> str:
    names = {f"x{k}": places[name] for k, name in enumerate(step.reads)}
    names |= {f"y{k}": places.get(name, "") for k, name in enumerate(step.writes)}
    offset = plan.offsets.get(scratch_name(index))
    names["scratch"] = "(void *)0" if offset is None else _inside(offset)
    return step.call.format(**names)


def _inside(offset: int) -> str:
    return f"(void *)(q + {offset})"


def header(program: Program, plan: Plan) -> str:
    """NAME.h, for C and C++."""
    name, upper = program.name, program.name.upper()
    or_fails = (
        ", 1 that an operator has no result for its operands (a divisor of 0, an index out of range)"
        if program.fails
        else ""
    )
    kept, also = bool(program.states), " and a state" if program.states else ""
    lines = [
        f"/* {name}: made by tflite2q {__version__}.  docs/micro.md says how to call it. */",
        f"#ifndef {upper}_H\n#define {upper}_H\n",
        "#include <stdint.h> /* the types of inputs and outputs */\n",
        f"#define {upper}_ARENA_BYTES {plan.bytes}",
        *([f"#define {upper}_STATE_BYTES {program.state_bytes}"] if kept else []),
        f"#define {upper}_INPUTS {len(program.inputs)}",
        f"#define {upper}_OUTPUTS {len(program.outputs)}",
    ]
    for kind, ports, offsets in (
        ("INPUT", program.inputs, plan.inputs),
        ("OUTPUT", program.outputs, plan.outputs),
    ):
        for number, port in enumerate(ports):
            lines += _port(f"{upper}_{kind}_{number}", port)
            if offsets is not None:
                lines.append(f"#define {upper}_{kind}_{number}_OFFSET {offsets[number]}")
    reset = f"""
/* `state` points to {upper}_STATE_BYTES bytes aligned to 8, which a run reads and leaves for the next one.  This sets
   them to what they are before the first run.  Streams with a state each do not mix. */
void {name}_reset(void *state);
"""
    lines.append(
        f"""
#ifdef __cplusplus
extern "C" {{
#endif

/* Runs the model once; 0 means that it ran{or_fails}.
   {_ports(upper, plan)}
   Several threads may run it at once, each with an arena of its own{also}. */
{signature(program)};
{reset if kept else ""}
#ifdef __cplusplus
}}
#endif

#endif"""
    )
    return "\n".join(lines) + "\n"


def _ports(upper: str, plan: Plan) -> str:
    """Where a caller finds inputs and outputs."""
    arena = f"{upper}_ARENA_BYTES bytes aligned to 16"
    if plan.inputs is not None:
        return (
            f"`arena` points to {arena}, which hold inputs and outputs at the\n   offsets above.  A run overwrites the "
            "inputs.  `inputs` and `outputs` are not read and may be null."
        )
    return (
        "`inputs` and `outputs` point to arrays of the types and bytes above, aligned to their elements; `arena` to\n"
        f"   {arena}, which hold nothing between runs.\n   Outputs must not overlap inputs."
    )


def _port(prefix: str, port: Port) -> list[str]:
    shape = ", ".join(map(str, port.shape))
    lines = [
        f"\n/* {_comment(port.name)} */",
        f"#define {prefix}_BYTES {port.bytes}",
        f"#define {prefix}_TYPE {CTYPES[port.dtype]}",
        f"#define {prefix}_RANK {len(port.shape)}",
        f"#define {prefix}_SHAPE {{{shape}}}",
    ]
    if port.scale is not None:
        lines += [f"#define {prefix}_SCALE {float(port.scale)!r}f", f"#define {prefix}_ZERO_POINT {port.zero_point}"]
    return lines


def _comment(text: str) -> str:
    """A tensor's name, harmless inside a comment."""
    return (
        "".join(c if c.isprintable() and c.isascii() else "?" for c in text).replace("*/", "* /").replace("/*", "/ *")
    )
