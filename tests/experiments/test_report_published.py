"""Runs as published in the report: beside ours of the same rows, and in none of our numbers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manifold_core.experiments.report.files import read_results
from manifold_core.experiments.report.how_to_read import reading
from manifold_core.experiments.report.notes import notes, verdict
from manifold_core.experiments.report.overview import overview, provenance, totals
from manifold_core.experiments.report.results import Result
from manifold_core.experiments.report.summary import rows

from manifold_core import InputError, cli

A, B = {"d": 20, "r": 3}, {"d": 20, "r": 5}


def run(cell: dict[str, Any], seed: int, active: int | None, neg_elbo: float | None, **more: Any) -> dict[str, Any]:
    return {
        "cell": cell,
        "variant": "",
        "seed": seed,
        "true_active": cell["r"],
        "active_dimensions": active,
        "neg_elbo": neg_elbo,
        "kl": 20.0 + seed,
        "recon": 0.01,
        "gamma": 5e-4,
        "variance": [0.001] * (active or 0) + [0.9] * 3,
        **more,
    }


def file(runs: list[dict[str, Any]], table: str = "table1", **more: Any) -> dict[str, Any]:
    return {
        "table": table,
        "title": "Active dimensions",
        "budget": "full",
        "seeds": 2,
        "plan": {"steps": 200},
        "seconds": 100.0,
        "provenance": {"commit": "abc", "threads": 2},
        "runs": runs,
        "paper": [{"cell": A, "AD": 3, "neg_elbo": -45.5, "kl": 21.0}, {"cell": B, "AD": 4, "neg_elbo": -30.0}],
        **more,
    }


def ours(table: str = "table1", **more: Any) -> dict[str, Any]:
    """Of A the median, −45, is above the paper's; of B the run of lowest −ELBO has 5 dimensions, the paper 4."""
    return file([run(A, 0, 3, -50.0), run(A, 1, 3, -40.0), run(B, 0, 5, -35.0), run(B, 1, 4, -31.0)], table, **more)


def as_published(table: str = "table1", **more: Any) -> dict[str, Any]:
    """Of A 3 dimensions, the median, −72, is below the paper's; of B one run is above, with the paper's 4 dimensions,
    the other diverged."""
    runs = [run(A, 0, 2, -70.0), run(A, 1, 3, -80.0, kl=40.0), run(A, 2, 3, -72.0), run(B, 0, 4, -29.0)]
    runs.append(run({"r": 5, "d": 20}, 1, 5, -90.0, diverged_at=1200))
    other = {"plan": {"steps": 500, "published": True}, "seconds": 3600.0, "seeds": 3}
    return file(runs, table, **other, provenance={"commit": "def", "threads": 2}, **more)


COMPARED = (
    "As published, models have the paper’s active dimensions in 2 of 2 rows (ours in 1 of 2), a median −ELBO at or "
    "below the paper’s in 1 of 2 rows (ours in 1 of 2) and the true active dimensions in 2 of 5 runs (ours in 3 of 4)."
)


def pictures(html: str) -> list[str]:
    """Of the variances."""
    return re.findall(r'<svg[^>]*aria-label="Variances.*?</svg>', html, re.S)


def heads(html: str) -> list[str]:
    """Of the first table of results, below the groups."""
    table = html[html.index('class="results"') :]
    return re.findall(r"<th[^>]*>([^<]*)</th>", re.findall(r"<tr>.*?</tr>", table, re.S)[1])


def cells(html: str, r: int) -> list[list[str]]:
    """The words of the row of this r."""
    first = f'<th scope="row" class="cell">20</th><th scope="row" class="cell">{r}<'
    line = next(x for x in re.findall(r"<tr>.*?</tr>", html) if first in x)
    return [re.sub(r"<[^>]*>", " ", cell).split() for cell in re.findall(r"<t[dh].*?</t[dh]>", line)]


