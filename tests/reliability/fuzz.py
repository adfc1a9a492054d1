"""Damaged models through everything: load, write, reload, convert, reference; a share compiled and judged by LiteRT.

python -m reliability.fuzz SECONDS FOLDER [SEED]      in tests/; finds are left in FOLDER, the counts are printed
python -m reliability.fuzz FILE [FILE ...]            says what becomes of files, finds for example

Models of one op of every family, of small networks and of the project are damaged in bytes, tables and fields; what
was read is damaged again.  All are read; of those that can be read a share is written and read again, and a share goes
through everything, which takes many times as long.  It happens in child processes of limited memory, which the parent
ends when they hang.  A model may be refused by a Tflite2qError of one line, soon; all else is a find: another
exception, a death, too much time or memory, a graph that changes when it is written and read, results that change,
results unlike LiteRT's.
`reliability.guided` runs the same with the guidance of coverage.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from patience import soon
from reliability.mutators import any_damage, records, tables

from tflite2q import rewrites
from tflite2q.arithmetic import numpy_core
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.dialect.text import print_graph
from tflite2q.errors import Tflite2qError
from tflite2q.evaluation.data import synthetic
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

Array = npt.NDArray[Any]

SCHEMES = ("int8", "int16x8", "symmetric-int8", "asymmetric-uint8", "float32", "power-of-two")
SECONDS = 20  # that one model may take
HEADROOM = 1 << 30  # bytes of memory that damaged models may take
MOST_ELEMENTS = 1 << 16  # of all values of a model that is also run
BATCH = 1500  # models for each child
WRITTEN, WHOLE = 0.25, 0.1  # shares, of the models that can be read, of those written again, and of those used in full
AGAIN = 0.02  # share of the models that can be read which is kept to be damaged again
TOLD = 1.0  # seconds after which a child tells what it has done
DEEP_EVERY, DEEP = 60, 16  # in every so many batches one of models that are compiled and judged, of so many
KEPT = 3000  # files that are damaged again


class Wrong(Exception):
    """A model that was used, with a result that it should not have."""


def same(a: Sequence[Array], b: Sequence[Array]) -> bool:
    """Whether results are equal, NaNs to NaNs."""
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")
        for x, y in zip(a, b, strict=True)
    )


def results(graph: Graph, inputs: Sequence[Array]) -> list[Array] | str:
    """The reference's outputs, or why there are none."""
    try:
        return reference.run(graph, *inputs)
    except Tflite2qError as error:
        return type(error).__name__


def inputs_of(graph: Graph) -> list[Array]:
    return list(next(iter(synthetic([graph[name] for name in graph.inputs], 1))))


def small(graph: Graph) -> bool:
    return sum(value.type.size for value in graph.values) <= MOST_ELEMENTS


def use(data: bytes, scheme_name: str, allow: bool, share: float = 0.0) -> str:
    """Everything one does with a model, but compile it; says how far it came.  Raises Wrong.

    A `share` above WHOLE ends it after the model is written, one above WRITTEN when it is read.
    """
    stage = "read"
    try:
        graph = read(data, allow)
        if share > WRITTEN:
            return "read"
        stage = "write"
        again = read(write(graph), allow)
        # Options of carried operators may be NaN, which is unlike itself.
        if again != graph and print_graph(again) != print_graph(graph):
            raise Wrong("a written file reads as another graph")
        if share > WHOLE:
            return "written"
        stage = "run"
        check_runnable(graph)
        runs = small(graph)
        inputs = inputs_of(graph) if runs else []
        if runs and not _equal(results(graph, inputs), results(again, inputs)):
            raise Wrong("a written file has other results")
        stage = "convert"
        new = rewrites.convert(graph, scheme.find(scheme_name)).graph
        stage = "write the conversion"
        back = read(write(new), allow)
        if [op.mnemonic for op in back.ops] != [op.mnemonic for op in new.ops]:
            raise Wrong("a written conversion has other ops")
        stage = "run the conversion"
        if runs and small(new):
            inputs = inputs_of(new)
            # A file cannot say that scales are powers of two.
            shifts = any(getattr(op, "rescale", None) == "shift" for op in new.every_op())
            if not shifts and not _equal(results(new, inputs), results(back, inputs)):
                raise Wrong("a written conversion has other results")
    except Tflite2qError as error:
        if "\n" in str(error) or not str(error) or len(str(error)) > 4000:
            raise Wrong(f"a message of {len(str(error))} characters: {str(error)[:80]!r}") from error
        return f"{stage}: {type(error).__name__}"
    return "used"


