"""What damaged models showed, each as small as it can be told."""

from __future__ import annotations

import warnings
from dataclasses import replace

import handmade
import numpy as np
import pytest
from cases import cases
from judge import judge
from patience import soon

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops import Dequantize
from tflite2q.dialect.ops.detection import DetectionPostprocess
from tflite2q.dialect.ops.eltwise import Add, Requantize
from tflite2q.dialect.ops.hlo import HloSelect
from tflite2q.dialect.ops.hlo_movement import HloIota
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.ops.movement import Reverse
from tflite2q.dialect.ops.plain import ShapeOf
from tflite2q.dialect.ops.pool import AveragePool2D
from tflite2q.dialect.ops.shape import Concat, Pad
from tflite2q.dialect.ops.slicing import StridedSlice
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import OperatorCode, OperatorRecord, TensorRecord
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme


@pytest.mark.parametrize("shared", [0, 1, 3, 4])  # an input, a constant, a result, an output
@pytest.mark.parametrize("allow", [False, True])
def test_intermediates_that_are_used_elsewhere(shared: int, allow: bool) -> None:
    with pytest.raises(ModelError, match="among its intermediates, which is used elsewhere"):
        read(schema.encode(handmade.with_operator(0, intermediates=(shared,))), allow)


def test_intermediates_of_a_graph_that_are_values_of_it() -> None:
    x = Value("x", TensorType((1,), "float32"))
    op = Lookup(inputs=("x",), outputs=("y",), function="TANH", intermediates=(x,))
    with pytest.raises(InvalidGraph, match="among its intermediates"):
        verify(Graph(("x",), ("y",), (x, Value("y", x.type)), (op,)))


@pytest.mark.parametrize("table", ["LeakyReluOptions", "Pool2DOptions", "AddOptions"])
def test_options_of_another_operator(table: str) -> None:
    changed = handmade.with_operator(0, options_type=table, options={})
    with pytest.raises(UnsupportedError, match=f"has {table} instead of Conv2DOptions"):
        read(schema.encode(changed))


def test_options_of_an_operator_without_any() -> None:
    graph = next(cases("SQRT-float32", 1)).graph
    model = schema.decode(write(graph))
    op = replace(model.subgraphs[0].operators[0], options_type="LeakyReluOptions", options={"Alpha": 0.25})
    changed = replace(model, subgraphs=(replace(model.subgraphs[0], operators=(op,)),))
    with pytest.raises(UnsupportedError, match="has LeakyReluOptions instead of no options"):
        read(schema.encode(changed))