class TestRows:
    def test_are_matched_by_cell_and_variant(self, written: Callable[..., list[Result]]) -> None:
        """A column's place means nothing; a row that is there as published alone comes last."""
        other, new = run(A, 7, 3, -1.0, variant="v"), run({"d": 9, "r": 1}, 8, 1, -1.0)
        content = as_published()
        content["runs"] = [new, other, *content["runs"]]
        (result,) = written(ours(), published=[content])
        found = [
            (row.cell, row.variant, [r.seed for r in row.runs], [r.seed for r in row.as_published])
            for row in rows(result)
        ]
        assert found == [
            (A, "", [0, 1], [0, 1, 2]),
            (B, "", [0, 1], [0, 1]),
            ({"d": 9, "r": 1}, "", [], [8]),
            (A, "v", [], [7]),
        ]
        assert [row.true_active for row in rows(result)] == [3, 5, 1, 3]

    def test_have_medians_and_a_best_run_of_their_own(self, written: Callable[..., list[Result]]) -> None:
        a, b = (row.published for row in rows(written(ours(), published=[as_published()])[0]))
        spread = a.spread("neg_elbo")
        assert spread is not None
        assert (spread.median, spread.lowest, spread.highest, spread.count) == (-72.0, -80.0, -70.0, 3)
        assert (a.active_dimensions, b.active_dimensions) == (3, 4)
        assert (a.above_paper, b.above_paper) == (False, True)
        assert [r.seed for r in b.diverged] == [1]


