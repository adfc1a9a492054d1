"""Arrays whose neighbourhood tells on whoever touches it.

An array lies between two pages that nobody may access, at their edge: a byte beyond that edge ends the process with
SIGSEGV.  At the other side, and where alignment leaves a gap (TVM wants 64 bytes), a pattern fills the rest of the
pages, which must be there afterwards.  What may only be read lies in pages that cannot be written.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PAGE = mmap.PAGESIZE
ALIGNMENT = 64
EDGES = ("end", "start")
PATTERNS = {"end": 0xA5, "start": 0x5A}

_READ, _WRITE, _NONE = 1, 2, 0
_PRIVATE_ANONYMOUS = 0x22
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guarded:
    """A copy of `array` at an edge of its pages; `with` gives it."""

    def __init__(self, array: Array, edge: str, writable: bool = False) -> None:
        size = array.nbytes
        self._inner = -(-max(size, 1) // PAGE) * PAGE
        self._whole = self._inner + 2 * PAGE
        self._base = _libc.mmap(None, self._whole, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        assert self._base not in (None, ctypes.c_void_p(-1).value)
        start = (self._inner - size) // ALIGNMENT * ALIGNMENT if edge == "end" else 0
        self._pattern, self._span = PATTERNS[edge], (start, start + size)
        memory = (ctypes.c_uint8 * self._inner).from_address(self._base + PAGE)
        self._bytes = np.frombuffer(memory, np.uint8)
        self._bytes[:] = self._pattern
        self.array = self._bytes[start : start + size].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self._protect(0, PAGE, _NONE)
        self._protect(PAGE + self._inner, PAGE, _NONE)
        if not writable:
            self._protect(PAGE, self._inner, _READ)

    def _protect(self, offset: int, size: int, access: int) -> None:
        assert _libc.mprotect(self._base + offset, size, access) == 0

    def touched(self) -> int:
        """How many bytes around the array are no longer what they were."""
        start, end = self._span
        around = np.concatenate([self._bytes[:start], self._bytes[end:]])
        return int((around != self._pattern).sum())

    def close(self) -> None:
        """Give the memory back; no array of it may be used any more."""
        _libc.munmap(self._base, self._whole)

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
