"""Runs models with another engine, each in a fork of its own: a model that kills its engine kills nothing else.

`python engine_server.py (litert|micro)` reads requests, a JSON object a line, and answers each in the same way.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

MICRO_ARENA = 64 << 20
_PR_SET_PDEATHSIG = 1


def litert(request: dict[str, Any]) -> None:
    """Outputs `o0...` in order, steps first, and, if asked, every tensor that holds data after the last step as `t0...`
    with their `names`."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=request["model"],
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF if request["reference"] else OpResolverType.AUTO,
        experimental_preserve_all_tensors=request["every"],
        num_threads=1,
    )
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    results = []
    for arrays in _steps(request, details):
        for detail, array in zip(details, arrays, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        results.append([interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()])
    found = _stacked(results)
    names: list[str] = []
    for detail in interpreter.get_tensor_details() if request["every"] else ():
        if detail["dtype"] is np.object_:  # the handle of a variable, whose data LiteRT reads where there are none
            continue
        try:
            found[f"t{len(names)}"] = interpreter.get_tensor(detail["index"])
        except ValueError:  # a tensor that holds no data (a temporary, an optional one)
            continue
        names.append(detail["name"])
    np.savez(request["taken"], names=np.array(names, np.str_), **found)


def _steps(request: dict[str, Any], details: list[dict[str, Any]]) -> list[list[Any]]:
    """The inputs of each step, or of one step zeros in the types that the engine names."""
    if not request["given"]:
        return [[np.zeros(detail["shape"], detail["dtype"]) for detail in details]]
    with np.load(request["given"]) as arrays:
        columns = [arrays[name] for name in arrays.files]
    return [[column[step] for column in columns] for step in range(request["steps"])]


def _stacked(results: list[list[Any]]) -> dict[str, Any]:
    return {f"o{index}": np.stack(column) for index, column in enumerate(zip(*results, strict=True))}


def micro(request: dict[str, Any]) -> None:
    """Outputs `o0...` in order, steps first."""
    from tflite_micro import runtime  # type: ignore[import-untyped]

    interpreter = runtime.Interpreter.from_file(request["model"], arena_size=MICRO_ARENA)
    results = []
    for arrays in _steps(request, []):
        for index, array in enumerate(arrays):
            interpreter.set_input(array, index)
        interpreter.invoke()
        results.append([np.array(interpreter.get_output(index)) for index in range(request["outputs"])])
    np.savez(request["taken"], names=np.array([], np.str_), **_stacked(results))


ENGINES = {"litert": litert, "micro": micro}


def _fork(engine: str, request: dict[str, Any]) -> dict[str, str]:
    """Serve one request in a child; how that went."""
    said = Path(request["taken"]).with_suffix(".said")
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # when the server goes, so does this
        log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            ENGINES[engine](request)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"\n{error}".encode())
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    text = said.read_text("utf-8", "replace")[-2000:]
    if code < 0:
        return {"state": "died", "why": f"died: {signal.Signals(-code).name}", "said": text}
    return {"state": "ran" if code == 0 else "refused", "why": text, "said": text}


def main(engine: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engines print is no answer
    try:
        __import__({"litert": "ai_edge_litert.interpreter", "micro": "tflite_micro"}[engine])
    except ImportError as error:
        print(json.dumps({"state": "absent", "why": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"state": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_fork(engine, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