def _equal(a: list[Array] | str, b: list[Array] | str) -> bool:
    return a == b if isinstance(a, str) or isinstance(b, str) else same(a, b)


def signature(error: BaseException) -> str:
    """The kind of an error and where in the package it arose, by which finds are told apart."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/tflite2q/" in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "fuzz"
    return f"{type(error).__name__} {str(error)[:60] if isinstance(error, Wrong) else ''} in {where}"


# --------------------------------------------------------------------------------------------------- seeds and batches


def seeds() -> list[bytes]:
    """Good models: one of each family of ops, small networks, the models made by hand."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "flatbuffer"))
    import handmade
    from cases import FAMILIES, cases
    from networks import Net

    from tflite2q.flatbuffer.schema import encode

    found = [write(next(cases(family, 1, 1)).graph) for family in FAMILIES]
    found += [encode(handmade.model()), handmade.with_external_buffers(handmade.model())]
    for dtype, place in (("uint8", 128), ("int8", -3)):
        net = Net(dtype)
        x = net.input("x", (1, 6, 6, 2), (0.05, place))
        a = net.conv(x, "a", 4, (0.1, place), size=3)
        found.append(write(net.graph(net.conv(a, "b", 4, (0.1, place)))))
    return [data for data in found if len(data) < 20_000]


class Corpus:
    """Files that are damaged: the good ones, and what was made of them and read."""

    def __init__(self, good: Sequence[bytes]) -> None:
        self.good, self.made = list(good), list[bytes]()
        for data in self.good:
            self._know(data)

    def _know(self, data: bytes) -> None:
        """Read what the mutators need here, once, and not in each child."""
        tables(data)
        records(data)

    def pick(self, numbers: random.Random) -> bytes:
        if self.made and numbers.random() < 0.5:
            return numbers.choice(self.made)
        return numbers.choice(self.good)

    def keep(self, data: bytes, numbers: random.Random) -> None:
        if len(data) > 20_000:
            return
        self._know(data)
        if len(self.made) < KEPT:
            self.made.append(data)
        else:
            self.made[numbers.randrange(KEPT)] = data


