"""Training in float, then on the quantization grid, and the files that a trained network is kept as."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from export import to_graph
from nn import Adam, Array, Exact, Layer, Numerics, Parameters, cross_entropy, forward
from numpy.typing import NDArray
from quantize import FakeQuantization, grid

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Quantization
from tflite2q.execution import reference
from tflite2q.flatbuffer import writer

FOLDER = Path(__file__).resolve().parent

Labels = NDArray[np.int64]
Codes = NDArray[np.uint8]
Batches = Iterator[tuple[Array, Labels]]
Epoch = Callable[[np.random.Generator], Batches]
"""Gives the batches of one epoch: real images [N, H, W, C] and their labels."""


def shuffled(samples: Labels, size: int, rng: np.random.Generator) -> Iterator[Labels]:
    """The numbers of samples in random order, `size` at a time; what is left at the end is not used."""
    order = rng.permutation(samples)
    for step in range(len(samples) // size):
        yield order[step * size : (step + 1) * size]


@dataclass(frozen=True)
class Recipe:
    """A network, the grid of its input, and how it is trained.

    `shared` names the layers that keep the quantization parameters of what they read.  Every epoch has `steps` batches.
    Over the first `warm_steps` of them the learning rate rises to where it begins to fall.
    """

    layers: tuple[Layer, ...]
    shared: frozenset[str]
    input: Quantization
    steps: int
    float_epochs: int
    float_rate: float
    quantized_epochs: int
    quantized_rate: float
    weight_decay: float
    range_decay: float
    warm_steps: int = 0

    @property
    def answer(self) -> str:
        """The layer whose output is trained."""
        return self.layers[-1].name


Show = Callable[[str], None]


def train(
    recipe: Recipe,
    parameters: Parameters,
    epoch: Epoch,
    numerics: Numerics,
    epochs: int,
    peak_rate: float,
    rng: np.random.Generator,
    show: Show,
) -> Parameters:
    """Return the parameters after `epochs` of Adam with a cosine learning rate from `peak_rate` to 0."""
    adam = Adam(recipe.weight_decay)
    for number in range(epochs):
        losses = []
        for step, (images, labels) in enumerate(epoch(rng)):
            tape = forward(recipe.layers, parameters, images, numerics)
            loss, grad = cross_entropy(tape.values[recipe.answer], labels)
            losses.append(loss)
            progress = (number * recipe.steps + step) / (epochs * recipe.steps)
            warm = min(1.0, (number * recipe.steps + step + 1) / max(recipe.warm_steps, 1))
            rate = peak_rate * 0.5 * (1 + float(np.cos(np.pi * progress))) * warm
            parameters = adam.update(parameters, tape.backward(grad), rate)
        show(f"epoch {number + 1} of {epochs}: loss {np.mean(losses):.4f}")
    return parameters


def quantized(
    recipe: Recipe, start: Parameters, epoch: Epoch, rng: np.random.Generator, show: Show = lambda _: None
) -> tuple[Parameters, FakeQuantization]:
    """Train from `start` in float, then on the quantization grid; return the parameters and the learned ranges."""
    parameters = train(recipe, start, epoch, Exact(), recipe.float_epochs, recipe.float_rate, rng, show)
    numerics = FakeQuantization(recipe.range_decay, recipe.shared)
    epochs, rate = recipe.quantized_epochs, recipe.quantized_rate
    return train(recipe, parameters, epoch, numerics, epochs, rate, rng, show), numerics


def exported(
    recipe: Recipe, sample: Array, parameters: Parameters, numerics: FakeQuantization, name: str, description: str
) -> Graph:
    """The trained network as a graph of uint8 operators."""
    grids = {"input": recipe.input}
    for layer in recipe.layers:
        shared = layer.name in recipe.shared
        grids[layer.name] = grids[layer.inputs[0]] if shared else grid(*numerics.ranges[layer.name])
    values = forward(recipe.layers, parameters, sample, Exact()).values
    return to_graph(
        recipe.layers, parameters, grids, {key: value.shape for key, value in values.items()}, name, description
    )


def save(graph: Graph, inputs: Codes, labels: Labels, compressed: bool = False) -> None:
    """Write the model, the held-out inputs and their labels beside this script, and the SHA-256 of all files there."""
    stem = graph.name
    writer.save(graph, FOLDER / f"{stem}_uint8.tflite", force=True)
    (np.savez_compressed if compressed else np.savez)(FOLDER / f"{stem}_test.npz", input=inputs)
    rows = "".join(f"{index},{label}\n" for index, label in enumerate(labels))
    (FOLDER / f"{stem}_labels.csv").write_text(f"index,label\n{rows}")
    kept = sorted(path for path in FOLDER.iterdir() if path.suffix in (".tflite", ".npz", ".csv"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in kept]
    (FOLDER / "SHA256SUMS").write_text("".join(sums))


def correct(graph: Graph, inputs: Sequence[Codes], labels: Labels) -> int:
    """How many of the inputs, codes without a batch axis, the written network gets right."""
    answers = [reference.run(graph, codes[np.newaxis])[0].argmax() for codes in inputs]
    return int((np.array(answers) == labels).sum())
