"""The tables of the paper that print the encoder variances of one model, and the model of ours that goes with each."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import paper
from ..tables import on_training_images
from .results import Columns, Result, Run, table_name

__all__ = ["MATRICES", "Filled", "Matrix", "filled", "matrix_run"]


@dataclass(frozen=True)
class Matrix:
    """One of these tables.

    Attributes:
        source: the table that trains the model.
        cell, variant: the model's row there.
        shape: the one in which the paper prints the variances.
    """

    table: str
    source: str
    cell: Columns
    variant: str
    shape: tuple[int, int]
    title: str


MATRICES = (
    Matrix(
        table="table10",
        source="table1",
        cell={"kappa": 20, "d": 30, "r": 6},
        variant="",
        shape=(4, 5),
        title="Encoder variances of every latent dimension",
    ),
    Matrix(
        table="table11",
        source="table4",
        cell={"dataset": "mnist"},
        variant=on_training_images("without attention"),
        shape=(8, 4),
        title="Encoder variances of every latent dimension of a conditional model, relative to the prior’s",
    ),
)


@dataclass(frozen=True)
class Filled:
    """The paper's numbers and ours, line by line."""

    matrix: Matrix
    name: str
    run: Run
    printed: Sequence[Sequence[float]]
    ours: Sequence[Sequence[float]]


def filled(results: Sequence[Result]) -> list[Filled]:
    """The matrices for which there is a run."""
    found = []
    for matrix in MATRICES:
        if (run := matrix_run(matrix, results)) is not None:
            columns = matrix.shape[1]
            ours = [run.variance[i : i + columns] for i in range(0, len(run.variance), columns)]
            found.append(Filled(matrix, table_name(matrix.table), run, paper.matrix(matrix.table), ours))
    return found


def matrix_run(matrix: Matrix, results: Iterable[Result]) -> Run | None:
    """The run of lowest −ELBO of the row, if there is one with all its variances."""
    own = [
        run
        for result in results
        if result.table == matrix.source
        for run in result.runs
        if (run.cell, run.variant) == (matrix.cell, matrix.variant)
        if run.finished and len(run.variance) == math.prod(matrix.shape)
    ]
    return min(own, key=lambda run: run.neg_elbo, default=None)
