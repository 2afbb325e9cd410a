"""One page of all result files in a folder, the paper's numbers beside ours: ``report.html`` and ``report.md``."""

from functools import partial
from pathlib import Path

from ...errors import InputError
from ...storage.files import output_folder, write_atomically
from .files import read_results
from .markdown import markdown
from .page import TITLE, page

__all__ = ["write_report"]


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Read every ``*.json`` of the folder and write both pages, replacing older ones; returns their paths.

    Args:
        folder: of result files, as ``manifold-core reproduce`` writes them.
        out: folder of the pages; the same if none is given.

    Raises:
        InputError: a file that is not a result file, or a folder that cannot be written to. Nothing is written then.
    """
    results = read_results(folder)
    name, target = ("folder", folder) if out is None else ("out", out)
    output_folder(target, name)
    written = {target / "report.html": page(results), target / "report.md": markdown(results, TITLE)}
    for path in written:
        if path.is_dir():
            raise InputError(f"{name} must be a folder for {path.name}, got {str(target)!r}: there it is a folder")
    for path, text in written.items():
        write_atomically(path, partial(_write, text))
    return list(written)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
