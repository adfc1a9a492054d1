"""Tasks: which models look like them, and their figures by other means than theirs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectors import SIZE, ssd
from networks import Net
from PIL import Image

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.pool import AveragePool2D
from tflite2q.dialect.ops.reduce import ArgExtremum
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.types import TensorType, Value
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation import coding, data, tasks
from tflite2q.evaluation.results import Accuracy
from tflite2q.evaluation.tasks import label_names
from tflite2q.evaluation.tasks.detection import Boxes, Detection, matches, overlap
from tflite2q.evaluation.tasks.keypoints import Keypoints, Points
from tflite2q.evaluation.tasks.segmentation import mean_iou

Array = np.ndarray[Any, Any]
REAL = (0.5, 0)


def segmenter(argmax: bool = True, seed: int = 0) -> Graph:
    """Five classes for each of 16x16 pixels: their numbers, or their scores."""
    net = Net(seed=seed)
    x = net.input("image", (1, 16, 16, 3), (1 / 128, 128))
    y = net.conv(x, "features", 8, (6 / 255, 0), size=3, spread=24)
    y = net.conv(y, "scores", 5, (0.1, 128), spread=40)
    if not argmax:
        return net.graph(y)
    axis = net.constant("axis", np.array([3], np.int32))
    net.values["mask"] = Value("mask", TensorType((1, 16, 16), "int32"))
    return net.graph(net.op(ArgExtremum(inputs=(y, axis), outputs=("mask",))))


def pose() -> Graph:
    """Seven keypoints as (y, x, score)."""
    net = Net()
    x = net.input("image", (1, 8, 8, 3), (1 / 128, 128))
    y = net.conv(x, "maps", 21, (1 / 255, 0), size=3, spread=30)
    net.same(y, "pooled", (1, 1, 1, 21))
    y = net.op(AveragePool2D(inputs=(y,), outputs=("pooled",), filter_h=8, filter_w=8, padding="VALID"))
    net.same(y, "points", (1, 1, 7, 3))
    return net.graph(net.op(Reshape(inputs=(y,), outputs=("points",), new_shape=(1, 1, 7, 3))))


def embedder() -> Graph:
    net = Net()
    x = net.input("image", (1, 8, 8, 3), (1 / 128, 128))
    return net.graph(net.average_pool(net.conv(x, "maps", 16, (6 / 255, 0), size=3), "vector"))


def autoencoder() -> Graph:
    net = Net()
    x = net.input("x", (1, 12), REAL)
    return net.graph(net.dense(net.dense(x, "code", 4, REAL), "y", 12, REAL))


def logits() -> Graph:
    net = Net()
    return net.graph(net.dense(net.input("x", (1, 12), REAL), "y", 5, REAL))


def chosen(graph: Graph, **options: Any) -> tuple[Any, Any]:
    return tasks.choose([graph[n] for n in graph.inputs], [graph[n] for n in graph.outputs], graph, **options)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (segmenter(), "segmentation"),
        (ssd(), "detection"),
        (pose(), "keypoints"),
        (logits(), "classification"),
        (embedder(), "embedding"),
        (autoencoder(), "regression"),
        (segmenter(argmax=False), "segmentation"),
    ],
)
def test_tasks_are_guessed(graph: Graph, expected: str) -> None:
    task, info = chosen(graph)
    assert (task.name, info.name, info.guessed) == (expected, expected, True)
    assert info.why


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deeplabv3_mnv2_dm05_pascal_quant", "segmentation"),
        ("movenet_single_pose_lightning_ptq", "keypoints"),
        ("mobilenet_v2_1.0_224_quant", "classification"),
        ("keras_lstm_mnist_ptq", "classification"),
        ("vww_96_int8", "classification"),
        ("kws_ref_model", "classification"),
        ("ad01_int8", "regression"),
        ("split_concat", "regression"),
        ("mobilenet_v1_1.0_224_quant_embedding_extractor", "embedding"),
    ],
)
def test_tasks_of_real_models(shared: Path, name: str, expected: str) -> None:
    task, info = chosen(tflite2q.load(shared / "models" / f"{name}.tflite"))
    assert task.name == expected, info.why
    assert info.named == (name == "mobilenet_v2_1.0_224_quant" or expected == "keypoints")


def test_a_task_that_does_not_fit_is_refused_with_the_shapes() -> None:
    with pytest.raises(UsageError, match=r"cannot be read as detection: .*this model's: \[1, 5\]"):
        chosen(logits(), task="detection")
    with pytest.raises(UsageError, match="there is no task 'x'"):
        chosen(logits(), task="x")


def test_a_softmax_of_one_step_is_a_class_even_where_a_vector_was_guessed() -> None:
    task, info = chosen(embedder(), labelled=True)
    assert (task.name, info.guessed) == ("classification", True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("0 cat\n1 dog", ("cat", "dog")),
        ("1: cat\n2: dog", ("", "cat", "dog")),
        ("7 up\n3 lives", ("7 up", "3 lives")),
        ("101 dalmatians\nbambi", ("101 dalmatians", "bambi")),
    ],
)
def test_lines_of_names(text: str, names: tuple[str, ...]) -> None:
    assert label_names.lines(text) == names


def test_names_come_from_the_file_behind_the_model_or_from_the_user() -> None:
    packed = logits().with_(files=(("labels.txt", b"a\nb\nc\nd\ne\n"), ("x.txt", b"1\n")))
    task, info = chosen(packed)
    assert info.named
    assert task.called(4) == "e"
    task, _ = chosen(packed, names=["p", "q", "r", "s", "t"])
    assert task.called(0) == "p"
    with pytest.raises(DataError, match="3 names for a model of 5 classes"):
        chosen(packed, names=["p", "q", "r"])
    assert label_names.fitting(("???", "a", "b"), 2) == ("a", "b")
    assert label_names.fitting(tuple(map(str, range(1000))), 1001)[:2] == ("background", "0")


# --- segmentation


def looped(truth: Array, answer: Array) -> tuple[float, dict[int, float]]:
    """Mean IoU and that of each class, pixel set by pixel set."""
    found = {}
    for number in sorted(set(np.unique(truth)) | set(np.unique(answer))):
        if number == 255:
            continue
        counted = truth != 255
        both = int(((truth == number) & (answer == number) & counted).sum())
        either = int((((truth == number) | (answer == number)) & counted).sum())
        if either:
            found[int(number)] = both / either
    return float(np.mean(list(found.values()))), found


def compared(graph: Graph, scheme: str, pictures: Array, **options: Any) -> tuple[Accuracy, list[Array], list[Array]]:
    """The comparison with a conversion, and both models' first outputs."""
    new = tflite2q.convert(graph, scheme, interface="keep")
    found = tflite2q.compare(graph, new, data=pictures, speed=False, layer_samples=0, **options)
    assert found.accuracy is not None
    before, after = ([tflite2q.reference(model, p[None])[0] for p in pictures] for model in (graph, new))
    return found.accuracy, before, after


