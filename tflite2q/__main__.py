"""`python -m tflite2q` and the `tflite2q` command."""

from __future__ import annotations

import sys
import warnings

from tflite2q import guard


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    sys.exit(guard.main(_command))


def _command() -> int:
    if not sys.warnoptions:  # warnings are for programmers: what a user must know is an error or a note
        warnings.simplefilter("ignore")
    from tflite2q.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    main()
