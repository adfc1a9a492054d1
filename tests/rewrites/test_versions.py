"""Operator versions follow the types of a converted model, as TFLite's own converter states them.

LiteRT's kernels hardly look at the version, other runtimes refuse or misread what a version does not promise.  The
numbers are those of `GetBuiltinOperatorVersion` in TensorFlow's lite/tools/versioning/op_version.cc.
"""

from __future__ import annotations

import numpy as np
import pytest
import tflite
from judge import judge
from networks import everything

import tflite2q
from tflite2q.dialect.text import parse_graph
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


@pytest.mark.parametrize("ones", [0, 4])
@pytest.mark.parametrize(("source", "scheme"), [("int8", "float32"), ("int16", "int8"), ("int16", "float32")])
def test_a_version_goes_with_the_type_it_stood_for(source: str, scheme: str, ones: int) -> None:
    """LiteRT's reference kernels have no TILE of version 3, which TensorFlow writes for codes.

    Keras' UpSampling2D has six axes, which other ops have versions for.
    """
    axes, times = "1, " * ones, ", ".join(["1"] * (ones + 1))
    graph = parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{
            %x : {source}[{axes}1, 2] <0.5:0>
            %times : int32[{ones + 2}] = [{times}, 3]
            %y : {source}[{axes}1, 6] <0.5:0>
          }}
          ops {{ %y = q.tile(%x, %times) version 3 }}
        }}"""
    )
    new = tflite2q.convert(graph, scheme, "scheme").graph
    assert versions(writer.write(new)) == {"TILE": 1}
    given = np.array([1, 2], new["x"].type.dtype).reshape(new["x"].type.shape)
    (told,) = judge([(writer.write(new), [given])])
    assert not isinstance(told, str), told
    np.testing.assert_array_equal(told[0], np.tile(given, 3))


@pytest.mark.parametrize("scheme", ["float32", "asymmetric-uint8"])
def test_so_does_that_of_an_op_with_options(scheme: str) -> None:
    """They have no DEPTH_TO_SPACE of version 2 either, which TensorFlow writes for int8."""
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values { %x : int8[1, 1, 1, 4] <0.5:0> %y : int8[1, 2, 2, 1] <0.5:0> }
          ops { %y = q.space_depth(%x) {to_depth = false, block = 2} version 2 }
        }"""
    )
    new = tflite2q.convert(graph, scheme, "scheme").graph
    assert versions(writer.write(new))["DEPTH_TO_SPACE"] == 1
    given = np.array([1, 2, 3, 4], new["x"].type.dtype).reshape(1, 1, 1, 4)
    (told,) = judge([(writer.write(new), [given])])
    assert not isinstance(told, str), told
    assert told[0].ravel().tolist() == [1, 2, 3, 4]


def test_a_version_that_says_more_stays() -> None:
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values { %x : int8[1, 1, 1, 1, 2] <0.5:0> %y : int8[1, 1, 1, 1, 2] <0.5:0> }
          ops { %y = q.maximum(%x, %x) version 3 }
        }"""
    )
    assert versions(writer.write(tflite2q.convert(graph, "float32", "scheme").graph)) == {"MAXIMUM": 3}


@pytest.mark.parametrize("scheme", VERSIONS)
def test_versions_of_a_converted_file(scheme: str) -> None:
    before = versions(writer.write(everything(3)))
    assert set(before.values()) == {1}
    after = versions(writer.write(tflite2q.convert(everything(3), scheme, "scheme").graph))
    assert {name: after[name] for name in VERSIONS[scheme]} == VERSIONS[scheme]
