"""Train a small network on scikit-learn's handwritten digits, quantize it to asymmetric uint8 and write it as .tflite.

Run as `python models/train_digits.py`. Beside this script it writes digits_uint8.tflite, the held-out images and
labels, and SHA256SUMS.
"""

import numpy as np
from nn import Array, Layer, initialize
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from training import Batches, Labels, Recipe, correct, exported, quantized, save, shuffled

from tflite2q.dialect.types import Quantization

SEED = 2026
HELD_OUT_PER_DIGIT = 36
BATCH = 64

# A pixel p in 0..16 is the code 15 * p and the real value p / 8 - 1: codes use most of the byte, values are centred.
CODES_PER_LEVEL = 15
INPUT = Quantization.per_tensor(1 / 120, 120)

LAYERS = (
    Layer("conv1", "conv", ("input",), 24, kernel=3, activation="relu6"),
    Layer("block1/depthwise", "depthwise", ("conv1",), 24, kernel=3, activation="relu6"),
    Layer("block1/project", "conv", ("block1/depthwise",), 24),
    Layer("block1/add", "add", ("conv1", "block1/project")),
    Layer("block2/depthwise", "depthwise", ("block1/add",), 24, kernel=3, stride=2, activation="relu6"),
    Layer("block2/project", "conv", ("block2/depthwise",), 48, activation="relu6"),
    Layer("block3/depthwise", "depthwise", ("block2/project",), 48, kernel=3, activation="relu6"),
    Layer("block3/project", "conv", ("block3/depthwise",), 48),
    Layer("block3/add", "add", ("block2/project", "block3/project"), activation="relu"),
    Layer("pool", "average_pool", ("block3/add",), kernel=2, stride=2),
    Layer("flatten", "flatten", ("pool",)),
    Layer("logits", "dense", ("flatten",), 10),
)


def split(labels: Labels, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Return the indices of training and held-out images; every digit is held out equally often."""
    held_out = [rng.permutation(np.flatnonzero(labels == digit))[:HELD_OUT_PER_DIGIT] for digit in range(10)]
    test = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), test), test


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Move each image [H, W, C] by -1, 0 or 1 pixels on either axis; what comes in is background."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)
    windows = sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    rows, columns = rng.choice((0, 1, 1, 1, 2), size=(2, len(images)))
    return np.moveaxis(windows[np.arange(len(images)), rows, columns], 1, -1)


def main() -> None:
    """Load the data, train, write the files and say how many held-out digits the written network gets right."""
    print("training, about half a minute on one core", flush=True)
    digits = load_digits()
    pixels, labels = digits.images.astype(np.uint8)[..., np.newaxis], digits.target.astype(np.int64)
    images = pixels / 8.0 - 1.0
    rng = np.random.default_rng(SEED)
    training, held_out = split(labels, rng)
    steps = len(training) // BATCH

    def epoch(rng: np.random.Generator) -> Batches:
        for batch in shuffled(training, BATCH, rng):
            yield shifted(images[batch], rng), labels[batch]

    recipe = Recipe(
        LAYERS, frozenset({"pool", "flatten"}), INPUT, steps, float_epochs=80, float_rate=5e-3, quantized_epochs=15,
        quantized_rate=5e-4, weight_decay=1e-2, range_decay=0.98,
    )  # fmt: skip
    parameters, numerics = quantized(recipe, initialize(LAYERS, images[training[:1]], rng), epoch, rng)
    description = "Handwritten digits of 8x8 pixels, quantized to asymmetric uint8 per tensor"
    graph = exported(recipe, images[:1], parameters, numerics, "digits", description)
    inputs, expected = pixels[held_out] * np.uint8(CODES_PER_LEVEL), labels[held_out]
    save(graph, inputs, expected)
    print(f"{correct(graph, inputs, expected)} of {len(expected)} held-out digits correct")


if __name__ == "__main__":
    main()
