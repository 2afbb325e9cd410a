"""``--help`` names all that can be chosen."""

from collections.abc import Callable

import pytest
from manifold_core.experiments.catalogue import TABLES
from manifold_core.experiments.reproduce import READ_OFF, SETS
from manifold_core.experiments.tables import AS_PUBLISHED, BUDGETS

from manifold_core import cli
from manifold_core.bench import suite

pytestmark = pytest.mark.usefixtures("one_thread")


class TestReproduce:
    def test_the_help_names_every_budget_and_set(self, help_of: Callable[[str], str]) -> None:
        text = help_of("reproduce")
        assert f"--budget {{{','.join(BUDGETS)}}} steps, samples, and models per cell (default: quick)" in text
        assert "--backend {auto,reference,cpu,cuda} " in text
        read_off, sources = " and ".join(READ_OFF), " and ".join(READ_OFF.values())
        assert f" {', '.join(TABLES)}; {read_off} for {sources}, off whose models they are read; " in text
        assert f" read; {', '.join(SETS).rpartition(', ')[0]}" in text
        assert f"{' or '.join(', '.join(SETS).rsplit(', ', 1))} for all of that kind" in text
        seeds = {count: " or ".join(name for name, plan in BUDGETS.items() if plan.seeds == count) for count in (1, 5)}
        assert f"default: 1 ({seeds[1]}), 5 ({seeds[5]})" in text
        assert f"results go into DIR/{AS_PUBLISHED}" in text


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train", "Train a VAE, or with --condition a CVAE, on a data set."),
        ("dimension", "Estimate the dimension of a data set: "),
        ("reproduce", "Replay tables and theorems of the paper."),
        ("eager", "Measure what the tables in a folder would take in eager PyTorch "),
        ("report", "Make one page of the result files in a folder, "),
        ("bench", "Measure how fast the library is on this machine's CPU, "),
        ("info", "Versions, backends and data on this machine."),
    ],
)
def test_every_command_says_what_it_does(help_of: Callable[[str], str], command: str, said: str) -> None:
    assert said in help_of(command)


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """--seed would be --seeds, which is how many, and not which."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reproduce", "table1", "--out", "out", "--seed", "3"])
    assert "unrecognized arguments: --seed 3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["--vers"])


class TestBench:
    def test_the_help_names_every_comparison(self, help_of: Callable[[str], str]) -> None:
        text = help_of("bench")
        main, (images, lstm, *growth) = ([one.name for one in group] for group in (suite.MAIN, suite.FURTHER))
        assert f"{', '.join(main)}: these if none is named; {images}, {lstm}; {', '.join(growth)}, or growth" in text
