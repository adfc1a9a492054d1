"""Writes the generated parts of the documents: what can be listed is never typed.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->` in README.md or docs/*.md.  With --check nothing is
written; documents that are not up to date are named and the exit code is 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import click

from tflite2q.cli import tflite2q as command_group
from tflite2q.dialect.ops import BY_BUILTIN, OPS
from tflite2q.dialect.ops.others import ABSORBED, REFUSED
from tflite2q.flatbuffer.names import enum_names
from tflite2q.lower.targets import MICROS, TARGETS
from tflite2q.rewrites import scheme

ROOT = Path(__file__).parent.parent
PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> str:
    """Every command: what it does, its arguments and options."""
    return "\n".join(_command(name, command) for name, command in command_group.commands.items())


def _command(name: str, command: click.Command) -> str:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join(a.make_metavar(click.Context(command)) for a in arguments)
    options = [(_signature(o), _prose(o.help or "")) for o in command.params if isinstance(o, click.Option)]
    title = " ".join(("tflite2q", name, usage)).rstrip()
    return f"## `{title}`\n\n{_prose(command.help or '')}\n\n{_table(('option', 'meaning'), options)}"


def _signature(option: click.Option) -> str:
    """An option's names and what it takes, as it is typed."""
    names = ", ".join((*option.opts, *option.secondary_opts))
    if option.is_flag:
        return f"`{names}`"
    if isinstance(option.type, click.Choice):
        return f"`{names} {{{','.join(option.type.choices)}}}`"
    default = "" if option.default is None or not option.show_default else f" (default {option.default})"
    return f"`{names} {option.metavar or option.type.name.upper().split()[0]}`{default}"


def _prose(text: str) -> str:
    """Help text as Markdown: paragraphs stay, other line breaks do not."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def ops() -> str:
    """Every TFLite operator that is read, and the dialect op that it becomes."""
    rows = [
        (
            f"`{builtin.name}`" + (" (custom)" if builtin.custom else ""),
            f"`{op.mnemonic}`",
            ", ".join(op.dtypes if builtin.dtypes is None else builtin.dtypes),
            f"`{op.contract}`" if op.contract else "core operations",
            "; ".join(filter(None, (builtin.deviation or op.deviation, op.hybrid_deviation))) or "bit for bit",
        )
        for op in OPS
        for builtin in op.builtins
    ]
    rows += [(f"`{name}`", "none", "", "none", how) for name, how in ABSORBED.items()]
    return _table(("TFLite operator", "dialect op", "quantized types", "kernel contract", "exactness"), sorted(rows))


def other_ops() -> str:
    """Every TFLite operator that is not read, and why."""
    return _table(
        ("TFLite operator", "why it is refused"), [(f"`{name}`", why) for name, why in sorted(REFUSED.items())]
    )


def counts() -> str:
    """How many operators are read."""
    read, schema = len(BY_BUILTIN) + len(ABSORBED), len(enum_names("BuiltinOperator"))
    return f"{read} operators are read: {read - 1} of the {schema} of TFLite's schema, and one custom operator.\n"


def schemes() -> str:
    """Every shipped scheme."""
    found = [scheme.find(name) for name in scheme.shipped()]
    return _table(("scheme", "what it is", "when to use it"), [(f"`{s.name}`", s.summary, s.when) for s in found])


def scheme_keys() -> str:
    """Every key of the scheme format, with its choices and default."""
    rows = [
        (
            f"`{role}.{key.name}`",
            ", ".join(f"`{_toml(choice)}`" for choice in key.metadata["choices"]) or "a number",
            f"`{_toml(key.default)}`",
            key.metadata["help"],
        )
        for role, kind in scheme.ROLES.items()
        for key in fields(kind)
    ]
    return _table(("key", "values", "default", "meaning"), rows)


def _toml(value: object) -> str:
    """A value as it is written in TOML."""
    return json.dumps(value)


def targets() -> str:
    """Every named target."""
    return _table(("target", "processor"), [(f"`{target.name}`", target.sentence) for target in TARGETS])


def micros() -> str:
    """Every microcontroller, with its family of kernels."""
    rows = [(f"`{m.name}`", m.sentence, f"`{m.family}`", "`.a`, `.c`" if m.zig else "`.c`") for m in MICROS]
    return _table(("target", "processor", "kernels", "`--lib`"), rows)


def measured(name: str, render: str) -> str:
    """A table of measured results, made from what `python -m benchmarks` left in benchmarks/results."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import arm_tables, kept, roofline_tables, tables

    modules = {"arm": arm_tables, "roofline": roofline_tables}
    try:
        result = kept.read(name)
    except FileNotFoundError:
        return f"No results are recorded; `python -m benchmarks {name} --write` measures them.\n"
    return str(getattr(modules.get(name, tables), render)(result))


