"""What runtimes themselves say of files: TFLite Micro, XNNPACK in LiteRT, and Vela, each in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cases import FAMILIES, cases
from draw import Case

from tflite2q.flatbuffer.writer import write

# Reads paths from stdin, answers "path<tab>verdict": "" if it runs.  The interpreter ends its process on some models.
MICRO = """
import os, sys
import numpy as np
from tflite_micro import runtime
for line in sys.stdin:
    path, said = line.strip(), ""
    try:
        interpreter = runtime.Interpreter.from_file(path, arena_size=64 << 20)
        inputs = path.replace(".tflite", ".npz")
        if os.path.exists(inputs):
            for index, array in enumerate(np.load(inputs).values()):
                interpreter.set_input(array, index)
        interpreter.invoke()
    except Exception as error:
        said = str(error).replace("\\n", " ") or "refused"
    print(path + "\\t" + said, flush=True)
"""
# Answers with the names of the results of operators that no delegate computes, found by going back from the outputs.
XNNPACK = """
import sys
from ai_edge_litert.interpreter import Interpreter
for line in sys.stdin:
    path = line.strip()
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    ops = interpreter._get_ops_details()
    names = {t["index"]: t["name"] for t in interpreter.get_tensor_details()}
    makers = {int(y): op for op in sorted(ops, key=lambda op: op["op_name"] == "DELEGATE") for y in op["outputs"]}
    todo, seen, left = [int(t["index"]) for t in interpreter.get_output_details()], set(), []
    while todo:
        op = makers.get(todo.pop())
        if op is None or op["index"] in seen:
            continue
        seen.add(op["index"])
        if op["op_name"] != "DELEGATE":
            left.append(names[int(op["outputs"][0])])
        todo += [int(x) for x in op["inputs"] if x >= 0]
    print(path + "\\t" + "|".join(left), flush=True)
"""


def judged(child: str, paths: Sequence[Path]) -> dict[Path, str]:
    """What a child process answers for each file; "died" where it ends its process."""
    found: dict[Path, str] = {}
    todo = [str(path) for path in paths]
    while todo:
        done = subprocess.run(
            [sys.executable, "-c", child], input="\n".join(todo) + "\n", capture_output=True, text=True, check=False
        )
        answers = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
        found.update((Path(path), said) for path, said in answers)
        todo = todo[len(answers) :]
        if todo:
            found[Path(todo[0])] = "died"
            todo = todo[1:]
    return found


def drawn(folder: Path, count: int) -> dict[Path, Case]:
    """Files of `count` models of one operator from every family, with their inputs beside them."""
    found = {}
    for family in FAMILIES:
        for index, case in enumerate(cases(family, count, seed=14)):
            path = folder / f"{family}_{index}.tflite"
            path.write_bytes(write(case.graph))
            np.savez(path.with_suffix(".npz"), *case.inputs)
            found[path] = case
    return found


def vela() -> str | None:
    """The command of the package ethos-u-vela, which VELA may name if it is not on the path."""
    return os.environ.get("VELA") or shutil.which("vela")


def left_by_vela(path: Path, accelerator: str, folder: Path) -> int | None:
    """How many operators Vela leaves to the processor; None if it ends with an error or a signal."""
    command = [str(vela()), str(path), "--accelerator-config", accelerator, "--output-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"CPU operators = (\d+)", done.stdout)
    return int(found[1]) if done.returncode == 0 and found else None
