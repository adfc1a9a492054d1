"""Train a network that reads the digit in a cluttered scene, quantize it to asymmetric uint8 and write it as .tflite.

Run as `python models/train_scenes.py`. Beside this script it writes scenes_uint8.tflite, held-out scenes and their
labels, and SHA256SUMS. Every epoch draws new scenes; those for testing show digits that training never saw, before
pieces of such digits.
"""

import numpy as np
from nn import Layer, initialize, standardized
from scenes import Floats, scene
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from train_digits import split
from training import Batches, Codes, Labels, Recipe, correct, exported, quantized, save, shuffled

from tflite2q.dialect.types import Quantization

SEED = 2026
BATCH = 16

INPUT = Quantization.per_tensor(1 / 128, 128)

WIDTH = 448


def _block(number: int, source: str, width: int, stride: int = 1) -> tuple[Layer, Layer]:
    """A depthwise convolution of what `source` gives, `width` channels, and a 1x1 convolution to WIDTH."""
    depthwise, pointwise = f"block{number}/depthwise", f"block{number}/pointwise"
    return (
        Layer(depthwise, "depthwise", (source,), width, kernel=3, stride=stride, activation="relu6"),
        Layer(pointwise, "conv", (depthwise,), WIDTH, activation="relu6"),
    )


# Few large layers: most of the 600,000 weights are met by 64 pixels each.
LAYERS = (
    Layer("conv", "conv", ("input",), 32, kernel=3, stride=2, activation="relu6"),
    *_block(1, "conv", 32, stride=2),
    *_block(2, "block1/pointwise", WIDTH),
    *_block(3, "block2/pointwise", WIDTH),
    *_block(4, "block3/pointwise", WIDTH),
    Layer("pool", "average_pool", ("block4/pointwise",), kernel=8, stride=8),
    Layer("flatten", "flatten", ("pool",)),
    Layer("logits", "dense", ("flatten",), 10),
)


def drawn(glyphs: Floats, chosen: Labels, others: Floats, rng: np.random.Generator) -> Codes:
    """A scene for each of the chosen digits."""
    return np.stack([scene(glyphs[index], others, rng) for index in chosen])


def real(codes: Codes) -> Floats:
    """What codes stand for, float32."""
    (scale,), (zero_point,) = INPUT.scale, INPUT.zero_point
    return np.float32(scale) * (codes.astype(np.float32) - np.float32(zero_point))


def main() -> None:
    """Load the digits, train on new scenes, write the files and say how many held-out scenes the network reads."""
    print("training, some minutes on one core", flush=True)
    digits = load_digits()
    glyphs, labels = digits.images / 16.0, digits.target.astype(np.int64)
    rng = np.random.default_rng(SEED)
    training, held_out = split(labels, rng)
    steps = len(training) // BATCH

    def epoch(rng: np.random.Generator) -> Batches:
        for batch in shuffled(training, BATCH, rng):
            yield real(drawn(glyphs, batch, glyphs[training], rng)), labels[batch]

    inputs = drawn(glyphs, held_out, glyphs[held_out], np.random.default_rng(SEED + 1))
    recipe = Recipe(
        LAYERS, frozenset({"pool", "flatten"}), INPUT, steps, float_epochs=12, float_rate=1.5e-3, quantized_epochs=1,
        quantized_rate=1e-4, weight_decay=1e-2, range_decay=0.95, warm_steps=30,
    )  # fmt: skip
    images, _ = next(epoch(rng))
    start = standardized(LAYERS, initialize(LAYERS, images[:1], rng), images)
    parameters, numerics = quantized(recipe, start, epoch, rng, lambda line: print(line, flush=True))
    description = "Digits in cluttered scenes of 32x32 grey pixels, quantized to asymmetric uint8 per tensor"
    graph = exported(recipe, real(inputs[:1]), parameters, numerics, "scenes", description)
    save(graph, inputs, labels[held_out], compressed=True)
    print(f"{correct(graph, inputs, labels[held_out])} of {len(held_out)} held-out scenes correct")


if __name__ == "__main__":
    main()