def test_masks_against_the_original() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    accuracy, before, after = compared(segmenter(), "int8-w4", pictures)
    a, b = np.concatenate(before), np.concatenate(after)
    assert 0 < np.mean(a == b) < 1
    assert accuracy.agreement == pytest.approx(np.mean(a == b))
    mean, each = looped(a, b)
    figure = accuracy.figure("mean_iou_original")
    assert figure is not None
    assert figure.value == pytest.approx(mean)
    assert {line.number: line.converted for line in accuracy.classes} == pytest.approx(each)
    # Numbers of classes are not numbers to subtract.
    assert accuracy.max_step_error is accuracy.mean_abs_error is accuracy.agreement_top1 is None
    assert accuracy.figure("sqnr_db") is None


def test_masks_against_the_truth_with_pixels_that_do_not_count() -> None:
    generator = np.random.default_rng(1)
    pictures = generator.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    truth = generator.integers(0, 5, (6, 16, 16)).astype(np.uint8)
    truth[:, :3] = 255
    accuracy, before, after = compared(segmenter(), "int8-w4", pictures, labels=truth)
    score, pixels = accuracy.score("mean_iou"), accuracy.score("pixel_accuracy")
    assert score is not None and pixels is not None and score.difference is not None
    assert score.original == pytest.approx(looped(truth, np.concatenate(before))[0])
    assert score.converted == pytest.approx(looped(truth, np.concatenate(after))[0])
    counted = truth != 255
    assert pixels.original == pytest.approx(np.mean((np.concatenate(before) == truth)[counted]))
    assert score.difference.low <= score.difference.value <= score.difference.high