def kernels() -> str:
    """Every kernel module in the order in which they are tried, by its own description."""
    from tflite2q.kernels.registry import KERNELS

    found: dict[str, set[str]] = {}
    for contract, candidates in KERNELS.items():
        for kernel in candidates:
            found.setdefault(type(kernel).__module__, set()).add(contract.__name__.removesuffix("Contract"))
    parts = []
    for name, contracts in found.items():
        title, _, text = (sys.modules[name].__doc__ or "").partition("\n\n")
        path = f"{name.replace('.', '/')}.py"
        parts.append(f"**{_prose(title)}** `{path}`: {', '.join(sorted(contracts))}.\n\n{_prose(text)}\n")
    return "\n".join(parts)


def runtimes() -> str:
    """The rules of every runtime with their sources; runtimes with the same rules share a table."""
    from tflite2q.runtimes.table import RUNTIMES

    shared: dict[tuple[str, ...], list[str]] = {}
    for name, runtime in RUNTIMES.items():
        shared.setdefault(tuple(rule.id + rule.says for rule in runtime.rules), []).append(name)
    parts = []
    for names in shared.values():
        runtime = RUNTIMES[names[0]]
        titles = "; ".join(f"`{name}`: {RUNTIMES[name].title}" for name in names)
        rows = [
            (rule.id, rule.says, ", ".join(f"`{name}`" for name in sorted(rule.on)) or "all", rule.source)
            for rule in runtime.rules
        ]
        rows = [(*row[:2], row[2] if row[2].count(",") < MOST_OPERATORS else "most", row[3]) for row in rows]
        parts.append(f"### {', '.join(names)}\n\n{titles}. Version: {runtime.version}. Schemes that are tried: ")
        parts[-1] += f"{', '.join(f'`{scheme}`' for scheme in runtime.schemes)}.\n\n"
        parts[-1] += _table(("rule", "what it says", "operators", "source"), rows)
    return "\n" + "\n".join(parts)


MOST_OPERATORS = 20  # that a rule's row lists


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def gates() -> str:
    """Every gate: the figure that it bounds, and what that needs."""
    from tflite2q.evaluation.gates import KINDS

    rows = [
        (
            f"`{kind.name}`",
            f"{kind.label}, {'at least' if kind.at_least else 'at most'}",
            kind.unit or "a number",
            kind.missing,
        )
        for kind in KINDS.values()
    ]
    return _table(("gate", "bounds", "unit", "if it is not measured"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "gates": gates,
    "ops": ops,
    "other-ops": other_ops,
    "ops-count": counts,
    "schemes": schemes,
    "scheme-keys": scheme_keys,
    "targets": targets,
    "micros": micros,
    "kernels": kernels,
    "runtimes": runtimes,
    "speed": partial(measured, "speed", "speed"),
    "speed-summary": partial(measured, "speed", "speed_summary"),
    "accuracy": partial(measured, "accuracy", "accuracy"),
    "accuracy-summary": partial(measured, "accuracy", "accuracy_summary"),
    "schemes-measured": partial(measured, "schemes", "schemes"),
    "recovery": partial(measured, "recovery", "recovery"),
    "reconstruction": partial(measured, "reconstruction", "reconstruction"),
    "float-models": partial(measured, "floats", "floats"),
    "real": partial(measured, "real", "real"),
    "sequences": partial(measured, "sequences", "real"),
    "calls": partial(measured, "calls", "calls"),
    "roofline": partial(measured, "roofline", "roofline"),
    "start": partial(measured, "start", "start"),
    "arm": partial(measured, "arm", "arm"),
}


def updated(text: str) -> str:
    """`text` with every generated part made anew."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def schema() -> str:
    """The JSON Schema of `compare --json`."""
    from tflite2q.report import schema

    return json.dumps(schema.comparison(), indent=1) + "\n"


# Whole files, by their name in docs/.
FILES: dict[str, Callable[[], str]] = {"compare.schema.json": schema}


def main(arguments: Sequence[str]) -> int:
    stale = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if not path.exists():
            continue
        text = path.read_text("utf-8")
        if updated(text) == text:
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.write_text(updated(text), "utf-8")
    for name, make in FILES.items():
        path = ROOT / "docs" / name
        if path.exists() and path.read_text("utf-8") == make():
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.write_text(make(), "utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'is out of date: run `make docs`' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
