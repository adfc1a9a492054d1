"""One executable used by several threads at once, and by a process made by fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from networks import everything
from streaming import streaming

from tflite2q.dialect.text import parse_graph
from tflite2q.evaluation import data
from tflite2q.execution import reference, runtime
from tflite2q.execution.runtime import Executable

Array = npt.NDArray[Any]

THREADS = 6
RUNS = 300
PATIENCE = 60  # seconds for a forked process


@pytest.fixture(scope="module", params=[1, 2])
def executable(request: pytest.FixtureRequest) -> Executable:
    return runtime.compile(everything(3), threads=request.param)


def samples(executable: Executable, count: int) -> list[list[Array]]:
    made = data.synthetic(executable.inputs, count)
    return [made.make(index) for index in range(count)]


def in_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Run `work` in so many threads, which begin together; their errors are raised here."""
    begin, errors = threading.Barrier(count), list[BaseException]()

    def body(number: int) -> None:
        begin.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def equal(found: Sequence[Array], wanted: Sequence[Array]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_threads_get_the_results_of_their_own_inputs(executable: Executable) -> None:
    given = samples(executable, THREADS)
    wanted = [reference.run(everything(3), *arrays) for arrays in given]
    wrong = [0] * THREADS

    def work(number: int) -> None:
        for _ in range(RUNS):
            wrong[number] += not equal(executable.run(*given[number]), wanted[number])

    in_threads(work)
    assert wrong == [0] * THREADS


def test_the_first_runs_may_come_at_once() -> None:
    fresh = runtime.compile(everything(3))
    given = samples(fresh, THREADS)
    found = [list[Array]()] * THREADS

    def work(number: int) -> None:
        found[number] = fresh.run(*given[number])

    in_threads(work)
    assert all(equal(a, reference.run(everything(3), *b)) for a, b in zip(found, given, strict=True))


def test_streams_of_one_executable_in_threads_keep_their_own_state() -> None:
    graph = streaming()
    executable = runtime.compile(graph)
    steps = [samples(executable, 40)[number:] for number in range(3)]
    wrong = [0] * len(steps)

    def work(number: int) -> None:
        ours, theirs = executable.stream(), reference.Stream(graph)
        for arrays in steps[number]:
            wrong[number] += not equal(ours.step(*arrays), theirs.step(*arrays))

    in_threads(work, len(steps))
    assert wrong == [0] * len(steps)


def test_the_reference_in_threads() -> None:
    graph = everything(3)
    given = [data.synthetic([graph[n] for n in graph.inputs], THREADS).make(k) for k in range(THREADS)]
    wanted = [reference.run(graph, *arrays) for arrays in given]
    wrong = [0] * THREADS

    def work(number: int) -> None:
        for _ in range(5):
            wrong[number] += not equal(reference.run(graph, *given[number]), wanted[number])

    in_threads(work)
    assert wrong == [0] * THREADS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_runs_on(executable: Executable) -> None:
    (given,) = samples(executable, 1)
    wanted = executable.run(*given)
    assert all(equal(found, wanted) for found in executable.map([tuple(given)] * 9, 2))
    process = os.fork()
    if process == 0:
        status = 1
        try:
            signal.alarm(PATIENCE)
            found = [executable.run(*given), *executable.map([tuple(given)] * 9, 2)]
            status = 0 if all(equal(each, wanted) for each in found) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert equal(executable.run(*given), wanted)


WIDE = """graph "wide" {
  inputs (%x)
  outputs (%y)
  values { %x : int8[1, 256, 256, 16] <0.5:3> %y : int8[1, 256, 256, 16] <1.0:-7> }
  ops { %y = q.add(%x, %x) version 2 }
}"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_gets_threads_of_its_own() -> None:
    """Layers that are worth two threads waited for ever for those of the parent, also in the child of a child."""
    graph = parse_graph(WIDE)
    executable = runtime.compile(graph, threads=2)
    (given,) = samples(executable, 1)
    wanted = reference.run(graph, *given)
    assert equal(executable.run(*given), wanted)

    def forked(generations: int) -> int:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                signal.alarm(PATIENCE)
                found = [executable.run(*given), *executable.map([tuple(given)] * 3, 1)]
                executable.benchmark(2, 0)
                executable.profile(*given, repeat=1)
                right = all(equal(each, wanted) for each in found)
                status = 2 if not right else forked(generations - 1) if generations > 1 else 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    assert forked(2) == 0


IDLE = """
import threading, time
import numpy as np, tflite2q
executable = tflite2q.compile({path!r})
image = np.zeros(executable.inputs[0].type.shape, np.uint8)
def run():
    executable.run(image)
    time.sleep(1.5)
run()
for thread in [threading.Thread(target=run) for _ in range(4)]:
    thread.start()
time.sleep(0.1)
before = time.process_time()
time.sleep(1.0)
print(time.process_time() - before)
"""


def test_threads_that_wait_take_no_processor(digits: Path) -> None:
    """TVM's own threads would look for work for half a second each, which the samples of other threads wait for."""
    done = subprocess.run(
        [sys.executable, "-c", IDLE.format(path=str(digits))], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.3