def test_mask_files_lie_as_their_pictures_do(tmp_path: Path) -> None:
    """A mask painted where the picture is bright: both padded alike, it meets the same pixels of the output."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    half = np.zeros((40, 20), np.uint8)
    half[20:] = 1
    Image.fromarray(np.repeat(half[..., None] * 255, 3, 2)).save(tmp_path / "photos" / "a.png")
    Image.fromarray(half).save(tmp_path / "masks" / "a.png")
    graph = segmenter()
    task, _ = chosen(graph)
    samples = data.load(tmp_path / "photos", [graph["image"]], fit=task.fit)
    truth = task.truth(samples, tmp_path / "masks", None)
    (codes,) = samples.make(0)
    mask = truth.mask(0)
    assert mask.shape == (16, 16)
    assert (mask[:, :4] == 255).all() and (mask[:, 12:] == 255).all()  # beside the picture, which is 8 wide
    assert np.array_equal(mask[:, 4:12] == 1, codes[0, :, 4:12, 0] > 127)
    with pytest.raises(DataError, match=r"no mask for a\.png"):
        task.truth(samples, tmp_path / "photos" / "..", None)


def test_mean_iou_of_nothing_is_no_number() -> None:
    assert math.isnan(mean_iou(np.zeros((2, 3, 4))))


# --- detection


def test_overlap_by_hand() -> None:
    a = np.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    b = np.array([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 1.0]])
    assert overlap(a, b) == pytest.approx(np.array([[1 / 7, 0.5], [0, 0]]))


def boxes(*rows: tuple[float, float, float, float, int, float]) -> Boxes:
    array = np.array(rows, float).reshape(-1, 6)
    return Boxes(array[:, :4], array[:, 4].astype(int), array[:, 5])


def test_matching_by_hand() -> None:
    before = boxes((0, 0, 1, 1, 3, 0.9), (0, 0, 0.9, 1, 3, 0.8), (0, 0, 0.5, 0.5, 1, 0.6), (0.6, 0.6, 1, 1, 2, 0.2))
    after = boxes((0, 0, 1, 1, 3, 0.85), (0, 0, 0.5, 0.5, 2, 0.6), (0, 0, 0.5, 0.45, 1, 0.25))
    assert [(a, b) for a, b, _ in matches(before, after)] == [(0, 0), (2, 2)]  # a box is taken once
    assert [(a, b) for a, b, _ in matches(before, after, same_class=False)] == [(0, 0), (2, 1)]
    graph = ssd()
    task = Detection(
        tasks.Interface(tuple(graph[n] for n in graph.inputs), tuple(graph[n] for n in graph.outputs), graph)
    )
    tally = task.tally()
    tally.add(0, "a", before, after)
    found = tally.result()
    # Shown: three before, two after.  Forward finds boxes 0 and 2 (whose match fell to 0.25); backward 0 alone, the
    # box of class 2 has nothing where it is.
    assert found.agreement == pytest.approx(3 / 5)
    figures = {figure.name: figure.value for figure in found.figures}
    assert (figures["boxes_original"], figures["boxes_converted"]) == (3, 2)
    assert figures["same_place"] == pytest.approx(2 / 3)
    assert figures["mean_score_error"] == pytest.approx((0.05 + 0.35) / 2)
    assert figures["max_score_error"] == pytest.approx(0.35)
    assert {line.number: line.converted for line in found.classes} == {1: 1.0, 3: 0.5}
    assert task.agreement(before, after) == (3, 5)


@pytest.mark.slow
def test_a_detector_equals_itself_and_its_counts_are_no_scores() -> None:
    graph = ssd()
    pictures = np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    found = tflite2q.compare(graph, graph, data=pictures, speed=False, layer_samples=0).accuracy
    assert found is not None and found.task is not None
    assert (found.task.name, found.agreement) == ("detection", 1.0)
    assert found.max_step_error is found.mean_abs_error is found.agreement_top1 is None
    best = found.figure("boxes_original")
    assert best is not None
    assert best.value == sum((tflite2q.reference(graph, p[None])[2] >= 0.3).sum() for p in pictures)


# --- keypoints


def test_keypoints_by_hand() -> None:
    graph = pose()
    task, _ = chosen(graph)
    assert isinstance(task, Keypoints)
    before = Points(np.full((7, 2), 0.5), np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1]))
    moved = np.full((7, 2), 0.5)
    moved[0] += (0.03, 0.036)  # of 8 pixels: 0.375 pixels, within 5 % of 8
    moved[1] += (0.0, 0.06)  # 0.48 pixels
    moved[4] += (0.4, 0.3)  # not found in the original
    after = Points(moved, before.scores)
    tally = task.tally()
    tally.add(0, "a", before, after)
    found = tally.result()
    figures = {figure.name: figure.value for figure in found.figures}
    assert found.agreement == pytest.approx(3 / 4)
    assert figures["distance"] == pytest.approx((0.3749 + 0.48) / 4, abs=1e-4)
    assert figures["distance_max"] == pytest.approx(0.48)
    assert figures["distance_all"] == pytest.approx((0.3749 + 0.48 + 4.0) / 7, abs=1e-4)
    assert task.agreement(before, after) == (3, 4)


def test_keypoints_in_pixels_are_taken_to_parts() -> None:
    graph = pose()
    task, _ = chosen(graph)
    value = Value("points", TensorType((1, 1, 7, 3), "float32"))
    array = np.zeros((1, 1, 7, 3), np.float32)
    array[..., 0], array[..., 1] = 4.0, 2.0
    assert task.decode([array], [value]).places[0] == pytest.approx((0.5, 0.25))


# --- numbers


def test_numbers_of_outputs_by_hand() -> None:
    graph = autoencoder()
    pictures = np.random.default_rng(4).integers(0, 256, (5, 12), dtype=np.uint8)
    accuracy, before, after = compared(graph, "int8-w4", pictures)
    value = graph["y"]
    a, b = (np.concatenate([coding.real(x, value) for x in side]).astype(float) for side in (before, after))
    figures = {figure.name: figure.value for figure in accuracy.figures}
    assert figures["sqnr_db"] == pytest.approx(10 * math.log10((a**2).sum() / ((a - b) ** 2).sum()))
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert figures["cosine"] == pytest.approx(np.mean(cosines))
    assert figures["least_cosine"] == pytest.approx(min(cosines))
    assert figures["max_abs_error"] == pytest.approx(np.abs(a - b).max())
    assert accuracy.max_step_error == pytest.approx(np.abs(a - b).max() / value.type.scale)
    assert accuracy.agreement is None


# --- real models


@pytest.mark.slow
def test_deeplab_by_a_confusion_matrix(shared: Path) -> None:
    path = shared / "models" / "deeplabv3_mnv2_dm05_pascal_quant.tflite"
    new = tflite2q.convert(path, "int8")
    options: dict[str, Any] = {"data": shared / "images", "limit": 3, "speed": False, "layer_samples": 0}
    found = tflite2q.compare(path, new, **options).accuracy
    assert found is not None and found.task is not None and found.task.name == "segmentation"
    graph = tflite2q.load(path)
    samples = data.load(shared / "images", [graph[graph.inputs[0]]], limit=3, fit="pad")
    before, after = tflite2q.compile(graph), tflite2q.compile(new)
    moved = [coding.transfer(s, [graph[graph.inputs[0]]], after.inputs) for s in samples]
    a = np.concatenate([before.run(*s)[0] for s in samples])
    b = np.concatenate([after.run(*s)[0] for s in moved])
    assert found.agreement == pytest.approx(np.mean(a == b))
    assert found.agreement > 0.95
    figure = found.figure("mean_iou_original")
    assert figure is not None
    assert figure.value == pytest.approx(looped(a, b)[0])


@pytest.mark.slow
def test_movenet_by_hand(shared: Path) -> None:
    path = shared / "models" / "movenet_single_pose_lightning_ptq.tflite"
    graph = tflite2q.load(path)
    new = tflite2q.convert(graph, "symmetric-int8")
    options: dict[str, Any] = {"data": shared / "images", "limit": 4, "speed": False, "layer_samples": 0}
    found = tflite2q.compare(graph, new, **options).accuracy
    assert found is not None and found.task is not None and found.task.name == "keypoints"
    samples = data.load(shared / "images", [graph[graph.inputs[0]]], limit=4, fit="pad")
    before, after = tflite2q.compile(graph), tflite2q.compile(new)
    a = np.concatenate([before.run(*s)[0].reshape(-1, 3) for s in samples])
    moved = [coding.transfer(s, [graph[graph.inputs[0]]], after.inputs) for s in samples]
    b = np.concatenate([after.run(*s)[0].reshape(-1, 3) for s in moved])
    pixels = 192 * np.sqrt(((a[:, :2] - b[:, :2]).astype(float) ** 2).sum(1))
    shown = a[:, 2] >= 0.3
    figures = {figure.name: figure.value for figure in found.figures}
    assert figures["distance"] == pytest.approx(pixels[shown].mean(), rel=1e-5)
    assert figures["distance_max"] == pytest.approx(pixels[shown].max(), rel=1e-5)
    assert found.agreement == pytest.approx(np.mean(pixels[shown] <= 9.6))


@pytest.mark.slow
def test_post_processing_of_a_real_ssd(shared: Path) -> None:
    path = shared / "cases" / "shapes" / "detection_postprocess_static.tflite"
    if not path.exists():
        pytest.skip("that case is not here")
    graph = tflite2q.load(path)
    generator = np.random.default_rng(5)
    coded = generator.integers(150, 230, (3, 1, 1917, 4), dtype=np.uint8)
    scores = generator.integers(0, 60, (3, 1, 1917, 91), dtype=np.uint8)
    for sample in range(3):
        for k in range(6):
            scores[sample, 0, 300 * k + 7, 10 + k] = 200 + 9 * k
    held = dict(zip(graph.inputs, (coded, scores), strict=True))
    found = tflite2q.compare(graph, graph, data=held, speed=False, layer_samples=0)
    assert found.accuracy is not None and found.accuracy.task is not None
    assert (found.accuracy.task.name, found.accuracy.agreement) == ("detection", 1.0)
    outputs = [tflite2q.reference(graph, coded[k], scores[k]) for k in range(3)]
    shown = sum(int((o[2][0, : int(o[3][0])] >= 0.3).sum()) for o in outputs)
    figure = found.accuracy.figure("boxes_original")
    assert figure is not None and figure.value == shown > 0
    # LiteRT's post-processing finds the same boxes.
    rows = {(row.engine, row.model): row for row in found.engines}
    if ("litert", "original") in rows:
        assert found.headline is not None and found.headline.stages[-1].agreement == 1.0
