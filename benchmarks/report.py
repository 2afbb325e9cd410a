"""Pages made from the result files, one per device and date: benchmarks/results/README.md and tables in MEASURED.md.

    python -m benchmarks.report                 # make the pages anew
    python -m benchmarks.report --add FILE      # first keep what `manifold-core bench --json` has written

A table in MEASURED.md is between ``<!-- bench: NAME -->`` and ``<!-- end -->``; its figures are from the newest file in
which NAME was measured, one for each processor. A test checks the pages against the files.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifold_core.bench.comparison import Comparison
from manifold_core.bench.roofline import plot_roofline
from manifold_core.bench.suite import COMPARISONS, Row, from_json, to_json
from manifold_core.bench.table import heading, in_markdown, machine_speeds, markdown, notes, rough
from manifold_core.errors import InputError

from . import estimators, gpu_tables
from .results_files import ROOT, Results, link, newest_first, results_file

__all__ = ["add", "files", "gpu_files", "page", "with_tables"]

RESULTS = ROOT / "benchmarks" / "results"
TABLE = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_YET = "Not measured yet: `make bench`.\n"
NOT_YET_ON_A_GPU = "Not measured yet: `make gpu`.\n"


def files(folder: Path = RESULTS) -> list[tuple[Path, Results]]:
    """The result files of CPUs, the newest first."""
    return [(path, from_json(path.read_text(encoding="utf-8"))) for path in newest_first(folder.glob("cpu-*.json"))]


def add(text: str, folder: Path = RESULTS) -> Path:
    """Keep what ``manifold-core bench --json`` has written; one of the same device, day and commit is replaced."""
    try:
        results = from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"this is not what `manifold-core bench --json` writes: {error!r}") from error
    where = results["provenance"]
    path = folder / results_file("cpu", where["device"], where["date"]).name
    if path.exists() and from_json(path.read_text(encoding="utf-8"))["provenance"]["commit"] != where["commit"]:
        path = path.with_stem(f"{path.stem}-{where['commit']}")
    path.write_text(to_json(results) + "\n", encoding="utf-8")
    return path


def _rows(results: Results, comparison: Comparison) -> list[Row]:
    """The rows of the comparison, or none if they have no figures."""
    own = [row for row in results["rows"] if row.comparison == comparison.name]
    return own if any(row.rounds for row in own) else []


def _table(results: Results, rows: Sequence[Row]) -> str:
    return markdown(rows, machine_speeds(results["rows"]))


def _of_gpu(path: Path) -> str:
    """What one of benchmarks/*_on_gpu.py has written: each row as it is there."""
    results = json.loads(path.read_text(encoding="utf-8"))
    names = list(results["rows"][0])
    table = in_markdown(names, ([_cell(row[name]) for name in names] for row in results["rows"])).rstrip()
    where = ", ".join(f"{name} {results[name]}" for name in ("device", "torch", "commit", "date"))
    return f"## {path.stem}\n\n[`{path.name}`]({path.name}): {where}\n\n{table}"


def _of_dimension(path: Path) -> str:
    """What benchmarks/estimators.py has written."""
    results = json.loads(path.read_text(encoding="utf-8"))
    where = ", ".join(f"{name} {value}" for name, value in results.items() if name != "rows")
    return f"## {path.stem}\n\n[`{path.name}`]({path.name}): {where}\n\n{estimators.table(results).rstrip()}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def gpu_files(folder: Path = RESULTS) -> list[Path]:
    return sorted(path for kind in ("ops", "ensemble", "images") for path in folder.glob(f"{kind}-*.json"))


def page(found: Sequence[tuple[Path, Results]], on_gpu: Sequence[Path] = (), of_dimension: Sequence[Path] = ()) -> str:
    """All tables of all files."""
    parts = [
        "# Results",
        "Written by `python -m benchmarks.report`. × is how many times faster manifold_core is, by its way that does "
        "the same: the median over the rounds, a round being a process of each contender, and in brackets the "
        "quartiles. GB/s and GFLOP/s are of counted bytes and operations; *of copy* and *of product* are shares of "
        "what a plain copy and a matrix product reached in the same run. The files hold the quartiles of every "
        "process.",
        "GPU kernels: [registers and shared memory](gpu_kernels.md).",
        *(_of_gpu(path) for path in on_gpu),
        *(_of_dimension(path) for path in of_dimension),
    ]
    for path, results in found:
        parts += [f"## {path.stem}", f"[`{path.name}`]({path.name})", *heading(results)]
        if picture(path).exists():
            parts.append(f"![roofline]({picture(path).name})")
        for comparison in COMPARISONS.values():
            rows = _rows(results, comparison)
            if comparison.name != "machine" and rows:
                parts += [f"### {comparison.title}", _table(results, rows).rstrip()]
                parts += ["\n".join(f"- {note}" for note in notes(rows))] if notes(rows) else []
    return "\n\n".join(parts) + "\n"


def picture(path: Path) -> Path:
    return path.with_suffix(".png")


def _from(path: Path, said: str) -> str:
    return f"\n{said} {link(path)}.\n"


def _dimensions(paths: Sequence[Path]) -> str:
    if not paths:
        return estimators.NOT_YET
    results, sources = estimators.newest(paths)
    said = f"{results['device']}, scikit-dimension {results['scikit-dimension']}. Of each data set the newest of these:"
    where = "; ".join(f"at {source['commit']}: {link(path)}" for source, path in sources)
    return f"{estimators.summary(results)}\n{said} {where}.\n"


def with_tables(
    text: str,
    found: Sequence[tuple[Path, Results]],
    on_gpu: Sequence[Path] = (),
    of_dimension: Sequence[Path] = (),
) -> str:
    """The text, with its tables made anew."""

    def table(marked: re.Match[str]) -> str:
        begin, name, end = marked.groups()
        if name in gpu_tables.TABLES:
            return f"{begin}\n{gpu_tables.table(name, on_gpu) or NOT_YET_ON_A_GPU}\n{end}"
        if name == estimators.KIND:
            return f"{begin}\n{_dimensions(of_dimension)}\n{end}"
        newest: dict[str, str] = {}
        for path, results in found:
            if rows := _rows(results, COMPARISONS[name]):
                where = results["provenance"]
                processor = ", ".join(where[part] for part in ("device", "instruction_set") if part in where)
                beside = "".join(f"; {one}" for one in rough(where))
                said = _from(path, f"{processor}, at {where['commit']}{beside}:")
                newest.setdefault(where["device"], f"{_table(results, rows)}{said}")
        made = "\n".join(newest.values()) or NOT_YET
        return f"{begin}\n{made}\n{end}"

    return TABLE.sub(table, text)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--add", type=Path, metavar="FILE", help="what `manifold-core bench --json` has written")
    options = parser.parse_args()
    if options.add is not None:
        try:
            print(f"kept: {add(options.add.read_text(encoding='utf-8'))}")
        except (OSError, InputError) as error:
            parser.error(str(error))
    found = files()
    for path, results in found:
        if any(row.comparison == "machine" for row in results["rows"]):
            plot_roofline(picture(path), results["rows"])
    measured = ROOT / "MEASURED.md"
    kept = found, gpu_files(), estimators.files(RESULTS)
    (RESULTS / "README.md").write_text(page(*kept), encoding="utf-8")
    measured.write_text(with_tables(measured.read_text(encoding="utf-8"), *kept), encoding="utf-8")


if __name__ == "__main__":
    main()
