"""Schemes: which quantization parameters a graph should have, as data.

A scheme is a TOML file (format: docs/schemes.md), read into frozen values.  Unknown keys and impossible combinations
are errors that name the nearest thing that exists.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tflite2q.dialect.op import Op
from tflite2q.dialect.ops import BY_MNEMONIC
from tflite2q.errors import SchemeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ACTIVATION_DTYPES = ("uint8", "int8")
WEIGHT_DTYPES = ("uint8", "int8")
GRANULARITIES = ("per-tensor", "per-channel")
INTERFACES = ("keep", "scheme")


@dataclass(frozen=True)
class Activations:
    """How results of ops are represented."""

    dtype: str
    symmetric: bool = False


@dataclass(frozen=True)
class Weights:
    """How weights are represented; symmetric ones use codes of [-limit, limit], the limit being the dtype's highest."""

    dtype: str
    symmetric: bool = True
    granularity: str = "per-channel"


@dataclass(frozen=True)
class Layer:
    """What a scheme says of one op."""

    activations: Activations
    weights: Weights


@dataclass(frozen=True)
class Match:
    """Which ops a rule is for: all given patterns must fit.  `op`: mnemonic without "q."; `name`: the op's."""

    op: str = "*"
    name: str = "*"

    def fits(self, op: Op) -> bool:
        return fnmatchcase(op.mnemonic.removeprefix("q."), self.op) and fnmatchcase(op.name, self.name)


@dataclass(frozen=True)
class Rule:
    """Changes to the scheme's settings for the ops that match; `changes` are (role, key, value)."""

    match: Match
    changes: tuple[tuple[str, str, Any], ...]


@dataclass(frozen=True)
class Scheme:
    """Settings for every op, rules for some (later ones win), and whether a model's own inputs and outputs change.

    `summary` says what it is, `when` what it is good for.
    """

    name: str
    summary: str
    when: str
    activations: Activations
    weights: Weights
    interface: str = "keep"
    rules: tuple[Rule, ...] = field(default=())

    def layer(self, op: Op) -> Layer:
        """What the scheme says of `op`."""
        layer = Layer(self.activations, self.weights)
        for rule in self.rules:
            if rule.match.fits(op):
                for role, key, value in rule.changes:
                    layer = replace(layer, **{role: replace(getattr(layer, role), **{key: value})})
        _check_layer(layer, f"{self.name}: for {op.mnemonic} {op.name!r} ")
        return layer


ROLES: Mapping[str, type] = {"activations": Activations, "weights": Weights}
CHOICES: Mapping[tuple[str, str], Sequence[object]] = {
    ("activations", "dtype"): ACTIVATION_DTYPES,
    ("activations", "symmetric"): (True, False),
    ("weights", "dtype"): WEIGHT_DTYPES,
    ("weights", "symmetric"): (True, False),
    ("weights", "granularity"): GRANULARITIES,
}