@pytest.mark.parametrize("family", ["CONV_2D-uint8", "FULLY_CONNECTED-int16", "EMBEDDING_LOOKUP-int4-tensor"])
def test_buffers_that_are_longer_than_their_tensors(family: str) -> None:
    made = list(cases(family, 4, seed=1))
    records = [schema.decode(write(case.graph)) for case in made]
    padded = [replace(r, buffers=tuple(bytes(data) + b"\7\7\7" * bool(data) for data in r.buffers)) for r in records]
    files = [schema.encode(record) for record in padded]
    told = judge([(file, case.inputs) for file, case in zip(files, made, strict=True)])
    for case, file, expected in zip(made, files, told, strict=True):
        assert not isinstance(expected, str), expected
        graph = read(file)
        assert graph == read(write(graph))
        for got, want in zip(reference.run(graph, *case.inputs), expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("scale", [0.0, -0.5, float("inf"), float("nan")])
@pytest.mark.parametrize("family", ["CONV_2D-int8", "DEPTHWISE_CONV_2D-int8", "FULLY_CONNECTED-int8", "CONV_2D-int16"])
def test_scales_of_biases_that_say_nothing(family: str, scale: float) -> None:
    made = [case for case in cases(family, 4, seed=1) if case.graph.ops[0].inputs[2]]
    files = []
    for case in made:
        record = schema.decode(write(case.graph))
        (graph,) = record.subgraphs
        bias = graph.operators[0].inputs[2]
        tensors = [replace(t, scale=(scale,) * len(t.scale)) if i == bias else t for i, t in enumerate(graph.tensors)]
        files.append(schema.encode(replace(record, subgraphs=(replace(graph, tensors=tuple(tensors)),))))
    told = judge([(file, case.inputs) for file, case in zip(files, made, strict=True)])
    assert not all(isinstance(answer, str) for answer in told) or not np.isfinite(scale)
    for case, file, expected in zip(made, files, told, strict=True):
        graph = read(file)
        if not isinstance(expected, str):
            np.testing.assert_array_equal(reference.run(graph, *case.inputs)[0], expected[0])
        new = rewrites.convert(graph, scheme.find("symmetric-int8")).graph
        given = [x.astype(new[name].type.dtype) for x, name in zip(case.inputs, new.inputs, strict=True)]
        (again,) = judge([(write(new), given)])
        assert not isinstance(again, str), again
        np.testing.assert_array_equal(reference.run(new, *given)[0], again[0])


@pytest.mark.parametrize("chosen", ["inputs", "outputs"])
@pytest.mark.parametrize("to", ["int16x8", "float32", "symmetric-uint8"])
def test_variables_that_each_run_gives_anew(chosen: str, to: str) -> None:
    """A tensor that the file calls a variable, but which is given or computed before it is read, keeps nothing."""
    case = next(cases("ADD-int8", 1, seed=1))
    record = schema.decode(write(case.graph))
    (graph,) = record.subgraphs
    places = getattr(graph, chosen)
    tensors = tuple(replace(t, variable=i in places) for i, t in enumerate(graph.tensors))
    file = schema.encode(replace(record, subgraphs=(replace(graph, tensors=tensors),)))
    (told,) = judge([(file, case.inputs)])
    read_graph = read(file)
    np.testing.assert_array_equal(reference.run(read_graph, *case.inputs)[0], told[0])
    new = rewrites.convert(read_graph, scheme.find(to)).graph
    given = [
        x if new[n].type.dtype == "int8" else x.astype(new[n].type.dtype)
        for x, n in zip(case.inputs, new.inputs, strict=True)
    ]
    (again,) = judge([(write(new), given)])
    np.testing.assert_array_equal(reference.run(new, *given)[0], again[0])


def test_paddings_of_a_single_code() -> None:
    kind = TensorType((), "int8", Quantization.per_tensor(0.1, 0))
    none = Value("none", TensorType((0, 2), "int32"), Constant(np.zeros((0, 2), np.int32)))
    graph = verify(
        Graph(("x",), ("y",), (Value("x", kind), none, Value("y", kind)), (Pad(inputs=("x", "none"), outputs=("y",)),))
    )
    x = np.array(5, np.int8)
    (told,) = judge([(write(graph), (x,))])
    assert reference.run(graph, x) == told == [5]


def test_clamps_of_single_numbers() -> None:
    kind = TensorType((), "float32")
    op = HloSelect(inputs=("a", "x", "b"), outputs=("y",), clamp=True)
    graph = verify(Graph(("a", "x", "b"), ("y",), tuple(Value(n, kind) for n in "axby"), (op,)))
    assert reference.run(graph, *(np.float32(n) for n in (0, 7, 5)))[0] == 5


def test_the_last_axis_of_an_iota() -> None:
    graph = verify(
        Graph((), ("y",), (Value("y", TensorType((2, 3), "int32")),), (HloIota(inputs=(), outputs=("y",), axis=-1),))
    )
    assert reference.run(graph)[0].tolist() == [[0, 1, 2]] * 2


def test_an_operator_that_computes_an_input() -> None:
    # Its result is known before the model runs, so that the operator is gone before the graph is verified.
    model = handmade.with_subgraph(inputs=(0, 5), tensors=(*handmade.TENSORS, _indices()))
    codes = (*model.codes, OperatorCode("STABLEHLO_IOTA"))
    iota = OperatorRecord(2, (), (5,), options_type="StablehloIotaOptions", options={"IotaDimension": 0})
    graph = replace(model.subgraphs[0], operators=(*model.subgraphs[0].operators, iota))
    with pytest.raises(ModelError, match="operator 2 computes 'indices', an input"):
        read(schema.encode(replace(model, codes=codes, subgraphs=(graph,))))


def _indices() -> TensorRecord:
    return TensorRecord("indices", (4,), "int32", 0)


def test_a_stride_backwards_on_an_axis_that_is_dropped() -> None:
    values = (Value("x", TensorType((3, 2), "int8")), Value("y", TensorType((2,), "int8")))
    ranges = [Value(n, TensorType((2,), "int32"), Constant(np.array(a, np.int32))) for n, a in RANGES]
    op = StridedSlice(inputs=("x", "begin", "end", "strides"), outputs=("y",), shrink_axis_mask=1)
    with pytest.raises(InvalidGraph, match="stride -1 on an axis that is dropped"):
        verify(Graph(("x",), ("y",), (*values, *ranges), (op,)))


RANGES = (("begin", [1, 0]), ("end", [2, 2]), ("strides", [-1, 1]))


def test_a_window_far_larger_than_its_input() -> None:
    kind = TensorType((1, 7, 4, 3), "float32")
    op = AveragePool2D(
        inputs=("x",), outputs=("y",), padding="SAME", stride_h=1, stride_w=1, filter_h=32768, filter_w=3
    )
    with pytest.raises(UnsupportedError, match="a window of 32768 x 3 over"):
        verify(Graph(("x",), ("y",), (Value("x", kind), Value("y", kind)), (op,)))


def test_constants_beyond_the_range_of_real_numbers_make_no_warnings() -> None:
    x = Value("x", TensorType((2,), "int8", Quantization.per_tensor(3e38, 0)), Constant(np.array([7, 1], np.int8)))
    op = Dequantize(inputs=("x",), outputs=("y",))
    graph = verify(Graph((), ("y",), (x, Value("y", TensorType((2,), "float32"))), (op,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reference.run(graph)[0].tolist() == [float("inf"), float(np.float32(3e38))]


@pytest.mark.parametrize("shape", [(1, 25, 1, 2), (1, 25)])
def test_scores_of_another_rank(shape: tuple[int, ...]) -> None:
    kinds = {
        "boxes": (1, 25, 4),
        "scores": shape,
        "anchors": (25, 4),
        "a": (1, 3, 4),
        "b": (1, 3),
        "c": (1, 3),
        "n": (1,),
    }
    values = tuple(Value(name, TensorType(kind, "float32")) for name, kind in kinds.items())
    names = tuple(kinds)
    op = DetectionPostprocess(
        inputs=names[:3], outputs=names[3:], max_detections=3, max_classes_per_detection=1, num_classes=1
    )
    with pytest.raises(InvalidGraph, match=r"scores .* for 25 boxes and 1 classes"):
        verify(Graph(names[:3], names[3:], values, (op,)))


@pytest.mark.parametrize("name", ["int8", "int16x8", "float32", "power-of-two", "asymmetric-uint8"])
def test_the_largest_scales_make_no_warnings(name: str) -> None:
    x = Value("x", TensorType((3, 1), "uint8", Quantization.per_tensor(3e38, 0)))
    y = Value("y", TensorType((3, 1), "uint8", Quantization.per_tensor(0.25, 7)))
    op = Lookup(inputs=("x",), outputs=("y",), function="LEAKY_RELU", alpha=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            rewrites.convert(verify(Graph(("x",), ("y",), (x, y), (op,))), scheme.find(name))
        except Tflite2qError as error:
            assert "\n" not in str(error)


def test_a_softmax_of_no_elements() -> None:
    x = Value("x", TensorType((2, 0), "uint8", Quantization.per_tensor(0.5, 3)))
    y = Value("y", TensorType((2, 0), "uint8", Quantization.per_tensor(1 / 256, 0)))
    graph = verify(Graph(("x",), ("y",), (x, y), (Softmax(inputs=("x",), outputs=("y",), beta=1.0),)))
    [found] = reference.run(graph, np.zeros((2, 0), np.uint8))
    assert (found.shape, found.dtype) == ((2, 0), np.uint8)


def test_a_constant_of_the_largest_scale_becomes_real_without_warnings() -> None:
    kind = Quantization.per_tensor(3e38, 0)
    x = Value("x", TensorType((2,), "int8", kind))
    c = Value("c", TensorType((2,), "int8", kind), Constant(np.array([127, -1], np.int8)))
    y = Value("y", TensorType((2,), "int8", kind))
    graph = verify(Graph(("x",), ("y",), (x, c, y), (Add(inputs=("x", "c"), outputs=("y",)),)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rewrites.convert(graph, scheme.find("dynamic-range")).graph
    [constant] = [value for value in found.values if value.name.startswith("c")]
    assert np.isposinf(constant.data[0])


@pytest.mark.parametrize("index", [0, 1])  # the input, so that the bias is beyond float32; the weights
def test_weights_and_biases_beyond_the_range_of_real_numbers(index: int) -> None:
    graph = read(schema.encode(handmade.with_tensor(index, scale=(3e38,))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rewrites.convert(graph, scheme.find("float32")).graph
    assert any(v.constant is not None and np.isinf(v.data).any() for v in found.values)


def test_an_op_that_reads_a_value_many_times_takes_its_time_once() -> None:
    many = 8000
    kind = TensorType((1, 4), "uint8", Quantization.per_tensor(0.5, 3))
    values = (Value("x", kind), Value("y", kind.with_(shape=(many, 4))))
    graph = verify(Graph(("x",), ("y",), values, (Concat(inputs=("x",) * many, outputs=("y",), axis=0),)))
    with soon(20):  # where every operand was looked at for every operand it took a minute
        found = rewrites.convert(graph, scheme.find("int8")).graph
    assert max(len(op.inputs) for op in found.ops) == many


def test_line_ends_in_names_do_not_break_a_message() -> None:
    error = UnsupportedError("custom a\nb\r\nc").at("model.tflite")
    assert str(error) == "model.tflite: custom a\\nb\\r\\nc"


def test_of_long_names_a_message_has_the_ends() -> None:
    """Names are what a damaged file says: thousands of characters, with quotes among them."""
    name = "begin" + "\x00'" * 3000 + "the end"
    message = str(InvalidGraph(f"tensor 3 {name!r}: {'a' * 300!r} must be 'int8', or the model's type"))
    assert message.startswith("tensor 3 \"begin\\x00'")
    assert message.endswith(f"the end\": {'a' * 300!r} must be 'int8', or the model's type")
    assert len(message) < 1000


def checked(op: Op, x: TensorType, y: TensorType) -> Graph:
    return verify(Graph(("x",), ("y",), (Value("x", x), Value("y", y)), (op,)))


CODES = TensorType((256,), "int8", Quantization.per_tensor(0.5, 3))


@pytest.mark.parametrize("dtype", ["int4", "int64"])
def test_integers_of_four_and_of_64_bits_are_not_requantized(dtype: str) -> None:
    other = TensorType((256,), dtype, Quantization.per_tensor(0.5, 0))
    for x, y in ((CODES, other), (other, CODES)):
        with pytest.raises(UnsupportedError, match=f"is {dtype}; QUANTIZE neither reads nor gives that"):
            checked(Requantize(inputs=("x",), outputs=("y",)), x, y)


def test_integers_of_64_bits_are_not_dequantized() -> None:
    wide = TensorType((256,), "int64", Quantization.per_tensor(0.5, 0))
    with pytest.raises(UnsupportedError, match="is int64; DEQUANTIZE does not read that"):
        checked(Dequantize(inputs=("x",), outputs=("y",)), wide, TensorType((256,), "float32"))


@pytest.mark.parametrize(("dtype", "option"), [("uint8", "INT32"), ("int32", "INT64"), ("float32", "FLOAT32")])
def test_a_shape_has_the_type_that_its_options_say(dtype: str, option: str) -> None:
    with pytest.raises(InvalidGraph, match=r"a shape of float32|'y' is u?int.*, not int"):
        checked(ShapeOf(inputs=("x",), outputs=("y",), output_type=option), CODES, TensorType((1,), dtype))


def test_a_tensor_without_elements_can_be_too_large() -> None:
    with pytest.raises(InvalidGraph, match="is too large"):
        checked(HloIota(inputs=(), outputs=("y",)), CODES, TensorType((0, 1 << 30, 1 << 30), "float32"))


def test_new_axes_where_there_is_no_range() -> None:
    """LiteRT makes them of axes that are there."""
    y = CODES.with_(shape=(1, 256))
    bounds = [Value(name, TensorType((1,), "int32"), Constant(np.array([1], np.int32))) for name in "bes"]
    for mask, allowed in ((1, True), (3, False), (5, True)):
        op = StridedSlice(inputs=("x", *"bes"), outputs=("y",), new_axis_mask=mask)
        graph = Graph(("x",), ("y",), (Value("x", CODES), *bounds, Value("y", y)), (op,))
        if allowed:
            verify(graph)
            continue
        with pytest.raises(InvalidGraph, match="new_axis_mask 0b11 for 1 ranges"):
            verify(graph)


@pytest.mark.parametrize("family", ["UNIDIRECTIONAL_SEQUENCE_LSTM-float32", "BIDIRECTIONAL_SEQUENCE_LSTM-float32-int8"])
def test_an_lstm_of_real_numbers_needs_an_activation(family: str) -> None:
    """LiteRT's kernels then multiply by what lay in a buffer."""
    graph = next(cases(family, 1)).graph
    with pytest.raises(UnsupportedError, match="without an activation"):
        verify(graph.with_(ops=(graph.ops[0].with_(activation="NONE"),)))


@pytest.mark.parametrize("family", ["UNIDIRECTIONAL_SEQUENCE_LSTM-int8", "BIDIRECTIONAL_SEQUENCE_LSTM-float32"])
@pytest.mark.parametrize("clip", ["cell_clip", "projection_clip"])
def test_bounds_of_magnitudes_are_not_negative(family: str, clip: str) -> None:
    graph = next(cases(family, 1)).graph
    for bound in (-1.0, float("-inf")):
        with pytest.raises(InvalidGraph, match=f"clips at {bound:g}"):
            verify(graph.with_(ops=(graph.ops[0].with_(**{clip: bound}),)))


def test_axes_are_integers() -> None:
    axes = Value("a", TensorType((1,), "float32"), Constant(np.array([np.nan], np.float32)))
    op = Reverse(inputs=("x", "a"), outputs=("y",))
    graph = Graph(("x",), ("y",), (Value("x", CODES), axes, Value("y", CODES)), (op,))
    with pytest.raises(InvalidGraph, match="'a' is float32 where integers are needed"):
        reference.run(verify(graph), np.zeros(256, np.int8))


def test_a_real_number_pads_no_codes() -> None:
    """The converter leaves PADV2's number as it was where activations become int16; LiteRT refuses to run that."""
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values {
            %x : float32[1, 2] %amounts : int32[2, 2] = [0, 0, 1, 1] %number : float32[] = [-1.5] %y : float32[1, 4]
          }
          ops { %y = q.pad(%x, %amounts, %number) {kind = padv2} }
        }"""
    )
    record = schema.decode(write(graph))
    (main,) = record.subgraphs
    kind = {"dtype": "int16", "scale": (0.001,), "zero_point": (0,)}
    wide = tuple(replace(tensor, **kind) if tensor.name in ("x", "y") else tensor for tensor in main.tensors)
    data = schema.encode(replace(record, subgraphs=(replace(main, tensors=wide),)))
    assert isinstance(judge([(data, [np.array([[5, 6]], np.int16)])])[0], str)
    with pytest.raises(InvalidGraph, match="pads int16 with float32"):
        read(data)
