"""The table of all kernels; fails if one spills, or needs more shared memory than a T4 has."""

import argparse
import sys
from pathlib import Path

from . import cuda_kernels, triton_kernels
from .table import SHARED_LIMIT, Row, faults, markdown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the table there instead of to the terminal, if it is complete")
    arguments = parser.parse_args()
    lines, rows, whole = ["Made by `make resources`, which needs no GPU."], list[Row](), True
    for backend, compiler in (("triton", triton_kernels), ("cuda", cuda_kernels)):
        try:
            lines.append(f"Backend {backend}: compiled by {compiler.version()}.")
            rows += compiler.rows()
        except FileNotFoundError as missing:
            lines.append(f"Backend {backend}: missing here; {missing}.")
            whole = False
    text = " ".join(lines) + "\n\n" + markdown(rows)
    if arguments.out is None or not whole:  # half a table does not replace a whole one
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")
        print(lines[0], *lines[1:], f"{len(rows)} rows are in {arguments.out}.", sep="\n")
    wrong = faults(rows)
    if wrong:
        print(f"\nThese spill, or need more than {SHARED_LIMIT:,} bytes of shared memory:\n", file=sys.stderr)
        print(markdown(wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
