"""What is said of two descriptions that are not the same."""

from typing import Any

import pytest

from manifold_core.storage.differences import differences


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ({"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 2]}, "a": 1}, ""),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b is 2, expected 3"),
        (
            {"m": {"k": 8, "s": 1}, "t": "x"},
            {"m": {"k": 6, "s": 1}, "t": "y"},
            "m.k is 8, expected 6; t is 'x', expected 'y'",
        ),
        ({"new": None}, {"old": 1}, "old is absent, expected 1; new is None, expected absent"),
        ({"hidden": [64]}, {"hidden": [32, 32]}, "hidden is [64], expected [32, 32]"),
        ({"hidden": None}, {"hidden": [32]}, "hidden is None, expected [32]"),
        ({"s": [{"k": 1}, {"k": 2}]}, {"s": [{"k": 1}, {"k": 3}]}, "s[1].k is 2, expected 3"),
        ({"s": [{"k": 1}]}, {"s": [{"k": 1}, {"k": 3}]}, "s is of length 1, expected 2"),
        ({"r": "A(\n  b\n)"}, {"r": "A(\n  c\n)"}, "r is 'b', expected 'c'"),
        ({"r": "A\nb"}, {"r": "A"}, "r is 'b', expected ''"),
        ([], {}, "all is [], expected {}"),
    ],
)
def test_the_keys_that_differ_and_both_values(found: Any, wanted: Any, said: str) -> None:
    assert differences(found, wanted, "all").replace("all.", "") == said


def test_no_more_than_one_can_read() -> None:
    found = {f"key{i}": 0 for i in range(9)}
    assert differences(found, dict.fromkeys(found, 1)) == (
        "; ".join(f"key{i} is 0, expected 1" for i in range(5)) + "; 4 more differ"
    )
