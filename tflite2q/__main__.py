"""`python -m tflite2q` and the `tflite2q` command."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    if not sys.warnoptions:  # warnings are for programmers: what a user must know is an error or a note
        warnings.simplefilter("ignore")
    try:
        from tflite2q.cli import run
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