@cache
def shipped() -> tuple[str, ...]:
    """Names of the schemes that come with tflite2q, in alphabetical order."""
    folder = resources.files("tflite2q.schemes")
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def find(scheme: str | os.PathLike[str] | Scheme) -> Scheme:
    """A scheme by name, by the path of a .toml file, or itself.  Raises SchemeError."""
    if isinstance(scheme, Scheme):
        return scheme
    text = os.fspath(scheme)
    if text in shipped():
        return parse(resources.files("tflite2q.schemes").joinpath(f"{text}.toml").read_text("utf-8"), text)
    path = Path(text)
    if path.suffix != ".toml":
        raise SchemeError(
            f"scheme {text!r} does not exist{_nearest(text, shipped())}; there are {', '.join(shipped())}"
        )
    try:
        return parse(path.read_text("utf-8"), path.stem, where=text)
    except OSError as error:
        raise SchemeError(f"{text}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SchemeError(f"{text}: is not a text file ({error.reason})") from error


def parse(text: str, name: str, where: str | None = None) -> Scheme:
    """A scheme of the text of a TOML file.  Raises SchemeError naming `where` (or `name`) and the key."""
    try:
        return _scheme(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise SchemeError(f"{where or name}: is not valid TOML: {error}") from error
    except SchemeError as error:
        raise SchemeError(f"{where or name}: {error}") from error


def _scheme(table: dict[str, Any], name: str) -> Scheme:
    allowed = ("summary", "when", "interface", "activations", "weights", "rules")
    _check_keys(table, allowed, "")
    for key in ("activations", "weights"):
        if key not in table:
            raise SchemeError(f"[{key}] is missing")
    interface = table.get("interface", "keep")
    if interface not in INTERFACES:
        raise SchemeError(f"interface = {interface!r} is none of {', '.join(INTERFACES)}")
    rules = table.get("rules", [])
    if not isinstance(rules, list):
        raise SchemeError("rules must be a list of tables: [[rules]]")
    scheme = Scheme(
        name=name,
        summary=str(table.get("summary", "")),
        when=str(table.get("when", "")),
        activations=Activations(**_settings("activations", table["activations"], "activations.")),
        weights=Weights(**_settings("weights", table["weights"], "weights.")),
        interface=interface,
        rules=tuple(_rule(rule, f"rules[{index}]") for index, rule in enumerate(rules)),
    )
    _check_layer(Layer(scheme.activations, scheme.weights), "")
    return scheme


def _rule(table: dict[str, Any], where: str) -> Rule:
    _check_keys(table, ("match", *ROLES), f"{where}.")
    match = table.get("match", {})
    _check_keys(match, [f.name for f in fields(Match)], f"{where}.match.")
    pattern = match.get("op", "*")
    kinds = [mnemonic.removeprefix("q.") for mnemonic in BY_MNEMONIC]
    if not any(fnmatchcase(kind, pattern) for kind in kinds):
        raise SchemeError(f"{where}.match.op = {pattern!r} fits no op{_nearest(pattern, kinds)}")
    changes = [
        (role, key, value)
        for role in ROLES
        if role in table
        for key, value in _settings(role, table[role], f"{where}.{role}.", partial=True).items()
    ]
    if not changes:
        raise SchemeError(f"{where} changes nothing; give it {' or '.join(ROLES)}")
    return Rule(Match(**match), tuple(changes))


def _settings(role: str, table: Any, where: str, partial: bool = False) -> dict[str, Any]:
    keys = [f.name for f in fields(ROLES[role])]
    _check_keys(table, keys, where)
    for key, value in table.items():
        choices = CHOICES[role, key]
        if value not in choices or type(value) is not type(choices[0]):
            raise SchemeError(f"{where}{key} = {value!r} is none of {', '.join(map(str, choices))}")
    if not partial and "dtype" not in table:
        raise SchemeError(f"{where}dtype is missing")
    return dict(table)


def _check_layer(layer: Layer, where: str) -> None:
    weights, activations = layer.weights, layer.activations
    if weights.dtype == "uint8" and (weights.symmetric or weights.granularity == "per-channel"):
        raise SchemeError(f"{where}weights of uint8 must have symmetric = false and granularity = 'per-tensor'")
    if activations.dtype == "uint8" and weights.dtype != "uint8":
        raise SchemeError(f"{where}uint8 activations need uint8 weights: TFLite has no other uint8 kernels")
    if activations.dtype == "int8" and (weights.dtype != "int8" or not weights.symmetric):
        raise SchemeError(f"{where}int8 activations need symmetric int8 weights: TFLite has no other int8 kernels")


def _check_keys(table: Any, allowed: Sequence[str], where: str) -> None:
    if not isinstance(table, dict):
        raise SchemeError(f"{where.rstrip('.')} must be a table")
    for key in table:
        if key not in allowed:
            raise SchemeError(f"key {where}{key} is unknown{_nearest(key, allowed)}; there are {', '.join(allowed)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
