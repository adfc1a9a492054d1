"""16-bit scales that LiteRT takes for powers of two, such as 1/32767, choose the kernels that shift codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from draw import Array, Case, Draw
from judge import judge
from recurrent_cases import FAMILIES

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.evaluation import calibration
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

pytest.importorskip("ai_edge_litert")

UNIT = 1 / 32767  # from -1 to 1: a logarithm that is 0.00004 from that of 2 ** -15
NEAR, FAR = 2.0**0.0009, 2.0**0.0011  # 0.001 is the border


def codes(size: int, scale: float) -> TensorType:
    return TensorType((1, size), "int16", Quantization.per_tensor(float(np.float32(scale)), 0))


def same_as_litert(cases: Sequence[tuple[Graph, Sequence[Array]]]) -> None:
    answers = judge([(write(graph), inputs) for graph, inputs in cases])
    for (graph, inputs), answer in zip(cases, answers, strict=True):
        assert not isinstance(answer, str), answer
        for got, want in zip(reference.run(graph, *inputs), answer, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=str(graph.ops[0]))


SUMS = [
    (UNIT, UNIT, UNIT),
    (UNIT, 2.0**-15, 2.0**-15),
    (UNIT, 4 * UNIT, 4 * UNIT),
    (8 * UNIT, 2.0**-15, 8 * UNIT),
    (2.0**-15, NEAR * 2.0**-13, 2.0**-13),
    (2.0**-15, 2.0**-13 / NEAR, 2.0**-13),
    (2.0**-15, FAR * 2.0**-13, 2.0**-13),
    (2.0**-30, 2.0**-15, 2.0**-15),
    (2.0**-15, 2.0**-31, 2.0**-15),  # shifted by the width of a code and more
    (2.0**-32, 2.0**-13, 2.0**-13),
]
# As near to the border as float32 can say; the logarithm of NumPy's float32 is on the other side of it.
BORDERS = ("0x1.002d74p-24", "0x1.ffa528p-25", "0x1.002d6cp-22", "0x1.ffa518p-23", "0x1.002d74p-19", "0x1.ffa528p-20")
SUMS += [(float.fromhex(border), 2.0**-15, 2.0**-15) for border in BORDERS]


def test_sums() -> None:
    made = []
    for index, scales in enumerate(SUMS):
        for subtract in (False, True):
            d = Draw(np.random.default_rng(index))
            a, b, y = (codes(500, scale) for scale in scales)
            case = d.case(ops.Add, (d.input(a), d.input(b)), y, subtract=subtract, pot_scale_int16=True)
            made.append((case.graph, case.inputs))
    same_as_litert(made)


def test_tables() -> None:
    made = []
    every = np.arange(-32768, 32768, dtype=np.int16)[None]
    for function in ("TANH", "LOGISTIC"):
        for power in (-13, -12, -11, -10):
            for scale in (8 * UNIT * 2.0 ** (power + 12), NEAR * 2.0**power, 2.0**power / NEAR, FAR * 2.0**power):
                d = Draw(np.random.default_rng(0))
                x = d.input(codes(every.size, scale), every)
                case = d.case(ops.Lookup, (x,), codes(every.size, 2.0**-15), function=function)
                made.append((case.graph, case.inputs))
    same_as_litert(made)


def nearly(case: Case) -> Graph:
    """The LSTM with a cell whose scale is nearly the power of two that it was."""
    values = (
        value.with_(type=codes(1, value.type.scale * NEAR).with_(shape=value.type.shape))
        if value.variable and value.type.dtype == "int16"
        else value
        for value in case.graph.values
    )
    return case.graph.with_(values=tuple(values))


def test_cells() -> None:
    family = FAMILIES["UNIDIRECTIONAL_SEQUENCE_LSTM-options"]
    drawn = [family(Draw(np.random.default_rng(seed))) for seed in range(4)]
    same_as_litert([(nearly(case), case.inputs) for case in drawn])


def real_sum(offset: float) -> tuple[Graph, list[Array]]:
    """x + offset of real numbers from -2 to 2, and one sample."""
    d = Draw(np.random.default_rng(0))
    x = np.linspace(-2, 2, 64, dtype=np.float32)[None]
    operands = (d.input(TensorType(x.shape, "float32"), x), d.constant(np.full((1, 1), offset, np.float32)))
    case = d.case(ops.Add, operands, TensorType((), "float32"))
    return case.graph, [x]


@pytest.mark.parametrize("offset", [1.0, 2.0, 1 / 64])
def test_new_sums_are_in_files_that_litert_runs(offset: float) -> None:
    """Scales of 2/32767 and 1/32767: the kernel for powers of two refuses an operand coarser than the result."""
    graph, inputs = real_sum(offset)
    bounded = graph.with_(ops=tuple(op.with_(activation="RELU_N1_TO_1") for op in graph.ops))
    for original in (graph, bounded):
        made = read(write(calibration.convert(original, scheme.find("int16x8", "keep"), [inputs]).graph))
        same_as_litert([(made, inputs)])
        (got,), (want,) = reference.run(made, *inputs), reference.run(original, *inputs)
        np.testing.assert_allclose(got, want, atol=2e-4)
