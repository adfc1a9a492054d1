"""Large models: how much memory and time a conversion takes, for each byte of the model.

python -m reliability.large MB [external]      in tests/; `external`: constants behind the flatbuffer
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from networks import Net

from tflite2q.dialect.ops.dense import Dense
from tflite2q.flatbuffer import writer

SIDE = 2048  # of the weights of a layer: 4 MB


@dataclass(frozen=True)
class Cost:
    """What a conversion took: its bytes, bytes of memory beyond those of `--version`, seconds of a processor."""

    size: int
    memory: int
    seconds: float


def chain(megabytes: int) -> bytes:
    """A model of dense layers with so many megabytes of uint8 weights."""
    net = Net("uint8")
    x = net.input("x", (1, SIDE), (0.05, 128))
    for index in range(max(megabytes * 1_000_000 // SIDE**2, 1)):
        weights = net.weights(f"w{index}", (SIDE, SIDE), 100)
        bias = net.bias(f"b{index}", SIDE, x, weights)
        y = net.value(f"y{index}", (1, SIDE), (0.05, 128))
        x = net.op(Dense(inputs=(x, weights, bias), outputs=(y,)))
    return writer.write(net.graph(x))


def conversion(model: Path, scheme: str, *more: str) -> Cost:
    """What `tflite2q convert` takes, in a process of its own."""
    base = _run(["--version"])[0]
    memory, seconds = _run(["convert", str(model), "--scheme", scheme, "-o", str(model.with_suffix(".out")), *more])
    return Cost(model.stat().st_size, memory - base, seconds)


def _run(arguments: list[str]) -> tuple[int, float]:
    """Most resident bytes of the command, and its seconds of a processor."""
    code = (
        # Not getrusage's figure, which begins with what the parent had.
        "import sys, time\nfrom tflite2q.cli import run\ncode = run(sys.argv[1:])\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0], time.process_time(), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    memory, seconds = done.stderr.split()[-2:]
    return int(memory) * 1024, float(seconds)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.tflite")
        path.write_bytes(chain(int(sys.argv[1])))
        for name in ("int8", "symmetric-int8", "float32"):
            cost = conversion(path, name)
            print(
                f"{name}: {cost.size / 1e6:.0f} MB, {cost.memory / cost.size:.1f} times its size, {cost.seconds:.1f} s",
                flush=True,
            )
