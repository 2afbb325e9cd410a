"""The table of all kernels; fails where one spills, or takes more shared memory than a T4 has."""

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

from .table import SHARED_LIMIT, faults, markdown

COMPILERS = ("triton_kernels", "cuda_kernels")  # each with rows(), which compiles and yields


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the table there, not to the terminal")
    arguments = parser.parse_args()
    rows = []
    for name in COMPILERS:
        if importlib.util.find_spec(f"{__package__}.{name}") is not None:
            rows += list(importlib.import_module(f"{__package__}.{name}").rows())
    if arguments.out is None:
        print(markdown(rows), end="")
    else:
        arguments.out.write_text(markdown(rows), encoding="utf-8")
    wrong = faults(rows)
    if wrong:
        print(f"\nThese spill, or take more than {SHARED_LIMIT:,} bytes of shared memory:\n", file=sys.stderr)
        print(markdown(wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
