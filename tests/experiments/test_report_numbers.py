"""The numbers of the report: medians, shares, slopes, thresholds, notes, and how they are printed."""

import math
import re
from collections.abc import Callable

import pytest
from manifold_core.experiments import paper
from manifold_core.experiments.report.markdown import markdown, plain
from manifold_core.experiments.report.matrices import MATRICES, matrix_run
from manifold_core.experiments.report.notes import notes, verdict
from manifold_core.experiments.report.overview import facts, overview, provenance, totals
from manifold_core.experiments.report.results import Result
from manifold_core.experiments.report.summary import Row, Share, contrasts, rows
from manifold_core.experiments.report.svg import decades
from manifold_core.experiments.report.text import duration, fixed, percent, significant
from result_files import file, fit, run


def only_row(results: list[Result]) -> Row:
    (row,) = rows(results[0])
    return row


class TestNumbers:
    def test_of_an_even_number_of_seeds(self, written: Callable[..., list[Result]]) -> None:
        row = only_row(written(file()))
        ours = row.spread("neg_elbo")
        assert ours is not None
        assert (ours.median, ours.lowest, ours.highest, ours.count) == (-45.0, -60.0, -30.0, 4)
        assert row.best is not None
        assert (row.best.seed, row.best.active_dimensions) == (2, 3)
        assert (row.share.right, row.share.whole, row.share.enough) == (2, 4, False)
        assert row.above_paper is True  # −45 against −45.5
        kl = row.spread("kl")
        assert kl is not None
        assert kl.median == 21.5

    def test_a_diverged_run_is_wrong_and_in_no_median(self, written: Callable[..., list[Result]]) -> None:
        """Also with finite numbers, from before it diverged, and where its count happens to be right."""
        runs = [run(0, 3, -50.0), run(1, 3, -90.0, diverged_at=7), run(2, 3, -40.0), run(3, None, None, diverged_at=9)]
        row = only_row(written(file(runs=[*runs, run(4, 3, float("nan")), run(5, 3, -48.0)])))
        ours = row.spread("neg_elbo")
        assert ours is not None
        assert (ours.median, ours.lowest, ours.count) == (-48.0, -50.0, 3)
        assert (row.share.right, row.share.whole) == (3, 6)
        assert [r.seed for r in row.diverged] == [1, 3, 4]

    def test_a_dimension_that_few_samples_have_is_a_guess(self, written: Callable[..., list[Result]]) -> None:
        for share, guess in ((0.67, False), (0.66, True), (0.3, True)):  # the others agree on another number
            local = {"count": 3, "gap": 30.0, "samples": 100, "shares": {"1": 1 - share, "3": share}}
            (result,) = written(file(runs=[run(0, 3, -50.0, local=local)], paper=[]))
            said = [note for note in notes(result) if "the dimension is a guess" in note]
            assert ["1 of 1 runs the" in note for note in said] == [True] * guess

    def test_dimensions_by_the_decoder_are_counted_beside(
        self, written: Callable[..., list[Result]], pages: Callable[..., tuple[str, str]]
    ) -> None:
        """Over all runs, a diverged one and one in which they were not measured being wrong; of the lowest −ELBO."""
        read = {"count": 3, "gap": 5.0, "shares": {"3": 1.0}, "samples": 7}
        runs = [
            run(0, 2, -50.0, local=read | {"gap": 9.0}),
            run(1, 3, -60.0, local=read | {"count": 4, "shares": {"4": 1.0}}),
            run(2, 3, -40.0, local=read),
            run(3, 3, -70.0, local=read, diverged_at=7),
            run(4, 3, -45.0, local=None),
        ]
        content = file(runs=runs, paper=[])
        row = only_row(results := written(content))
        assert row.local_dimension == 4
        assert (row.share_by_decoder.right, row.share_by_decoder.whole) == (2, 5)
        assert (row.share.right, row.share.whole) == (3, 5)
        (line,) = overview(results)
        assert [line.cells[head] for head in ("runs", "right", "by the decoder")] == ["5", "3 of 5", "2 of 5"]
        (said,) = (note for note in notes(results[0]) if note.startswith("By the decoder"))
        assert said.startswith(
            "By the decoder: in 3 of 4 runs the dimension is a guess, or none is read, as the gap is narrower than 8"
        )
        html, markdown = pages(content)
        assert "| true | active: ours | right | by the decoder | right by it |" in markdown
        assert "| 3 | 3 | 3 of 5 | 4 | 2 of 5 |" in markdown
        line = next(line for line in re.findall(r"<tr>.*?</tr>", html) if ">2 of 5<" in line and "<svg" in line)
        cells = [re.sub(r"<[^>]*>", " ", cell).split() for cell in re.findall(r"<td.*?</td>", line)]
        assert cells[:5] == [["3"], ["3", "✓", "right"], ["3", "of", "5"], ["4", "≠", "wrong"], ["2", "of", "5"]]
        assert "mc.local_dimensions" in html
        assert plain("mc.local_dimensions") in markdown

    def test_where_they_were_not_measured_they_are_not_there(
        self, written: Callable[..., list[Result]], pages: Callable[..., tuple[str, str]]
    ) -> None:
        assert only_row(written(file())).share_by_decoder.whole == 0
        for page in pages(file()):
            assert "right by it" not in page
            assert "by the decoder" not in page
            assert not re.search(r'colspan="\d" class="group">by the decoder', page)
            assert "the decoder’s derivative" not in page

    def test_rows_are_the_papers_then_ours(self, written: Callable[..., list[Result]]) -> None:
        """A column's place in the object means nothing, and 3.0 is 3."""
        printed = [
            {"cell": {"t": 5}, "variant": "b", "AD": 5},
            {"cell": {"r": 3.0, "d": 20}, "variant": "", "AD": 3},
        ]
        extra = run(0, 1, -1.0, cell={"t": 9}, variant="c")
        listed = rows(written(file(paper=printed, runs=[extra, run(0, 3, -50.0)]))[0])
        assert [(row.cell, row.variant, len(row.runs)) for row in listed] == [
            ({"t": 5}, "b", 0),
            ({"d": 20, "r": 3}, "", 1),
            ({"t": 9}, "c", 1),
        ]
        assert [row.paper is None for row in listed] == [False, False, True]
        assert [row.above_paper for row in listed] == [None, None, None]

    @pytest.mark.parametrize(("right", "enough"), [(10, True), (9, True), (8, False)])
    def test_nine_of_ten_are_enough(self, written: Callable[..., list[Result]], right: int, enough: bool) -> None:
        row = only_row(written(file(runs=[run(s, 3 if s < right else 2, -50.0) for s in range(10)])))
        assert row.share.enough is enough
        assert f"true active dimensions in at least 90 % of the runs in {int(enough)} of 1 rows." in verdict([row])

    def test_notes_say_what_is_above_and_what_is_wrong(self, written: Callable[..., list[Result]]) -> None:
        results = written(file(runs=[*file()["runs"], run(4, 3, None, diverged_at=1200), run(5, 3, None)]))
        assert notes(results[0]) == [
            "d = 20, r = 3: median −ELBO −45.00, above the paper’s −45.50 by 0.50.",
            "d = 20, r = 3: 2 of 6 runs (33 %) have the true active dimensions, 3; the others have 2 (1×) and 4 (1×).",
            "d = 20, r = 3: diverged: seed 4 at step 1,200 and seed 5 (no finite −ELBO).",
        ]
        assert verdict(rows(results[0])) == (
            "Median −ELBO at or below the paper’s in 0 of 1 rows; "
            "true active dimensions in at least 90 % of the runs in 0 of 1 rows."
        )

    def test_nothing_to_note_where_all_is_well(self, written: Callable[..., list[Result]]) -> None:
        assert notes(written(file(runs=[run(0, 3, -45.5)]))[0]) == []  # at the paper's, not above

    def test_what_a_yes_or_no_makes_of_the_loss(self, written: Callable[..., list[Result]]) -> None:
        """Seed by seed, where both finished; against the paper's difference, 3 for n = 1 and −40 for n = 2."""
        losses = {
            (1, True): {0: -10.0, 1: -20.0, 2: -30.0, 4: -1.0},
            (1, False): {2: -33.0, 1: -22.5, 0: -14.0, 3: -99.0},
            (2, True): {0: -100.0, 1: -80.0},
            (2, False): {0: -60.0, 1: -50.0},
            (3, True): {0: -5.0},
            (3, False): {0: -6.0, 1: -7.0},
            (4, True): {0: -5.0},
        }
        cells = {(n, yes): {"tied": yes, "n": n} for n, yes in losses}
        unknown = {"true_active": None, "variant": "v"}
        runs = [run(s, 3, x, cell=cells[key], **unknown) for key, own in losses.items() for s, x in own.items()]
        for seed, diverged in ((7, True), (8, False)):  # one of the two
            ends = {diverged: 9, not diverged: None}
            runs += [run(seed, 3, -1.0, cell=cells[1, yes], diverged_at=ends[yes], **unknown) for yes in (True, False)]
        runs += [run(0, 3, -1.0, cell=cells[3, True], true_active=None, variant="w")]
        printed = {(1, True): -10.0, (1, False): -13.0, (2, True): -90.0, (2, False): -50.0, (3, True): -1.0}
        paper = [{"cell": cells[key], "variant": "v", "neg_elbo": x} for key, x in printed.items()]
        (result,) = written(file(runs=runs, paper=paper))
        found = {contrast.cell["n"]: contrast for contrast in contrasts(rows(result))}
        assert found.keys() == {1, 2, 3}
        assert {(contrast.column, contrast.variant) for contrast in found.values()} == {("tied", "v")}
        assert [(n, list(c.differences.items())) for n, c in sorted(found.items())] == [
            (1, [(0, 4.0), (1, 2.5), (2, 3.0)]),
            (2, [(0, -40.0), (1, -30.0)]),
            (3, [(0, 1.0)]),
        ]
        assert notes(result)[:3] == [
            "n = 1, v: −ELBO with tied less that without, seed by seed: 4.00, 2.50 and 3.00; "
            "the paper’s is 3.00, and 2 of 3 seeds have as much.",
            "n = 2, v: −ELBO without tied less that with, seed by seed: 40.00 and 30.00; "
            "the paper’s is 40.00, and 1 of 2 seeds have as much.",
            "n = 3, v: −ELBO with tied less that without, seed by seed: 1.00.",
        ]
        assert not any("less that" in sentence for sentence in notes(result)[3:])

    def test_rows_without_runs_are_noted(self, written: Callable[..., list[Result]]) -> None:
        assert notes(written(file(runs=[]))[0]) == ["d = 20, r = 3: no runs."]

    def test_slopes(self, written: Callable[..., list[Result]]) -> None:
        good, broken = fit(slope=11.25), fit(slope=None, cell={"d": 9})  # 10 % off, which is within
        (result,) = written(file("theorem1", fits=[fit(), good, broken], runs=[], paper=[]))
        assert [round(f.error, 6) for f in result.fits[:2]] == [0.2, 0.1]
        assert notes(result) == [
            "d = 15, r = 5: slope 10, expected 12.5, 20.00 % off.",
            "d = 9: slope –, expected 12.5.",
        ]
        (line,) = overview([result])
        assert line.slopes == Share(1, 3)
        assert (line.runs, line.diverged) == (None, None)  # an older file does not say

    def test_the_last_two_points_by_themselves_and_the_decoder(
        self, written: Callable[..., list[Result]], pages: Callable[..., tuple[str, str]]
    ) -> None:
        """Where the smallest γ is no longer on the line."""
        bent = fit(points=[[-4.0, 0.0], [-6.0, -20.0], [-8.0, -27.0]], local_dimensions=[5, 6, None])
        content = file("theorem1", fits=[bent, fit(points=[[-1.0, 2.0]], active_dimensions=[5], recon=[])], runs=[])
        content["fits"][1] |= {"active_variance": [], "inactive_variance": []}
        first, second = written(content)[0].fits
        assert first.last_slope == 3.5
        assert math.isnan(second.last_slope)
        html, markdown = pages(content)
        assert "| off by | between the last two |" in markdown
        assert "| 20.00 % | 3.500 |" in markdown
        assert "| 5, 5, 4 | 5, 6, – |" in markdown
        assert '<td class="words">5, 6, –</td>' in html

    def test_models_of_fits_that_diverged(self, written: Callable[..., list[Result]]) -> None:
        """They are no points, and their fit may be missing: the file has them by themselves."""
        diverged = [{"cell": {"d": 15, "r": 5, "log_gamma": -7.0}, "seed": 3, "diverged_at": 1200}]
        (result,) = written(file("theorem1", fits=[fit(slope=12.5)], runs=[], paper=[], models=40, diverged=diverged))
        assert notes(result) == ["d = 15, r = 5, log γ = −7.0: diverged: seed 3 at step 1,200."]
        (line,) = overview([result])
        assert (line.runs, line.diverged) == (40, 1)
        assert dict(map(reversed, totals([result])))["runs; one per class for a model with classes"] == "40"
        (result,) = written(file("theorem1", fits=[], runs=[], paper=[], models=40, diverged=diverged))
        (line,) = overview([result])
        assert (line.runs, line.diverged) == (40, 1)
        assert "no runs" not in markdown([result], "")

    def test_powers_of_gamma(self, written: Callable[..., list[Result]]) -> None:
        """A tenth for every two of log γ is the power ln 10 / 2; a zero or a gap has none."""
        (found,) = written(file("theorem1", fits=[fit()], runs=[], paper=[]))[0].fits
        assert found.exponent(found.recon) == pytest.approx(math.log(10) / 2)
        assert math.isnan(found.exponent(found.active_variance))
        assert math.isnan(found.exponent(found.inactive_variance))
        assert math.isnan(found.exponent(()))

    def test_each_power_stands_under_its_own_name(self, pages: Callable[..., tuple[str, str]]) -> None:
        powers = {"recon": 1.0, "active_variance": 0.5, "inactive_variance": 0.25}
        columns = {name: [math.exp(power * x) for x in (-4.0, -6.0, -8.0)] for name, power in powers.items()}
        points = [[-4.0, 0.0], [-6.0, -20.0], [-8.0, -27.0]]
        _, markdown = pages(file("theorem1", fits=[fit(points=points, **columns)], runs=[], paper=[]))
        heads, _, line = [row for row in markdown.split("## Theorem 1")[1].splitlines() if row.startswith("|")]
        cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in (heads, line)]
        shown = dict(zip(*cells, strict=True))
        assert [shown[plain(f"{what} ∝ γ^")] for what in ("squared error", "active variances", "inactive")] == [
            *("1.00", "0.50", "0.25")
        ]
        assert shown["inactive at the smallest γ"] == "0.135"  # exp(−2)
        assert [shown[name] for name in ("expected", "slope", "between the last two", "intercept", "R²", "points")] == [
            *("12.5", "10.00", "3.500", "40.00", "1.0000", "3")
        ]

    def test_dimensions_at_the_smallest_gamma_are_noted(self, written: Callable[..., list[Result]]) -> None:
        fits = [fit(slope=12.5, true_active=true) for true in (5, 4)]
        assert notes(written(file("theorem1", fits=fits, runs=[], paper=[]))[0]) == [
            "d = 15, r = 5: 4 active dimensions at the smallest γ, expected 5."
        ]

    def test_other_thresholds_count_again(self, written: Callable[..., list[Result]]) -> None:
        """Those of each variant; a run that did not finish is right at none."""
        runs = [run(s, 3, -50.0, variance=[0.002, 0.02, 0.2, 0.9][: 4 - s] + [1.0] * s) for s in range(2)]
        runs += [run(2, 3, None, variance=[0.002, 0.02, 0.2, 0.9])]
        clear = [run(s, 3, -50.0, variance=[0.001, 0.001, 0.001, 0.9], variant="clear") for s in range(2)]
        found = notes(written(file(runs=[*runs, *clear]))[0])
        assert [sentence for sentence in found if "below 0.01" in sentence] == [
            "Right below 0.01, 0.05 and 0.5: in 0, 0 and 2 of 3 runs."
        ]
        unknown = [
            run(
                0, 2, -50.0, true_active=None, variance=[0.002, 0.02, 0.2, 0.9], cell={"d": 20, "r": 9}, variant="clear"
            )
        ]
        printed = {"cell": {"d": 20, "r": 9}, "variant": "clear", "AD": 3}
        found = notes(written(file(runs=[*clear, *unknown], paper=[printed]))[0])
        assert [sentence for sentence in found if "below 0.01" in sentence] == [
            "d = 20, r = 9, clear: active below 0.01, 0.05 and 0.5: 1, 2 and 3; the paper’s 3."
        ]
        found = notes(written(file(runs=[one | {"variant": "a"} for one in runs]))[0])
        assert "a: right below 0.01, 0.05 and 0.5: in 0, 0 and 2 of 3 runs." in found

    def test_where_no_truth_is_known_they_are_counted(self, written: Callable[..., list[Result]]) -> None:
        """Of the run of lowest −ELBO, where the paper has the row."""
        runs = [
            run(0, 2, -50.0, true_active=None, variance=[0.002, 0.02, 0.2, 0.9]),
            run(1, 3, -40.0, true_active=None, variance=[0.002, 0.002, 0.002, 0.9]),
            run(0, 2, -50.0, true_active=None, variance=[0.002, 0.02, 0.2, 0.9], cell={"d": 9}),
        ]
        found = notes(written(file(runs=runs))[0])
        assert [sentence for sentence in found if "below 0.01" in sentence] == [
            "d = 20, r = 3: active below 0.01, 0.05 and 0.5: 1, 2 and 3; the paper’s 3."
        ]

    def test_of_a_model_with_classes_they_are_counted_in_the_mean_over_these(
        self, written: Callable[..., list[Result]]
    ) -> None:
        one = {"name": "a", "interval": [1, 2], "active_dimensions": 2, "neg_elbo": -1.0}
        classes = [one | {"variance": [0.002, 0.02, 0.2, 0.9]}, one | {"name": "b", "variance": [0.2, 0.3, 0.9, 0.9]}]
        runs = [run(0, 2, -50.0, true_active=None, variance=[0.1, 0.1, 0.5, 0.9], classes=classes)]
        found = notes(written(file(runs=runs))[0])
        assert [sentence for sentence in found if "below 0.01" in sentence] == [
            "d = 20, r = 3: active below 0.01, 0.05 and 0.5: 0.5, 1.0 and 2.5; the paper’s 3."
        ]

    def test_what_runs_have_where_no_truth_is_known(self, written: Callable[..., list[Result]]) -> None:
        runs = [run(seed, count, -50.0, true_active=None) for seed, count in enumerate((11, 10, 11, 3))]
        assert "d = 20, r = 3: the runs have 3 (1×), 10 (1×) and 11 (2×) active dimensions." in notes(
            written(file(runs=runs))[0]
        )

    def test_what_eager_pytorch_would_take(self, written: Callable[..., list[Result]]) -> None:
        first = file(eager_seconds={"same_steps": 600.0, "as_published": 7200.0})
        found = {
            words: number
            for number, words in totals(written(first, file("theorem1", eager_seconds={"same_steps": 60})))
        }
        assert found["in eager PyTorch, the same steps"] == "11 min 0 s"
        words = "in eager PyTorch, the paper’s own models, steps and batches, of as many seeds; of 1 of 2 tables"
        assert found[words] == "2 h 0 min"

    def test_what_a_step_of_eager_pytorch_takes(self, written: Callable[..., list[Result]]) -> None:
        seconds = {"same_steps": 600.0, "same_steps_a_step": 0.0123, "as_published": 7200.0}
        (line,) = facts(written(file(eager_seconds=seconds))[0])
        assert line.endswith(
            " · in eager PyTorch, the same steps: 12.3 ms per step, 10 min 0 s"
            " · in eager PyTorch, the paper’s own models, steps and batches, of as many seeds: 2 h 0 min"
        )

    def test_facts_are_of_the_training_and_of_where_eager_pytorch_was_measured(
        self, written: Callable[..., list[Result]]
    ) -> None:
        eager = {"eager_seconds": {"same_steps": 60.0}, "eager_on": {"device": "another"}}
        plan = {"steps": 20_000, "batch_size": 1024, "first_seed": 8}
        assert facts(written(file(plan=plan, **eager))[0]) == [
            "budget quick · 4 seeds from 8 on · 20,000 steps of 1,024 · a CPU · 1 min 40 s"
            " · in eager PyTorch on another, the same steps: 1 min 0 s"
        ]

    def test_what_else_was_measured(self, written: Callable[..., list[Result]]) -> None:
        runs = [run(s, 3, -50.0, measured={"difference": 10.0**-s}) for s in range(3)]
        assert notes(written(file("remark1", runs=runs, paper=[]))[0]) == ["difference: 0.01 to 1."]
        for measured in ({"difference": None}, {}):  # of one that diverged
            for others in ([run(3, 3, -50.0, measured=measured), *runs], [*runs, run(3, 3, -50.0, measured=measured)]):
                assert notes(written(file("remark1", runs=others, paper=[]))[0]) == ["difference: 0.01 to 1."]
        none = [run(3, 3, -50.0, measured={"difference": None})]
        assert notes(written(file("remark1", runs=none, paper=[]))[0]) == ["difference: no finite number."]

    def test_overview_by_variant_and_in_all(self, written: Callable[..., list[Result]]) -> None:
        runs = [run(s, 3, -50.0, variant=v) for v in ("with", "without") for s in range(2)]
        runs[3]["active_dimensions"] = 4
        other = file("table5", runs=runs, paper=[], seconds=None)
        lines = overview(written(file(), other))
        shown = [(li.result.name, li.variant, li.first, li.runs, (li.share.right, li.share.whole)) for li in lines]
        assert shown == [
            ("Table 1", "", True, 4, (2, 4)),
            ("Table 5", "with", True, 2, (2, 2)),
            ("Table 5", "without", False, 2, (1, 2)),
        ]
        assert [line.compared for line in lines] == [Share(0, 1), Share(0, 0), Share(0, 0)]
        found = {words: number for number, words in totals(written(file(), other))}
        assert found["runs; one per class for a model with classes"] == "8"
        assert found["on a CPU"] == "1 min 40 s"

    def test_provenance_is_said_once_unless_it_differs(self, written: Callable[..., list[Result]]) -> None:
        said = dict(provenance(written(file(), file("table3", budget="full", plan={"steps": 9}))))
        assert said["plan"] == ["steps 9 (Table 3)"]
        assert said["commit"] == ["abc"]
        assert said["versions"] == ["torch 2.13.0"]
        assert said["budget"] == ["quick (Table 1)", "full (Table 3)"]

    def test_tables_come_in_the_order_of_their_numbers(self, written: Callable[..., list[Result]]) -> None:
        results = written(*(file(name) for name in ("theorem2", "table10", "remark1", "table3", "table1")))
        assert [result.table for result in results] == ["table1", "table3", "table10", "remark1", "theorem2"]
        assert [result.name for result in results][2:4] == ["Table 10", "Remark 1"]

    def test_table_10_is_the_best_run_of_its_cell(self, written: Callable[..., list[Result]]) -> None:
        cell = {"kappa": 20, "d": 30, "r": 6}
        variance = [0.5] * 20
        runs = [
            run(0, 6, -70.0, cell=cell, variance=variance),
            run(1, 6, -80.0, cell=cell, variance=variance),
            run(2, 6, -99.0, cell=cell, variance=variance[:5]),  # not all its dimensions
            run(3, 6, -99.0, cell={**cell, "r": 8}, variance=variance),
            run(4, 6, -99.0, cell=cell, variance=variance, diverged_at=1),
        ]
        found = matrix_run(MATRICES[0], written(file(runs=runs)))
        assert found is not None
        assert found.seed == 1

    def test_the_papers_matrix_has_its_six_active_dimensions(self) -> None:
        values = paper.matrix("table10")
        assert [len(line) for line in values] == [5, 5, 5, 5]
        assert sum(v < 0.05 for line in values for v in line) == 6


