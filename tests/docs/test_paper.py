"""The figures of docs/paper.md are those of the result files."""

import json
import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from manifold_core.experiments import paper
from manifold_core.experiments.report.files import read_results
from manifold_core.experiments.report.markdown import markdown
from manifold_core.experiments.report.page import TITLE

ROOT = Path(__file__).parents[2]
WORDS = ("none", "one", "two", "three", "four", "five")
PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What the page says under that heading, in one line."""
    found = re.search(rf"^### {re.escape(title)}.*?\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return " ".join(found[1].split())


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def test_the_overview_of_the_tables_is_the_reports() -> None:
    folder = ROOT / "experiments/results"
    for own in (folder, folder / "two_cores", folder / "other_seeds"):
        report_of_all = markdown(read_results(own), TITLE)
        assert (own / "report.md").read_text(encoding="utf-8") == report_of_all, "they differ: manifold-core report"
    report_of_all = markdown(read_results(folder), TITLE)
    marked = re.search(r"<!-- paper -->\n\n(.*?)\n\n<!-- end -->", PAGE, re.DOTALL)
    assert marked is not None
    assert marked[1].startswith("| table | variant |")
    assert f"\n\n{marked[1]}\n\n" in report_of_all


def test_figures_of_images_are_those_of_the_result_files() -> None:
    runs = [
        run
        for name in ("table2", "table9")
        for run in json.loads((ROOT / f"experiments/results/{name}.json").read_text(encoding="utf-8"))["runs"]
        if run["variant"] == "test images"
    ]
    mnist = {run["cell"].get("kappa"): run for run in runs if run["cell"].get("dataset") == "mnist"}
    fashion = {run["cell"]["kappa"]: run for run in runs if run["cell"].get("dataset") == "fashion-mnist"}
    both = {run["cell"]["covariance"]: run for run in runs if "covariance" in run["cell"]}
    said, full = section("Images (Table 2)"), section("Full covariance (Table 9)")
    at = [of[kappa] for of in (mnist, fashion) for kappa in (5, 16, 32)]
    assert row("ours, 32 epochs", *(f"−{-run['neg_elbo']:,.0f}" for run in at)) in said
    assert f"{mnist[5]['recon']:.1f} and {fashion[5]['recon']:.1f}, the paper's 14.9 and 13.2" in said
    at = [of[kappa] for of in (mnist, fashion) for kappa in (5, 16, 32, 64)]
    assert row("ours", *(run["active_dimensions"] for run in at)) in said
    losses, errors, counts = (
        [both[name][quantity] for name in ("full", "diagonal")]
        for quantity in ("neg_elbo", "recon", "active_dimensions")
    )
    texts = *(f"−{-loss:,.0f}" for loss in losses), *(f"{error:.2f}" for error in errors), *counts
    assert row("ours, 32 epochs", *texts) in full
    classes = section("A class has its own dimension (Table 4)")
    table4 = json.loads((ROOT / "experiments/results/table4.json").read_text(encoding="utf-8"))["runs"]
    for dataset, title in (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST")):
        for variant, words in (("without attention", "ours"), ("with attention", "with attention")):
            (run,) = (
                run
                for run in table4
                if (run["cell"]["dataset"], run["variant"]) == (dataset, f"{variant}, test images")
            )
            counts = {one["name"]: one["active_dimensions"] for one in run["classes"]}
            few, many = min(counts.values()), max(counts.values())
            fewest, most = ([name for name in counts if counts[name] == end] for end in (few, many))
            assert fewest == (["1"] if dataset == "mnist" else ["trousers"])
            assert len(most) == 9 if dataset == "mnist" else most == ["sandal", "bag"]
            names = ("a “1”", "an “8” and all others") if dataset == "mnist" else ("trousers", "sandals and bags")
            ends = f"{few}, {names[0]}", f"{many}, {names[1]}"
            mean = f"{statistics.fmean(counts.values()):.1f}"
            assert row(f"{title}: {words}", f"−{-run['neg_elbo']:,.0f}", mean, *ends) in classes
    below = sum(
        (mnist if printed["dataset"] == "mnist" else fashion)[printed["kappa"]]["neg_elbo"] <= printed["neg_elbo"]
        for printed in paper.rows("table2")
    )
    count = ("none", "one", "two", "three", "four", "five", "six")[below]
    assert f"below the paper's in {count} of six cells" in said


def test_figures_of_full_covariance_on_other_seeds_are_those_of_the_result_file() -> None:
    said = section("Full covariance (Table 9)")
    files = ("other_seeds/table9.json", "table9.json")
    of: dict[str, dict[int, dict[str, Any]]] = {"full": {}, "diagonal": {}}
    for file in files:
        for run in json.loads((ROOT / "experiments/results" / file).read_text(encoding="utf-8"))["runs"]:
            if run["variant"] == "test images":
                of[run["cell"]["covariance"]][run["seed"]] = run
    full, diagonal = of["full"], of["diagonal"]
    assert sorted(full) == sorted(diagonal) == [0, 8, 9, 10]
    for seed in (8, 9, 10):
        both = full[seed], diagonal[seed]
        losses, errors = (f"−{-run['neg_elbo']:,.0f}" for run in both), (f"{run['recon']:.2f}" for run in both)
        assert row(f"seed {seed}", *losses, *errors, 32, 32) in said
        assert [run["active_dimensions"] for run in both] == [32, 32]
    ahead = sum(full[seed]["neg_elbo"] < diagonal[seed]["neg_elbo"] for seed in full)
    assert f"ahead in {WORDS[ahead]} of four seeds" in said
    losses_of = [[run["neg_elbo"] for run in runs.values()] for runs in (full, diagonal)]
    medians = [statistics.median(losses) for losses in losses_of]
    spreads = [max(losses) - min(losses) for losses in losses_of]
    assert f"ahead by {medians[1] - medians[0]:.0f}, −{-medians[0]:,.0f} against −{-medians[1]:,.0f}" in said
    assert f"diagonal model differ by up to {spreads[1]:.0f}, its own by {spreads[0]:.0f}:" in said


def test_figures_of_full_covariance_as_published_are_those_of_the_result_file() -> None:
    content = json.loads((ROOT / "experiments/results/as_published/table9.json").read_text(encoding="utf-8"))
    of = {run["cell"]["covariance"]: run for run in content["runs"] if run["variant"] == "test images"}
    full, diagonal = of["full"], of["diagonal"]
    losses = (f"−{-run['neg_elbo']:,.0f}" for run in (full, diagonal))
    errors = (f"{run['recon']:.2f}" for run in (full, diagonal))
    counts = full["spectrum_count"], diagonal["active_dimensions"]
    said = section("Full covariance (Table 9)")
    assert row("as published", *losses, *errors, *counts) in said
    assert f"{counts[0]} by eigenvalue, {full['active_dimensions']} by variance, against {counts[1]} of" in said


def test_figures_of_table_7_as_published_are_those_of_the_result_file() -> None:
    said = section("Where γ starts (Table 7)")
    content = json.loads((ROOT / "experiments/results/as_published/table7.json").read_text(encoding="utf-8"))

    for variant in ("VAE", "CVAE, fixed prior", "CVAE, learned prior"):
        for words, rows, quantity in (
            ("the paper", content["paper"], "AD"),
            ("ours", content["runs"], "active_dimensions"),
        ):
            found = {one["cell"]["init_log_gamma"]: one[quantity] for one in rows if one["variant"] == variant}
            assert row(f"{variant}: {words}", *(found[start] for start in (-20, -10, 0, 10, 20))) in said
    runs = json.loads((ROOT / "experiments/results/table7.json").read_text(encoding="utf-8"))["runs"]
    right = dict.fromkeys((False, True), 0)
    for run in (run for run in runs if not run["variant"].endswith("analytic γ")):
        right[run["variant"].endswith("Adam as it is")] += run["active_dimensions"] == run["true_active"]
    assert f"in {right[False]} of 120" in said
    assert f"the same table is right {right[True]} times of 120" in said
    content = json.loads((ROOT / "experiments/results/table7.json").read_text(encoding="utf-8"))
    below = {
        (printed["variant"], printed["cell"]["init_log_gamma"]): printed["neg_elbo"]
        >= statistics.median(run["neg_elbo"] for run in content["runs"] if places(run) == places(printed))
        for printed in content["paper"]
        if printed["variant"].endswith("Adam as it is")
    }
    assert len(below) == 15
    of_vae = sum(at for (variant, _), at in below.items() if variant.startswith("VAE"))
    assert f"at or below the paper's in {sum(below.values())} of 15 rows, of the VAE in {WORDS[of_vae]} of five" in said
    fixed, learned = "CVAE, fixed prior", "CVAE, learned prior"
    by_place = {(*places(run), run["seed"]): run["neg_elbo"] for run in content["runs"]}
    differences = [loss - by_place[(fixed, *rest)] for (variant, *rest), loss in by_place.items() if variant == learned]
    lower, median = sum(difference < 0 for difference in differences), -statistics.median(differences)
    assert f"the lower −ELBO in {lower} of {len(differences)}, by {median:.1f} in the median" in said


def test_counts_at_the_threshold_of_the_published_code_are_those_of_the_result_files() -> None:
    """The variances of every class are kept: they can be counted again."""
    said = section("Attention (Tables 5 and 6)")
    folder = ROOT / "experiments/results"

    def runs_of(file: str, variant: str) -> list[dict[str, Any]]:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        return [run for run in content["runs"] if run["variant"] == variant]

    def count(variances: Iterable[float], threshold: float = 0.5) -> int:
        return sum(variance < threshold for variance in variances)

    with_it, without = "with attention", "without attention"
    right = {
        (variant, threshold): sum(
            count(run["variance"], threshold) == run["true_active"] for run in runs_of("table6.json", variant)
        )
        for variant in (with_it, without)
        for threshold in (0.05, 0.5)
    }
    by_decoder = [
        sum(run["local"]["count"] == run["true_active"] for run in runs_of("table6.json", variant))
        for variant in (with_it, without)
    ]
    for threshold in (0.5, 0.05):
        assert row(f"variances below {threshold}", right[with_it, threshold], right[without, threshold]) in said
    assert row("by the decoder", *by_decoder) in said
    assert right[with_it, 0.05] == 77  # "the three that are wrong"
    printed = json.loads((folder / "table6.json").read_text(encoding="utf-8"))["paper"]
    for variant, words in ((with_it, "with attention: the paper, and ours"), (without, "without: ours")):
        published = [run for run in runs_of("as_published/table6.json", variant) if run["cell"]["kappa"] == 90]
        counts = [count(run["variance"]) for run in sorted(published, key=lambda run: run["cell"]["t"])]
        assert row(words, *counts) in said
        paper_has = [one["AD"] for one in printed if one["variant"] == variant]
        assert paper_has == (counts if variant == with_it else [10] * 5)
    # The classes of Table 5 are equally large: the mean over all samples is that of the classes' means.
    for file, expected in (("table5.json", {3, 4}), ("as_published/table5.json", {3})):
        by_seed: dict[int, list[list[float]]] = {}
        for run in runs_of(file, without):
            by_seed.setdefault(run["seed"], []).append(run["variance"])
        found = {count(map(statistics.fmean, zip(*classes, strict=True))) for classes in by_seed.values()}
        assert found == expected
    assert "Those of Table 5 have 3 or 4 without attention, as published 3," in said
    for variant, words in ((without, "have {} active dimensions without"), (with_it, "and with it {},")):
        pooled: dict[int, list[list[float]]] = {}
        for run in runs_of("table6.json", variant):
            if run["cell"]["kappa"] == 90:
                pooled.setdefault(run["seed"], []).append(run["variance"])
        pooled_counts = {count(map(statistics.fmean, zip(*classes, strict=True))) for classes in pooled.values()}
        assert words.format(" to ".join(map(str, sorted({min(pooled_counts), max(pooled_counts)})))) in said
    surplus = {
        variant: [
            v for run in runs_of("table6.json", variant) for v in sorted(run["variance"])[run["true_active"] : 10]
        ]
        for variant in (with_it, without)
    }
    assert f"Of the {len(surplus[without])} dimensions" in said
    between, above = (count(surplus[without], end) for end in (0.5, math.inf))
    below = count(surplus[without], 0.05)
    assert (
        f"{between - below} stop without attention at variances between 0.05 and 0.5, {above - between} above" in said
    )
    assert f"and {below} below; with it {len(surplus[with_it]) - count(surplus[with_it], 0.95)} end above 0.95" in said


WAYS = ("local", "active")


def between(fit: dict[str, Any]) -> float:
    """The slope between the two smallest γ."""
    (x, y), (last_x, last_y) = fit["points"][-2:]
    return (last_y - y) / (last_x - x)


def places(row: dict[str, Any]) -> tuple[str, int]:
    """Of Table 7."""
    return row["variant"], row["cell"]["init_log_gamma"]


def test_figures_of_the_theorems_are_those_of_the_result_files() -> None:
    said = section("Theorems 1 and 2") + section("Weights that encoder and prior share (Table 8, Theorem 3)")
    first, second = (
        json.loads((ROOT / f"experiments/results/{name}.json").read_text(encoding="utf-8"))["fits"]
        for name in ("theorem1", "theorem2")
    )
    within = [sum(abs(fit["slope"] / fit["expected"] - 1) <= 0.1 for fit in fits) for fits in (first, second)]
    assert f"10 % of d − r in {within[0]} of 24 fits, and of d − r + t in {within[1]} of 24" in said
    right = sum(fit["active_dimensions"][-1] == fit["true_active"] for fit in (*first, *second))
    assert f"in {right} of 48, and" in said
    levels = [fit["inactive_variance"][-1] for fit in (*first, *second)]
    assert f"are {min(levels):.2f} to {max(levels):.2f} in the mean" in said

    def powers(fits: list[dict[str, Any]], values: str) -> str:
        found = [np.polyfit([x for x, _ in fit["points"]], np.log(fit[values]), 1)[0] for fit in fits]
        return f"{min(found):.2f} to {max(found):.2f}"

    assert f"fall as γ to the power of {powers([*first, *second], 'active_variance')};" in said
    assert f"{powers(first, 'recon')} for Theorem 1 and {powers(second, 'recon')} for Theorem 2" in said
    last = [sum(abs(between(fit) / fit["expected"] - 1) <= 0.1 for fit in fits) for fits in (first, second)]
    assert f"alone it is within 10 % in {last[0]} and in {last[1]} of 24" in said

    def right_from(place: int, values: str, fits: list[dict[str, Any]] = second) -> int:
        return sum(all(count == fit["true_active"] for count in fit[values][place:]) for fit in fits)

    by_decoder, by_variance = ([right_from(place, f"{which}_dimensions") for place in range(4)] for which in WAYS)
    assert [x for x, _ in second[0]["points"]] == [-3, -4, -5, -6, -7]
    assert f"from log γ = −5 on in {by_decoder[2]} of 24, from −4 on in {by_decoder[1]}; the active" in said
    assert f"as many from −6 on in {by_variance[3]}, from −5 on in {by_variance[2]}." in said
    of_first = [right_from(2, f"{which}_dimensions", first) for which in WAYS]
    assert "Of Theorem 1 it has r from −5 on in {} of 24, they in {}.".format(*of_first) in said
    off = [100 * abs(fit["slope"] / fit["expected"] - 1) for fit in (*first, *second)]
    assert [f"{value:.1f}" for value in off if value > 10] == ["16.7", "11.2", "11.2"]  # "17, 11 and 11 % off"
    content = json.loads((ROOT / "experiments/results/theorem1_too_few.json").read_text(encoding="utf-8"))
    slopes = sorted(-fit["slope"] for fit in content["fits"])
    assert f"SSE/γ grows as γ to the power of −{slopes[0]:.2f} to −{slopes[-1]:.2f}, where" in said
    content = json.loads((ROOT / "experiments/results/theorem3.json").read_text(encoding="utf-8"))
    smallest = [run for run in content["runs"] if list(run["cell"].values()) == [False, -7.0]]
    counts = [run["active_dimensions"] for run in smallest]
    assert f"Active are {min(counts)} to {max(counts)} dimensions" in said
    losses: dict[bool, list[float]] = {}
    for shared in (True, False):
        runs = [run for run in content["runs"] if run["cell"]["shared_weights"] is shared]
        for seed in range(content["seeds"]):
            own = [run["neg_elbo"] for run in runs if run["seed"] == seed]  # from the largest γ on
            assert own == sorted(own, reverse=not shared)
        for log_gamma in (-3.0, -5.0, -7.0):
            own = [run["neg_elbo"] for run in runs if run["cell"]["log_gamma"] == log_gamma]
            losses.setdefault(shared, []).append(statistics.median(own))
        assert not shared or all(run["active_dimensions"] == 0 for run in runs)
    assert content["seeds"] == 8
    assert "2L is {:.1f}, {:.1f} and {:.1f} at log γ = −3, −5 and −7".format(*losses[True]) in said
    assert "it falls, −{:.1f}, −{:.1f} and −{:.1f}:".format(*(-loss for loss in losses[False])) in said
    first, middle, last = losses[False]
    steps = (first - middle) / 2, (middle - last) / 2
    assert f"by {steps[0]:.1f} a unit of log γ between the first two" in said
    assert f"by {steps[1]:.1f} between the last two" in said


def test_figures_of_table_8_are_those_of_the_result_file() -> None:
    said = section("Weights that encoder and prior share (Table 8, Theorem 3)")
    content = json.loads((ROOT / "experiments/results/table8.json").read_text(encoding="utf-8"))
    assert (content["seeds"], content["plan"]["steps"], content["plan"]["batch_size"]) == (8, 20_000, 128)
    of = {(*run["cell"].values(), run["variant"], run["seed"]): run for run in content["runs"]}
    every, last = "every step, equation (3) as a mean", "last step of six"
    ahead = {
        variant: sorted(of[True, variant, seed]["neg_elbo"] - of[False, variant, seed]["neg_elbo"] for seed in range(8))
        for variant in (every, last)
    }
    printed = {row["cell"]["shared_weights"]: row["neg_elbo"] for row in content["paper"] if row["variant"] == last}
    margin = printed[True] - printed[False]
    assert f"{margin:.1f}" == "42.5"
    assert f"ahead by {ahead[every][0]:.0f} to {ahead[every][-1]:.0f} for every seed, the paper's by 42.5" in said
    assert ahead[every][0] > margin
    assert [value > margin for value in ahead[last]] == [False] * 2 + [True] * 6  # "is met in six"
    assert {f"{value:.0f}" for value in ahead[last][:2]} == {"8"}
    assert f"ahead by 8 only, in the other six by {ahead[last][2]:.0f} to {ahead[last][-1]:.0f}." in said
    counts = [of[True, last, seed]["active_dimensions"] for seed in range(8)]
    assert f"Its active dimensions, {min(counts)} to {max(counts)} of them" in said
    assert counts.count(10) == 2
    unshared = [of[False, last, seed] for seed in range(8)]
    right = sum(run["active_dimensions"] == run["true_active"] for run in unshared)
    losses = sorted(-run["neg_elbo"] for run in unshared)
    assert f"has all ten in {right} of 8 after 20,000 steps of 128" in said
    assert f"at a −ELBO of −{losses[-1]:.0f} to −{losses[0]:.0f}." in said


def test_figures_of_images_as_published_are_those_of_the_result_file() -> None:
    said = section("Images (Table 2)")
    content = json.loads((ROOT / "experiments/results/as_published/table2.json").read_text(encoding="utf-8"))
    runs = {tuple(run["cell"].values()): run for run in content["runs"] if run["variant"] == "test images"}
    at = [[runs[name, kappa] for kappa in (5, 16, 32)] for name in ("mnist", "fashion-mnist")]
    assert row("as published", *(f"−{-run['neg_elbo']:,.0f}" for runs in at for run in runs)) in said
    counts = [[run["active_dimensions"] for run in runs] for runs in at]
    assert row("as published", *counts[0], "–", *counts[1], "–") in said
    gammas = [run["gamma"] for run in runs.values()]
    assert f"a γ of {min(gammas):.3f} to {max(gammas):.3f}" in said
    excess = max(run["gamma"] * 28 * 28 / run["recon"] for run in runs.values())
    assert 2.5 < excess < 3.5  # "up to three times"
    for printed in content["paper"]:
        assert runs[tuple(printed["cell"].values())]["neg_elbo"] > printed["neg_elbo"]  # "in all six cells"
    assert [row["gamma"] for row in paper.rows("table4")] == [0.0063, 0.0102]
    assert max(row["gamma"] for row in paper.rows("table4")) < min(gammas)


def test_figures_of_other_seeds_are_those_of_the_result_files() -> None:
    said = section("Other seeds, other rounding")
    content = json.loads((ROOT / "experiments/results/other_seeds/table6.json").read_text(encoding="utf-8"))
    runs = content["runs"]
    assert {run["seed"] for run in runs} == {8, 9, 10, 11, 12}
    found = []
    for variant in ("with attention", "without attention"):
        own = [run for run in runs if run["variant"] == variant]
        assert len(own) == 50
        found.append(sum(run["active_dimensions"] == run["true_active"] for run in own))
        found.append(sum(run["local"]["count"] == run["true_active"] for run in own))
    table1 = json.loads((ROOT / "experiments/results/other_seeds/table1.json").read_text(encoding="utf-8"))["runs"]
    own = [run for run in table1 if run["cell"]["kappa"] == 20 and run["cell"]["r"] < run["cell"]["d"]]
    right = sum(run["active_dimensions"] == run["true_active"] for run in own)
    by_decoder = sum(run["local"]["count"] == run["true_active"] for run in own)
    assert f"r < d, {right} of {len(own)} are right, by the decoder {by_decoder}, where the eight" in said
    words = "Table 6 is right in {0} of 50 with attention and in {2} without, by the decoder in {1} and {3}"
    assert words.format(*found) in said


def test_figures_of_two_cores_are_those_of_the_result_files() -> None:
    said = section("Cost")
    names = (
        *(f"table{i}" for i in (1, 3, 5, 6, 7, 8)),
        "theorem1",
        "theorem1_too_few",
        "theorem2",
        "theorem3",
        "remark1",
    )
    whole = {
        name: json.loads((ROOT / f"experiments/results/{name}.json").read_text(encoding="utf-8")) for name in names
    }
    assert {(of["seeds"], of["provenance"]["device"], of["provenance"]["threads"]) for of in whole.values()} == {
        (8, "Intel(R) Xeon(R) Processor", 2)
    }
    seconds = {name: of["seconds"] for name, of in whole.items()}
    assert f"with eight seeds takes {sum(seconds.values()) / 60:.0f} minutes to train" in said
    longest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:3]
    assert longest == ["table8", "table1", "table6"]
    assert "Tables 8, 1 and 6, {}, {} and {} minutes".format(*(f"{seconds[x] / 60:.0f}" for x in longest)) in said
    files = [
        json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "experiments/results/two_cores").glob("*.json")
    ]
    of = {content["table"]: content for content in files}
    seconds = {name: content["seconds"] for name, content in of.items()}
    assert {(content["seeds"], content["provenance"]["commit"]) for content in files} == {(5, "d16ce37")}
    assert f"usual speed: {sum(seconds.values()) / 60:.0f} minutes of training" in said
    longest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:4]
    assert longest == ["table8", "table1", "table6", "table7"]
    first, second, third, fourth = (f"{seconds[name] / 60:.0f}" for name in longest)
    assert f"Longest take Tables 8, 1, 6 and 7, {first}, {second}, {third} and {fourth} minutes." in said

    def numbers(content: dict[str, Any], kind: str) -> list[str]:
        """Of the first five seeds; how the decoder is read has changed meanwhile."""
        own = (one | {"local": None} for one in content.get(kind, []) if (one | one["cell"])["seed"] < 5)
        return sorted(json.dumps(one, sort_keys=True) for one in own)

    for kind, count in (("runs", 500), ("fits", 40)):
        assert sum(len(content.get(kind, [])) for content in files) == count
        for name, content in of.items():
            assert numbers(content, kind) == numbers(whole[name], kind), name
    eager = [content["eager_seconds"] for content in files]
    published = {name: content["eager_seconds"].get("as_published", 0) / 86_400 for name, content in of.items()}
    assert f"{sum(one['same_steps'] for one in eager) / 3600:.0f} hours for the steps of that" in said
    assert f"{sum(published.values()):.0f} days" in said
    assert f"{published['table8']:.0f} of them for the 20 models of Table 8" in said
