"""Schemes: the quantization parameters that a graph should have, as data.

A scheme is a TOML file (format: docs/schemes.md), read into frozen values.  The settings below are the whole format: a
field is a key and its metadata lists its choices.  Unknown keys, unknown values and combinations that cannot be
executed are errors; they name the nearest valid choice.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tflite2q import limits
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops import BY_MNEMONIC
from tflite2q.errors import SchemeError, UsageError, require_one_of
from tflite2q.rewrites.rules import COUNTED, Beyond, Match, Place, Rule, places

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _setting(default: Any, *choices: Any, help: str) -> Any:
    """A key of the format: one of `choices`, or any value of the default's type where there are none."""
    return field(default=default, metadata={"choices": choices, "help": help})


@dataclass(frozen=True)
class Activations:
    """How the results of ops are represented."""

    dtype: str = _setting("int8", "uint8", "int8", "int16", "float32", help="storage type")
    symmetric: bool = _setting(False, True, False, help="use zero point 0 wherever the range and the format allow")
    scale: str = _setting("any", "any", "power-of-two", help="which scales are allowed")
    range: str = _setting(
        "min-max", "min-max", "percentile", "least-squares", help="how the range is chosen from observed values"
    )
    percentile: float = _setting(99.99, help="percentile of the observed values, for range = 'percentile'")


@dataclass(frozen=True)
class Weights:
    """How weights are represented.  Symmetric int8 ones use [-127, 127], int4 ones [-8, 7], or as many codes as
    `levels` says."""

    dtype: str = _setting("int8", "uint8", "int8", "int4", "float32", help="storage type")
    symmetric: bool = _setting(True, True, False, help="use zero point 0")
    granularity: str = _setting("per-channel", "per-channel", "per-tensor", help="one scale per channel or per tensor")
    range: str = _setting(
        "max", "max", "least-squares", "percentile", help="how the range of weights that must be rescaled is chosen"
    )
    percentile: float = _setting(99.9, help="percentile of |w|, for range = 'percentile'")
    rounding: str = _setting(
        "sum-preserving", "sum-preserving", "nearest", help="how weights that must be rescaled are rounded"
    )
    scale: str = _setting("any", "any", "power-of-two", help="which scales are allowed")
    levels: int = _setting(0, help="how many different codes are used, in a type that may hold more; 0: all of them")
    block: int = _setting(
        0,
        help="with float32 activations and int4 weights: dense layers get a scale for each so many weights of a row "
        "(32, 64, 128 or 256), where this divides the row and float16 can hold it; 0: one for each row",
    )
    compute: str = _setting(
        "integer",
        "integer",
        "float",
        help="with float32 activations: quantize these in every run (dynamic range), or dequantize the weights "
        "(weight-only)",
    )


@dataclass(frozen=True)
class Rescaling:
    """How accumulators are rescaled to codes."""

    arithmetic: str = _setting("tflite", "tflite", "float32", "shift", help="see docs/quantization.md, eq. 8 to 12")


@dataclass(frozen=True)
class Recovery:
    """What is done against the loss; needs no data, but is better with it."""

    bias_correction: bool = _setting(False, True, False, help="correct biases for the mean error of rounded weights")
    equalize: bool = _setting(False, True, False, help="equalize channel ranges across neighbouring layers first")
    reconstruct: str = _setting(
        "none", "none", "hessian", "adaptive", help="round weights so that each layer's results change least"
    )
    without_data: str = _setting(
        "noise", "noise", "skip", help="reconstruct on made-up inputs if there is no --data, or not at all"
    )


@dataclass(frozen=True)
class Layer:
    """The settings of a scheme for one op."""

    activations: Activations = Activations()
    weights: Weights = Weights()
    rescale: Rescaling = Rescaling()
    recover: Recovery = Recovery()


ROLES: Mapping[str, type] = {
    "activations": Activations,
    "weights": Weights,
    "rescale": Rescaling,
    "recover": Recovery,
}
INTERFACES = ("keep", "scheme")


