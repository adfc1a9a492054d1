"""Targets: names, nearest names, TVM's JSON, and what this machine offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tflite2q.errors import TargetError
from tflite2q.lower import targets
from tflite2q.lower.capabilities import capabilities
from tflite2q.lower.target import features, resolve, tvm_target


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_llvm_knows_every_named_target(target: targets.Target) -> None:
    made = tvm_target(resolve(target.name))
    assert features(made), "LLVM names no features at all"
    assert target.sentence and not target.sentence.endswith(".")


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("x86-64", set(), {"avx", "avx2", "avx512f"}),
        ("x86-64-v3", {"avx2", "fma"}, {"avx512f", "avxvnni"}),
        ("x86-64-v4", {"avx512bw", "avx512vl"}, {"avx512vnni"}),
        ("x86-64-vnni", {"avx512vnni", "avx512vl"}, set()),
        ("x86-64-avxvnni", {"avxvnni", "avx2"}, {"avx512f"}),
        ("aarch64", {"neon"}, {"dotprod", "i8mm", "sve"}),
        ("aarch64-dotprod", {"neon", "dotprod"}, {"i8mm"}),
        ("aarch64-i8mm", {"neon", "dotprod", "i8mm"}, set()),
        ("raspberry-pi-4", {"neon"}, {"dotprod"}),
        ("raspberry-pi-5", {"dotprod"}, {"i8mm"}),
    ],
)
def test_features(name: str, has: set[str], lacks: set[str]) -> None:
    found = features(tvm_target(resolve(name)))
    assert has <= found
    assert not lacks & found


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x86-64-vni", "did you mean x86-64-vnni"),
        ("rasberry-pi-4", "did you mean raspberry-pi-4"),
        ("", "is not known"),
        ('{"kind": "cuda"}', "cuda"),
        ('{"kind": "llvm", "mcpuu": "haswell"}', "mcpuu"),
        ('{"kind": "llvm", "mcpu": "no-such-processor"}', "no-such-processor"),
        ('{"kind"', "not valid JSON"),
        ('{"kind": "llvm", "fast-math": true}', "fast-math"),
        ("llvm mcpu=haswell", "-key=value"),
        ("nvidia/jetson-nano", "cuda"),
        ("raspberry-pi/4b", "raspberry-pi-4"),
        ('{"kind": "llvm", "mtriple": "no-such-triple"}', "no-such"),
        (None, "not NoneType"),
        ({"kind": "llvm"}, "not dict"),
    ],
)
def test_unusable_targets(name: Any, says: str) -> None:
    with pytest.raises(TargetError) as error:
        tvm_target(resolve(name))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_json_targets() -> None:
    found = resolve('{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell", "mattr": ["-avx2"]}')
    assert "avx2" not in features(tvm_target(found))
    assert "sse4.2" in features(tvm_target(found))


@pytest.mark.parametrize(
    "name",
    [
        "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -num-cores=4",
        '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "num-cores": 4}',
        "raspberry-pi/4b-aarch64",
    ],
)
def test_targets_in_the_terms_of_tvm(name: str) -> None:
    found = resolve(name)
    assert (found.mtriple, found.mcpu, dict(found.options)) == ("aarch64-linux-gnu", "cortex-a72", {"num-cores": 4})
    assert tvm_target(found).attrs["num-cores"] == 4


def test_capabilities() -> None:
    found = {each.name: each for each in capabilities()}
    assert list(found) == [target.name for target in (*targets.TARGETS, *targets.MICROS)]
    assert dict(found["cortex-m4"].kernels)["conv2d"] == "q_pairs" and found["cortex-m55"].features == ("mve",)
    assert found["x86-64-v3"].features == ("sse2", "ssse3", "sse4.1", "avx", "avx2", "fma")
    assert found["aarch64-i8mm"].features == ("neon", "dotprod", "i8mm")
    kernels = {name: dict(each.kernels) for name, each in found.items()}
    assert kernels["x86-64-vnni"]["conv2d"] == "conv2d__avx512vnni"
    assert kernels["raspberry-pi-4"]["conv2d"] == "conv2d__neon"
    assert kernels["raspberry-pi-5"]["dense"] == "conv2d__dotprod"
    assert kernels["graviton3"]["conv2d"] == "conv2d__i8mm"
    assert kernels["riscv64"]["conv2d"] == kernels["wasm32"]["conv2d"] == "generic_conv2d"


def test_a_microcontroller_is_no_target_of_shared_libraries() -> None:
    with pytest.raises(TargetError, match=r"--lib NAME\.a --target cortex-m4"):
        resolve("cortex-m4")


def cpuinfo(tmp_path: Path, line: str) -> str:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    return str(path)


def test_reported_features(tmp_path: Path) -> None:
    assert targets.reported_features(cpuinfo(tmp_path, "flags\t\t: fpu avx2 avx_vnni")) == {"fpu", "avx2", "avx_vnni"}
    assert targets.reported_features(cpuinfo(tmp_path, "Features\t: asimd asimddp")) == {"asimd", "asimddp"}
    assert targets.reported_features(str(tmp_path / "absent")) == frozenset()


def test_native_is_what_the_machine_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's name promises AVX-512, the hypervisor hides it, and shows AVX-VNNI, which the name lacks."""
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(targets, "reported_features", lambda: frozenset({"avx2", "fma", "avx_vnni"}))
    implied = frozenset({"avx2", "fma", "avx512f", "avx512vnni", "prefer-256-bit"})
    found = targets.native_target("rocketlake", implied)
    assert set(found.mattr) == {"+avxvnni", "-avx512f", "-avx512vnni"}
    names = features(tvm_target(found))
    assert "avxvnni" in names
    assert not {name for name in names if name.startswith("avx512")}


def test_native_where_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "reported_features", lambda: frozenset())
    assert targets.native_target("apple-m1", frozenset({"dotprod"})).mattr == ()
    assert targets.missing_features({"avx512f"}) == []
