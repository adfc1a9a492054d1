"""TFLite Micro refuses the uint8 MobileNets and runs their conversions with the reference kernels' results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from litert import run_litert

import tflite2q
from tflite2q.evaluation import data

pytest.importorskip("tflite_micro")

MODELS = ("mobilenet_v1_0.25_128_quant", "mobilenet_v2_1.0_224_quant")

# A process of its own: the interpreter ends its process on some models it refuses.
CHILD = """
import sys
import numpy as np
from tflite_micro import runtime

model, given, taken = sys.argv[1:]
interpreter = runtime.Interpreter.from_file(model, arena_size=32 << 20)
interpreter.set_input(np.load(given), 0)
interpreter.invoke()
np.save(taken, interpreter.get_output(0))
"""


def run_micro(model: Path, codes: np.ndarray, folder: Path) -> np.ndarray:
    """TFLite Micro's first output.  Raises RuntimeError with what it said if it refuses the model."""
    given, taken = folder / "in.npy", folder / "out.npy"
    np.save(given, codes)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(model), str(given), str(taken)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return np.load(taken)


@pytest.mark.parametrize("model", MODELS)
def test_uint8_originals_are_refused(model: str, shared: Path, tmp_path: Path) -> None:
    path = shared / "models" / f"{model}.tflite"
    shape = tflite2q.load(path)["input"].type.shape
    with pytest.raises(RuntimeError, match=r"CONV_2D .* failed to prepare"):
        run_micro(path, np.zeros(shape, np.uint8), tmp_path)


@pytest.mark.parametrize("interface", ["keep", "scheme"])
@pytest.mark.parametrize(("model", "scheme"), [*((model, "int8") for model in MODELS), (MODELS[0], "int16x8")])
def test_conversions_run_and_agree(model: str, scheme: str, interface: str, shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "converted.tflite"
    conversion = tflite2q.convert(shared / "models" / f"{model}.tflite", scheme, interface)
    conversion.save(path)
    (value,) = (conversion.graph[name] for name in conversion.graph.inputs)
    samples = data.load(shared / "images", [value], limit=2)
    for (codes,) in samples:
        (judged,) = run_litert(path, [codes]).values()
        micro = run_micro(path, codes, tmp_path)
        np.testing.assert_array_equal(micro, judged)
