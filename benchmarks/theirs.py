"""`python theirs.py FLOAT.tflite RECIPE SAMPLES.npz OUT.tflite` in an environment that has ai-edge-quantizer.

SAMPLES.npz has the names of the inputs, then for each of them an array with all samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main(model: str, name: str, samples: str, out: str) -> None:
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(model)
    made.load_quantization_recipe(getattr(recipe, name)())
    result = None
    if made.need_calibration:
        with np.load(samples) as arrays:
            names, *given = (arrays[key] for key in arrays.files)
        data = [dict(zip(names.tolist(), sample, strict=True)) for sample in zip(*given, strict=True)]
        result = made.calibrate({"serving_default": data})
    Path(out).write_bytes(made.quantize(result).quantized_model)


if __name__ == "__main__":
    main(*sys.argv[1:])
