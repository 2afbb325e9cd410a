"""The figures of MEASURED.md, and of what the README has of them, are those of the result files."""

import json
import re
import statistics
from pathlib import Path

from manifold_core.experiments import paper

from benchmarks import estimators, report

ROOT = Path(__file__).parents[2]
README, MEASURED = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "MEASURED.md"))


def test_speed_figures_are_those_of_the_result_files() -> None:
    found = report.files()
    assert found
    for name in ("elbo", "cholesky", "ensemble", "step"):
        assert f"<!-- bench: {name} -->" in MEASURED
    again = "they differ: python -m benchmarks.report"
    kept = found, report.gpu_files(), estimators.files(report.RESULTS)
    assert report.with_tables(MEASURED, *kept) == MEASURED, again
    assert report.page(*kept) == (report.RESULTS / "README.md").read_text(encoding="utf-8"), again


def column(table: str, title: str, only: str = "") -> list[float]:
    """The numbers that the rows with that text begin with in that column, where there are any; of every processor."""
    marked = re.search(rf"<!-- bench: {table} -->\n(.*?)<!-- end -->", MEASURED, re.DOTALL)
    assert marked is not None
    numbers = []
    for one in re.findall(r"(?:^\|.*\n)+", marked[1], re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in one.splitlines())
        cells = [row[head.index(title)] for row in rows if any(only in cell for cell in row)]
        numbers += [float(found[0].replace(",", "")) for cell in cells if (found := re.match(r"[\d,.]+", cell))]
    return numbers


def test_the_summary_is_of_the_tables() -> None:
    summary = README[README.index("## Measured") : README.index("Last verified on")]

    def between(table: str, title: str) -> str:
        found = column(table, title)
        return f"{min(found)} to {max(found)}"

    of_128 = (column("gpu_ensemble", title, "243 µs") for title in ("20,000 steps", "× batched", "× batched, compiled"))
    (seconds,), (batched,), (compiled,) = of_128
    large = column("gpu", "of copy")
    sampling = {*column("gpu", "× torch.compile", "rsample_kl,"), *column("gpu", "× torch.compile", "807 µs")}
    names = ("ours", "PCA", "local PCA", "MLE", "TwoNN", "DANCo")
    ours, *others = (column("dimension", name, "scikit-dimension's benchmark")[0] for name in names)
    runs = json.loads((ROOT / "experiments/results/table1.json").read_text(encoding="utf-8"))["runs"]
    manifolds = [run for run in runs if run["cell"]["kappa"] == 20 and run["cell"]["r"] < run["cell"]["d"]]
    found = sum(run["active_dimensions"] == run["cell"]["r"] for run in manifolds)
    for figure in (
        f"{between('elbo', '× eager')} times as fast as eager",
        f"by hand, {between('elbo', '× torch.compile')} times `torch.compile`",
        f"{between('cholesky', '× eager')} times as fast",
        f"{between('cholesky', '× tuned')} times with its fastest operators",
        f"operators, {between('cholesky', '× torch.compile')} times `torch.compile`",
        f"{between('ensemble', '× eager')} times as fast",
        f"{between('step', '× eager')} times as fast as eager PyTorch, {between('step', '× pythae')} times pythae",
        f"{min(large):.0f} to {max(large):.0f}% of a plain copy's bandwidth; {between('gpu', '× eager')} times",
        *(f"sampling {times} times" for times in sampling),
        f"{seconds} s; {batched} times batched PyTorch in a CUDA graph, {compiled} times the same compiled",
        f"{found} of {len(manifolds)} right",
        f"{ours:.0f} of 24 right; its own estimators {max(others):.0f} at best",
    ):
        assert figure in summary, figure
    first = README[: README.index("## Install")]
    assert f"Triton: {between('elbo', '× eager')} times as fast as eager PyTorch" in " ".join(first.split())
    assert f"fused, {between('ensemble', '× eager')} times as fast as eager PyTorch" in " ".join(first.split())


