"""The documents agree with the code: equation numbers, the grammar's example, paths, and the worked example."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plans
import pytest
import tvm
from litert import run_litert

from tflite2q import cli, rewrites
from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops import BY_BUILTIN, BY_MNEMONIC
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.evaluation import inspection
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader, writer
from tflite2q.kernels import storage
from tflite2q.kernels.contracts import DenseContract
from tflite2q.kernels.registry import KERNELS, select
from tflite2q.kernels.typical import typical_kernels
from tflite2q.lower import targets
from tflite2q.lower.target import resolve, tvm_target
from tflite2q.rewrites import scheme

ROOT = Path(__file__).parent.parent
CITED = re.compile(r"\beqs?\. ?(S?\d+(?:(?:,| and| to) S?\d+)*)")
SOURCES = [
    *ROOT.glob("tflite2q/**/*.py"),
    *ROOT.glob("models/*.py"),
    *ROOT.glob("benchmarks/**/*.py"),
    *ROOT.glob("schemes/*.toml"),
    *ROOT.glob("docs/*.md"),
]


def cited(text: str) -> set[str]:
    """Equation numbers that a text names: "eq. 5", "eq. 16, 17", "eq. 8 to 12", "eq. S2, S3"."""
    found: set[str] = set()
    for match in CITED.finditer(" ".join(text.split())):
        parts = re.split(r"(,| and| to) ", match[1])
        found.update(parts[0::2])
        for index, link in enumerate(parts[1::2]):
            if link.strip() == "to":
                found.update(str(n) for n in range(int(parts[2 * index]), int(parts[2 * index + 2])))
    return found


def test_citations_are_understood() -> None:
    assert cited("as eq. 8 to 10, eq. 16, 17 and eq. S2, S3") == {"8", "9", "10", "16", "17", "S2", "S3"}


def test_every_cited_equation_exists_and_every_equation_is_in_order() -> None:
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    numbered = re.findall(r"^\*\*\((S?\d+)\)\*\*", text, re.MULTILINE)
    plain = [int(n) for n in numbered if not n.startswith("S")]
    schemes = [int(n[1:]) for n in numbered if n.startswith("S")]
    assert plain == list(range(1, len(plain) + 1))
    assert schemes == list(range(1, len(schemes) + 1))
    missing = {
        f"{path.relative_to(ROOT)}: eq. {number}"
        for path in SOURCES
        for number in cited(path.read_text(encoding="utf-8")) - set(numbered)
    }
    assert not missing


def test_every_cited_equation_of_reconstruction_exists() -> None:
    text = (ROOT / "docs" / "reconstruction.md").read_text(encoding="utf-8")
    numbered = re.findall(r"^\*\*\(R(\d+)\)\*\*", text, re.MULTILINE)
    assert numbered == [str(n) for n in range(1, len(numbered) + 1)]
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("tflite2q/**/*.py")]
    found = {number for source in sources for number in re.findall(r"eq\. R(\d+)", source)}
    assert {"2", "4"} <= found <= set(numbered)


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_paths_and_links_in_documents_exist(name: str) -> None:
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose) if not link.startswith("http")]
    named = re.findall(r"`((?:tflite2q|docs|tests|schemes|models|benchmarks)/[\w./-]+)`", prose)
    missing = [link for link in links if not (path.parent / link).exists()]
    written = ("benchmarks/results",)  # by measuring
    missing += [file for file in named if file not in written and not (ROOT / file).exists()]
    assert not missing


def test_architecture_md_knows_every_part_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = [path for path in (ROOT / "tflite2q").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = [path.name if path.suffix else f"{path.name}/" for path in parts if not path.name.startswith("__")]
    assert not [name for name in names if f"`{name}`" not in text]


def example(document: str, language: str, heading: str = "") -> str:
    """The first code block of a language in a document, or in its section with that heading."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    match = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert match is not None
    return match[1]


