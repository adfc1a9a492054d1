"""Run a compiled model with TVM's runtime alone; nothing of tflite2q is needed on the device.

    python run_model.py MODEL.so INPUT.npy ... [--output OUTPUT.npz] [--stream]

MODEL.so comes from `tflite2q convert ... --lib MODEL.so --target ...`.  Inputs are arrays of codes, of the types that
the library's manifest gives; what the manifest says is printed.  With --stream their first axis is time: the model is
run step by step, and what it remembers of one goes into the next.
"""

from __future__ import annotations

import argparse
import json
import os

# The small runtime library suffices; TVM's compiler is not loaded.
os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
# One thread.  Unset, TVM would ask the system how many there may be at every layer, which takes longer than small ones.
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine


def manifest(machine: VirtualMachine) -> dict:
    """What the library says about itself: JSON behind a mark and a length of eight digits."""
    content = machine["manifest"]().numpy().tobytes()
    return json.loads(content[content.index(b"{") :])


def initial(tensor: dict) -> tvm.runtime.Tensor:
    """A state before the first step: its elements, or one that stands for all."""
    elements = np.array(tensor["data"], tensor["dtype"])
    whole = np.full(tensor["shape"], elements[0]) if elements.size == 1 else elements.reshape(tensor["shape"])
    return tvm.runtime.tensor(whole)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--output")
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()

    machine = VirtualMachine(tvm.runtime.load_module(given.library), tvm.cpu())
    description = manifest(machine)
    print(f"{description['model']} for {description['target']}")

    if len(given.inputs) != len(description["inputs"]):
        number = len(description["inputs"])
        raise ValueError(f"the model takes {number} input{'s' if number > 1 else ''}; give one file for each")
    arrays = []
    for tensor, path in zip(description["inputs"], given.inputs, strict=True):
        array = np.load(path)
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: holds several arrays; save the input alone, with numpy.save")
        shape = list(array.shape)[1:] if given.stream else list(array.shape)
        if shape != tensor["shape"] or array.dtype != tensor["dtype"]:
            expected = f"{tensor['dtype']}{tensor['shape']}" + (" at each step" if given.stream else "")
            raise ValueError(f"{path}: is {array.dtype}{list(array.shape)}, input {tensor['name']} is {expected}")
        arrays.append(array if given.stream else array[None])

    states = [initial(tensor) for tensor in description.get("states", [])]
    results = []
    for step in range(len(arrays[0])):
        inputs = [tvm.runtime.tensor(array[step]) for array in arrays]
        # The outputs, then what the model remembers, which the next step gets.
        returned = list(machine["main"](*inputs, *states))
        results.append([output.numpy() for output in returned[: len(description["outputs"])]])
        states = [tvm.runtime.tensor(state.numpy()) for state in returned[len(description["outputs"]) :]]
    columns = [np.stack(column) for column in zip(*results, strict=True)]
    outputs = columns if given.stream else [column[0] for column in columns]
    for tensor, codes in zip(description["outputs"], outputs, strict=True):
        q = tensor.get("quantization")
        # real = scale * (code - zero point); one scale a tensor, as activations have
        real = (codes.astype(np.float32) - q["zero_point"][0]) * q["scale"][0] if q else codes
        print(tensor["name"], codes.dtype, codes.shape, "largest:", real.max(), "at", int(codes.argmax()))
    if given.output:
        np.savez(given.output, *outputs)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: TVM's
        raise SystemExit(f"run_model: {error}") from None
