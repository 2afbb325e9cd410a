"""The table of runs, and what is said below it."""

import json
import math
from pathlib import Path

import pytest

from manifold_core import cli

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = {"trained_directions": 3, "trained_share": 1.0, "chosen_by": "held_out"}


class TestTable:
    def test_the_table_holds_the_numbers(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        head, _, first, second = cli.table([metrics, metrics | {"manifold_dim": 6}]).splitlines()[:4]
        assert len(head) == len(first) == len(second)
        columns = ["data", "r", "active", "local", "of", "gap", "-ELBO", "recon", "KL", "gamma", "held-out"]
        assert head.replace("held-out -ELBO", "held-out").replace("active gap", "gap").split() == columns
        shown = dict(zip(columns, first.split(), strict=True))
        measured = metrics["train"]
        assert (shown["data"], shown["r"], shown["of"]) == ("good", "?", "3")
        assert shown["active"] == str(metrics["active_dimensions"])
        assert shown["local"] == str(metrics["local"]["count"])
        wanted = {"-ELBO": "neg_elbo", "recon": "recon", "KL": "kl", "gamma": "gamma"}
        for column, name in wanted.items():
            assert float(shown[column]) == pytest.approx(measured[name], rel=5e-3, abs=1e-3)
        assert float(shown["held-out"]) == pytest.approx(metrics["validation"]["neg_elbo"], rel=5e-3)
        assert second.split()[1] == "6"
        for gap, printed in ((None, "-"), (123.4, "123")):
            line = cli.table([metrics | {"train": measured | {"gap": gap}}]).splitlines()[2]
            assert dict(zip(columns, line.split(), strict=True))["gap"] == printed

    def test_the_table_says_why_there_is_no_gap(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        there = metrics | {"train": metrics["train"] | {"gap": 123.4}}
        none, every = (metrics | {"train": metrics["train"] | {"gap": None}, "active_dimensions": n} for n in (0, 3))
        rest = cli.table([there]).splitlines()[4:]
        assert all("no active gap" not in line for line in rest)
        notes = [line for line in cli.table([none, there, every]).splitlines() if "no active gap" in line]
        assert ["train longer, with more --steps" in line for line in notes] == [True, False]
        assert ["all 3 latent dimensions are active" in line and "raise --latent-dim" in line for line in notes] == [
            False,
            True,
        ]

    def test_the_table_says_what_the_model_is_under(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        numbers = metrics | {"condition": {"mean": [1.0, 2.0], "scale": [1.0, 1.0]}}
        classes = [{"label": 4, "active_dimensions": 2}, {"label": 9, "active_dimensions": 0}]
        labels = metrics | {"condition": {"classes": [4, 9]}, "classes": classes}
        assert "condition" not in cli.table([metrics])
        assert "good has a condition of 2 numbers\n" in cli.table([numbers])
        assert "good has 2 classes; active dimensions by class: 4: 2, 9: 0\n" in cli.table([labels])
        none = {"train": metrics["train"] | {"gap": None}, "active_dimensions": 0}
        assert "no dimension is active over all classes together: see those of each class" in cli.table([labels | none])
        for one in classes:
            one["active_dimensions"] = 0
        assert "the condition leaves the samples no dimension" in cli.table([labels | none])
        assert "condition" not in cli.table([metrics | none])

    def test_the_gap_of_a_full_covariance_is_that_of_its_eigenvalues(self, earlier: Path) -> None:
        """They may lie askew: along the axes no dimension is active then, and all of them say nothing."""
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        model = metrics["config"]["model"] | {"covariance": "cholesky"}
        askew = metrics | {"config": metrics["config"] | {"model": model}, "active_dimensions": 0}
        for spectrum, count, printed in (
            ([0.002, 0.004, 0.8], 2, "200"),
            ([0.0, 0.5, 0.8], 1, "inf"),
            ([0.3, 0.4, 0.8], 0, "-"),
            ([0.01, 0.02, 0.03], 3, "-"),
        ):
            measured = {"gap": None, "spectrum": spectrum, "spectrum_count": count, "active_dimensions": 0}
            lines = cli.table([askew | {"train": metrics["train"] | measured}]).splitlines()
            heads = lines[0].replace("by eigenvalue", "by_eigenvalue").replace("active gap", "gap").split()
            assert lines[2].split()[heads.index("gap")] == printed
            said = [line for line in lines if "no active gap" in line]
            assert len(said) == (printed == "-")
            if printed == "-":
                assert ("no dimension is active" in said[0]) == (count == 0)
                assert ("all 3 latent dimensions are active" in said[0]) == (count == 3)

    def test_the_table_says_what_a_search_makes_of_no_gap(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        every = metrics | {
            "train": metrics["train"] | {"gap": None, "active_dimensions": 3},
            "doubts": [],
            "trials": [
                {"latent_dim": 2, "active_dimensions": 1, "diverged_at": None},
                {"latent_dim": 3, "active_dimensions": 2, "diverged_at": None},
                {"latent_dim": 4, "active_dimensions": 0, "diverged_at": 7},
                {"latent_dim": 5, "active_dimensions": 3, "diverged_at": None},
            ],
        }
        for kappa, count, most, of_able, said in (
            (3, 3, 4, "2, diverged, 3", "compare the -ELBO with fewer and with more, below"),
            (3, 3, 3, "2, diverged, 3", None),  # a doubt of the search's
            (5, 5, 5, "3", "as many as features: the data fill their space, or lie on a closed manifold"),
            (3, 0, 3, "2, diverged, 3", "train longer, with more --steps, or begin with a smaller gamma"),
        ):
            found = {"latent_dim": kappa, "active_dimensions": count, "by_latent_dim": {"3": -1.234, str(most): -1.234}}
            found |= {"local": {"count": count, "gap": 7.0 if count else None, "share": 1.0}, **ALL}
            lines = cli.table([every | found]).splitlines()
            read = f"good: dimension {count}, found at 100 % of the samples, with a gap of 7 (clear from 8 on)"
            assert lines[:2] == [read if count else "good: no dimension found", ""]
            notes = [line for line in lines if "no active gap" in line]
            assert [said in note for note in notes if said] == ([True] if said else [])
            assert len(notes) == (said is not None)
            (note,) = (line for line in lines if "the best of" in line)
            assert note.startswith(
                f"good: the best of 4 models has {kappa} latent dimensions; active dimensions of the models with "
                f"{kappa} or more: {of_able}; "
            )
            assert "by number of latent dimensions: 3: -1.23" in note
            assert "(in the coordinates used for training, and" in note
        few = {"trained_directions": 16, "trained_share": 0.99762}
        assert "(in the 16 widest directions, 99.76 % of the variance, used for training, and" in cli.table(
            [every | found | few]
        )
        assert "3 latent dimensions, a wider network with which nearest neighbours agree, and not with that of the" in (
            cli.table([every | found | {"chosen_by": "neighbours"}])
        )

    def test_doubts_are_said_below_the_table_and_announced_above(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        local = {"count": 2, "gap": 9.0, "share": 0.4}
        read = "good: dimension 2, found at 40 % of the samples, with a gap of 9 (clear from 8 on)"
        search = {"trials": [], "by_latent_dim": {"3": 1.0}, "local": local, "noise": "", **ALL}
        for doubts in ([], ["one thing"], ["one thing", "and another"]):
            lines = cli.table([metrics | search | {"doubts": doubts}]).splitlines()
            assert lines[0] == f"{read}{'; doubtful, see below' if doubts else ''}"
            assert [line for line in lines if "thing" in line or "another" in line] == [f"good: {x}" for x in doubts]
        lines = cli.table([metrics | search | {"doubts": [], "noise": "they count noise"}]).splitlines()
        assert lines[0] == read
        assert "good: they count noise" in lines

    def test_the_table_says_where_the_decoder_has_fewer_dimensions(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        measured = metrics["train"] | {"active_dimensions": 3}
        for local, said in ((2, True), (3, False), (4, False)):
            run = metrics | {"train": measured, "local": {"count": local, "gap": 12.345}}
            notes = [line for line in cli.table([run]).splitlines() if "the decoder has" in line]
            assert len(notes) == said
            wanted = "2 dimensions at a sample, fewer than the 3 that", "eigenvalues is 12.3"
            assert all(part in note for note in notes for part in wanted)
        none = cli.table([metrics | {"train": measured, "local": {"count": 0, "gap": None}}])
        assert "good: 3 dimensions are active, but the decoder has none at a sample" in none

    def test_the_table_says_that_a_loss_is_no_number(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        measured = metrics["train"] | {"gap": None, "neg_elbo": math.nan}
        lines = cli.table([metrics | {"active_dimensions": None, "train": measured}]).splitlines()
        notes = [line for line in lines if line.startswith("good ")]
        said = "good has no active gap, as its loss is not finite: its numbers mean nothing; lower --learning-rate"
        assert said in notes
        assert not any("higher -ELBO" in note for note in notes)

    def test_the_table_says_that_a_training_blew_up(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        first = metrics["history"]["neg_elbo"][0]
        for last, higher in ((first + 1, True), (first, False), (first - 1, False)):
            lines = cli.table([metrics | {"train": metrics["train"] | {"neg_elbo": last}}]).splitlines()
            notes = [line for line in lines if line.startswith("good ends at a higher -ELBO")]
            assert [f"{last:.4g} after {first:.4g}" in line and "--learning-rate" in line for line in notes] == (
                [True] if higher else []
            )

    def test_the_table_says_what_several_models_read(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        one = {"active_dimensions": 2, "spectrum_count": 3, "diverged_at": None}
        several = metrics | {"seed": 7, "models": [one, one | {"diverged_at": 12}, one | {"active_dimensions": 1}]}
        several["models"].append(one | {"active_dimensions": None, "spectrum_count": None})
        model = metrics["config"]["model"]
        full = several | {"config": metrics["config"] | {"model": model | {"covariance": "cholesky"}}}
        for of, counts in ((several, "2, diverged, 1, not finite"), (full, "3, diverged, 3, not finite")):
            (note,) = (line for line in cli.table([of]).splitlines() if " models: " in line)
            assert note == (
                f"good: active dimensions of the 4 models: {counts}; the table shows the model of seed 7, which has "
                "the lowest held-out -ELBO"
            )
        assert " models: " not in cli.table([metrics])
        unknown = several | {"validation": metrics["validation"] | {"neg_elbo": None}}
        (note,) = (line for line in cli.table([unknown]).splitlines() if " models: " in line)
        assert note.endswith("which has the lowest -ELBO, since that of the held-out samples is finite for none")

    def test_long_names_and_shapes_of_images_stand_in_columns(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        long = metrics | {"data": "a_name_of_more_than_twenty_letters"}
        photographs = metrics | {"data": "photographs", "sample_shape": [28, 30, 3]}
        for runs in ([long, metrics], [long, metrics, photographs]):
            head, rule, *lines = cli.table(runs).splitlines()[: 2 + len(runs)]
            assert {len(line) for line in (rule, *lines)} == {len(head)}
            assert [line.index("?") for line in lines] == [head.index(" r ") + 1] * len(runs)
        assert [line.split()[1] for line in (head, *lines)] == ["C×H×W", "-", "-", "28×30×3"]

    def test_columns_never_touch(self, earlier: Path) -> None:
        """Numbers may be longer than any that were thought of; head and rule go with them."""
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        numbers = {"gap": None, "neg_elbo": -1000018.484, "recon": 1e-100, "kl": 12345678.125, "gamma": -1.23e-300}
        long = metrics | {"sample_shape": [1000, 10000, 100000], "latent_dim": 10**7, "manifold_dim": 10**7}
        long |= {"active_dimensions": 10**9, "validation": metrics["validation"] | {"neg_elbo": -(2.0**60)}}
        long |= {"train": metrics["train"] | numbers | {"spectrum_count": 10**20}}
        long["config"] = {"model": {"covariance": "cholesky"}}
        long["local"] = {"count": 10**8, "gap": 1.0}
        head, rule, one, other = cli.table([long, metrics]).splitlines()[:4]
        assert len(head) == len(rule) == len(one) == len(other)
        assert one.split() == [
            *("good", "1000×10000×100000", str(10**7), str(10**9), str(10**8), str(10**20), str(10**7), "-"),
            "-1000018.484",
            *("1e-100", "12345678.125", "-1.23e-300", f"-{2**60}.000"),
        ]

    def test_the_table_says_what_its_units_are(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        kept = metrics["standardisation"]
        five = cli.table([metrics | {"standardisation": kept | {"scale": 10.0}}]).splitlines()
        assert five[-1] == (
            "good was measured as (x - mean) / 10; in the units of the data recon and gamma are 100 times as large, "
            "-ELBO is greater by 11.51"  # five times log 10
        )
        tenth = cli.table([metrics | {"standardisation": kept | {"scale": 0.1}}]).splitlines()
        assert tenth[-1].endswith("0.01 times as large, -ELBO is lower by 11.51")
        as_it_is = metrics | {"standardisation": kept | {"scale": 1.0}}
        assert cli.table([as_it_is]).splitlines() == five[:-1]

    def test_the_table_has_both_counts_of_a_full_covariance(self, earlier: Path) -> None:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        model = metrics["config"]["model"]
        rotated = metrics | {
            "active_dimensions": 1,
            "train": metrics["train"] | {"spectrum_count": 2},
            "config": metrics["config"] | {"model": model | {"covariance": "cholesky"}},
        }
        head, rule, *lines = cli.table([rotated, metrics]).splitlines()[:4]
        assert {len(line) for line in (rule, *lines)} == {len(head)}
        assert head.replace("by eigenvalue", "eigenvalue").split()[2:6] == ["active", "local", "eigenvalue", "of"]
        local = str(metrics["local"]["count"])
        assert [line.split()[2:6] for line in lines] == [
            ["1", local, "2", "3"],
            [str(metrics["active_dimensions"]), local, "-", "3"],
        ]
        assert "eigenvalue" not in cli.table([metrics])
