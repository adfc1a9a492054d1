"""The judge: LiteRT's own kernels, run in a process of its own because some inputs abort them.

`python litert.py MODEL INPUTS.npz OUTPUTS.npz (ref|default) (outputs|every)` is the child; `run_litert` the caller.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt


class LitertFailed(Exception):
    """LiteRT refused the model, or its process died."""


def run_litert(
    model: str | Path, inputs: list[npt.NDArray[np.generic]], kernels: str = "ref", every: bool = False
) -> dict[str, npt.NDArray[np.generic]]:
    """LiteRT's tensors by name for `inputs`: the outputs in order, or every tensor that holds data."""
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(given, *inputs)
        scope = "every" if every else "outputs"
        command = [sys.executable, __file__, str(model), str(given), str(taken), kernels, scope]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise LitertFailed(f"exit {done.returncode}: {done.stderr.strip()[-500:]}")
        with np.load(taken) as arrays:
            names = [str(name) for name in arrays["names"]]
            return {name: arrays[f"t{index}"] for index, name in enumerate(names)}


def _child(model: str, given: str, taken: str, kernels: str, scope: str) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if kernels == "ref" else OpResolverType.AUTO
    interpreter = Interpreter(
        model_path=model,
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=scope == "every",
        num_threads=1,
    )
    interpreter.allocate_tensors()
    with np.load(given) as arrays:
        for detail, name in zip(interpreter.get_input_details(), arrays.files, strict=True):
            interpreter.set_tensor(detail["index"], arrays[name])
    interpreter.invoke()
    details = interpreter.get_tensor_details() if scope == "every" else interpreter.get_output_details()
    found = {}
    for detail in details:
        if not detail["name"] or detail["dtype"] is np.object_:  # a handle, which has no data
            continue
        try:
            found[detail["name"]] = interpreter.get_tensor(detail["index"])
        except ValueError:  # a tensor that holds no data (a temporary, an optional one)
            continue
    data = {f"t{index}": array for index, array in enumerate(found.values())}
    np.savez(taken, names=np.array(list(found)), **data)


if __name__ == "__main__":
    _child(*sys.argv[1:])
