"""Float models quantized by tflite2q and by ai-edge-quantizer, from the same float32 file and the same samples.

Every file is run by LiteRT's default kernels.  ai-edge-quantizer lives in an environment of its own, whose Python runs
`theirs.py`.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

import tflite2q
from benchmarks import environment
from benchmarks.accuracy import Report
from benchmarks.models import Labelled, Model
from tflite2q.dialect.graph import Graph, Signature, used
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.dialect.types import Value
from tflite2q.evaluation import calibration, coding, data
from tflite2q.flatbuffer import writer
from tflite2q.rewrites import scheme

Array = npt.NDArray[Any]
Samples = list[list[Array]]

CALIBRATION, UNLABELLED = 50, 60
OURS = ("int8", "dynamic-range", "weight-only")
THEIRS = {"int8": "static_wi8_ai8", "dynamic-range": "dynamic_wi8_afp32", "weight-only": "weight_only_wi8_afp32"}
OTHERS = ("kws", "vww_96", "ad01", "pretrainedResnet")  # models.SPEED without labelled samples
SIGNATURE = "serving_default"
SCRIPT = Path(__file__).with_name("theirs.py")


@dataclass(frozen=True)
class Source:
    """A float32 model in `path`, and samples for it; `labels` has the right class of each, if known."""

    name: str
    graph: Graph
    path: Path
    samples: Samples
    labels: Sequence[int] | None


@dataclass(frozen=True)
class Row:
    """One quantized file: share of right answers, and of answers that are the float model's; signal to noise of the
    outputs in decibels; bytes.  `problem`: why there is none."""

    model: str
    scheme: str
    option: str
    samples: int = 0
    top1: float | None = None
    agreement: float | None = None
    sqnr: float | None = None
    size: int = 0
    problem: str | None = None


def measure(
    models: Sequence[Labelled | Model], folder: Path, quantizer: str | None, limit: int | None, report: Report
) -> dict[str, Any]:
    """Everything there is to know, ready for JSON; `folder` has the models without samples, which get random ones;
    `quantizer` is the Python that has ai-edge-quantizer."""
    where, rows = environment.here(), []
    with tempfile.TemporaryDirectory() as place:
        for model in models:
            if isinstance(model, Model):
                source = _unlabelled(model, folder, Path(place))
            else:
                source = _labelled(model, Path(place), limit)
            truth = _outputs(source.path, source.samples)
            rows.append(_row(source, "float32", "the model itself", source.path, truth))
            for name in OURS:
                made = calibration.convert(source.graph, scheme.find(name), source.samples[:CALIBRATION])
                path = Path(place, f"{source.name}.{name}.tflite")
                made.save(path)
                rows.append(_row(source, name, "tflite2q", path, truth))
                rows.append(_theirs(source, name, quantizer, Path(place), truth))
            for row in rows[-2 * len(OURS) :]:
                report(f"{row.model} {row.scheme} {row.option}: {row.problem or row.sqnr}")
    return {"schema_version": 1, "environment": asdict(where), "rows": [asdict(row) for row in rows]}


def _labelled(model: Labelled, place: Path, limit: int | None) -> Source:
    original = tflite2q.load(model.path)
    given = data.load(str(model.data), [original[n] for n in original.inputs], str(model.labels), limit)
    labels = None if given.labels is None else list(given.labels)
    return _source(model.name, original, [list(sample) for sample in given], labels, place)


def _unlabelled(model: Model, folder: Path, place: Path) -> Source:
    original = tflite2q.load(model.path(folder))
    given = data.synthetic([original[n] for n in original.inputs], samples=UNLABELLED, seed=1)
    return _source(model.name, original, [list(sample) for sample in given], None, place)


def _source(name: str, original: Graph, samples: Samples, labels: Sequence[int] | None, place: Path) -> Source:
    """The float32 model that `original` becomes, with its samples in real numbers."""
    graph = _without_clamps(tflite2q.convert(original, "float32", interface="scheme").graph)
    # The other tool calibrates models with a signature only.
    graph = graph.with_(signatures=(Signature(SIGNATURE, _pairs(graph.inputs), _pairs(graph.outputs)),))
    path = place / f"{name}.tflite"
    path.write_bytes(writer.write(graph))
    inputs: tuple[list[Value], list[Value]] = ([original[n] for n in original.inputs], [graph[n] for n in graph.inputs])
    return Source(name, graph, path, [list(coding.transfer(sample, *inputs)) for sample in samples], labels)


def _without_clamps(graph: Graph) -> Graph:
    """`graph` without the clamps at the ends of the original's codes, which a float model would not have."""
    gone: dict[str, str] = {}
    for op in graph.ops:
        if isinstance(op, Extremum) and graph[str(op.inputs[1])].constant is not None:
            gone[op.name] = gone.get(str(op.inputs[0]), str(op.inputs[0]))
    ops = [
        op.with_(inputs=tuple(gone.get(str(name), name) for name in op.inputs))
        for op in graph.ops
        if op.name not in gone
    ]
    return used(graph.with_(ops=tuple(ops), outputs=tuple(gone.get(name, name) for name in graph.outputs)))


