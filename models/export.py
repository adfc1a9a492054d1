"""A trained and quantized network as a tflite2q graph of uint8 operators."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nn import Layer, Parameters
from numpy.typing import NDArray
from quantize import quantized_bias, quantized_weights

from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.ops.pool import AveragePool2D
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value

SOFTMAX_OUTPUT = Quantization.per_tensor(1 / 256, 0)
"""What TFLite's uint8 softmax kernel prescribes."""


def to_graph(
    layers: Sequence[Layer],
    parameters: Parameters,
    grids: Mapping[str, Quantization],
    shapes: Mapping[str, tuple[int, ...]],
    name: str,
    description: str,
) -> Graph:
    """Return the network followed by a softmax, as a verified graph from the value `input` to the value `softmax`.

    `grids` and `shapes` (batch size included) are those of `input` and of every layer's output, by name.
    """
    values = [Value("input", TensorType(shapes["input"], "uint8", grids["input"]))]
    ops = []
    for layer in layers:
        constants = _constants(layer, parameters, grids[layer.inputs[0]], shapes[layer.name])
        result = Value(layer.name, TensorType(shapes[layer.name], "uint8", grids[layer.name]))
        values += [*constants, result]
        ops.append(_op(layer, [constant.name for constant in constants], result))
    logits = values[-1]
    values.append(Value("softmax", logits.type.with_(quantization=SOFTMAX_OUTPUT)))
    ops.append(Softmax(inputs=(logits.name,), outputs=("softmax",)))
    return verify(Graph(("input",), ("softmax",), tuple(values), tuple(ops), name=name, description=description))


def _constants(layer: Layer, parameters: Parameters, of_input: Quantization, shape: tuple[int, ...]) -> list[Value]:
    """Return the constant operands of a layer, which follow its inputs."""
    if layer.kind == "flatten":
        return [_constant(f"{layer.name}/shape", np.array(shape, np.int32))]
    if layer.name not in parameters:
        return []
    weights, weight_grid = quantized_weights(parameters[layer.name][0])
    bias, bias_grid = quantized_bias(parameters[layer.name][1], of_input, weight_grid)
    return [
        _constant(f"{layer.name}/weights", weights, weight_grid),
        _constant(f"{layer.name}/bias", bias, bias_grid),
    ]


def _constant(name: str, array: NDArray[Any], quantization: Quantization | None = None) -> Value:
    return Value(name, TensorType(array.shape, array.dtype.name, quantization), Constant(array))


def _op(layer: Layer, constants: Sequence[str], result: Value) -> Op:
    names: dict[str, Any] = {"inputs": (*layer.inputs, *constants), "outputs": (result.name,)}
    strides: dict[str, Any] = {"stride_h": layer.stride, "stride_w": layer.stride}
    activation = layer.activation.upper()
    match layer.kind:
        case "conv":
            return Conv2D(**names, **strides, activation=activation)
        case "depthwise":
            return DepthwiseConv2D(**names, **strides, activation=activation)
        case "dense":
            return Dense(**names, activation=activation)
        case "average_pool":
            return AveragePool2D(**names, **strides, filter_h=layer.kernel, filter_w=layer.kernel)
        case "flatten":
            return Reshape(**names, new_shape=result.type.shape)
        case "add":
            return Add(**names, activation=activation)