def test_what_is_said_of_whole_steps_follows_from_the_table() -> None:
    text = " ".join(MEASURED.split())
    small, wide, large = (f"{100 * reached / 357:.0f}" for reached in column("ensemble", "GFLOP/s")[:3])
    assert "of the 357 that independent multiply-adds" in text
    assert f"Of that peak the engine reaches {small}, {wide} and {large} %" in text

    def times_as_long(title: str) -> str:
        xeon, epyc = column("ensemble", title)[:3], column("ensemble", title)[3:]
        found = [b / a for a, b in zip(xeon, epyc, strict=True)]
        return f"{min(found):.1f} to {max(found):.1f} times"

    eager, engine = times_as_long("eager"), times_as_long("one model")
    assert f"eager PyTorch takes {eager} as long as on the Xeon, the engine {engine}." in text
    pairs = zip(column("ensemble", "side by side"), column("ensemble", "one model, one thread"), strict=True)
    longer = [100 * (2 * beside / alone - 1) for beside, alone in pairs]
    assert f"on two cores take {min(longer[:3]):.1f} to {max(longer[:3]):.1f} % longer" in text
    assert "on the EPYC it is {:.0f}, {:.0f} and {:.0f} %".format(*longer[3:]) in text


def test_the_peers_are_those_of_the_tables() -> None:
    first = README[: README.index("## Install")]

    def between(table: str, title: str) -> str:
        found = column(table, title)
        return f"{min(found)} to {max(found)}"

    def right(name: str) -> int:
        """Of all data sets: the row of seconds has no number of them."""
        return int(sum(column("dimension", name)[: len(column("dimension", "data sets"))]))

    estimators_of_theirs = ("PCA", "local PCA", "MLE", "TwoNN", "DANCo")
    sets = int(sum(column("dimension", "data sets")))
    assert f"{right('ours')} of {sets} data sets right" in first
    assert f"its best estimators {max(right(name) for name in estimators_of_theirs)}" in first
    assert f"(ours takes {column('dimension', 'ours')[-1]:.0f} in the median)" in first
    closed = [column("dimension", name, "closed or bent ones")[0] for name in ("TwoNN", "ours")]
    assert "(TwoNN {:.0f} of 16, ours {:.0f})".format(*closed) in first
    assert f"the loss: {between('elbo', '× torch.compile')} times as fast on a CPU" in first
    assert f"matrix products dominate ({between('step', '× torch.compile')} times)" in first
    assert f"steps {between('step', '× pyro')} times as fast" in first
    assert f"steps are as fast ({between('step', '× pythae')} times)" in first
    practice = [column("dimension", name, "data like those of practice")[0] for name in estimators_of_theirs]
    ours = column("dimension", "ours", "data like those of practice")[0]
    assert f"{ours:.0f} right; scikit-dimension's estimators {max(practice):.0f} at best" in README
    many = [column("dimension", name, "hundreds of features")[0] for name in ("ours", *estimators_of_theirs)]
    assert f"{many[0]:.0f} right; scikit-dimension's estimators {max(many[1:]):.0f} at best |\n" in README
    simulated = [column("dimension", name, "simulated measurements")[0] for name in ("ours", *estimators_of_theirs)]
    assert f"{simulated[0]:.0f} right, 9 before" in README
    assert f"taught us; scikit-dimension's estimators {max(simulated[1:]):.0f} at best |\n" in README
    tables = [column("dimension", name, "recordings in tables")[0] for name in ("ours", *estimators_of_theirs)]
    assert f"{tables[0]:.0f} right, none doubted; scikit-dimension's estimators {max(tables[1:]):.0f} at best" in README


def test_the_readings_without_a_doubt_are_counted() -> None:
    rows = estimators.newest(estimators.files(report.RESULTS))[0]["rows"]
    certain = [round(row["found"]["ours"] or 0) == row["r"] for row in rows if not row["doubts"]]
    assert f"where our search raises no doubt, {sum(certain)} of {len(certain)} |" in README
    assert f"So of the {len(certain)} that raise none {sum(certain)} are right." in " ".join(MEASURED.split())
    assert not any(row["doubts"] for row in rows if row["of"] == estimators.IN_TABLES)


def test_dimension_figures_are_those_of_the_results_file() -> None:
    runs = json.loads((ROOT / "experiments/results/table1.json").read_text(encoding="utf-8"))["runs"]
    for printed in paper.rows("table1", kappa=20):
        d, r = printed["d"], printed["r"]
        own = sorted(
            (run for run in runs if run["cell"] == {"kappa": 20, "d": d, "r": r}), key=lambda run: run["neg_elbo"]
        )
        right = sum(run["active_dimensions"] == r for run in own)
        losses = [run["neg_elbo"] for run in own]
        best = f"{own[0]['active_dimensions']} | {losses[0]:.1f} | {statistics.median(losses):.1f} | {losses[-1]:.1f}"
        assert f"| {d} | {r} | {right} of 8 | {best} | {printed['AD']} | {printed['neg_elbo']} |\n" in MEASURED
