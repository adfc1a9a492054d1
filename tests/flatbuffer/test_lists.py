"""Items that a loop sets in a list, as TensorFlow's converter writes them: slices whose sizes depend on the item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from judge import judge

import tflite2q
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.errors import UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, OperatorRecord, SubgraphRecord, TensorRecord
from tflite2q.flatbuffer.writer import write

ITEMS, WIDTH = 5, 3
VARIABLES = ("VAR_HANDLE", "CALL_ONCE", "READ_VARIABLE", "ASSIGN_VARIABLE")
CODES = ("ADD", "RESHAPE", "CONCATENATION", "SLICE", "LESS", "WHILE", "MULTINOMIAL", *VARIABLES)
KIND: dict[str, dict[str, Any]] = {"float32": {}, "int8": {"scale": (0.5,), "zero_point": (3,)}}


class Body:
    """A subgraph under construction, whose constants are put into the buffers of the model."""

    def __init__(self, buffers: list[bytes]) -> None:
        self.buffers = buffers
        self.tensors: list[TensorRecord] = []
        self.operators: list[OperatorRecord] = []

    def tensor(self, dtype: str, *sizes: int, data: Sequence[int] | None = None) -> int:
        """A new tensor; sizes of -1 are open."""
        if data is not None:
            self.buffers.append(np.array(data, dtype).tobytes())
        buffer = 0 if data is None else len(self.buffers) - 1
        shape, open_ = tuple(abs(size) for size in sizes), sizes if -1 in sizes else None
        kind = KIND.get(dtype, {})
        self.tensors.append(TensorRecord(f"t{len(self.tensors)}", shape, dtype, buffer, shape_signature=open_, **kind))
        return len(self.tensors) - 1

    def numbers(self, *entries: int) -> int:
        return self.tensor("int32", len(entries), data=entries)

    def op(self, name: str, inputs: Sequence[int], output: int | None, **options: Any) -> int:
        table = name.title().replace("_", "") + "Options"
        code, outputs = CODES.index(name), () if output is None else (output,)
        self.operators.append(OperatorRecord(code, tuple(inputs), outputs, options_type=table, options=options))
        return -1 if output is None else output

    def handle(self) -> int:
        """The handle of the one variable."""
        self.tensors.append(TensorRecord("handle", (), "resource", 0))
        return self.op("VAR_HANDLE", (), len(self.tensors) - 1, Container=b"", SharedName=b"list")

    def record(self, name: str, inputs: Sequence[int], outputs: Sequence[int]) -> SubgraphRecord:
        return SubgraphRecord(name, tuple(self.tensors), tuple(inputs), tuple(outputs), tuple(self.operators))

    def kept(self, dtype: str) -> list[int]:
        """What the loop carries: a count, the list, an item."""
        return [self.tensor("int32"), self.tensor(dtype, ITEMS, 1, WIDTH), self.tensor(dtype, 1, WIDTH)]


def loop(dtype: str, step: int = 1, behind: int = 1) -> ModelRecord:
    """count, list, item -> the list with the item, doubled each time, from `count` on.

    The part of the list behind the item begins at count + `behind`; the count grows by `step`.
    """
    buffers = [b""]
    main, test, body = (Body(buffers) for _ in range(3))
    given = main.kept(dtype)
    results = main.kept(dtype)
    options = {"CondSubgraphIndex": 1, "BodySubgraphIndex": 2}
    main.operators.append(
        OperatorRecord(CODES.index("WHILE"), tuple(given), tuple(results), options_type="WhileOptions", options=options)
    )
    tested = test.kept(dtype)
    go = test.op("LESS", (tested[0], test.tensor("int32", data=[ITEMS])), test.tensor("bool"))
    count, kept, item = body.kept(dtype)
    new = body.op("ADD", (count, body.tensor("int32", data=[step])), body.tensor("int32"))
    next_ = new
    if behind != step:
        next_ = body.op("ADD", (count, body.tensor("int32", data=[behind])), body.tensor("int32"))
    made = body.op(
        "CONCATENATION", set_item(body, dtype, kept, count, next_, item), body.tensor(dtype, ITEMS, 1, WIDTH)
    )
    twice = body.op("ADD", (item, item), body.tensor(dtype, 1, WIDTH))
    version = {"ADD": 2, "SLICE": 2, "CONCATENATION": 2} if dtype == "int8" else {}
    return ModelRecord(
        description="",
        codes=tuple(OperatorCode(name, version.get(name, 1)) for name in CODES),
        buffers=tuple(buffers),
        subgraphs=(
            main.record("main", given, results),
            test.record("condition", tested, (go,)),
            body.record("body", (count, kept, item), (new, made, twice)),
        ),
    )


def set_item(
    body: Body, dtype: str, kept: int, count: int, next_: int, item: int, items: int = 1, width: int = WIDTH
) -> tuple[int, int, int]:
    """The parts of a new list: before `count`, the item, from `next_` on.  The file says that the item is one."""
    one, few, all_ = body.numbers(1), body.numbers(-1, -1), body.numbers(-1, -1, -1)
    number = body.op("RESHAPE", (count, one), body.tensor("int32", 1))
    size = body.op("CONCATENATION", (number, few), body.tensor("int32", 3))
    head = body.op("SLICE", (kept, body.numbers(0, 0, 0), size), body.tensor(dtype, -1, -1, -1))
    number = body.op("RESHAPE", (next_, one), body.tensor("int32", 1))
    begin = body.op("CONCATENATION", (number, body.numbers(0, 0)), body.tensor("int32", 3))
    tail = body.op("SLICE", (kept, begin, all_), body.tensor(dtype, -1, 1, WIDTH))
    raised = body.op("RESHAPE", (item, body.numbers(items, 1, width)), body.tensor(dtype, 1, 1, WIDTH))
    return head, raised, tail


def kept_list(items: int = 1, width: int = WIDTH, further: str = "") -> bytes:
    """count, item -> the list, which a variable keeps from run to run, with the item at count; and `further` of it."""
    buffers = [b""]
    main, once = Body(buffers), Body(buffers)
    initial = once.tensor("float32", ITEMS, 1, WIDTH, data=range(ITEMS * WIDTH))
    once.op("ASSIGN_VARIABLE", (once.handle(), initial), None)
    main.op("CALL_ONCE", (), None, InitSubgraphIndex=1)
    count, item = main.tensor("int32"), main.tensor("float32", items, width)
    handle = main.handle()
    kept = main.op("READ_VARIABLE", (handle,), main.tensor("float32", ITEMS, 1, WIDTH))
    next_ = main.op("ADD", (count, main.tensor("int32", data=[1])), main.tensor("int32"))
    parts = set_item(main, "float32", kept, count, next_, item, items, width)
    made = main.op("CONCATENATION", parts, main.tensor("float32", ITEMS, 1, WIDTH))
    main.op("ASSIGN_VARIABLE", (handle, made), None)
    if further:
        main.operators.append(OperatorRecord(CODES.index(further), (made,), (main.tensor("float32", ITEMS),)))
    codes = tuple(OperatorCode(name) for name in CODES)
    subgraphs = (main.record("main", (count, item), (made,)), once.record("once", (), ()))
    return schema.encode(ModelRecord(description="", codes=codes, buffers=tuple(buffers), subgraphs=subgraphs))


def data(dtype: str, count: int) -> list[npt.NDArray[Any]]:
    rng = np.random.default_rng(count)
    shapes = ((ITEMS, 1, WIDTH), (1, WIDTH))
    arrays = [rng.integers(-50, 50, shape).astype(dtype) for shape in shapes]
    return [np.array(count, np.int32), *arrays]


@pytest.mark.parametrize("dtype", list(KIND))
@pytest.mark.parametrize("step", [1, 2])
def test_a_loop_that_sets_items(dtype: str, step: int) -> None:
    """As in LiteRT, of the file and of what is written for it, from each item on."""
    made = schema.encode(loop(dtype, step))
    graph = read(made)
    (op,) = graph.ops
    assert [inner.mnemonic for inner in op.regions[1].ops].count("q.dynamic_update_slice") == 1
    assert not any(inner.mnemonic == "q.slice" for inner in op.regions[1].ops)
    written = write(graph)
    assert read(written) == graph
    for count in range(ITEMS + 1):
        given = data(dtype, count)
        ours = reference.run(graph, *given)
        for told in judge([(made, given), (written, given)]):
            assert not isinstance(told, str), told
            for a, b in zip(ours, told, strict=True):
                np.testing.assert_array_equal(a, b)
    given = data(dtype, 1)
    for a, b in zip(reference.run(graph, *given), tflite2q.compile(graph).run(*given), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_parts_of_a_list_stay_refused() -> None:
    """The part behind the item begins two further on: the list gets shorter, which no type can say."""
    with pytest.raises(UnsupportedError, match="known only at run time"):
        read(schema.encode(loop("float32", behind=2)))


def test_a_list_that_a_variable_keeps() -> None:
    """The op that sets the variable has no results, and is no less needed."""
    from ai_edge_litert.interpreter import Interpreter

    made = kept_list()
    graph = read(made)
    assert [op.mnemonic for op in graph.ops][-2:] == ["q.dynamic_update_slice", "q.assign_variable"]
    lite, ours = Interpreter(model_content=made), reference.Stream(graph)
    lite.allocate_tensors()
    count, item = (detail["index"] for detail in lite.get_input_details())
    for step in (0, 2, 4):
        given = np.array(step, np.int32), np.full((1, WIDTH), 100 + step, np.float32)
        lite.set_tensor(count, given[0])
        lite.set_tensor(item, given[1])
        lite.invoke()
        (got,) = ours.step(*given)
        np.testing.assert_array_equal(got, lite.get_tensor(lite.get_output_details()[0]["index"]))


@pytest.mark.parametrize(("items", "width"), [(2, WIDTH), (1, WIDTH - 1)])
def test_items_that_are_not_one_of_the_list(items: int, width: int) -> None:
    """The file states the shape of one item, but two are given, which make the list longer, or a part, which LiteRT
    does not join."""
    with pytest.raises(UnsupportedError, match="known only at run time"):
        read(kept_list(items, width))


def test_a_list_beside_an_operator_that_is_carried() -> None:
    """The parts of the list are carried too; what is written is the same model."""
    made = kept_list(further="MULTINOMIAL")
    with pytest.raises(UnsupportedError, match="MULTINOMIAL"):
        read(made)
    graph = read(made, allow_unsupported=True)
    assert [op.code for op in graph.ops if isinstance(op, Opaque)] == ["SLICE", "SLICE", "CONCATENATION", "MULTINOMIAL"]
    again = schema.decode(write(graph))
    before = schema.decode(made)
    for a, b in zip(before.subgraphs[0].operators, again.subgraphs[0].operators, strict=True):
        assert before.codes[a.code] == again.codes[b.code]
