"""Rules agree with TFLite Micro and XNNPACK on models of every operator, and with Vela on shared models and schemes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from judges import MICRO, XNNPACK, drawn, judged, left_by_vela, vela

import tflite2q
from tflite2q.errors import Tflite2qError
from tflite2q.rewrites import scheme as schemes

QUICK = 1  # models of each family
SMALL = ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8", "keras_lstm_mnist_ptq", "split_concat")
JUDGES = ((MICRO, "tflite-micro"), (XNNPACK, "xnnpack"))
MODELS = (*SMALL, "mobilenet_v1_0.25_128_quant", "movenet_single_pose_lightning_ptq", "unknown_custom_op")


def passes(path: Path, runtime: str) -> bool:
    return not tflite2q.check(path, runtime, mend=False).breaches


def disagreements(answers: dict[Path, str], runtime: str) -> list[str]:
    found = []
    for path, said in answers.items():
        result = tflite2q.check(path, runtime, mend=False)
        if bool(result.breaches) != bool(said):
            ours = [f"{breach.rule.id}: {breach.what}" for breach in result.breaches]
            found.append(f"{path.name}: {runtime} says {said!r}, the rules say {ours}")
    return found


def converted(folder: Path, shared: Path) -> Iterator[Path]:
    """The shared models, and what every scheme makes of them."""
    for name in MODELS:
        original = shared / "models" / f"{name}.tflite"
        yield original
        for scheme in schemes.shipped():
            for interface in ("keep", "scheme"):
                path = folder / f"{name}.{scheme}.{interface}.tflite"
                try:
                    tflite2q.convert(tflite2q.load(original, allow_unsupported=True), scheme, interface).save(path)
                except Tflite2qError:
                    continue
                yield path


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models of one operator, of every family."""
    return list(drawn(tmp_path_factory.mktemp("operators"), QUICK))


@pytest.mark.parametrize(("child", "runtime"), JUDGES, ids=["micro", "xnnpack"])
def test_every_operator(child: str, runtime: str, every: list[Path]) -> None:
    pytest.importorskip("tflite_micro" if child == MICRO else "ai_edge_litert")
    answers = judged(child, every)
    assert {bool(said) for said in answers.values()} == {True, False}
    assert disagreements(answers, runtime) == []


@pytest.mark.slow
@pytest.mark.parametrize(("child", "runtime"), JUDGES, ids=["micro", "xnnpack"])
def test_shared_models_in_every_scheme(child: str, runtime: str, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro" if child == MICRO else "ai_edge_litert")
    files = [path for path in converted(tmp_path, shared) if "unknown_custom_op" not in path.name or child == MICRO]
    assert disagreements(judged(child, files), runtime) == []


@pytest.mark.slow
def test_xnnpack_leaves_the_layers_that_the_rules_name(shared: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    files = [shared / "models" / f"{name}.tflite" for name in MODELS if name != "unknown_custom_op"]
    for path, said in judged(XNNPACK, files).items():
        named = {breach.layer for breach in tflite2q.check(path, "xnnpack", mend=False).breaches}
        assert named == set(said.split("|")) - {""}, path.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "accelerator"),
    [("ethos-u55", "ethos-u55-128"), ("ethos-u65", "ethos-u65-256"), ("ethos-u85", "ethos-u85-256")],
)
def test_vela(runtime: str, accelerator: str, shared: Path, tmp_path: Path) -> None:
    """Vela places every operator of just those files that break no rule."""
    if vela() is None:
        pytest.skip("ethos-u-vela is not installed; VELA may name its command")
    differ = []
    for path in converted(tmp_path, shared):
        left = left_by_vela(path, accelerator, tmp_path / "out")
        if (left == 0) != passes(path, runtime):
            differ.append(f"{path.name}: Vela leaves {left}")
    assert differ == []
