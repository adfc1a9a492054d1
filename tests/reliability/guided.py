"""Damaged models as in `reliability.fuzz`, chosen by the code that they reach (atheris, which is libFuzzer).

python -m reliability.guided SECONDS FOLDER      in tests/; needs `pip install atheris`

FOLDER/corpus keeps the files that reached new code, and begins the next run; finds are left in FOLDER.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path


def main(seconds: int, folder: Path) -> None:
    """Run for so many seconds."""
    import atheris

    with atheris.instrument_imports(include=["tflite2q"]):
        from patience import soon
        from reliability.fuzz import SCHEMES, SECONDS, limited, numpy_core, seeds, signature, use
    from reliability.mutators import any_damage

    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds():
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    outcomes: Counter[str] = Counter()
    told = time.monotonic()
    numpy_core.MOST_ITERATIONS = 20
    warnings.simplefilter("error")

    def tell() -> None:
        counts = {"executed": sum(outcomes.values()), "corpus": len(list(corpus.iterdir())), **dict(outcomes)}
        (folder / "counts.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")

    def one(data: bytes) -> None:
        nonlocal told
        numbers = random.Random(hashlib.sha1(data).digest())  # the same for the same file
        try:
            with soon(SECONDS):
                outcomes[use(data, numbers.choice(SCHEMES), numbers.random() < 0.5)] += 1
        except Exception as error:
            kind = f"FOUND {signature(error)}"
            outcomes[kind] += 1
            if outcomes[kind] <= 3:
                name = f"guided_{hashlib.sha1(kind.encode()).hexdigest()[:8]}_{outcomes[kind]}.tflite"
                (folder / name).write_bytes(data)
                with (folder / "finds.txt").open("a", encoding="utf-8") as log:
                    log.write(f"{name} {kind}\n")
        if time.monotonic() - told > 30:
            told = time.monotonic()
            tell()

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        found = any_damage(data, random.Random(seed)) if len(data) > 16 else data
        return found[:most]

    limited(4 << 30)
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=20000", "-timeout=60"]
    atheris.Setup([*arguments, "-rss_limit_mb=0", "-print_final_stats=1"], one, custom_mutator=mutate)
    try:
        atheris.Fuzz()
    finally:
        tell()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