@dataclass(frozen=True)
class Scheme:
    """Settings for every op, rules for some (later ones win), and whether a model's own inputs and outputs change.

    `summary` says what it is, `when` what it is good for.
    """

    name: str
    summary: str = ""
    when: str = ""
    layer: Layer = Layer()
    interface: str = "keep"
    rules: tuple[Rule, ...] = field(default=())

    def layers(self, graph: Graph) -> dict[str, Layer]:
        """The settings for each op of `graph`, by the op's name.

        Raises SchemeError for a rule that matches nothing, or settings that contradict each other on an op.
        """
        where = places(graph)
        found: dict[str, list[Rule]] = {}
        for number, rule in enumerate(self.rules):
            for place in self._matched(number, rule, where, graph):
                found.setdefault(place.op.name, []).append(rule)
        return {place.op.name: self._layer(place, found.get(place.op.name, ())) for place in where}

    def _matched(self, number: int, rule: Rule, where: Sequence[Place], graph: Graph) -> list[Place]:
        try:
            matched = rule.match.among(where)
        except SchemeError as error:
            if rule.optional and isinstance(error, Beyond):
                return []
            raise SchemeError(f"{self.name}: rules[{number}].{error}") from error
        if not matched and not rule.optional:
            raise SchemeError(f"{self.name}: rules[{number}] matches no op of the model{_hint(rule.match, graph)}")
        return matched

    def _layer(self, place: Place, rules: Iterable[Rule]) -> Layer:
        layer = self.layer
        for rule in rules:
            for role, key, value in rule.changes:
                layer = replace(layer, **{role: replace(getattr(layer, role), **{key: value})})
        _check_layer(layer, f"{self.name}: for {place.op.mnemonic} {place.op.name!r}: ")
        return layer


def _hint(match: Match, graph: Graph) -> str:
    if match.name != "*":
        return _nearest(match.name, [op.name for op in graph.ops])
    kinds = sorted({op.mnemonic.removeprefix("q.") for op in graph.ops})
    return f"; it has {', '.join(kinds)}; an optional rule (optional = true) may match nothing"


# ------------------------------------------------------------------------------------------------------------- files


@cache
def shipped() -> tuple[str, ...]:
    """Names of the schemes that come with tflite2q, in alphabetical order."""
    folder = resources.files("tflite2q.schemes")
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def find(scheme: str | os.PathLike[str] | Scheme, interface: str | None = None) -> Scheme:
    """A scheme by name, by the path of a .toml file, or itself, with another `interface` policy if one is given.

    Raises SchemeError, and UsageError for what is none of these, or no such policy.
    """
    if interface is not None:
        require_one_of("interface", interface, INTERFACES)
        return replace(find(scheme), interface=interface)
    if isinstance(scheme, Scheme):
        return scheme
    if not isinstance(scheme, str | os.PathLike):
        raise UsageError(
            f"scheme = {scheme!r} is not a scheme; give a Scheme, the name of a shipped one, or the path of a .toml"
        )
    text = os.fspath(scheme)
    if text in shipped():
        return parse(resources.files("tflite2q.schemes").joinpath(f"{text}.toml").read_text("utf-8"), text)
    path = Path(text)
    if path.suffix != ".toml":
        known = ", ".join(shipped())
        raise SchemeError(f"scheme {text!r} does not exist{_nearest(text, shipped())}; shipped schemes: {known}")
    try:
        content = limits.text(path)
    except OSError as error:
        raise limits.unreadable(text, error, SchemeError) from error
    except UnicodeDecodeError as error:
        raise SchemeError(f"{text}: is not a text file ({error.reason}); save it as UTF-8") from error
    except ValueError as error:
        raise SchemeError(f"{text}: {error}; give a scheme file") from error
    return parse(content, path.stem, where=text)


def find_all(schemes: str | Scheme | os.PathLike[str] | Iterable[str | Scheme | os.PathLike[str]]) -> list[Scheme]:
    """The schemes of a sequence, or of one text that has commas between them.  Raises what `find` raises."""
    given: Iterable[Any] = schemes if isinstance(schemes, Iterable) else [schemes]
    if isinstance(schemes, str):
        given = [name.strip() for name in schemes.split(",") if name.strip()]
    found = [find(each) for each in given]
    if not found:
        raise UsageError(f"schemes = {schemes!r} names no scheme; give one or more, such as int8,int8-w4")
    return found


