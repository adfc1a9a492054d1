"""Other engines as judges of models with state: the same interpreter is invoked once for each step.

`python streams.py MODEL INPUTS.npz OUTPUTS.npz (ref|default|micro) COUNT` is the child; `run_stream` the caller.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ARENA = 1 << 22


class EngineFailed(Exception):
    """The engine refused the model, or its process died."""


def run_stream(model: bytes, inputs: Sequence[Array], engine: str = "ref", outputs: int = 1) -> list[Array]:
    """The outputs, time on the first axis as in `inputs`, by LiteRT's reference ("ref") or usual ("default") kernels or
    by TensorFlow Lite Micro ("micro", which needs the number of outputs)."""
    with tempfile.TemporaryDirectory() as folder:
        path, given, taken = Path(folder, "m.tflite"), Path(folder, "in.npz"), Path(folder, "out.npz")
        path.write_bytes(model)
        np.savez(given, *inputs)
        command = [sys.executable, __file__, str(path), str(given), str(taken), engine, str(outputs)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise EngineFailed(f"exit {done.returncode}: {done.stderr.strip()[-500:]}")
        with np.load(taken) as arrays:
            return [arrays[name] for name in arrays.files]


def run_signatures(model: bytes, calls: Sequence[str], inputs: Array) -> Array:
    """What LiteRT's reference kernels give for each call of a signature of one input and one output, by one
    interpreter; calls of signatures without any give what was there before."""
    with tempfile.TemporaryDirectory() as folder:
        path, given, taken = Path(folder, "m.tflite"), Path(folder, "in.npy"), Path(folder, "out.npy")
        path.write_bytes(model)
        np.save(given, inputs)
        command = [sys.executable, __file__, str(path), str(given), str(taken), *calls]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise EngineFailed(f"exit {done.returncode}: {done.stderr.strip()[-500:]}")
        return np.asarray(np.load(taken))


def _signatures(model: str, given: str, taken: str, calls: Sequence[str]) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_path=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    signatures = interpreter.get_signature_list()
    results = []
    for key, x in zip(calls, np.load(given), strict=True):
        names = signatures[key]["inputs"]
        found = interpreter.get_signature_runner(key)(**dict.fromkeys(names, x))
        results.append(next(iter(found.values())) if names else results[-1])
    np.save(taken, np.stack(results))


def _child(model: str, given: str, taken: str, engine: str, outputs: str) -> None:
    with np.load(given) as arrays:
        inputs = [arrays[name] for name in arrays.files]
    step = _micro(model, int(outputs)) if engine == "micro" else _litert(model, engine)
    results = [step([array[time] for array in inputs]) for time in range(len(inputs[0]))]
    np.savez(taken, *(np.stack(column) for column in zip(*results, strict=True)))


def _litert(model: str, kernels: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if kernels == "ref" else OpResolverType.AUTO
    interpreter = Interpreter(model_path=model, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()

    def step(arrays: list[Array]) -> list[Array]:
        for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    return step


def _micro(model: str, outputs: int) -> Any:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(model, arena_size=ARENA)

    def step(arrays: list[Array]) -> list[Array]:
        for index, array in enumerate(arrays):
            interpreter.set_input(array, index)
        interpreter.invoke()
        return [np.array(interpreter.get_output(index)) for index in range(outputs)]

    return step


if __name__ == "__main__":
    if sys.argv[2].endswith(".npy"):
        _signatures(*sys.argv[1:4], sys.argv[4:])
    else:
        _child(*sys.argv[1:])