def limited(headroom: int = HEADROOM) -> None:
    """Allocations beyond `headroom` bytes fail from here on."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + headroom, used + headroom))


class Run:
    """A run of so many seconds; finds go to `folder`, one file for each kind."""

    def __init__(self, folder: Path, seed: str) -> None:
        self.folder, self.seed, self.damage = folder, seed, any_damage
        folder.mkdir(parents=True, exist_ok=True)
        self.corpus, self.outcomes, self.finds = Corpus(seeds()), Counter[str](), Counter[str]()
        # Where the child is: its model, and the number of the model.
        self.shared = mmap.mmap(-1, 1 << 16)

    def go(self, seconds: float) -> None:
        end, batch, told = time.monotonic() + seconds, 0, time.monotonic()
        while time.monotonic() < end:
            self.batch(batch, deep=batch % DEEP_EVERY == DEEP_EVERY - 1)
            batch += 1
            if time.monotonic() - told > 60:
                told = time.monotonic()
                self.tell()
        self.tell()

    def tell(self) -> None:
        counts = {"executed": sum(self.outcomes.values()), "outcomes": dict(self.outcomes), "finds": dict(self.finds)}
        (self.folder / "counts.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")

    def batch(self, number: int, deep: bool) -> None:
        """One child's models."""
        gc.freeze()  # else the child's collector would look through, and so copy, all that the parent knows
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            code = 1
            try:
                with os.fdopen(writing, "w") as answers:
                    (self._deep if deep else self._plain)(number, answers)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        self._listen(child, reading, 600 if deep else 2 * SECONDS)

    def _listen(self, child: int, reading: int, patience: float) -> None:
        """Take a child's answers; a child that says nothing for too long hangs, and is ended."""
        numbers, line = random.Random(self.seed), b""
        while True:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
            signal.alarm(int(patience))
            chunk = os.read(reading, 1 << 16)
            signal.alarm(0)
            *lines, line = (line + chunk).split(b"\n")
            for each in lines:
                kind, _, rest = each.decode().partition(" ")
                if kind == "keep":
                    self.corpus.keep(bytes.fromhex(rest), numbers)
                elif kind == "find":
                    text, _, content = rest.rpartition(" ")
                    self.find(text, bytes.fromhex(content))
                else:
                    self.outcomes[rest] += 1
            if not chunk:
                break
        os.close(reading)
        status = os.waitpid(child, 0)[1]
        if status:
            (length,) = struct.unpack_from("<I", self.shared, 0)
            self.find(f"death {status}", bytes(self.shared[4 : 4 + length]))

    def find(self, text: str, data: bytes) -> None:
        self.finds[text] += 1
        self.outcomes["find"] += 1
        if self.finds[text] <= 5:
            name = f"{zlib.crc32(text.encode()):08x}_{self.finds[text]}.tflite"
            (self.folder / name).write_bytes(data)
            with (self.folder / "finds.txt").open("a") as log:
                log.write(f"{name} {text}\n")

    def _mark(self, data: bytes) -> None:
        size = min(len(data), len(self.shared) - 4)
        self.shared[: 4 + size] = struct.pack("<I", size) + data[:size]

    def _models(self, number: int) -> Iterator[tuple[bytes, random.Random]]:
        numbers = random.Random(f"{self.seed} {number}")
        while True:
            data = self.corpus.pick(numbers)
            if len(data) < 20_000:
                yield self.damage(data, numbers), numbers

    def _plain(self, number: int, answers: Any) -> None:
        limited()
        warnings.simplefilter("error")  # users would see them
        numpy_core.MOST_ITERATIONS = 20  # random counts keep loops running; they are refused early
        told = time.monotonic()
        for index, (data, numbers) in enumerate(self._models(number)):
            if index == BATCH:
                return
            self._mark(data)
            outcome = self.judged(data, numbers, answers)
            if outcome in ("read", "written", "used") and numbers.random() < AGAIN:
                answers.write(f"keep {data.hex()}\n")
            answers.write(f"done {outcome}\n")
            if time.monotonic() - told > TOLD:
                told = time.monotonic()
                answers.flush()

    def judged(self, data: bytes, numbers: random.Random, answers: Any) -> str:
        try:
            with soon(SECONDS):
                outcome = use(data, numbers.choice(SCHEMES), numbers.random() < 0.5, numbers.random())
        except Exception as error:
            answers.write(f"find {signature(error)} {data.hex()}\n")
            answers.flush()
            return "find, told above"
        return outcome

    def _deep(self, number: int, answers: Any) -> None:
        """Models that are used are compiled, and judged by LiteRT."""
        from reliability.deep import deep

        limited(6 * HEADROOM)
        numpy_core.MOST_ITERATIONS = 20
        found = []
        for data, numbers in self._models(number):
            self._mark(data)
            try:
                with soon(SECONDS):
                    graph = read(data)
                    if small(graph) and use(data, numbers.choice(SCHEMES), False) == "used":
                        found.append(data)
            except Exception:
                continue
            if len(found) == DEEP:
                break
        deep(found, answers, self._mark)


def explain(files: Sequence[str]) -> None:
    """What becomes of each file, by each scheme."""
    numpy_core.MOST_ITERATIONS = 20
    for name in files:
        for scheme_name in SCHEMES:
            for allow in (False, True):
                try:
                    with soon(SECONDS):
                        outcome = use(Path(name).read_bytes(), scheme_name, allow)
                except Exception as error:
                    print(name, scheme_name, allow, signature(error))
                    traceback.print_exception(error, limit=-6)
                    break
                print(name, scheme_name, allow, outcome)


if __name__ == "__main__":
    if not sys.argv[1].isdigit():
        explain(sys.argv[1:])
        sys.exit()
    run = Run(Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "0")
    run.go(float(sys.argv[1]))
    for line, times in run.outcomes.most_common():
        print(f"{times:8} {line}")
    for line, times in run.finds.most_common():
        print(f"{times:8} FOUND {line}")
    sys.exit(bool(run.finds))