class TestText:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            (fixed(-45.295), "−45.30"),
            (fixed(-0.004), "0.00"),
            (fixed(-0.006), "−0.01"),
            (fixed(math.nan), "–"),
            (fixed(-math.inf), "−∞"),
            (significant(1.625e-05), "1.62×10⁻⁵"),  # the nearest float is below
            (significant(0.0003), "0.0003"),
            (significant(0.0003, padded=True), "0.000300"),
            (significant(123.4, padded=True), "123"),
            (significant(2.5e13), "2.5×10¹³"),
            (significant(0.0), "0"),
            (percent(199, 200), "99 %"),
            (percent(0, 0), "–"),
            (duration(4.24), "4.2 s"),
            (duration(59.97), "1 min 0 s"),
            (duration(3599.9), "1 h 0 min"),
            (duration(5400), "1 h 30 min"),
            (duration(48 * 3600 - 60), "47 h 59 min"),
            (duration(48 * 3600), "2 days 0 h"),
            (duration(49 * 3600 + 1800), "2 days 1 h"),
        ],
    )
    def test_of_numbers(self, written: str, expected: str) -> None:
        assert written == expected

    def test_markdown_means_nothing(self) -> None:
        assert plain("a|b\n*c* <d>") == r"a\|b \*c\* &lt;d&gt;"

    def test_decades(self) -> None:
        assert decades([0.002, 0.5]) == (-3, 0)
        assert decades([1.0]) == (0, 1)
        assert decades([0.0, math.nan, math.inf, -1.0]) == (-1, 0)
        assert decades([1e-300, 1.0]) == (-12, 0)
