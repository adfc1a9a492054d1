"""Whole models, cross-compiled here and run on emulated Arm processors, compute what the reference computes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from aarch64.targets import TARGETS

import tflite2q
from benchmarks.emulator import Emulator
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE
from tflite2q.errors import Unchanged
from tflite2q.execution import reference

pytestmark = pytest.mark.aarch64

Array = npt.NDArray[Any]

SCHEMES = ("int8", "symmetric-int8", "float32-rescale", "power-of-two")

MODELS = {
    "kws_ref_model": 3,
    "ad01_int8": 3,
    "vww_96_int8": 2,
    "pretrainedResnet_quant": 2,
    "split_concat": 2,
    "mobilenet_v1_0.25_128_quant": 2,
    "deeplabv3_mnv2_dm05_pascal_quant": 1,
}

# What takes long to compile or to run, each on one processor.
LARGE = {
    "keras_lstm_mnist_ptq": "cortex-a76",
    "mobilenet_v2_1.0_224_quant": "max",
    "tf2_mobilenet_v2_1.0_224_ptq": "cortex-a76",
    "mobilenet_edgetpu_0.75_224_post_training_quant": "max",
    "movenet_single_pose_lightning_ptq": "cortex-a53",
}


def random_samples(graph: Graph, count: int) -> dict[str, Array]:
    """x0, x1, ...: random codes, samples on the first axis."""
    generator = np.random.default_rng(11)
    found = {}
    for i, name in enumerate(graph.inputs):
        kind = graph[name].type
        dtype = np.dtype(STORAGE[kind.dtype])
        shape = (count, *kind.shape)
        if dtype.kind == "f":
            found[f"x{i}"] = generator.normal(size=shape).astype(dtype)
        else:
            info = np.iinfo(dtype)
            found[f"x{i}"] = generator.integers(info.min, info.max, shape, dtype, endpoint=True)
    return found


def variants(path: Path, schemes: Iterable[str]) -> dict[str, Graph]:
    """The model as it is, and under those of the schemes that change it."""
    found = {"original": tflite2q.load(path)}
    for scheme in schemes:
        try:
            found[scheme] = tflite2q.convert(path, scheme).graph
        except Unchanged:
            continue
    return found


def check(emulator: Emulator, folder: Path, path: Path, count: int, schemes: Iterable[str] = SCHEMES) -> None:
    graphs = variants(path, schemes)
    jobs: list[Path] = []
    for name, graph in graphs.items():
        files = [folder / f"{name}.so", folder / f"{name}-in.npz", folder / f"{name}-out.npz"]
        executable = tflite2q.compile(graph, TARGETS[emulator.cpu])
        executable.save(files[0])
        given = random_samples(graph, count)
        for i, state in enumerate(executable.initial_states, len(given)):  # each sample starts anew
            given[f"x{i}"] = np.repeat(state[None], count, axis=0)
        np.savez(files[1], **given)
        jobs += files
    emulator.run(Path(__file__).with_name("device.py"), "models", *jobs, timeout=3600)
    for name, graph in graphs.items():
        samples = list(random_samples(graph, count).values())
        with np.load(folder / f"{name}-out.npz") as outputs:
            for sample in range(count):
                expected = reference.run(graph, *(x[sample] for x in samples))
                for i, each in enumerate(expected):
                    np.testing.assert_array_equal(outputs[f"y{i}"][sample], each, f"{path.name} as {name}, output {i}")


@pytest.mark.aarch64_quick
def test_digits_original_and_int8(emulator: Emulator, digits: Path, tmp_path: Path) -> None:
    check(emulator, tmp_path, digits, 2, ["int8"])


def test_digits(emulator: Emulator, digits: Path, tmp_path: Path) -> None:
    check(emulator, tmp_path, digits, 4)


@pytest.mark.parametrize("model", MODELS)
def test_shared_models(emulator: Emulator, shared: Path, tmp_path: Path, model: str) -> None:
    check(emulator, tmp_path, shared / "models" / f"{model}.tflite", MODELS[model])


@pytest.mark.parametrize(("model", "emulator"), LARGE.items(), indirect=["emulator"])
def test_large_models(emulator: Emulator, shared: Path, tmp_path: Path, model: str) -> None:
    check(emulator, tmp_path, shared / "models" / f"{model}.tflite", 1)