def test_the_op_that_adding_md_adds_computes_what_litert_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # where dataclasses look the names of annotations up
    exec(compile(example("adding.md", "python"), "adding.md", "exec"), vars(module))
    cls = module.BitwiseXor
    monkeypatch.setitem(BY_BUILTIN, "BITWISE_XOR", (cls, cls.builtins[0]))
    monkeypatch.setitem(BY_MNEMONIC, "q.bitwise_xor", cls)

    q = Quantization.per_tensor(0.5, 3)
    shapes = {"a": (2, 3), "b": (2, 3), "y": (2, 3)}
    values = tuple(Value(name, TensorType(shape, "int8", q)) for name, shape in shapes.items())
    graph = verify(Graph(("a", "b"), ("y",), values, (cls(inputs=("a", "b"), outputs=("y",)),)))
    assert parse_graph(print_graph(graph)) == graph
    path = tmp_path / "xor.tflite"
    writer.save(graph, path)
    assert reader.load(path).ops == graph.ops
    a, b = (np.random.default_rng(seed).integers(-128, 128, (2, 3), np.int8) for seed in (0, 1))
    (ours,) = reference.run(graph, a, b)
    assert ours.tolist() == (a ^ b).tolist() == run_litert(path, [a, b])["y"].tolist()


def executed(block: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A code block of adding.md as a module."""
    module = types.ModuleType(f"example_{block}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(example("adding.md", f"python {block}"), "adding.md", "exec"), vars(module))
    return module


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_kernel_that_adding_md_adds_clamps(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = executed("contract", monkeypatch)
    monkeypatch.setitem(KERNELS, module.ClampContract, (module.GenericClamp(),))
    target = tvm_target(resolve("native"))
    low, high = (-100, 90) if dtype == "int8" else (20, 230)
    contract = module.ClampContract((7, 37), dtype, low, high)
    x = np.resize(np.arange(256), (7, 37)).astype(dtype)
    expected = np.clip(x, low, high)
    np.testing.assert_array_equal(plans.run(select(contract, target).plan.build(), target, x), expected)
    if dtype == "int8":
        stored = select(contract.stored([True], True), target).plan.build()
        y = plans.run(stored, target, storage.shifted(x))
        np.testing.assert_array_equal(y, storage.shifted(expected))
        with pytest.raises(ValueError, match="stored alike"):
            contract.stored([True], False)
    other = module.ClampContract((3,), "int16", 0, 1)
    assert plans.refusal(module.GenericClamp(), other, target) == "codes are int16"


def test_the_target_that_adding_md_adds_gets_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    added = executed("target", monkeypatch).ALDER_LAKE
    monkeypatch.setattr(targets, "TARGETS", (*targets.TARGETS, added))
    kernels = dict(typical_kernels(tvm_target(resolve("alder-lake"))))
    assert kernels == {"conv2d": "conv2d__avxvnni", "depthwise": "depthwise__avxvnni", "dense": "conv2d__avxvnni"}


def test_the_level_that_adding_md_adds_compiles_to_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = executed("level", monkeypatch).kernel
    target = tvm_target(resolve("x86-64-v4"))
    weights = np.random.default_rng(0).integers(-127, 128, (40, 24)).astype(np.int8)
    contract = DenseContract(
        rows=9, depth=24, units=40, x_dtype="uint8", x_zero_point=3, weights=weights, weight_zero_points=(0,),
        bias=None, rescale=Rescale((2.0**-9 * 1.25,), 7, 0, 255, "uint8"),
    )  # fmt: skip
    built = plans.built(kernel, contract, target)
    assert built.name.startswith("u8s16_dense_fixed_") and built.name.endswith("__avx512bw")
    module = tvm.compile(tvm.IRModule({"kernel": built.func.with_attr("global_symbol", "kernel")}), target=target)
    text = str(module.mod.inspect_source("asm"))
    assert "vpmaddwd" in text and "zmm" in text and "vpdp" not in text
    assert plans.refusal(kernel, contract, tvm_target(resolve("x86-64-v3"))).startswith("the target has no avx512bw")
    if targets.missing_features(kernel.level.features):
        return  # what it computes is compared where it runs
    x = np.random.default_rng(1).integers(0, 256, (9, 24)).astype(np.uint8)
    acc = (x.astype(np.int32) - 3) @ weights.T.astype(np.int32)
    expected = contract.rescale.meaning(NumpyCore(), acc)
    np.testing.assert_array_equal(plans.run(built, target, x), expected)


def test_the_scheme_that_adding_md_adds_converts_a_model(digits: Path) -> None:
    made = scheme.parse(example("adding.md", "toml"), "example")
    converted = rewrites.convert(reader.load(digits), made)
    dtypes = {value.type.dtype for value in converted.graph.values if value.constant is not None}
    assert {"int4", "int8"} <= dtypes


def test_the_report_format_that_adding_md_adds_lists_every_layer(digits: Path) -> None:
    module: dict[str, Any] = {}
    exec(compile(example("adding.md", "python", "A report format"), "adding.md", "exec"), module)
    result = inspection.inspect(digits)
    head, *lines = module["inspection"](result).splitlines()
    assert head == "name,op,dtype,macs"
    assert [line.split(",")[0] for line in lines] == [op.name for op in reader.load(digits).ops]
    assert sum(int(line.split(",")[-1]) for line in lines) == result.macs


def test_the_command_that_adding_md_adds_runs(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module: dict[str, Any] = {}
    exec(compile(example("adding.md", "python", "A command"), "adding.md", "exec"), module)
    monkeypatch.setitem(cli.tflite2q.commands, "tensors", module["tensors"])
    assert cli.run(["tensors", str(digits)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["input", "uint8[1,", "8,", "8,", "1]"],
        ["softmax", "uint8[1,", "10]"],
    ]
    assert cli.run(["tensors", str(digits), "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tensors"][1] == {"name": "softmax", "sentence": "uint8[1, 10]"}
    assert cli.run(["tensors", str(digits.with_suffix(".csv"))]) != 0


def test_the_rule_in_schemes_md_is_a_rule() -> None:
    text = '[activations]\ndtype = "int8"\n[weights]\ndtype = "int8"\n' + example("schemes.md", "toml")
    assert scheme.parse(text, "example").rules[0].match.channels == (1, 64)


@pytest.mark.parametrize("kind", ["architecture.md", "../README.md"])
def test_graphs_in_documents_are_graphs(kind: str) -> None:
    text = (ROOT / "docs" / kind).read_text(encoding="utf-8")
    for block in re.findall(r"```\n(graph .*?)```", text, re.DOTALL):
        verify(parse_graph(block))


def test_the_stream_of_streams_md_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example("streams.md", "python stream"), "streams.md", "exec"), {})
    np.save("frames.npy", np.array([[[1, 2, 3, 4]], [[4, 3, 2, 1]]], np.int8))
    assert cli("run", "peak.q.txt", "--stream", "--input", "frames.npy", "--output", "scores.npy").code == 0
    assert np.load("scores.npy").tolist() == [[[1, 2, 3, 4]], [[4, 3, 3, 4]]]
    done = cli("compare", "peak.q.txt", "--scheme", "int16x8", "--stream", "--data", "frames.npy", "--no-speed")
    assert done.code == 0 and "2 samples of frames.npy, one stream" in done.out


@pytest.fixture
def commands_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> Callable[[str], Sequence[str]]:
    """Runs every command of a document in a folder that has `models`; each ends as its comment `# exit N` says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")

    def run(document: str) -> Sequence[str]:
        text = (ROOT / "docs" / document).read_text(encoding="utf-8")
        lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
        for line in lines:
            command, _, expected = line.partition("  # exit ")
            program, *arguments = shlex.split(command)
            assert program == "tflite2q"
            outcome = cli(*arguments)
            assert outcome.code == int(expected or 0), (line, outcome.err)
            assert outcome.out
        return lines

    return run


def test_the_commands_of_guide_md_do_what_it_says(commands_of: Callable[[str], Sequence[str]], tmp_path: Path) -> None:
    assert len(commands_of("guide.md")) >= 10
    written = ("digits.micro.tflite", "digits.so", "gates.xml", "report.md", "schemes.html")
    assert all((tmp_path / name).exists() for name in written)


def test_the_commands_of_compare_md_do_what_it_says(
    commands_of: Callable[[str], Sequence[str]], tmp_path: Path
) -> None:
    (tmp_path / "gates.toml").write_text(example("compare.md", "toml"), encoding="utf-8")
    assert len(commands_of("compare.md")) >= 5
    assert (
        (tmp_path / "gates.xml").exists() and (tmp_path / "report.md").exists() and (tmp_path / "report.html").exists()
    )
    for language in ("python compare", "python serve"):
        exec(compile(example("compare.md", language), "compare.md", "exec"), {})


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its cells in order; the last expression of each is what Jupyter would show."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "notebook.ipynb", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "notebook.ipynb", "eval"), names))
    graph, _, converted, report, answers, _ = shown
    assert all(len(repr(each)) < 1000 for each in (graph, converted, report))
    assert report._repr_html_().startswith("<")
    labels = np.loadtxt(ROOT / "models" / "digits_labels.csv", np.int64, delimiter=",", skiprows=1)[:20, 1]
    assert np.mean(np.array(answers) == labels) > 0.9
    assert (tmp_path / "digits.int8.tflite").exists()
