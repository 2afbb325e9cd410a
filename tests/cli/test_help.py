"""``--help`` names all that can be chosen."""

from collections.abc import Callable

import pytest
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.reproduce import SETS
from manifold_core.experiments.tables import AS_PUBLISHED, BUDGETS

from manifold_core.bench import suite

pytestmark = pytest.mark.usefixtures("one_thread")


class TestReproduce:
    def test_the_help_names_every_budget_and_set(self, help_of: Callable[[str], str]) -> None:
        text = help_of("reproduce")
        assert f"--budget {{{','.join(BUDGETS)}}} steps, samples, and models a cell (default: quick)" in text
        assert "--backend {auto,reference,cpu,cuda} " in text
        assert f" {', '.join(TABLES)}; {', '.join(SETS).rpartition(', ')[0]}" in text
        assert f"{' or '.join(', '.join(SETS).rsplit(', ', 1))} for all such" in text
        seeds = {count: " or ".join(name for name, plan in BUDGETS.items() if plan.seeds == count) for count in (1, 5)}
        assert f"default: 1 {seeds[1]}, 5 {seeds[5]}" in text
        assert f"results go into DIR/{AS_PUBLISHED}" in text


class TestBench:
    def test_the_help_names_every_comparison(self, help_of: Callable[[str], str]) -> None:
        text = help_of("bench")
        main, (images, *growth) = ([one.name for one in group] for group in (suite.MAIN, suite.FURTHER))
        assert f"{', '.join(main)}: these where none is named; {images}; {', '.join(growth)}, or growth" in text
