"""Which compiled functions check the tensors that they get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

import tflite2q
from tflite2q.execution import reference
from tflite2q.lower.build import build
from tflite2q.lower.graph import lower
from tflite2q.lower.target import resolve, tvm_target


@pytest.fixture(scope="module")
def built(digits: Path) -> Any:
    target = tvm_target(resolve("native"))
    return build(lower(tflite2q.load(digits), target).module, target).executable


def test_what_a_caller_gives_is_checked(built: Any, digits: Path) -> None:
    main = relax.VirtualMachine(built, tvm.cpu())["main"]
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) % 16
    expected = reference.run(tflite2q.load(digits), pixels)[0]
    np.testing.assert_array_equal(np.from_dlpack(main(tvm.runtime.tensor(pixels))[0]), expected)
    for wrong in (pixels[:, :7], pixels.astype(np.float32), pixels[0]):
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            main(tvm.runtime.tensor(wrong))


def test_rows_that_lie_apart_are_refused(built: Any) -> None:
    main = relax.VirtualMachine(built, tvm.cpu())["main"]
    memory = np.from_dlpack(tvm.runtime.tensor(np.zeros((1, 8, 16, 1), np.uint8)))
    with pytest.raises((RuntimeError, ValueError)):
        main(tvm.runtime.from_dlpack(memory[:, :, ::2]))


def test_functions_that_get_what_others_made_check_nothing(built: Any) -> None:
    (code,) = built.mod.imports
    found = re.finditer(r"^define [^\n]*@__tvm_ffi_(\w+)\((.*?)^}", code.inspect_source("ll"), re.MULTILINE | re.DOTALL)
    checks = {match[1]: "@__tvm_set_raised" in match[2] for match in found}
    kernels = {name: checks[name] for name in checks if "vmtir" not in name}
    assert len(kernels) > 10
    assert [name for name, checked in kernels.items() if checked] == [next(n for n in kernels if "conv2d" in n)]
