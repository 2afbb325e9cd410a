"""The numbers that the paper prints: the one place they are kept, in ``paper_tables.json``.

What its columns mean, worked out from the numbers themselves: −ELBO and KL are printed doubled (2·L and 2·KL), Recon is
the squared error of a sample summed over its features.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["matrix", "rows"]


@cache
def _tables() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files(__package__) / "paper_tables.json").read_text(encoding="utf-8"))
    return content


def rows(table: str, **where: Any) -> list[dict[str, Any]]:
    """The rows of a table such as ``"table1"``, as column → number, whose columns equal those in ``where``.

    Raises:
        KeyError: no such table or column.
    """
    content = _tables()[table]
    named = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    return [row for row in named if all(row[column] == value for column, value in where.items())]


def matrix(table: str) -> list[list[float]]:
    """The variances that Table 10 or 11 prints, row by row.

    Raises:
        KeyError: no such table, or not a matrix.
    """
    values: list[list[float]] = _tables()[table]["values"]
    return values
