"""Kernels alone on the layers of MobileNet: microseconds, 10^9 multiply-accumulates a second, share of the peak.

`python -m benchmarks.kernels` measures one core with uint8 inputs and int8 weights, as converted models run inside;
`--target`, `--arithmetic` choose others.  The peak of depthwise layers is that of the vector unit, the peak of others
that of the matrix unit where the target has it.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm

from benchmarks.peak import fastest, level, peaks
from tflite2q.arithmetic.rescale import ARITHMETICS, Rescale
from tflite2q.errors import TargetError
from tflite2q.kernels.contracts import Conv2DContract, DepthwiseConv2DContract
from tflite2q.kernels.frame import Built
from tflite2q.kernels.registry import select
from tflite2q.lower import targets
from tflite2q.lower.codegen import KERNEL, Compiler
from tflite2q.lower.machine import use_threads
from tflite2q.lower.target import features, resolve, tvm_target

# (height and width, input channels, output channels, kernel, stride); depthwise where the last field says so
LAYERS = (
    (224, 3, 32, 3, 2, False),
    (112, 32, 64, 1, 1, False),
    (56, 128, 128, 1, 1, False),
    (14, 512, 512, 1, 1, False),
    (7, 1024, 1024, 1, 1, False),
    (112, 16, 96, 1, 1, False),
    (56, 144, 24, 1, 1, False),
    (28, 64, 64, 3, 1, False),
    (1, 1024, 1001, 1, 1, False),
    (112, 32, 32, 3, 1, True),
    (112, 96, 96, 3, 2, True),
    (56, 128, 128, 3, 1, True),
    (14, 512, 512, 3, 1, True),
    (14, 480, 480, 5, 1, True),
)


def contract(layer: tuple[int, int, int, int, int, bool], arithmetic: str) -> Conv2DContract | DepthwiseConv2DContract:
    size, in_c, out_c, kernel, stride, depthwise = layer
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    rng = np.random.default_rng(0)
    shape = (1, kernel, kernel, out_c) if depthwise else (out_c, kernel, kernel, in_c)
    real = 2.0**-8 if arithmetic == "shift" else 0.003
    facts: dict[str, Any] = {
        "batch": 1, "in_h": size, "in_w": size, "in_c": in_c, "out_h": out, "out_w": out, "out_c": out_c,
        "strides": (stride, stride), "dilation": (1, 1), "padding": (before, before, after, after), "x_dtype": "uint8",
        "x_zero_point": 0, "weights": rng.integers(-127, 128, shape).astype(np.int8), "weight_zero_points": (0,),
        "bias": rng.integers(-1000, 1000, out_c).astype(np.int32),
        "rescale": Rescale((real,), 0, 0, 255, "uint8", arithmetic),
    }  # fmt: skip
    return DepthwiseConv2DContract(**facts) if depthwise else Conv2DContract(groups=1, **facts)


def seconds(built: Built, target: Any) -> float:
    """The fastest of several runs of one kernel on one thread."""
    code = built.func.with_attrs({"global_symbol": "kernel", KERNEL: True})
    run = Compiler(target).module({"kernel": code})["kernel"]
    tensors = (*built.inputs, built.output)
    *inputs, output = (tvm.runtime.tensor(np.ones(t.shape, t.dtype)) for t in tensors)
    constants = [tvm.runtime.tensor(array) for array in built.constants]
    return fastest(lambda: run(*inputs, *constants, output))


def here(name: str) -> Any:
    """The target called `name`, which this machine can run.  Raises TargetError."""
    target = tvm_target(resolve(name))
    family, own = (targets.architecture(text) for text in (str(target.attrs["mtriple"]), platform.machine()))
    if family != own:
        raise TargetError(f"target {name}: this machine ({own}) cannot run code for {family}")
    if missing := targets.missing_features(features(target) & targets.instruction_features()):
        raise TargetError(f"target {name}: this processor lacks {', '.join(missing)}, which the code may use")
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--target", default="native", help="a name of `tflite2q targets` that runs here")
    parser.add_argument("--arithmetic", choices=ARITHMETICS, default="fixed")
    options = parser.parse_args(arguments)
    try:
        target = here(options.target)
    except TargetError as error:
        parser.error(str(error))
    use_threads(1)
    isa = level(target)
    limits = peaks(isa, target) if isa else None
    if isa is None or limits is None:
        print("no peak known for this target")
    else:
        matrix = "" if limits.matrix is None else f", {limits.matrix:.0f} (amx)"
        print(f"peak of one core: {limits.vector:.0f} G MAC/s ({isa.name}){matrix}")
    for layer in LAYERS:
        wanted = contract(layer, options.arithmetic)
        built = select(wanted, target).plan.build()
        took = seconds(built, target)
        rate = wanted.macs / took / 1e9
        share = f"{100 * rate / limits.of(not layer[-1]):5.0f} %" if limits else ""
        size, in_c, out_c, *_ = layer
        print(f"{size:4}x{size:<4}{in_c:5} ->{out_c:5}  {took * 1e6:8.1f} us {rate:7.1f} G MAC/s {share}  {built.name}")


if __name__ == "__main__":
    main()
