"""Train a small network on scikit-learn's handwritten digits, quantize it to asymmetric uint8 and write it as .tflite.

Run as `python models/train_digits.py`. Beside this script it writes digits_uint8.tflite, the held-out images and
labels, and the SHA256SUMS of all three. The same command writes the same bytes.
"""

import hashlib
from pathlib import Path

import numpy as np
from export import to_graph
from nn import Adam, Array, Exact, Layer, Numerics, Parameters, cross_entropy, forward, initialize
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from quantize import FakeQuantization, grid
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Quantization
from tflite2q.execution import reference
from tflite2q.flatbuffer import writer

FOLDER = Path(__file__).resolve().parent
MODEL, INPUTS, LABELS = "digits_uint8.tflite", "digits_test.npz", "digits_labels.csv"

SEED = 2026
HELD_OUT_PER_DIGIT = 36
BATCH = 64
FLOAT_EPOCHS, FLOAT_RATE = 80, 5e-3
QUANTIZED_EPOCHS, QUANTIZED_RATE = 15, 5e-4
WEIGHT_DECAY = 1e-2
RANGE_DECAY = 0.98

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
SHARED = frozenset({"pool", "flatten"})
"""Layers that keep the quantization parameters of what they read."""


def split(labels: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def train(
    parameters: Parameters,
    images: Array,
    labels: NDArray[np.int64],
    numerics: Numerics,
    epochs: int,
    peak_rate: float,
    rng: np.random.Generator,
) -> Parameters:
    """Return the parameters after `epochs` of Adam with a cosine learning rate from `peak_rate` to 0."""
    adam = Adam(WEIGHT_DECAY)
    steps = len(images) // BATCH
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            tape = forward(LAYERS, parameters, shifted(images[batch], rng), numerics)
            _, grad = cross_entropy(tape.values["logits"], labels[batch])
            progress = (epoch * steps + step) / (epochs * steps)
            parameters = adam.update(parameters, tape.backward(grad), peak_rate * 0.5 * (1 + np.cos(np.pi * progress)))
    return parameters


def grids(numerics: FakeQuantization) -> dict[str, Quantization]:
    """Return the quantization parameters of the input and of every layer's output, by name."""
    found = {"input": INPUT}
    for layer in LAYERS:
        found[layer.name] = found[layer.inputs[0]] if layer.name in SHARED else grid(*numerics.ranges[layer.name])
    return found


def trained(images: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> tuple[Parameters, FakeQuantization]:
    """Train in float, then on the quantization grid; return the parameters and the learned ranges."""
    parameters = initialize(LAYERS, images[:1], rng)
    parameters = train(parameters, images, labels, Exact(), FLOAT_EPOCHS, FLOAT_RATE, rng)
    numerics = FakeQuantization(RANGE_DECAY, SHARED)
    return train(parameters, images, labels, numerics, QUANTIZED_EPOCHS, QUANTIZED_RATE, rng), numerics


def save(graph: Graph, inputs: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Write the model, the held-out inputs and labels, and the SHA-256 of each, beside this script."""
    writer.save(graph, FOLDER / MODEL, force=True)
    np.savez(FOLDER / INPUTS, input=inputs)
    rows = "".join(f"{index},{label}\n" for index, label in enumerate(labels))
    (FOLDER / LABELS).write_text(f"index,label\n{rows}")
    sums = [f"{hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()}  {name}\n" for name in (MODEL, INPUTS, LABELS)]
    (FOLDER / "SHA256SUMS").write_text("".join(sums))


def main() -> None:
    """Load the data, train, write the files and say how many held-out digits the written network gets right."""
    print("training, about half a minute on one core", flush=True)
    digits = load_digits()
    pixels, labels = digits.images.astype(np.uint8)[..., np.newaxis], digits.target.astype(np.int64)
    images = pixels / 8.0 - 1.0
    rng = np.random.default_rng(SEED)
    training, held_out = split(labels, rng)

    parameters, numerics = trained(images[training], labels[training], rng)
    sample = forward(LAYERS, parameters, images[:1], Exact())
    graph = to_graph(LAYERS, parameters, grids(numerics), {name: value.shape for name, value in sample.values.items()})
    inputs, expected = pixels[held_out] * np.uint8(CODES_PER_LEVEL), labels[held_out]
    save(graph, inputs, expected)

    predicted = np.array([reference.run(graph, image[np.newaxis])[0].argmax() for image in inputs])
    print(f"{FOLDER / MODEL}: {(predicted == expected).sum()} of {len(expected)} held-out digits correct")


if __name__ == "__main__":
    main()
