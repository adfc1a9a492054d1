"""Models that hang, eat memory or kill their process: a module that Python loads at its start makes them so by name."""

from __future__ import annotations

from pathlib import Path

SITE = """
import os, signal, time
from tflite2q.batch import work

original = work.perform

def perform(folder):
    name = next(path.name for path in (folder / "in").iterdir())
    if "hangs" in name:
        time.sleep(1000)
    if "greedy" in name:
        held = [bytes([1]) * (1 << 20)]
        while len(held) < 20_000:
            held.append(bytes([1]) * (1 << 20))
    if "dies" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "bug" in name:
        raise ZeroDivisionError("by nothing")
    if "leaves" in name:
        import subprocess, sys
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)  # left behind"])
    original(folder)

work.perform = perform
"""


def site(folder: Path) -> str:
    """A PYTHONPATH with which jobs of certain names fail."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    return str(folder)
