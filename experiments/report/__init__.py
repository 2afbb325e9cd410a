"""One page of all result files of a folder, the paper's numbers beside ours: ``report.html`` and ``report.md``."""

from pathlib import Path

from ...errors import InputError
from ...files import output_folder, write_atomically
from .markdown import markdown
from .page import TITLE, page
from .results import read_results

__all__ = ["write_report"]


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Read every ``*.json`` of the folder and write both pages, in place of older ones; returns their paths.

    Args:
        folder: of result files, as ``manifold-core reproduce`` writes them.
        out: folder of the pages; the same where none is given.

    Raises:
        InputError: a file that is no result file, or a folder that cannot be written to. Nothing is written then.
    """
    results = read_results(folder)
    written = {"report.html": page(results), "report.md": markdown(results, TITLE)}
    target = output_folder(folder if out is None else out)
    paths = []
    for name, text in written.items():
        path = target / name
        if path.is_dir():
            raise InputError(f"out must be a folder for {name}, got {str(target)!r}: {name} is a folder there")
        write_atomically(path, lambda to, text=text: _write(to, text))  # type: ignore[misc]
        paths.append(path)
    return paths


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