def _pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


def _theirs(source: Source, name: str, quantizer: str | None, place: Path, truth: list[Array]) -> Row:
    label = "ai-edge-quantizer"
    if quantizer is None:
        return Row(source.name, name, label, problem="not measured")
    path, given = place / f"{source.name}.{name}.theirs.tflite", place / "samples.npz"
    # Names are an array of their own: as keywords, an input called "file" would be taken for savez's own.
    np.savez(given, np.array(source.graph.inputs), *map(np.stack, zip(*source.samples[:CALIBRATION], strict=True)))
    command = [quantizer, str(SCRIPT), str(source.path), THEIRS[name], str(given), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Row(source.name, name, label, problem=done.stderr.strip().splitlines()[-1][:200])
    return _row(source, name, label, path, truth)


def _row(source: Source, name: str, label: str, path: Path, truth: list[Array]) -> Row:
    got = _outputs(path, source.samples)
    noise = sum(float(((a.astype(float) - b) ** 2).sum()) for a, b in zip(got, truth, strict=True))
    signal = sum(float((b.astype(float) ** 2).sum()) for b in truth)
    answers, wanted = ([int(array.argmax()) for array in arrays] for arrays in (got, truth))
    shift = 0 if source.labels is None else _background(truth[0], source)
    return Row(
        source.name,
        name,
        label,
        samples=len(got),
        top1=_share(answers, [n + shift for n in source.labels]) if source.labels is not None else None,
        agreement=_share(answers, wanted),
        sqnr=None if noise == 0 else 10 * float(np.log10(signal / noise)),
        size=path.stat().st_size,
    )


def _background(output: Array, source: Source) -> int:
    """1 if the model's classes start with one for the background, which labels do not count."""
    return int(output.size == 1001)


def _share(a: Sequence[int], b: Sequence[int]) -> float:
    return float(np.mean([x == y for x, y in zip(a, b, strict=True)]))


def _outputs(path: Path, samples: Samples) -> list[Array]:
    """The first output of LiteRT for each sample."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    inputs, output = interpreter.get_input_details(), interpreter.get_output_details()[0]
    found = []
    for sample in samples:
        for detail, array in zip(inputs, sample, strict=True):
            interpreter.set_tensor(detail["index"], _given(array, detail))
        interpreter.invoke()
        found.append(_real(interpreter.get_tensor(output["index"]), output))
    return found


def _given(array: Array, detail: Mapping[str, Any]) -> Array:
    """Real numbers in the type of an input."""
    if detail["dtype"] is np.float32:
        return array
    (scale, zero), info = detail["quantization"], np.iinfo(detail["dtype"])
    codes: Array = np.clip(np.rint(array / scale) + zero, info.min, info.max).astype(detail["dtype"])
    return codes


def _real(array: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero = detail["quantization"]
    real: Array = array if array.dtype == np.float32 else (array.astype(np.float32) - zero) * scale
    return real
