"""Instructions of one inference on emulated 64-bit Arm processors: this project's compiled code beside LiteRT's.

Both run on one thread under the same emulator, which counts every instruction between two marks (`counter.c`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import contenders, counted, counting, emulator, environment
from benchmarks.calls import converted
from benchmarks.models import Model

Report = Callable[[str], None]

STEADY = 1e-3  # by which counts of the same inference may differ


@dataclass(frozen=True)
class Processor:
    """What tables call it, the emulator's name of it, what it is compiled for, and what /proc/cpuinfo says there.

    LiteRT chooses kernels by /proc/cpuinfo too; the emulator would hand it that of the machine it runs on.
    """

    name: str
    cpu: str
    target: str
    part: str
    variant: str
    revision: int
    features: str

    def cpuinfo(self) -> str:
        """/proc/cpuinfo of a machine with one such processor."""
        fields = {
            "processor": 0, "BogoMIPS": "50.00", "Features": self.features, "CPU implementer": "0x41",
            "CPU architecture": 8, "CPU variant": self.variant, "CPU part": self.part, "CPU revision": self.revision,
        }  # fmt: skip
        return "".join(f"{key}\t: {value}\n" for key, value in fields.items()) + "\n"


_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V8_2 = f"{_V8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
_V8_6 = f"{_V8_2} jscvt fcma sha3 sm3 sm4 sha512 asimdfhm dit uscat ilrcpc flagm ssbs dcpodp i8mm bf16"
PROCESSORS = (
    Processor("Cortex-A53 (NEON)", "cortex-a53", "cortex-a53", "0xd03", "0x0", 4, _V8),
    Processor("Cortex-A72 (NEON)", "cortex-a72", "cortex-a72", "0xd08", "0x0", 3, _V8),
    Processor("Cortex-A76 (dot products)", "cortex-a76", "cortex-a76", "0xd0b", "0x4", 1, _V8_2),
    Processor("Neoverse V1 (8-bit matrix products)", "max,sme=off", "graviton3", "0xd40", "0x1", 1, f"{_V8_6} sve"),
)


@dataclass(frozen=True)
class Row:
    """One model on one processor: instructions of one inference; `litert_original` is of the file as it is published.

    `products` are those of LiteRT's int8 and of ours that are products in vectors: of matrices, dot, widening.
    """

    model: str
    dtype: str
    processor: str
    litert_original: int
    litert_int8: int
    ours: int
    litert_products: tuple[int, int, int]
    products: tuple[int, int, int]


def measure(models: Sequence[Model], folder: Path, named: Sequence[str], report: Report) -> dict[str, Any]:
    """All rows of processors whose name contains one of `named`, ready for JSON.  Raises SystemExit."""
    for part in named:
        if not any(part in each.name for each in PROCESSORS):
            raise SystemExit(f"no processor is called {part!r}; there are {', '.join(p.name for p in PROCESSORS)}")
    processors = [each for each in PROCESSORS if any(part in each.name for part in named)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as temporary:
        place = Path(temporary)
        try:
            machine, plugin = Machine(emulator.prepared(), emulator.litert(), place), counting.plugin(place)
        except emulator.Unavailable as error:
            raise SystemExit(f"instructions are not counted: {error}") from error
        int8 = {model.name: converted(model.path(folder), place) for model in models}
        for processor in processors:
            found = _rows(models, {m.name: m.path(folder) for m in models}, int8, processor, machine, plugin, report)
            for row in found:
                report(f"{row.model}, {processor.name}: {row.litert_int8 / row.ours:.2f}")
            rows += found
    return {"schema_version": 1, "environment": asdict(environment.here()), "rows": [asdict(row) for row in rows]}


@dataclass(frozen=True)
class Machine:
    """The emulated root, LiteRT's package for it, and a place for roots of single processors."""

    folder: Path
    litert: Path
    place: Path

    def command(self, processor: Processor, kind: str, paths: Sequence[Path]) -> list[str]:
        """For `counting`: `counted.py` on that processor."""
        root = self.place / processor.cpu.split(",")[0]
        if not root.exists():
            (root / "proc").mkdir(parents=True)
            (root / "proc" / "cpuinfo").write_text(processor.cpuinfo())
            for name in ("bin", "etc", "lib", "usr"):
                (root / name).symlink_to(self.folder / "root" / name)
        running = emulator.Emulator(self.folder, processor.cpu, root)
        script = Path(counted.__file__)
        return running.command("-P", script, kind, *paths, path=[self.litert])[1:]


def _rows(
    models: Sequence[Model],
    originals: Mapping[str, Path],
    int8: Mapping[str, Path],
    processor: Processor,
    machine: Machine,
    plugin: Path,
    report: Report,
) -> list[Row]:
    libraries = {model.name: machine.place / f"{model.name}.{processor.target}.so" for model in models}
    jobs = [contenders.Job(int8[name], library, target=processor.target) for name, library in libraries.items()]
    for job, built in zip(jobs, contenders.build(jobs, report), strict=True):
        if built.problem:
            raise SystemExit(f"{job.model.name} is not compiled for {processor.target}: {built.problem}")

    def count(kind: str, files: Sequence[Path]) -> dict[Path, counting.Counts]:
        report(f"{processor.name}: {kind} on {len(files)} files")
        blocks, printed = counting.between_marks(plugin, machine.command(processor, kind, files))
        shares = [int(line) for line in printed.split()]
        size = len(counted.BLOCKS) + 1  # the last is between a model's last mark and the next one's first
        return {file: inference(blocks[i * size :][: size - 1], shares[i]) for i, file in enumerate(files)}

    theirs = count("litert", list(dict.fromkeys([*originals.values(), *int8.values()])))
    ours = count("ours", list(libraries.values()))
    return [
        Row(
            model.name, model.dtype, processor.name, theirs[originals[model.name]].all, theirs[int8[model.name]].all,
            ours[libraries[model.name]].all, products(theirs[int8[model.name]]), products(ours[libraries[model.name]]),
        )
        for model in models
    ]  # fmt: skip


def inference(blocks: Sequence[counting.Counts], share: int) -> counting.Counts:
    """One inference: a block of two shares less the block of one before it, which takes away what a mark costs.

    Raises SystemExit if that differs from one such pair of blocks to the next.
    """
    found = [after - before for before, after in zip(blocks[::2], blocks[1::2], strict=True)]
    low, high = min(each.all for each in found), max(each.all for each in found)
    if high - low > STEADY * low:
        raise SystemExit(f"counts of the same inferences differ, from {low} to {high}: something else ran beside them")
    least = min(found, key=lambda each: each.all)
    return counting.Counts(*(round(count / share) for count in vars(least).values()))


def products(counts: counting.Counts) -> tuple[int, int, int]:
    return counts.matrix, counts.dot, counts.widening
