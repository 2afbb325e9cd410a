"""The pages of the report: well formed, complete, drawn to scale."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from result_files import file, fit, run

VOID = {"meta", "br", "hr", "link"}


BOTH = [(True, False), (True, True), (False, True)]  # folders with results of ours, as published


NASTY = "<script>alert(\"1\" & '2')</script> | `a` *b* [c](d)"


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
