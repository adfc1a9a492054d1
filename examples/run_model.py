"""Run a compiled model with TVM's runtime alone; nothing of tflite2q is needed on the device.

    python run_model.py MODEL.so INPUT.npy ... [--output OUTPUT.npz]

MODEL.so comes from `tflite2q convert ... --lib MODEL.so --target ...`.  Inputs are arrays of codes, of the types that
the library's manifest gives; what the manifest says is printed.
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--output")
    given = parser.parse_args()

    machine = VirtualMachine(tvm.runtime.load_module(given.library), tvm.cpu())
    description = manifest(machine)
    print(f"{description['model']} for {description['target']}")

    arrays = []
    for tensor, path in zip(description["inputs"], given.inputs, strict=True):
        array = np.load(path)
        if list(array.shape) != tensor["shape"] or array.dtype != tensor["dtype"]:
            raise SystemExit(f"{path}: input {tensor['name']} is {tensor['dtype']}{tensor['shape']}")
        arrays.append(tvm.runtime.tensor(array))

    outputs = [output.numpy() for output in machine["main"](*arrays)]
    for tensor, codes in zip(description["outputs"], outputs, strict=True):
        q = tensor.get("quantization")
        # real = scale * (code - zero point); one scale a tensor, as activations have
        real = (codes.astype(np.float32) - q["zero_point"][0]) * q["scale"][0] if q else codes
        print(tensor["name"], codes.dtype, codes.shape, "largest:", real.max(), "at", int(codes.argmax()))
    if given.output:
        np.savez(given.output, *outputs)


if __name__ == "__main__":
    main()
