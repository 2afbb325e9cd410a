"""What users give as samples: tables whose columns have types of their own."""

from typing import Any

import numpy as np
import pytest
import torch

import manifold_core as mc
from manifold_core.data.checks import as_array


class Column:
    """As one of pandas': of numbers that may be missing, of truth values, or of words."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def astype(self, dtype: str) -> np.ndarray[Any, Any]:
        return np.array([float(value) for value in self.values], dtype=dtype)


class Frame:
    def __init__(self, **columns: list[Any]) -> None:
        self.columns = list(columns)
        self.parts = [Column(values) for values in columns.values()]

    @property
    def iloc(self) -> Any:
        frame = self

        class Places:
            def __getitem__(self, place: tuple[slice, int]) -> Column:
                return frame.parts[place[1]]

        return Places()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array([part.values for part in self.parts], dtype=object).T


def test_truth_values_and_integers_that_may_be_missing_are_numbers() -> None:
    found = as_array(Frame(a=[1, 2], b=[True, False], c=[0.5, 1.5]))
    assert found.dtype == np.float64
    assert found.tolist() == [[1.0, 1.0, 0.5], [2.0, 0.0, 1.5]]


@pytest.mark.parametrize(("missing", "said"), [("word", "could not convert string to float"), (None, "NoneType")])
def test_a_column_that_is_none_is_named(missing: Any, said: str) -> None:
    with pytest.raises(mc.InputError, match=f"x must be numbers, got column 'b' of Frame: .*{said}"):
        as_array(Frame(a=[1, 2], b=[1, missing]))


def test_those_of_pandas_are_read() -> None:
    pandas = pytest.importorskip("pandas", reason="a table of pandas' needs pandas, which is no dependency")
    frame = pandas.DataFrame({"a": [1.5, 2.5], "b": [True, False], "c": pandas.array([1, 2], dtype="Int64")})
    assert as_array(frame).tolist() == [[1.5, 1.0, 1.0], [2.5, 0.0, 2.0]]
    with pytest.raises(mc.InputError, match="got column 'd' of DataFrame"):
        as_array(frame.assign(d=["x", "y"]))


def test_the_imaginary_part_of_a_conjugate_is_read() -> None:
    """Torch flips its sign only when it is used, and NumPy does not take it so."""
    imaginary = torch.complex(torch.zeros(3, 2), torch.arange(6.0).view(3, 2)).conj().imag
    assert imaginary.is_neg()
    assert as_array(imaginary).tolist() == [[0.0, -1.0], [-2.0, -3.0], [-4.0, -5.0]]
