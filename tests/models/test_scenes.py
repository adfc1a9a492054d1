"""The committed scenes model, which `make demo` shows: unchanged files, held-out digits, and the accuracy it claims."""

import hashlib
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tflite2q.execution import litert
from tflite2q.flatbuffer import reader

MODELS = Path(__file__).parents[2] / "models"
STEMS = ("digits", "scenes")
ENDINGS = ("_uint8.tflite", "_test.npz", "_labels.csv")


def test_files_have_the_listed_sums() -> None:
    listed = dict(line.split()[::-1] for line in (MODELS / "SHA256SUMS").read_text().splitlines())
    names = {stem + ending for stem in STEMS for ending in ENDINGS}
    assert listed == {name: hashlib.sha256((MODELS / name).read_bytes()).hexdigest() for name in names}


def test_the_model_is_of_the_legacy_kind() -> None:
    graph = reader.load(MODELS / "scenes_uint8.tflite")
    weighted = [graph.ins(op) for op in graph.ops if len(op.inputs) == 3]
    assert len(weighted) == 10
    for x, weights, bias in weighted:
        assert x is not None and weights is not None and bias is not None
        assert x.type.dtype == weights.type.dtype == "uint8" and weights.type.parameters.axis is None
        assert weights.type.zero_point != 128 and bias.type.dtype == "int32"


def test_held_out_scenes_are_drawn_from_held_out_digits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits that the model was trained on are in none of the scenes that it is tested on."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(MODELS)
    train = import_module("train_scenes")
    digits = train.load_digits()
    labels = digits.target.astype(np.int64)
    training, held_out = train.split(labels, np.random.default_rng(train.SEED))
    assert not set(training) & set(held_out)
    glyphs = digits.images / 16.0
    drawn = train.drawn(glyphs, held_out[:5], glyphs[held_out], np.random.default_rng(train.SEED + 1))
    with np.load(MODELS / "scenes_test.npz") as arrays:
        inputs = arrays["input"]
    assert inputs.shape == (360, 32, 32, 1)
    np.testing.assert_array_equal(inputs[:5], drawn)
    rows = np.loadtxt(MODELS / "scenes_labels.csv", np.int64, delimiter=",", skiprows=1)
    assert rows[:, 1].tolist() == labels[held_out].tolist()


def correct(kernels: str) -> int:
    """How many held-out scenes LiteRT reads."""
    pytest.importorskip("ai_edge_litert")
    with np.load(MODELS / "scenes_test.npz") as arrays:
        inputs = arrays["input"]
    labels = np.loadtxt(MODELS / "scenes_labels.csv", np.int64, delimiter=",", skiprows=1)[:, 1]
    child = litert.Child(str(MODELS / "scenes_uint8.tflite"), 1, kernels)
    answers = []
    try:
        for codes in inputs:
            child.start([codes[np.newaxis]])
            answers.append(child.finish()[0].argmax())
    finally:
        child.close()
    return int((np.array(answers) == labels).sum())


def test_litert_reads_most_scenes() -> None:
    assert correct(litert.DEFAULT) >= 335


@pytest.mark.slow
def test_litert_reaches_the_accuracy_the_readme_claims() -> None:
    claimed = re.search(r"(\d+) of 360 held-out scenes", (MODELS / "README.md").read_text())
    assert claimed is not None
    assert correct(litert.REFERENCE) == int(claimed[1])
