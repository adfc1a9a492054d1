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
from tflite2q.flatbuffer import schema, writer

SIDE = 2048  # of the weights of a layer: 4 MB


@dataclass(frozen=True)
class Cost:
    """What a conversion took: the model's bytes, bytes of memory beyond those of `--version`, seconds of a processor;
    and the lines of progress, step by step."""

    size: int
    memory: int
    seconds: float
    steps: tuple[str, ...]


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
    output = str(model.with_suffix(".out"))
    memory, seconds, steps = _run(["convert", str(model), "--scheme", scheme, "-o", output, "--force", "-v", *more])
    return Cost(model.stat().st_size, memory - base, seconds, steps)


def external(model: bytes) -> bytes:
    """The model with its constants behind the flatbuffer, where those beyond 2 GB must be."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "flatbuffer"))
    from handmade import with_external_buffers

    return with_external_buffers(schema.decode(model))


def _run(arguments: list[str]) -> tuple[int, float, tuple[str, ...]]:
    """Most resident bytes of the command, its seconds of a processor, and its lines of progress."""
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
    steps = tuple(line for line in done.stderr.splitlines() if line.endswith(" s"))
    return int(memory) * 1024, float(seconds), steps


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.tflite")
        made = chain(int(sys.argv[1]))
        path.write_bytes(external(made) if sys.argv[2:] == ["external"] else made)
        del made
        for name in ("int8", "symmetric-int8", "float32"):
            cost = conversion(path, name)
            print(
                f"{name}: {cost.size / 1e6:.0f} MB, {cost.memory / cost.size:.1f} times its size, "
                f"{cost.seconds:.1f} s; " + ", ".join(step.removeprefix("tflite2q: ") for step in cost.steps),
                flush=True,
            )
