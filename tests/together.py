"""Work that all processes of one run of the tests need: each part is done once, by the first process to reach it."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from surroundings import KEPT

T = TypeVar("T")


def together(name: str, count: int, make: Callable[[int], T]) -> list[T]:
    """`make(i)`, which must be a value that can be pickled, for each i below `count`."""
    folder = Path(os.environ[KEPT]) / name
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.made" for index in range(count)]
    for index, path in enumerate(paths):
        try:
            os.close(os.open(path.with_suffix(".begun"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        try:
            content = make(index), None
        except Exception as error:  # the other processes wait for it
            content = None, repr(error)
        path.with_suffix(".part").write_bytes(pickle.dumps(content))
        path.with_suffix(".part").rename(path)
    found = []
    for path in paths:
        while not path.exists():
            time.sleep(0.05)
        value, failed = pickle.loads(path.read_bytes())
        assert failed is None, failed
        found.append(value)
    return found
