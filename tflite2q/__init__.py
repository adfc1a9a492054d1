"""Convert quantized TensorFlow Lite models to other quantization schemes, compile and compare them.

    graph = tflite2q.load("model.tflite")
    new = tflite2q.convert(graph, "int8")
    new.save("model.int8.tflite")
    exe = tflite2q.compile(new, target="native", threads=2)
    outputs = exe.run(photo)
    report = tflite2q.compare(graph, new, data="photos/", labels="labels.csv")

The names above are loaded when first used, so that importing the package costs nothing and TVM is imported only by
those that compile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tflite2q import errors as errors
from tflite2q.version import __version__

if TYPE_CHECKING:
    from tflite2q.pipeline import (
        check,
        compare,
        compile,
        convert,
        fits,
        isolated,
        load,
        load_library,
        reference,
        reference_stream,
        search,
    )

__all__ = [
    "__version__",
    "check",
    "compare",
    "compile",
    "convert",
    "fits",
    "isolated",
    "load",
    "load_library",
    "reference",
    "reference_stream",
    "search",
]


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'tflite2q' has no attribute {name!r}")
    from tflite2q import pipeline

    return getattr(pipeline, name)


def __dir__() -> list[str]:
    return __all__
