"""The report: medians, spreads and shares against numbers worked out by hand; pages that a browser can read and that
need nothing but themselves; and files that are none."""

import copy
import errno
import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from manifold_core.experiments import paper, report
from manifold_core.experiments.report import write_report
from manifold_core.experiments.report.markdown import markdown, plain
from manifold_core.experiments.report.matrices import MATRICES, matrix_run
from manifold_core.experiments.report.notes import notes, verdict
from manifold_core.experiments.report.overview import facts, overview, provenance, totals
from manifold_core.experiments.report.results import Result
from manifold_core.experiments.report.summary import Row, Share, contrasts, rows
from manifold_core.experiments.report.svg import decades
from manifold_core.experiments.report.text import duration, fixed, percent, significant

from manifold_core import InputError, cli

VOID = {"meta", "br", "hr", "link"}
BOTH = [(True, False), (True, True), (False, True)]  # folders with results of ours, as published
NASTY = "<script>alert(\"1\" & '2')</script> | `a` *b* [c](d)"


def run(seed: int, active: int | None, neg_elbo: float | None, **more: Any) -> dict[str, Any]:
    """Of a cell where the true dimension is 3 of 4."""
    return {
        "cell": {"d": 20, "r": 3},
        "variant": "",
        "seed": seed,
        "true_active": 3,
        "active_dimensions": active,
        "gap": 50.0,
        "neg_elbo": neg_elbo,
        "kl": 20.0 + seed,
        "recon": 0.01,
        "gamma": 5e-4,
        "variance": [0.002, 0.99, 0.001, 0.003],
        "diverged_at": None,
        **more,
    }


def file(table: str = "table1", **more: Any) -> dict[str, Any]:
    """Four seeds, two of them right; the paper is at −45."""
    runs = [run(0, 3, -50.0), run(1, 2, -40.0), run(2, 3, -60.0), run(3, 4, -30.0)]
    return {
        "table": table,
        "title": "Active dimensions",
        "budget": "quick",
        "seeds": 4,
        "convention": "doubled",
        "seconds": 100.0,
        "provenance": {"commit": "abc", "device": "a CPU", "versions": {"torch": "2.13.0"}, "threads": 2},
        "runs": runs,
        "paper": [{"cell": {"d": 20, "r": 3}, "variant": "", "AD": 3, "neg_elbo": -45.5, "recon": 0.02}],
        **more,
    }


def fit(**more: Any) -> dict[str, Any]:
    """Points of slope 10, where 12.5 was expected: 20 % off."""
    points = [[-4.0, 0.0], [-6.0, -20.0], [-8.0, -40.0]]
    return {
        "cell": {"d": 15, "r": 5},
        "expected": 12.5,
        "slope": 10.0,
        "intercept": 40.0,
        "r_squared": 1.0,
        "points": points,
        "active_dimensions": [5, 5, 4],
        "active_variance": [1e-2, 1e-3, 0.0],
        "inactive_variance": [0.9, None, 1.0],
        "recon": [1e-1, 1e-2, 1e-3],
        **more,
    }


