"""Operator versions follow the types of a converted model, as TFLite's own converter states them.

LiteRT's kernels hardly look at the version, other runtimes refuse or misread what a version does not promise.  The
numbers are those of `GetBuiltinOperatorVersion` in TensorFlow's lite/tools/versioning/op_version.cc.
"""

from __future__ import annotations

import pytest
import tflite
from networks import everything

import tflite2q
from tflite2q.flatbuffer import writer

VERSIONS = {
    "int8": {
        "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "SOFTMAX": 2, "AVERAGE_POOL_2D": 2,
        "MAX_POOL_2D": 2, "CONCATENATION": 2, "PAD": 2, "RESHAPE": 1,
    },
    "int16x8": {
        "CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7, "AVERAGE_POOL_2D": 3,
        "MAX_POOL_2D": 3, "CONCATENATION": 3, "RESHAPE": 1,
    },
}  # fmt: skip


def versions(content: bytes) -> dict[str, int]:
    """By operator, as the `tflite` package reads the file."""
    names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
    model = tflite.Model.GetRootAs(content)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return {names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]: code.Version() for code in codes}


@pytest.mark.parametrize("scheme", VERSIONS)
def test_versions_of_a_converted_file(scheme: str) -> None:
    before = versions(writer.write(everything(3)))
    assert set(before.values()) == {1}
    after = versions(writer.write(tflite2q.convert(everything(3), scheme, "scheme").graph))
    assert {name: after[name] for name in VERSIONS[scheme]} == VERSIONS[scheme]
