"""The report of image tables: classes, eigenvalues of full covariances, Table 11, and what their rows say beside each
other, against numbers worked out by hand."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from manifold_core.experiments import paper
from manifold_core.experiments.report.by_class import by_class
from manifold_core.experiments.report.how_to_read import reading
from manifold_core.experiments.report.matrices import MATRICES, matrix_run
from manifold_core.experiments.report.notes import notes
from manifold_core.experiments.report.overview import provenance, totals
from manifold_core.experiments.report.results import ClassNumbers, Result

from manifold_core import cli

TEST, TRAINING = "test images", "training images"
WITHOUT = "without attention, training images"


def run(cell: dict[str, Any], active: int, neg_elbo: float, variant: str = TEST, **more: Any) -> dict[str, Any]:
    return {
        "cell": cell,
        "variant": variant,
        "seed": 0,
        "true_active": None,
        "active_dimensions": active,
        "neg_elbo": neg_elbo,
        "kl": 80.0,
        "recon": 7.5,
        "gamma": 0.006,
        "variance": [0.001] * active + [0.99] * (8 - active),
        **more,
    }


def of_class(name: str, active: int, interval: tuple[int, int], neg_elbo: float = -1400.0) -> dict[str, Any]:
    return {
        "name": name,
        "interval": list(interval),
        "active_dimensions": active,
        "gap": 30.0,
        "neg_elbo": neg_elbo,
        "kl": 81.25,
        "recon": 6.125,
        "gamma": 0.006,
        "variance": [0.5],
    }


def file(table: str, runs: list[dict[str, Any]], printed: list[dict[str, Any]]) -> dict[str, Any]:
    plan = {"name": "reduced", "steps": 20000}
    return {"table": table, "title": "On images", "plan": plan, "seconds": 1.0, "runs": runs, "paper": printed}


def table2() -> dict[str, Any]:
    """At κ = 32 the paper has MNIST above Fashion-MNIST, and ours below."""
    counts = {("mnist", 5): (5, 5), ("mnist", 32): (14, 13), ("fashion-mnist", 32): (9, 9)}
    losses = {
        ("mnist", 5): (-800.0, -842.0),
        ("mnist", 32): (-1400.0, -1224.0),
        ("fashion-mnist", 32): (-1350.0, -1327),
    }
    cells = {key: {"dataset": key[0], "kappa": key[1]} for key in counts}
    runs = [
        run(cells[key], counts[key][0], losses[key][0] + shift, variant)
        for key in counts
        for variant, shift in ((TRAINING, -9.0), (TEST, 0.0))
    ]
    printed = [
        {"cell": cells[key], "variant": TEST, "AD": counts[key][1], "neg_elbo": losses[key][1]} for key in counts
    ]
    return file("table2", runs, printed)


def table4() -> dict[str, Any]:
    """Two seeds with classes, the second of lower −ELBO; a third diverged."""
    cell = {"dataset": "mnist"}
    classes = {
        0: [of_class("0", 12, (12, 12)), of_class("8 & 9", 9, (8, 9))],
        1: [of_class("0", 10, (9, 11), -1500.25), of_class("8 & 9", 13, (13, 13))],
        2: [of_class("0", 31, (31, 31)), of_class("8 & 9", 31, (31, 31))],
    }
    runs = []
    for variant in (WITHOUT, "without attention, test images"):
        for seed, own in classes.items():
            more = {"variance": [0.001] * 12 + [0.99] * 20, "diverged_at": 7 if seed == 2 else None}
            runs.append(run(cell, 12, -1400.0 - seed, variant, seed=seed, classes=own, **more))
    only = [of_class("0", 11, (11, 11)), of_class("8 & 9", 11, (11, 11))]
    runs.append(run(cell, 11, -1500.0, "with attention, test images", classes=only))
    printed = {"cell": cell, "variant": "without attention, test images", "AD": 12, "neg_elbo": -1489.42}
    return file("table4", runs, [printed])


def table9() -> dict[str, Any]:
    spectrum = [1e-5, 1e-4, 0.001, 0.002, 0.003, 0.8, 0.9, 1.0]
    full, diagonal = {"covariance": "full"}, {"covariance": "diagonal"}
    runs = [
        run(full, 2, -1700.0, recon=5.0, spectrum=spectrum, spectrum_count=5),
        run(full, 3, -1600.0, seed=1, recon=6.0, spectrum=spectrum[::-1], spectrum_count=4),
        run(diagonal, 6, -1300.0),
    ]
    printed = [
        {"cell": full, "variant": TEST, "AD": 8, "recon": 4.5, "neg_elbo": -1756},
        {"cell": diagonal, "variant": TEST, "AD": 13, "recon": 7.6, "neg_elbo": -1205},
    ]
    return file("table9", runs, printed)


class Pictures(HTMLParser):
    """label → what is drawn in it, as (tag, attributes) and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[tuple[str, dict[str, str | None], list[str]]]] = {}
        self.current: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag == "svg":
            self.current = self.found.setdefault(str(named.get("aria-label")), [])
        self.current.append((tag, named, []))

    def handle_data(self, data: str) -> None:
        if self.current:
            self.current[-1][2].append(data)

    def of(self, label: str, tag: str, kind: str) -> list[dict[str, str | None]]:
        (name,) = [name for name in self.found if name.startswith(label)]
        return [a for found, a, _ in self.found[name] if found == tag and a.get("class") == kind]