class Page(HTMLParser):
    """Elements in the order of their opening; fails where one is not closed, or another is."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> names an attribute twice: {names}"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return " ".join(data for tag, data in self.words if tag != "style")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


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


def everything() -> Iterator[dict[str, Any]]:
    """Every kind of file that there is, with every kind of hole in it."""
    cell = {"kappa": 20, "d": 30, "r": 6}
    matrix = [run(0, 6, -70.0, cell=cell, true_active=6, variance=[0.0, 1e-5, 1e-4, 1e-3, 0.01, 0.04, *[1.0] * 14])]
    yield file(runs=[*file()["runs"], *matrix])
    holes = [
        run(0, None, None, kl=None, recon=None, gamma=None, variance=None, diverged_at=3),
        run(1, 3, float("inf")),
        run(2, 3, -50.0, variance=[0.0, float("nan"), float("inf"), None]),
        run(3, 3, -50.0, variance=[]),
        run(4, None, -50.0, true_active=None, cell={}),
        run(5, 0, -50.0, true_active=0, variance=[1.0], local={"count": 0, "gap": None, "shares": {}, "samples": 1}),
        {"cell": {"a": True, "b": "word"}, "seed": 0, "true_active": 1, "active_dimensions": 1, "neg_elbo": 1.0},
    ]
    yield file("table3", runs=holes, paper=[], seconds=None)
    unknown = {"name": "0", "interval": [0, 0], "active_dimensions": None, "neg_elbo": None}
    classes = [unknown, {**unknown, "interval": [2, 40], "active_dimensions": 3, "kl": None}]
    spectrum = [0.0, None, float("nan"), 1e-7, 2.0]
    held_out = [
        run(0, 3, -50.0, classes=classes, spectrum=spectrum, spectrum_count=2),
        run(1, 3, -50.0, classes=classes[:1], spectrum=None, spectrum_count=None),
        run(2, 3, -60.0, classes=classes[:1], cell={"dataset": "mnist"}, true_active=None, variant="test images"),
    ]
    yield file("table4", runs=held_out, paper=[])
    yield file("table5", runs=[], paper=[])
    yield file("table6", runs=[])
    variants = [run(s, 3, -50.0, variant=v) for v in ("VAE", "CVAE, fixed prior") for s in range(2)]
    yield file("table7", runs=variants)
    yield {"table": "remark1", "title": "Same loss", "runs": [run(0, 3, -1.0)], "statement": "They are equal."}
    fits = [
        fit(),
        fit(points=[], active_dimensions=[], active_variance=None, inactive_variance=[], recon=[]),
        fit(points=[[-1.0, 5.0]], active_dimensions=[5], active_variance=[0.0], inactive_variance=[1.0], recon=[None]),
        fit(slope=float("nan"), intercept=None, r_squared=None, expected=0.0),
        {k: v for k, v in fit().items() if k in ("cell", "expected", "slope", "intercept", "points")},
    ]
    yield {"table": "theorem1", "title": "Slopes", "statement": "2L = (d − r) log γ + O(1)", "fits": fits}


def as_published() -> list[dict[str, Any]]:
    """The same of runs as published."""
    return [content | {"plan": {"published": True}} for content in everything()]


class TestPages:
    @pytest.mark.parametrize(("ours", "published"), BOTH)
    def test_every_kind_of_file_makes_a_well_formed_page(
        self, pages: Callable[..., tuple[str, str]], ours: bool, published: bool
    ) -> None:
        html, markdown = pages(*everything() if ours else (), published=as_published() if published else ())
        page = Page(html)
        assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
        assert not re.search(r"\b(nan|inf|None)\b", page.text + markdown)
        assert all(not re.search(r"\b(nan|inf)\b", str(a.values())) for _, a in page.elements)
        heads = [data for tag, data in page.words if tag == "h2"]
        assert heads == [
            *("Overview", "Table 1", "Table 3", "Table 4", "Table 5", "Table 6", "Table 7", "Remark 1", "Theorem 1"),
            *(["Table 10"] if ours else []),
            "Provenance",
        ]
        assert re.findall(r"^## (.*)$", markdown, re.M) == heads[1:]
        assert "They are equal." in page.text

    def test_needs_nothing_but_itself(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, _ = pages(*everything())
        assert not re.search(r"https?:|//[a-z]|src=|@import|url\(|<script|<link|<iframe", html)
        page = Page(html)
        names = [a["id"] for _, a in page.elements if "id" in a]
        assert len(names) == len(set(names))
        targets = [a["href"] for a in page.all("a")]
        assert targets
        assert all(target is not None and target[0] == "#" and target[1:] in names for target in targets)

    def test_pictures_stay_inside_and_have_words(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, _ = pages(*everything())
        page = Page(html)
        pictures = page.all("svg")
        assert any(picture.get("role") == "img" for picture in pictures)
        for picture in pictures:
            assert picture.get("aria-label") if picture.get("role") == "img" else picture.get("aria-hidden") == "true"
        width = height = 0.0
        for tag, attributes in page.elements:
            if tag == "svg":
                width, height = float(str(attributes["width"])), float(str(attributes["height"]))
            for name, value in attributes.items():
                if tag in ("line", "circle", "rect", "text") and name in ("x", "x1", "x2", "cx", "y", "y1", "y2", "cy"):
                    assert 0 <= float(str(value)) <= (width if "x" in name else height)
                if tag == "polyline" and name == "points":
                    places = [tuple(map(float, place.split(","))) for place in str(value).split()]
                    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)

    @pytest.mark.parametrize(("ours", "published"), BOTH)
    def test_every_row_has_as_many_cells(
        self, pages: Callable[..., tuple[str, str]], ours: bool, published: bool
    ) -> None:
        html, markdown = pages(*everything() if ours else (), published=as_published() if published else ())
        for table in re.findall(r"<table.*?</table>", html, re.S):
            bodies = re.findall(r"<tbody.*?</tbody>", table, re.S)
            lines = [line for body in bodies for line in re.findall(r"<tr.*?</tr>", body, re.S)]
            widths = {
                sum(
                    int((re.search(r'colspan="(\d+)"', tag) or ["", "1"])[1])
                    for tag in re.findall(r"<t[dh]\b[^>]*>", line)
                )
                for line in lines
            }
            assert len(widths) == 1
        for block in re.findall(r"(?:^\|.*\|\n)+", markdown, re.M):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    def test_one_variant_that_fails_leaves_the_others_room(self, pages: Callable[..., tuple[str, str]]) -> None:
        def dots(*variants: tuple[str, float]) -> list[str | None]:
            runs = [
                {"cell": {"r": r}, "variant": variant, "seed": 0, "neg_elbo": scale * r}
                | {"true_active": 1, "active_dimensions": 1}
                for variant, scale in variants
                for r in (-3, -1)
            ]
            html, _ = pages(file() | {"runs": runs, "paper": []})
            return [a["cx"] for a in Page(html).all("circle") if a.get("class") == "ours"]

        assert dots(("plain", 1.0), ("failing", 1000.0)) == 2 * dots(("plain", 1.0))

    def test_our_numbers_stand_beside_the_papers(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(file())
        line = next(line for line in re.findall(r"<tr>.*?</tr>", html) if ">−45.50<" in line)
        cells = [re.sub(r"<[^>]*>", " ", cell).split() for cell in re.findall(r"<td.*?</td>", line)]
        assert re.findall(r'<th scope="row"[^>]*>(\d+)</th>', line) == ["20", "3"]
        assert cells[:6] == [
            ["3"],
            ["3", "✓", "right"],
            ["3", "✓", "right"],
            ["2", "of", "4"],
            ["−45.50"],
            ["−45.00", "above", "the", "paper’s", "−60.0", "…", "−30.0"],
        ]
        assert cells[7:] == [
            *(["0.02"], ["0.0100", "0.010", "…", "0.010"]),
            ["21.50", "20.0", "…", "23.0"],
            ["0.000500", "0.00050", "…", "0.00050"],
        ]
        assert "| 20 | 3 | 3 | 3 | 3 | 2 of 4 | −45.50 | −45.00 | −60.00 | −30.00 | 0.02 | 0.01 |" in markdown

    def test_the_bar_beside_a_share_is_as_long_as_that(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, _ = pages(file(runs=[run(seed, 3 if seed else 2, -50.0) for seed in range(4)]))
        meter = html[html.index("meter") - 300 : html.index("</table>")]
        whole, right = (
            float(re.findall(rf'width="([\d.]+)" class="{kind}"', meter)[0]) for kind in ("unfilled", "filled")
        )
        assert right / whole == 3 / 4

    def test_the_strip_has_the_median_on_its_spread_and_the_paper(self, pages: Callable[..., tuple[str, str]]) -> None:
        """From −60 to −30 on 86 units, 5 from the edge: the median at −45, the paper at −45.5."""
        page = Page(pages(file())[0])
        (rail,) = (a for a in page.all("line") if a.get("class") == "range")
        (dot,) = (a for a in page.all("circle") if a.get("class") == "ours")
        (diamond,) = (a for a in page.all("path") if a.get("class") == "paper")
        assert (rail["x1"], dot["cx"], rail["x2"]) == ("5.0", "48.0", "91.0")
        assert str(diamond["d"]).startswith("M46.6 ")

    def test_variances_are_drawn_in_order(self, pages: Callable[..., tuple[str, str]]) -> None:
        page = Page(pages(file())[0])
        lines = [a for a in page.all("polyline") if a.get("class") in ("seed", "best")]
        assert len(lines) == 5
        for line in lines:
            heights = [float(place.split(",")[1]) for place in str(line["points"]).split()]
            assert heights == sorted(heights, reverse=True)

    def test_slopes_and_powers_are_drawn_as_they_are(self, pages: Callable[..., tuple[str, str]]) -> None:
        """Of log γ a unit is 214 / 4.48 long, of 2L 156 / 44.8; the mean of the points, (−6, −20), is in the middle."""
        page = Page(pages(file("theorem1", fits=[fit()], runs=[], paper=[]))[0])
        for kind, slope in (("fitted", 10.0), ("expected", 12.5)):
            (line,) = (a for a in page.all("line") if a.get("class") == kind and a["y1"] != "5")  # of the legend
            x1, y1, x2, y2 = (float(str(line[name])) for name in ("x1", "y1", "x2", "y2"))
            assert (y1 - y2) / (x2 - x1) * (214 / 4.48) / (156 / 44.8) == pytest.approx(slope, rel=0.01)
            assert y1 + (155 - x1) * (y2 - y1) / (x2 - x1) == pytest.approx(92, abs=0.3)
        heights = {}
        for curve in page.all("polyline"):
            heights[curve["class"]] = [float(place.split(",")[1]) for place in str(curve["points"]).split()]
        # Ascending in γ; a decade is 156 / 3 high, from 10⁻³ at 170 on.
        assert heights["recon"] == pytest.approx([170, 170 - 156 / 3, 170 - 2 * 156 / 3], abs=0.1)
        assert heights["active"] == pytest.approx([170, 170 - 156 / 3], abs=0.1)
        assert max(heights["inactive"]) < 20

    def test_the_lines_of_truth_and_threshold_are_between_variances(
        self, pages: Callable[..., tuple[str, str]]
    ) -> None:
        page = Page(pages(file(runs=[run(0, 3, -50.0)]))[0])
        (line,) = (a for a in page.all("line") if a.get("class") == "true" and a["x1"] != "12")  # which is the legend's
        dots = sorted(float(str(a["cx"])) for a in page.all("circle") if a.get("class") == "best")
        assert len(dots) == 4
        assert dots[2] + 1 < float(str(line["x1"])) < dots[3] - 1
        (threshold,) = (a for a in page.all("line") if a.get("class") == "threshold" and a["y1"] != "5")
        heights = sorted(float(str(a["cy"])) for a in page.all("circle") if a.get("class") == "best")
        assert heights[0] + 1 < float(str(threshold["y1"])) < heights[1] - 1  # 0.99, 0.05 and 0.003

    def test_table_10(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(*everything())
        ours = html[html.index("<caption>ours") :]
        tiles = re.findall(r'<td class="shade(\d)">([^<]*)</td>', ours)
        assert tiles[:7] == [
            *(("4", "0"), ("4", "1×10⁻⁵"), ("4", "0.0001"), ("3", "0.0010"), ("2", "0.0100"), ("1", "0.0400")),
            ("0", "1.0000"),
        ]
        assert len(tiles) == 20
        assert "| 0.0080 | 0.0018 | 1.0000 | 1.0000 | 1.0000 |" in markdown

    def test_text_is_escaped(self, pages: Callable[..., tuple[str, str]]) -> None:
        nasty = run(0, 3, -50.0, cell={NASTY: NASTY}, variant=NASTY)
        content = file(title=NASTY, convention=NASTY, budget=NASTY, statement=NASTY, provenance={NASTY: NASTY})
        html, markdown = pages({**content, "runs": [nasty], "fits": [fit(cell={NASTY: NASTY})]})
        page = Page(html)
        assert page.all("script") == []
        assert any(NASTY in str(picture.get("aria-label")) for picture in page.all("svg"))
        assert page.text.count(NASTY) > 8
        assert "<script" not in markdown
        assert not re.search(r"(?<!\\)\[c", markdown)

    def test_seeds_share_a_picture_and_the_quantity_has_its_name(self, pages: Callable[..., tuple[str, str]]) -> None:
        fits = [fit(cell={"d": d, "seed": s}, slope=10.0 + s) for d in (15, 20) for s in range(3)]
        html, _ = pages(file("theorem1_too_few", runs=[], paper=[], fits=fits, quantity="log(SSE/γ)"))
        page = Page(html)
        assert len(page.all("figure")) == 2
        said = [str(picture["aria-label"]) for picture in page.all("svg") if "slope" in str(picture.get("aria-label"))]
        assert said == [f"d = {d}: log(SSE/γ) against log γ: slope 10, 11, 12; expected 12.5." for d in (15, 20)]
        assert page.text.count("slope 10.00 … 12.00, expected 12.5") == 2
        assert "2L" not in page.text
        assert ("h2", "Theorem 1, too few") in page.words

    def test_no_line_ends_between_a_name_and_its_value(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, _ = pages(*everything())
        said = [*re.findall(r"<li>(.*?)</li>", html), *re.findall(r"<figcaption><b>(.*?)</b>", html)]
        assert any("\u00a0=\u00a0" in text for text in said)
        assert not any(" = " in text for text in said)

    def test_names_of_sections_differ(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, _ = pages(file("a b"), file("a-b"), file("overview"), file("provenance"), file("–"))
        names = [a["id"] for _, a in Page(html).elements if "id" in a]
        assert len(names) == len(set(names)) == 7
        assert all(name and re.fullmatch(r"[a-z0-9-]+", name) for name in names)

    def test_the_same_files_give_the_same_pages(self, pages: Callable[..., tuple[str, str]]) -> None:
        assert pages(*everything()) == pages(*everything())


def broken(**at: Any) -> dict[str, Any]:
    """A file with ``key=value`` put into its first run; a key without a value is taken out."""
    content = copy.deepcopy(file())
    for key, value in at.items():
        if value is ...:
            del content["runs"][0][key]
        else:
            content["runs"][0][key] = value
    return content


# What is in bad.json, then what the message must name besides the file.
BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "half": ('{"table": "table1", "ru', ("JSON",)),
    "empty": ("", ("JSON",)),
    "not text": (b"\xff\xfe\x00", ("JSON",)),
    "deep": ("[" * 100_000, ("JSON",)),
    "a list": ([], ("'runs' or 'fits'",)),
    "metrics of a run": ({"data": "synthetic", "active_dimensions": 6}, ("'runs' or 'fits'",)),
    "older results": ({"what": "Table 1", "runs": []}, ("'table' is missing",)),
    "table": (file() | {"table": 1}, ("'table' is 1", "a name")),
    "title": (file() | {"title": None}, ("'title' is None", "a text")),
    "runs": (file() | {"runs": {}}, ("'runs' is {}", "a list of objects")),
    "run": (file() | {"runs": [3]}, ("runs[0] is 3", "an object")),
    "fits": (file() | {"fits": "x"}, ("'fits' is 'x'", "a list of objects")),
    "provenance": (file() | {"provenance": "me"}, ("'provenance' is 'me'", "an object")),
    "cell": (broken(cell=...), ("runs[0]", "'cell' is missing")),
    "cell of lists": (broken(cell={"d": [20]}), ("runs[0]", "'cell' is {'d': [20]}", "plain values")),
    "seed": (broken(seed="first"), ("runs[0]", "'seed' is 'first'", "an integer")),
    "count": (broken(active_dimensions=3.5), ("'active_dimensions' is 3.5", "an integer or null")),
    "true for one": (broken(true_active=True), ("'true_active' is True", "an integer or null")),
    "loss": (broken(neg_elbo="-50"), ("'neg_elbo' is '-50'", "a number or null")),
    "huge": (broken(kl=10**400), ("'kl' is", "a number or null")),
    "variance": (broken(variance=[0.1, "x"]), ("'variance' is [0.1, 'x']", "a list of numbers")),
    "shares": (
        broken(local={"count": 3, "gap": 9.0, "shares": {"three": 1.0}}),
        ("runs[0]: local", "'shares' is {'three': 1.0}"),
    ),
    "paper": (file() | {"paper": [{"cell": {}, "AD": "6"}]}, ("paper[0]", "'AD' is '6'")),
    "points": (file() | {"fits": [fit(points=[[1, 2, 3]])]}, ("fits[0]", "'points' is", "[log γ, y]")),
    "lengths": (file() | {"fits": [fit(recon=[0.1])]}, ("fits[0]", "'recon' is [0.1]", "a list of 3")),
}


class TestBadInput:
    @pytest.mark.parametrize("kind", BAD)
    def test_is_named_and_nothing_is_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        content, parts = BAD[kind]
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        if isinstance(content, bytes):
            (tmp_path / "bad.json").write_bytes(content)
        else:
            (tmp_path / "bad.json").write_text(content if isinstance(content, str) else json.dumps(content))
        assert cli.main(["report", str(tmp_path)]) == 2
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert line.startswith(f"manifold-core: {tmp_path / 'bad.json'}: ")
        assert all(part in line for part in (*parts, "expected"))
        assert len(line) < len(str(tmp_path)) + 250
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "table1.json"]

    def test_no_folder_and_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            write_report(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"no \.json file"):
            write_report(tmp_path)
        (tmp_path / "bad.json").mkdir()
        with pytest.raises(InputError, match=r"bad\.json: cannot be read"):
            write_report(tmp_path)

    def test_a_copy_would_be_counted_twice(self, tmp_path: Path) -> None:
        for name in ("table1", "table1 of before"):
            (tmp_path / f"{name}.json").write_text(json.dumps(file()))
        with pytest.raises(InputError, match="'table' is 'table1', expected 'table1 of before', the name of the file"):
            write_report(tmp_path)

    def test_an_out_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        (tmp_path / "out").write_text("somebody's work")
        with pytest.raises(InputError, match="out must be a folder"):
            write_report(tmp_path, tmp_path / "out")
        (tmp_path / "report.md").mkdir()
        with pytest.raises(InputError, match=r"folder must be a folder for report\.md.*it is a folder"):
            write_report(tmp_path)
        assert not (tmp_path / "report.html").exists()

    def test_an_older_page_stays_where_a_new_one_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        before = [page.read_bytes() for page in write_report(tmp_path)]

        def full(text: str, path: Path) -> None:
            path.write_text(text[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(report, "_write", full)
        with pytest.raises(OSError, match="No space left"):
            write_report(tmp_path)
        assert [(tmp_path / f"report.{kind}").read_bytes() for kind in ("html", "md")] == before


class TestCommandLine:
    def test_prints_where_the_pages_are(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "table1.json").write_text(json.dumps(file()))
        (tmp_path / ".table1.json").write_text("not ours")
        assert cli.main(["report", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"report: {tmp_path / 'report.html'}",
            f"report: {tmp_path / 'report.md'}",
        ]
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "new" / "folder")]) == 0
        assert {path: path.read_bytes() for path in before} == before
        assert (tmp_path / "new" / "folder" / "report.html").read_bytes() == before[tmp_path / "report.html"]
