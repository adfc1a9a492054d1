"""What a conversion is compared with when its file is read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from control_cases import COUNT, TRUTH, Part
from draw import Draw

import tflite2q
from compatibility.conversions import as_file
from tflite2q.dialect import ops
from tflite2q.dialect.types import Quantization, TensorType


def test_loops_lose_their_rescaling_too(tmp_path: Path) -> None:
    """Shifts of a scheme stand in no file, neither in the model nor in the graphs that its ops run."""
    codes = TensorType((1, 4), "int8", Quantization.per_tensor(0.1, 3))
    test, body, main = (Part(Draw(np.random.default_rng(0)), (COUNT, codes)) for _ in range(3))
    (go,) = test.op(ops.Compare, (test.inputs[0], test.d.ints(3)), TRUTH, relation="LESS")
    (count,) = body.op(ops.Add, (body.inputs[0], body.d.ints(1)), COUNT, pot_scale_int16=False)
    (total,) = body.op(ops.Add, (body.inputs[1],) * 2, codes, pot_scale_int16=False)
    regions = (test.graph("condition", go), body.graph("body", count, total))
    graph = main.graph("main", *main.op(ops.While, main.inputs, COUNT, codes, regions=regions))
    conversion = tflite2q.convert(graph, "power-of-two")
    conversion.save(tmp_path / "new.tflite")
    assert conversion.graph != tflite2q.load(tmp_path / "new.tflite") == as_file(conversion.graph)