def cells(html: str, start: str) -> list[list[str]]:
    """The words of the first line of a table whose first cell is this."""
    line = next(line for line in re.findall(r"<tr>.*?</tr>", html) if re.search(rf"<t[hd][^>]*>{start}<", line))
    return [re.sub(r"<[^>]*>", " ", cell).split() for cell in re.findall(r"<t[dh].*?</t[dh]>", line)]


class TestReader:
    def test_what_image_tables_add(self, written: Callable[..., list[Result]]) -> None:
        _, of_classes, full = written(table2(), table4(), table9())
        assert of_classes.runs[1].classes[0] == ClassNumbers("0", (9, 11), 10, -1500.25, 81.25, 6.125, (0.5,))
        assert (full.runs[0].spectrum_count, full.runs[0].spectrum[0], len(full.runs[0].spectrum)) == (5, 1e-5, 8)

    def test_older_files_have_none_of_it(self, written: Callable[..., list[Result]]) -> None:
        found = written(table2())[0].runs[0]
        assert (found.spectrum, found.spectrum_count, found.classes) == ((), None, ())

    @pytest.mark.parametrize(
        ("broken", "parts"),
        [
            ({"spectrum": [0.1, "x"]}, ("runs[0]", "'spectrum' is [0.1, 'x']", "a list of numbers")),
            ({"spectrum_count": 2.5}, ("runs[0]", "'spectrum_count' is 2.5", "an integer or null")),
            ({"classes": {"0": 3}}, ("runs[0]", "'classes' is {'0': 3}", "a list of objects")),
            ({"classes": [3]}, ("runs[0]: classes[0] is 3", "an object")),
            ({"classes": [{"name": 8}]}, ("runs[0]: classes[0]", "'name' is 8", "a name")),
            (
                {"classes": [of_class("0", 3, (3, 4)), of_class("1", 3, (4, 3))]},
                ("runs[0]: classes[1]", "'interval' is [4, 3]", "two integers"),
            ),
            ({"classes": [of_class("0", 3, (3, 4)) | {"interval": [3]}]}, ("classes[0]", "'interval' is [3]")),
            ({"classes": [{"name": "0", "active_dimensions": 3}]}, ("classes[0]", "'interval' is missing")),
        ],
    )
    def test_what_is_wrong_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: dict[str, Any], parts: tuple[str, ...]
    ) -> None:
        content = file("table4", [run({"dataset": "mnist"}, 3, -1.0, **broken)], [])
        (tmp_path / "bad.json").write_text(json.dumps(content))
        assert cli.main(["report", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"manifold-core: {tmp_path / 'bad.json'}: ")
        assert all(part in line for part in (*parts, "expected"))
        assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


class TestClasses:
    def test_of_the_best_run_and_over_the_seeds_that_finished(self, written: Callable[..., list[Result]]) -> None:
        without, attention = by_class(written(table4())[0])
        assert (without.row.variant, attention.row.variant) == (
            "without attention, test images",
            "with attention, test images",
        )
        assert [(one.numbers.name, one.numbers.active_dimensions, one.seeds) for one in without.classes] == [
            ("0", 10, (10, 12)),
            ("8 & 9", 13, (9, 13)),
        ]
        assert (without.mean, without.mean_seeds, without.printed) == (11.5, (10.5, 11.5), 12)
        # One seed; the paper's number is of the data set, it does not say with which attention.
        assert (attention.mean, attention.mean_seeds, attention.printed) == (11, None, 12)
        assert [one.seeds for one in attention.classes] == [None, None]

    def test_as_a_table(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(table4())
        own = html[html.index("results by-class") :]
        assert cells(own, "0") == [
            *(["0"], [], ["10"], ["9", "…", "11"], ["10", "…", "12"], ["−1500.25"], ["6.12"], ["81.25"]),
        ]
        assert cells(own, "mean") == [["mean"], ["12"], ["11.5"], [], ["10.5", "…", "11.5"], [], [], []]
        name = "dataset = mnist, without attention, test images"
        assert f"| {name} | 0 |  | 10 | 9 … 11 | 10 … 12 | −1500.25 | 6.12 | 81.25 |" in markdown
        assert f"| {name} | 8 &amp; 9 |  | 13 | 13 | 9 … 13 | −1400.00 | 6.12 | 81.25 |" in markdown
        assert f"| {name} | mean | 12 | 11.5 |  | 10.5 … 11.5 |  |  |  |" in markdown
        assert f"| {name.replace('without', 'with')} | 0 |  | 11 | 11 |  |" in markdown
        assert "training images | 0 |" not in markdown

    def test_the_row_has_the_mean_over_them(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(table4())
        row = html[html.index(">without attention, test images<") :]
        assert cells(row, "mnist")[:3] == [["mnist"], ["12"], ["11.5"]]
        assert "| without attention, test images | mnist | 12 | 11.5 | −1489.42 |" in markdown

    def test_as_a_picture(self, pages: Callable[..., tuple[str, str]]) -> None:
        """Ends of lines lie where the dots of these counts do: from 0 to 13.5, on 196 units from 66 on."""
        pictures = Pictures(pages(table4())[0])
        label = "Active dimensions of the classes, dataset = mnist, without attention, test images: 0: 10, 8 & 9: 13; "
        assert f"{label}mean 11.5, the paper’s 12." in pictures.found

        def at(count: float) -> str:
            return f"{66 + count / 13.5 * 196:.1f}"

        assert [dot["cx"] for dot in pictures.of(label, "circle", "ours")] == [at(10), at(13)]
        for kind, expected in (("range", [(9, 11), (13, 13)]), ("seed", [(10, 12), (9, 13)])):
            lines = pictures.of(label, "line", kind)
            assert [(line["x1"], line["x2"]) for line in lines] == [(at(low), at(high)) for low, high in expected]
        assert [line["x1"] for line in pictures.of(label, "line", "true")] == [at(11.5)]
        assert [line["x1"] for line in pictures.of(label, "line", "threshold")] == [at(12)]
        (words,) = [
            [t for _, _, texts in found for t in texts] for name, found in pictures.found.items() if label in name
        ]
        assert [word for word in words if word in ("0", "8 & 9")] == ["0", "0", "8 & 9"]  # the axis begins at 0 as well

    def test_in_words(self, written: Callable[..., list[Result]]) -> None:
        found = notes(written(table4())[0])
        assert found[:2] == [
            "dataset = mnist, without attention, test images: the classes have 10 (0) to 13 (8 & 9) active dimensions, "
            "11.5 in the mean; the paper’s mean is 12.",
            "dataset = mnist, with attention, test images: every class has 11 active dimensions; "
            "the paper’s mean is 12.",
        ]

    def test_no_classes_no_section(self, pages: Callable[..., tuple[str, str]]) -> None:
        for page in pages(table2(), table9()):
            assert "of each class" not in page


class TestEigenvalues:
    def test_have_a_column_where_there_are_any(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(table9())
        assert cells(html, "full")[:4] == [["full"], ["8"], ["2"], ["5"]]
        assert cells(html, "diagonal")[:4] == [["diagonal"], ["13"], ["6"], ["–"]]
        assert "| variant | covariance | paper: active | ours | by eigenvalue | paper: −ELBO |" in markdown
        assert f"| {TEST} | full | 8 | 2 | 5 | −1756.00 | −1650.00 |" in markdown
        assert f"| {TEST} | diagonal | 13 | 6 | – | −1205.00 | −1300.00 |" in markdown
        assert "“by eigenvalue” counts" in html
        assert "“by eigenvalue” counts" in markdown

    def test_have_no_column_where_there_are_none(self, pages: Callable[..., tuple[str, str]]) -> None:
        assert not any("by eigenvalue" in page or "its eigenvalues" in page for page in pages(table2(), table4()))

    def test_are_a_second_line_in_the_picture(self, pages: Callable[..., tuple[str, str]]) -> None:
        """On the same axes, in ascending order: the highest of them all at 1, the lowest at the bottom, 10⁻⁵."""
        html, _ = pages(table9())
        pictures = Pictures(html)
        label = f"Variances of the latent dimensions, covariance = full, {TEST}. Active dimensions of the runs: 2, 3"
        assert f"{label}; by eigenvalue: 5, 4." in pictures.found
        (best,) = pictures.of(label, "polyline", "best eigenvalues")
        places = [tuple(map(float, place.split(","))) for place in str(best["points"]).split()]
        assert len(places) == 8
        assert places[0][1] == 134.0  # 22 above the lower edge of 156
        assert places[-1][1] == 16.0
        assert places[1][1] == pytest.approx(134 - 118 / 5, abs=0.06)
        others = pictures.of(label, "polyline", "seed eigenvalues")
        assert [other["points"] for other in others] == [best["points"]] * 2
        (variances,) = pictures.of(label, "polyline", "best")
        assert str(variances["points"]).split()[0].split(",")[0] == f"{places[0][0]:.1f}"
        diagonal = f"Variances of the latent dimensions, covariance = diagonal, {TEST}"
        assert pictures.of(diagonal, "polyline", "best eigenvalues") == []
        assert "its eigenvalues, if the covariance is full" in html
        assert "true dimension" not in html


class TestNotes:
    def test_saturation_and_order(self, written: Callable[..., list[Result]]) -> None:
        """Beside the paper's numbers alone, which stand beside the test images; a single κ says nothing."""
        found = notes(written(table2())[0])
        assert found[:2] == [
            "dataset = mnist, test images: κ = 5 and 32 have 5 and 14 active dimensions, the paper’s 5 and 13: "
            "from 5 to 32 ours grow by 9, the paper’s by 8.",
            "test images: the order of the rows by −ELBO is not the paper’s in 1 of 3 pairs: "
            "dataset = mnist, κ = 32 (−1400.00, the paper’s −1224.00) against "
            "dataset = fashion-mnist, κ = 32 (−1350.00, the paper’s −1327.00).",
        ]
        assert found[2:] == [
            "dataset = mnist, κ = 5, test images: median −ELBO −800.00, above the paper’s −842.00 by 42.00."
        ]

    def test_saturation_beyond_the_papers_sizes(self, written: Callable[..., list[Result]]) -> None:
        content = table2()
        content["runs"].append(run({"dataset": "mnist", "kappa": 64}, 15, -1410.0, TEST))
        assert notes(written(content)[0])[0] == (
            "dataset = mnist, test images: κ = 5, 32 and 64 have 5, 14 and 15 active dimensions, the paper’s κ = 5 and "
            "32 have 5 and 13: from 32 to 64 ours grow by 1, from 5 to 32 the paper’s by 8."
        )

    def test_full_against_diagonal(self, written: Callable[..., list[Result]]) -> None:
        assert notes(written(table9())[0])[:2] == [
            "test images: the order of the rows by −ELBO is the paper’s.",
            "test images, full against diagonal covariance: −ELBO −1650.00 against −1300.00 "
            "(paper −1756.00 against −1205.00); squared error 5.5 against 7.5 (paper 4.5 against 7.6); "
            "active dimensions 2 by variance and 5 by eigenvalue against 6 (paper 8 against 13).",
        ]

    def test_full_against_diagonal_beside_no_paper(self, written: Callable[..., list[Result]]) -> None:
        content = table9() | {"paper": []}
        assert notes(written(content)[0]) == [
            "test images, full against diagonal covariance: −ELBO −1650.00 against −1300.00; "
            "squared error 5.5 against 7.5; "
            "active dimensions 2 by variance and 5 by eigenvalue against 6.",
            "covariance = full, test images: the runs have 4 (1×) and 5 (1×) active dimensions by eigenvalue.",
        ]

    def test_where_a_theorem_predicts_they_are_silent(self, written: Callable[..., list[Result]]) -> None:
        content = table2()
        for each in content["runs"]:
            each["true_active"] = each["active_dimensions"]
        assert not any("order" in sentence or "grow" in sentence for sentence in notes(written(content)[0]))

    def test_how_to_read_says_on_which_images(self, written: Callable[..., list[Result]]) -> None:
        results = written(table2())
        assert any("does not say on which it measured" in sentence for sentence in reading(results))
        assert totals(results)[0] == (
            "6",
            "runs; one per class for a model with classes, two for a model of images",
        )
        assert dict(provenance(results))["plan"] == ["name reduced, steps 20000"]
        for content in (results := written(table2() | {"runs": []})):
            assert not any("on which it measured" in sentence for sentence in reading([content]))
        assert totals(results)[0] == ("0", "runs; one per class for a model with classes")


class TestMatrices:
    def test_each_takes_its_own_run(self, written: Callable[..., list[Result]]) -> None:
        """Nor one of the test images, of the other data set, of another table, or with too few dimensions."""
        ours, others = {"variance": [0.5] * 32}, {"variance": [0.5] * 31}
        mnist, fashion = {"dataset": "mnist"}, {"dataset": "fashion-mnist"}
        synthetic = run({"kappa": 20, "d": 30, "r": 6}, 6, -70.0, "", seed=3, variance=[0.5] * 20)
        runs = [
            run(mnist, 12, -1400.0, WITHOUT, seed=1, **ours),
            run(mnist, 12, -1450.0, WITHOUT, seed=2, **ours),
            run(mnist, 12, -9999.0, WITHOUT, seed=4, **others),
            run(mnist, 12, -9999.0, WITHOUT, seed=5, diverged_at=3, **ours),
            run(mnist, 12, -9999.0, "without attention, test images", seed=6, **ours),
            run(mnist, 12, -9999.0, "with attention, training images", seed=7, **ours),
            run(fashion, 12, -9999.0, WITHOUT, seed=8, **ours),
        ]
        elsewhere = run(mnist, 12, -9999.0, WITHOUT, seed=9, **ours)
        results = written(file("table1", [synthetic, elsewhere], []), file("table4", [*runs, synthetic], []))
        ten, eleven = (matrix_run(matrix, results) for matrix in MATRICES)
        assert ten is not None
        assert eleven is not None
        assert (ten.seed, eleven.seed) == (3, 2)
        without = [matrix_run(matrix, results[1:]) for matrix in MATRICES]
        assert [found and found.seed for found in without] == [None, 2]

    def test_the_papers_has_its_twelve_active_dimensions(self) -> None:
        values = paper.matrix("table11")
        assert [len(line) for line in values] == [4] * 8
        assert sum(v < 0.05 for line in values for v in line) == 12

    def test_table_11_line_by_line(self, pages: Callable[..., tuple[str, str]]) -> None:
        variance = [0.9 + i / 1000 for i in range(32)]
        variance[5] = 0.002
        own = run({"dataset": "mnist"}, 1, -1400.0, WITHOUT, variance=variance)
        html, markdown = pages(file("table4", [own], []))
        assert "Table 10" not in html + markdown
        assert '<a href="#variances-table11">Table 11</a>' in html
        section = html[html.index('id="variances-table11"') :]
        assert "dataset = mnist, without attention, training images: the run of lowest −ELBO, seed 0" in section
        theirs, ours = section.split("<caption>")[1:]
        assert (theirs[:17], ours[:14]) == ("paper: 12 active<", "ours: 1 active")
        lines = [re.findall(r'<td class="shade(\d)">([^<]*)</td>', line) for line in ours.split("</tr>")[:-1]]
        assert [len(line) for line in lines] == [4] * 8
        assert lines[1] == [("0", "0.9040"), ("2", "0.0020"), ("0", "0.9060"), ("0", "0.9070")]
        assert re.findall(r'<td class="shade(\d)">([^<]*)</td>', theirs)[:3] == [
            *(("2", "0.0036"), ("0", "0.9632"), ("3", "0.00077")),
        ]
        assert "## Table 11" in markdown
        assert "| 0.9852 | 0.9674 | 0.9608 | 0.0008 | 0.9040 | 0.0020 | 0.9060 | 0.9070 |" in markdown


class TestText:
    def test_cells_in_words_are_aligned_as_words(self, pages: Callable[..., tuple[str, str]]) -> None:
        html, markdown = pages(table2())
        assert '<th scope="row" class="cell words">mnist</th><th scope="row" class="cell">5</th>' in html
        assert '<th scope="col" rowspan="2" class="cell words">dataset</th>' in html
        assert '<th scope="col" rowspan="2" class="cell">κ</th>' in html
        assert "| --- | --- | ---: | ---: |" in markdown