def parse(text: str, name: str, where: str | None = None) -> Scheme:
    """The scheme in the text of a TOML file.  Raises SchemeError naming `where` (or `name`) and the key."""
    try:
        return _scheme(tomllib.loads(text), name)
    except SchemeError as error:
        raise SchemeError(f"{where or name}: {error}") from error
    except RecursionError as error:
        raise SchemeError(f"{where or name}: is not valid TOML: it is nested too deeply") from error
    except ValueError as error:  # also of numbers with more digits than Python reads
        raise SchemeError(f"{where or name}: is not valid TOML: {error}") from error


def dump(scheme: Scheme) -> str:
    """The text of a scheme file: `parse(dump(s), s.name) == s`."""
    lines = [f"{key} = {_toml(value)}" for key, value in (("summary", scheme.summary), ("when", scheme.when)) if value]
    lines.append(f"interface = {_toml(scheme.interface)}")
    for role, kind in ROLES.items():
        settings = getattr(scheme.layer, role)
        said = [f for f in fields(kind) if f.name == "dtype" or getattr(settings, f.name) != f.default]
        if said:
            lines += ["", f"[{role}]", *(f"{f.name} = {_toml(getattr(settings, f.name))}" for f in said)]
    for rule in scheme.rules:
        lines += ["", "[[rules]]"]
        if rule.optional:
            lines.append("optional = true")
        given = [(f.name, getattr(rule.match, f.name)) for f in fields(Match)]
        matched = [(key, value) for key, value in given if value not in ("*", None)] or [("op", "*")]
        lines += [f"match.{key} = {_toml(value)}" for key, value in matched]
        lines += [f"{role}.{key} = {_toml(value)}" for role, key, value in rule.changes]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A TOML value; JSON's strings, booleans, numbers and lists are TOML's too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _scheme(table: dict[str, Any], name: str) -> Scheme:
    _check_keys(table, ("summary", "when", "interface", *ROLES, "rules"), "")
    for key in ("activations", "weights"):
        if key not in table:
            raise SchemeError(f"[{key}] is missing")
        if "dtype" not in _settings(key, table[key], f"{key}."):
            raise SchemeError(f"{key}.dtype is missing")
    interface = table.get("interface", "keep")
    if interface not in INTERFACES:
        raise SchemeError(f"interface = {interface!r} is not one of {', '.join(INTERFACES)}")
    for key in ("summary", "when"):
        if not isinstance(table.get(key, ""), str):
            raise SchemeError(f"{key} = {table[key]!r} is not a text")
    rules = table.get("rules", [])
    if not isinstance(rules, list):
        raise SchemeError("rules must be a list of tables: [[rules]]")
    layer = Layer(**{role: kind(**_settings(role, table.get(role, {}), f"{role}.")) for role, kind in ROLES.items()})
    _check_layer(layer, "")
    return Scheme(
        name=name,
        summary=table.get("summary", ""),
        when=table.get("when", ""),
        layer=layer,
        interface=interface,
        rules=tuple(_rule(rule, f"rules[{index}]") for index, rule in enumerate(rules)),
    )


def _rule(table: Any, where: str) -> Rule:
    _check_keys(table, ("match", "optional", *ROLES), f"{where}.")
    changes = [
        (role, key, value)
        for role in ROLES
        if role in table
        for key, value in _settings(role, table[role], f"{where}.{role}.").items()
    ]
    if not changes:
        raise SchemeError(f"{where} sets nothing; give it {' or '.join(ROLES)}")
    optional = table.get("optional", False)
    if not isinstance(optional, bool):
        raise SchemeError(f"{where}.optional = {optional!r} is neither true nor false")
    if not table.get("match"):
        keys = ", ".join(f.name for f in fields(Match))
        raise SchemeError(f"{where} has no match; say which layers it is for ({keys}), or move it above the rules")
    return Rule(_match(table["match"], f"{where}.match."), tuple(changes), optional)


def _match(table: Any, where: str) -> Match:
    _check_keys(table, [f.name for f in fields(Match)], where)
    kinds = [mnemonic.removeprefix("q.") for mnemonic in BY_MNEMONIC]
    given: dict[str, Any] = {}
    for key, value in table.items():
        if key in ("op", "name"):
            if not isinstance(value, str):
                raise SchemeError(f"{where}{key} = {value!r} must be a pattern such as 'conv*'")
            if key == "op" and not any(fnmatchcase(kind, value) for kind in kinds):
                raise SchemeError(f"{where}op = {value!r} matches no op{_nearest(value, kinds)}")
            given[key] = value
        else:
            pair = isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
            if not pair or value[0] > value[1]:
                raise SchemeError(f"{where}{key} = {value!r} must be a range [first, last]")
            if key in COUNTED and value[0] < COUNTED[key]:
                raise SchemeError(f"{where}{key} = {value!r} must start at {COUNTED[key]} or later")
            given[key] = (value[0], value[1])
    return Match(**given)


