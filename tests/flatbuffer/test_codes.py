"""Operator codes: a file says them in an old field of one byte, in a newer one of four, or in both."""

from __future__ import annotations

import numpy as np
import pytest
import tflite
from cases import cases
from draw import Case
from judge import judge

from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import OperatorCode
from tflite2q.flatbuffer.writer import write

FIELDS = {
    "both": lambda number: {"DeprecatedBuiltinCode": min(number, 127), "BuiltinCode": number},
    "old": lambda number: {"DeprecatedBuiltinCode": number},
    "new": lambda number: {"BuiltinCode": number},
    "new, old 0": lambda number: {"DeprecatedBuiltinCode": 0, "BuiltinCode": number},
    "new, old 127": lambda number: {"DeprecatedBuiltinCode": 127, "BuiltinCode": number},
}


def stated(case: Case, way: str) -> bytes:
    """The case's file with its operator codes stated by other fields."""

    class Encoder(schema._Encoder):
        def code(self, code: OperatorCode) -> int:
            number = schema.enum_values("BuiltinOperator")[code.name]
            self.builder.ForceDefaults("0" in way)
            made = self.table("OperatorCode", Version=code.version, **FIELDS[way](number))
            self.builder.ForceDefaults(False)
            return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_Encoder", Encoder)
        return write(case.graph)


@pytest.mark.parametrize(
    ("family", "ways"),
    [
        ("MUL-int8", ("both", "old", "new", "new, old 0")),
        ("STRIDED_SLICE-int8", ("both", "old", "new", "new, old 0")),
        ("BROADCAST_TO-int8", ("both", "new", "new, old 0", "new, old 127")),  # its number is 130
    ],
)
def test_the_larger_field_is_the_code(family: str, ways: tuple[str, ...]) -> None:
    case = next(cases(family, 1))
    ours = reference.run(case.graph, *case.inputs)
    files = [stated(case, way) for way in ways]
    for way, data, theirs in zip(ways, files, judge([(data, case.inputs) for data in files]), strict=True):
        assert read(data).ops == case.graph.ops, way
        assert not isinstance(theirs, str), (way, theirs)
        np.testing.assert_array_equal(theirs[0], ours[0], way)


def test_custom_operators_are_told_by_either_field() -> None:
    case = next(cases("TFLite_Detection_PostProcess-uint8", 1))
    for way in ("both", "old", "new"):

        class Encoder(schema._Encoder):
            def code(self, code: OperatorCode, way: str = way) -> int:
                name = self.string(code.name)
                return self.table("OperatorCode", CustomCode=name, Version=code.version, **FIELDS[way](32))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schema, "_Encoder", Encoder)
            data = write(case.graph)
        assert read(data).ops == case.graph.ops


@pytest.mark.parametrize(("family", "number"), [("MUL-int8", 18), ("ADD-int8", 0), ("BROADCAST_TO-int8", 130)])
def test_both_fields_are_written(family: str, number: int) -> None:
    data = write(next(cases(family, 1)).graph)
    code = tflite.Model.GetRootAs(data, 0).OperatorCodes(0)
    assert schema._field(code, schema.DEPRECATED_BUILTIN_CODE, "Int8") == min(number, 127)
    assert schema._field(code, schema.BUILTIN_CODE, "Int32") == number
