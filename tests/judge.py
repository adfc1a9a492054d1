"""LiteRT's reference kernels on many small models in one process; a model that kills the process only loses itself.

`python judge.py FOLDER FIRST KERNELS` is the child: it runs FOLDER/N.tflite with FOLDER/N.npz from N = FIRST on and
leaves FOLDER/N.out.npz or FOLDER/N.error.
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


def judge(models: Sequence[tuple[bytes, Sequence[Array]]], kernels: str = "ref") -> list[list[Array] | str]:
    """For each (model, inputs) LiteRT's outputs, or in words why there are none.

    They are computed by its reference kernels ("ref"), by the others ("optimized"), or by those with a delegate, as
    usual ("default").
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (data, inputs) in enumerate(models):
            (folder / f"{index}.tflite").write_bytes(data)
            np.savez(folder / f"{index}.npz", *inputs)
        first = 0
        while first < len(models):
            command = [sys.executable, __file__, name, str(first), kernels]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            first = next((i for i in range(first, len(models)) if not _finished(folder, i)), len(models))
            if first < len(models):
                (folder / f"{first}.error").write_text(f"LiteRT died: {done.stderr.strip()[-200:]}")
                first += 1
        return [_result(folder, index) for index in range(len(models))]


def _finished(folder: Path, index: int) -> bool:
    return (folder / f"{index}.out.npz").exists() or (folder / f"{index}.error").exists()


def _result(folder: Path, index: int) -> list[Array] | str:
    error = folder / f"{index}.error"
    if error.exists():
        return error.read_text()
    with np.load(folder / f"{index}.out.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def _run(model: Path, given: Path, kernels: str) -> list[Array]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolvers = {"ref": OpResolverType.BUILTIN_REF, "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    resolver = resolvers.get(kernels, OpResolverType.AUTO)
    interpreter = Interpreter(model_path=str(model), experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    with np.load(given) as arrays:
        for detail, name in zip(interpreter.get_input_details(), arrays.files, strict=True):
            interpreter.set_tensor(detail["index"], arrays[name])
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def _child(name: str, first: int, kernels: str) -> None:
    folder = Path(name)
    index = first
    while (model := folder / f"{index}.tflite").exists():
        if not _finished(folder, index):
            try:
                outputs = _run(model, folder / f"{index}.npz", kernels)
                partial = folder / f"{index}.partial.npz"
                np.savez(partial, *outputs)
                partial.rename(folder / f"{index}.out.npz")
            except (RuntimeError, ValueError) as error:
                (folder / f"{index}.error").write_text(str(error))
        index += 1


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]), sys.argv[3])