def _settings(role: str, table: Any, where: str) -> dict[str, Any]:
    """The keys of one role, each checked against its choices."""
    known = {f.name: f for f in fields(ROLES[role])}
    _check_keys(table, list(known), where)
    for key, value in table.items():
        choices, default = known[key].metadata["choices"], known[key].default
        if choices and (value not in choices or type(value) is not type(choices[0])):
            close = _nearest(str(value), [str(choice) for choice in choices])
            raise SchemeError(f"{where}{key} = {value!r} is not one of {', '.join(map(str, choices))}{close}")
        if not choices and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise SchemeError(f"{where}{key} = {value!r} must be a number such as {default}")
    return dict(table)


# What TFLite, and so the dialect, has kernels for: activations, weights.
PAIRS = (
    ("uint8", "uint8"),
    ("int8", "int8"),
    ("int8", "int4"),
    ("int16", "int8"),
    ("float32", "float32"),
    ("float32", "int8"),
    ("float32", "int4"),
)

BLOCKS = (32, 64, 128, 256)  # weights of a row that share a scale, as LiteRT's converters write them


def _check_layer(layer: Layer, where: str) -> None:
    """Raise SchemeError for settings that contradict each other."""
    activations, weights = layer.activations, layer.weights
    if (activations.dtype, weights.dtype) not in PAIRS:
        fitting = " or ".join(w for a, w in PAIRS if a == activations.dtype)
        raise SchemeError(f"{where}{activations.dtype} activations need {fitting} weights, not {weights.dtype}")
    if weights.dtype == "uint8" and (weights.symmetric or weights.granularity == "per-channel"):
        raise SchemeError(f"{where}uint8 weights need symmetric = false and granularity = 'per-tensor'")
    if weights.dtype in ("int8", "int4") and not weights.symmetric:
        raise SchemeError(f"{where}{weights.dtype} weights need symmetric = true")
    if weights.compute == "float" and (activations.dtype != "float32" or weights.dtype == "float32"):
        raise SchemeError(f"{where}compute = 'float' needs float32 activations and int8 or int4 weights")
    if activations.dtype == "int16" and not activations.symmetric:
        raise SchemeError(f"{where}int16 activations need symmetric = true")
    if layer.rescale.arithmetic == "shift" and {activations.scale, weights.scale} != {"power-of-two"}:
        raise SchemeError(f"{where}arithmetic = 'shift' needs scale = 'power-of-two' for activations and weights")
    if weights.block:
        if weights.block not in BLOCKS:
            raise SchemeError(f"{where}weights.block = {weights.block} is not one of 0, {', '.join(map(str, BLOCKS))}")
        if (activations.dtype, weights.dtype, weights.compute) != ("float32", "int4", "integer"):
            raise SchemeError(f"{where}weights.block needs float32 activations, int4 weights and compute = 'integer'")
    highest = {"int8": 255, "int4": 16}.get(weights.dtype, 0)
    if weights.levels and not (type(weights.levels) is int and 3 <= weights.levels <= highest):
        kinds = f"are for int8 weights (3 to 255) and int4 weights (3 to 16), not {weights.levels} of {weights.dtype}"
        raise SchemeError(f"{where}weights.levels {kinds}")
    for role, percentile in (("weights", weights.percentile), ("activations", activations.percentile)):
        if not 0 < percentile <= 100:
            raise SchemeError(f"{where}{role}.percentile = {percentile} is not in (0, 100]")


def _check_keys(table: Any, allowed: Iterable[str], where: str) -> None:
    known = list(allowed)
    if not isinstance(table, dict):
        raise SchemeError(f"{where.rstrip('.') or 'the file'} must be a table")
    for key in table:
        if key not in known:
            raise SchemeError(f"key {where}{key} is unknown{_nearest(key, known)}; known keys: {', '.join(known)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
