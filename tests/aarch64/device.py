"""Runs compiled code on the (emulated) device, with TVM's runtime and NumPy and nothing of tflite2q.

    device.py models LIBRARY INPUTS.npz OUTPUTS.npz ...     the model's `main`, once for each sample (without inputs:
                                                            once)
    device.py kernels LIBRARY INPUTS.npz OUTPUTS.npz ...    each function of the library, on its own arguments

INPUTS for models: arrays x0, x1, ... with samples on the first axis; outputs likewise y0, y1, ....  For kernels: arrays
FUNCTION.0, FUNCTION.1, ... in the order of the parameters, the last one the output's place; outputs by FUNCTION.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tvm
from tvm import relax

GUARD = 256  # bytes behind an output
UNTOUCHED = 0xA5


def models(library: str, inputs: Any) -> dict[str, Any]:
    main = relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())["main"]
    samples = list(zip(*(inputs[f"x{i}"] for i in range(len(inputs.files))), strict=True)) or [()]
    runs = [[np.array(y.numpy()) for y in main(*map(tvm.runtime.tensor, sample))] for sample in samples]
    return {f"y{i}": np.stack(values) for i, values in enumerate(zip(*runs, strict=True))}


def kernels(library: str, inputs: Any) -> dict[str, Any]:
    module = tvm.runtime.load_module(library)
    names = sorted({name.rsplit(".", 1)[0] for name in inputs.files})
    found = {}
    for name in names:
        count = sum(each.rsplit(".", 1)[0] == name for each in inputs.files)
        *given, y = [inputs[f"{name}.{i}"] for i in range(count)]
        place = tvm.runtime.tensor(np.full(y.nbytes + GUARD, UNTOUCHED, np.uint8))
        output = place._create_view(y.shape, str(y.dtype))
        module[name](*map(tvm.runtime.tensor, given), output)
        if (place.numpy()[y.nbytes :] != UNTOUCHED).any():
            raise SystemExit(f"{name} wrote beyond its output")
        found[name] = output.numpy()
    return found


if __name__ == "__main__":
    kind, *files = sys.argv[1:]
    for library, source, target in zip(files[0::3], files[1::3], files[2::3], strict=True):
        with np.load(source) as inputs:
            np.savez(target, **{"models": models, "kernels": kernels}[kind](library, inputs))