class TestPages:
    def test_a_column_between_the_papers_and_ours(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(ours(), published=[as_published()])
        beside = ["paper", "as published", "ours"]
        # The paper prints neither squared error nor γ here; the third of −ELBO is the picture.
        assert heads(html) == ["true", *beside, "right", *beside, "", *beside[1:], *beside, *beside[1:]]
        assert cells(html, 3)[2:8] == [
            ["3"],
            *(["3", "✓", "right"], ["3", "✓", "right"], ["3", "✓", "right"]),
            ["2", "of", "2"],
            ["−45.50"],
        ]
        above = ["above", "the", "paper’s"]
        assert cells(html, 3)[8:10] == [["−72.00", "−80.0", "…", "−70.0"], ["−45.00", *above, "−50.0", "…", "−40.0"]]
        assert cells(html, 3)[13:16] == [["21.00"], ["22.00", "20.0", "…", "40.0"], ["20.50", "20.0", "…", "21.0"]]
        assert cells(html, 5)[3:6] == [["4", "≠", "wrong"], ["4", "≠", "wrong"], ["5", "✓", "right"]]
        assert cells(html, 5)[8] == ["−29.00", *above]
        assert '<td class="as-published"><span class="median">−72.00</span>' in html
        assert '<td class="as-published"><span class="median above">−29.00</span><span' in html
        assert "Table 1: paper, as published and ours" in html
        assert (
            "| true | paper: active | as published | ours | right | paper: −ELBO | as published | ours | lowest |"
            in (markdown)
        )
        assert "| 20 | 3 | 3 | 3 | 3 | 3 | 2 of 2 | −45.50 | −72.00 | −45.00 | −50.00 | −40.00 |" in markdown
        assert "| 20 | 5 | 5 | 4 | 4 | 5 | 1 of 2 | −30.00 | −29.00 | −33.00 | −35.00 | −31.00 |" in markdown
        assert "| 21.00 | 22.00 | 20.50 | 0.0005 | 0.0005 |" in markdown
        # Where the paper prints nothing, the others say of what they are.
        assert "| paper: KL | as published | ours | γ: as published | γ: ours |" in markdown

    def test_only_where_a_table_has_them(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(ours(), ours("table3"), published=[as_published("table3")])
        assert "as published" not in heads(html)
        assert "Table 1: paper and ours" in html
        first, third = markdown.split("\n## Table ")[1:]
        assert "ublished" not in first
        assert "| as published |" in third

    def test_time_and_budget_are_said_beside_ours(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, _ = pages(ours(), published=[as_published()])
        assert '<p class="meta">budget full · 2 seeds · 1 min 40 s</p>' in html
        assert '<p class="meta">as published: budget full · 3 seeds · 1 h 0 min</p>' in html

    @pytest.mark.parametrize("usual", [True, False])
    def test_variances_of_the_run_of_lowest_neg_elbo_are_drawn(
        self, pages: Callable[..., tuple[str, str]], usual: bool
    ) -> None:
        html, _ = pages(*[ours()] * usual, published=[as_published()])
        a, b = (re.findall(r"<polyline.*?>|<text.*?</text>", picture) for picture in pictures(html))
        for drawn, dimensions in ((a, 3), (b, 4)):
            (line,) = (one for one in drawn if 'class="published"' in one)
            heights = [float(place.split(",")[1]) for place in re.search(r'points="(.*?)"', line)[1].split()]  # type: ignore[index]
            assert sum(height > max(heights) - 1e-6 for height in heights) == dimensions
            assert len(heights) == dimensions + 3
        assert html.count("as published, run of lowest −ELBO") == 1
        assert "; as published: 3; true: 3." in html
        assert "; as published: 4; true: 5." in html

    def test_no_line_and_no_word_of_one_where_all_diverged(self, pages: Callable[..., tuple[str, str]]) -> None:
        content = as_published()
        for each in content["runs"]:
            each["diverged_at"] = 5
        html, _ = pages(ours(), published=[content])
        assert pictures(html)
        assert 'class="published"' not in html

    @pytest.mark.parametrize("usual", [True, False])
    def test_dimensions_by_eigenvalue_stand_behind_those_by_variance(
        self, pages: Callable[..., tuple[str, str]], usual: bool
    ) -> None:
        content = as_published()
        content["runs"][1] |= {"spectrum": [0.01, 0.02], "spectrum_count": 2}
        html, markdown = pages(*[ours()] * usual, published=[content])
        ours_and_right = "ours | right" if usual else "paper: −ELBO | as published"
        assert f"| paper: active | as published | by eigenvalue | {ours_and_right} |" in markdown
        assert re.search(r"\| 3 \| 3 \| 2 \| ", markdown)
        assert heads(html)[:4] == ["true", "paper", "as published", "by eigenvalue"]
        assert re.search(r'<td class="as-published">3.*?</td><td class="eigenvalues">2</td>', html)
        assert "“by eigenvalue” counts" in html

    def test_a_folder_where_none_is_finished_is_as_if_there_were_none(
        self, tmp_path: Path, pages: Callable[..., tuple[str, str]]
    ) -> None:
        before = pages(ours())
        assert "ublished" not in re.sub(r"<style>.*</style>", "", "".join(before), flags=re.DOTALL)
        (tmp_path / "as_published/.table1").mkdir(parents=True)
        (tmp_path / "as_published/.table1.json").write_text("not ours")
        assert pages(ours()) == before
        (tmp_path / "table1.json").unlink()
        with pytest.raises(InputError, match=r"no \.json file"):
            read_results(tmp_path)


class TestSentences:
    def test_ours_are_counted_as_without_them(self, written: Callable[..., list[Result]]) -> None:
        alone = written(ours())
        both = written(ours(), published=[as_published()])
        assert verdict(rows(both[0])) == verdict(rows(alone[0]))
        for line, before in zip(overview(both), overview(alone), strict=True):
            assert (line.runs, line.share, line.compared) == (before.runs, before.share, before.compared)
            assert (line.diverged, line.result.seconds) == (0, 100.0)
        assert totals(both) == [*totals(alone), ("1 h 0 min", "more for the runs as published")]

    def test_say_how_both_compare_and_what_diverged(self, written: Callable[..., list[Result]]) -> None:
        assert notes(written(ours(), published=[as_published()])[0]) == [
            "d = 20, r = 3: median −ELBO −45.00, above the paper’s −45.50 by 0.50.",
            "d = 20, r = 5: 1 of 2 runs (50 %) have the true active dimensions, 5; the others have 4 (1×).",
            "d = 20, r = 5, as published: diverged: seed 1 at step 1,200.",
            COMPARED,
        ]

    def test_a_row_whose_runs_all_diverged_has_not_the_papers_dimensions(
        self, written: Callable[..., list[Result]]
    ) -> None:
        content = as_published()
        content["runs"][3]["diverged_at"] = 5
        said = notes(written(ours(), published=[content])[0])[-1]
        assert said.startswith(
            "As published, models have the paper’s active dimensions in 1 of 2 rows (ours in 1 of 2), "
        )
        assert "a median −ELBO at or below the paper’s in 1 of 1 rows" in said

    def test_ours_is_counted_over_the_same_rows(self, written: Callable[..., list[Result]]) -> None:
        content = as_published()
        content["runs"] = content["runs"][3:]  # B alone
        assert notes(written(ours(), published=[content])[0])[-1] == (
            "As published, models have the paper’s active dimensions in 1 of 1 rows (ours in 0 of 1), a median −ELBO "
            "at or below the paper’s in 0 of 1 rows (ours in 1 of 1) and the true active dimensions in 0 of 2 runs "
            "(ours in 1 of 2)."
        )

    def test_of_slopes(self, written: Callable[..., list[Result]]) -> None:
        def fits(*slopes: float) -> dict[str, Any]:
            each = [{"cell": A, "expected": 10.0, "slope": x, "intercept": 0.0, "points": []} for x in slopes]
            return {"fits": each, "paper": []}

        content = as_published("theorem1") | fits(8.0, 10.5) | {"runs": []}
        (result,) = written(file([], "theorem1") | fits(9.5, 10.0, 12.0), published=[content])
        assert notes(result)[-1] == (
            "As published, models have slopes within 10 % of the theorem’s in 1 of 2 fits (ours in 2 of 3)."
        )

    def test_how_to_read_them_is_said_where_they_are(self, written: Callable[..., list[Result]]) -> None:
        assert not any("published" in sentence for sentence in reading(written(ours())))
        (said,) = (s for s in reading(written(ours(), published=[as_published()])) if "published" in s)
        assert "widths, batches and schedules of the paper’s published code" in said
        assert "50,000 steps on 100,000 samples with the budgets reduced and full; with quick" in said
        assert "with quick they have 10,000 on 50,000" in said

    def test_where_they_come_from(self, written: Callable[..., list[Result]]) -> None:
        said = dict(provenance(written(ours(), published=[as_published()])))
        assert said["commit"] == ["abc (Table 1)", "def (Table 1 as published)"]
        assert said["seeds"] == ["2 (Table 1)", "3 (Table 1 as published)"]
        assert said["plan"] == ["steps 200 (Table 1)", "steps 500, published True (Table 1 as published)"]
        assert said["threads"] == ["2"]
        assert said["budget"] == ["full"]


class TestAsPublishedAlone:
    def test_is_shown_beside_the_papers_numbers(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(published=[as_published()])
        beside = ["paper", "as published"]
        assert heads(html) == ["true", *beside, *beside, "", *beside[1:], *beside, *beside[1:]]
        assert cells(html, 3)[3:5] == [["3", "✓", "right"], ["3", "✓", "right"]]
        assert cells(html, 3)[5:7] == [["−45.50"], ["−72.00", "−80.0", "…", "−70.0"]]
        assert html.count('class="meta">as published: budget full') == html.count('class="meta">') == 1
        assert "| 20 | 3 | 3 | 3 | 3 | −45.50 | −72.00 |" in markdown
        assert "| Table 1 |  | 0 |  |  |  | 0 | – |" in markdown

    def test_has_notes_and_a_provenance_of_its_own(self, written: Callable[..., list[Result]]) -> None:
        results = written(published=[as_published()])
        (own,) = results
        assert (own.budget, own.seeds, own.plan, own.provenance, own.eager_seconds) == ("", None, {}, {}, {})
        assert notes(own) == [
            "d = 20, r = 5, as published: diverged: seed 1 at step 1,200.",
            "There are no runs but those as published.",
            re.sub(r" \(ours[^)]*\)", "", COMPARED),
        ]
        assert dict(provenance(results))["seeds"] == ["3"]
        assert totals(results)[0][0] == "0"
        assert dict(provenance(written(ours("table3"))))["commit"] == ["abc (Table 3)", "def (Table 1 as published)"]

    def test_of_slopes_is_not_without_runs(self, pages: Callable[..., tuple[str, str]]) -> None:
        fits = [{"cell": A, "expected": 10.0, "slope": 10.0, "intercept": 0.0, "points": []}]
        html, markdown = pages(published=[as_published("theorem1") | {"runs": [], "paper": [], "fits": fits}])
        for page in (html, markdown):
            assert "This file has no runs" not in page
            assert "slopes within 10 % of the theorem’s in 1 of 1 fits." in page

    def test_of_images_says_on_which_they_are_measured(self, written: Callable[..., list[Result]]) -> None:
        content = as_published("table2")
        for each in (*content["runs"], *content["paper"]):
            each["variant"] = "test images"
        assert any("does not say on which it measured" in s for s in reading(written(published=[content])))


class TestTheOtherFolder:
    @pytest.mark.parametrize("plan", [{"steps": 200}, {"steps": 200, "published": False}])
    def test_ours_among_those_as_published(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], plan: dict[str, Any]
    ) -> None:
        path = tmp_path / "as_published/table1.json"
        path.parent.mkdir()
        path.write_text(json.dumps(ours(plan=plan)))
        assert cli.main(["report", str(tmp_path)]) == 2
        assert capsys.readouterr().err.splitlines() == [
            f"manifold-core: {path}: 'published' of its 'plan' is False, expected True in this folder; "
            f"move the file to {tmp_path}"
        ]
        assert [each.name for each in tmp_path.iterdir()] == ["as_published"]

    def test_as_published_among_ours(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "table1.json"
        path.write_text(json.dumps(as_published()))
        (tmp_path / "table3.json").write_text(json.dumps(ours("table3")))
        assert cli.main(["report", str(tmp_path)]) == 2
        assert capsys.readouterr().err.splitlines() == [
            f"manifold-core: {path}: 'published' of its 'plan' is True, expected False in this folder; "
            f"move the file to {tmp_path / 'as_published'}"
        ]
        assert sorted(each.name for each in tmp_path.iterdir()) == ["table1.json", "table3.json"]
