"""The dimension read off a VAE beside the estimators of scikit-dimension, on manifolds whose dimension is known.

The manifolds are those of the paper's Table 1 that do not fill a solid, the 24 of scikit-dimension's own benchmark,
without noise, sixteen that are closed or bent (benchmarks/manifolds.py), 27 data sets like those of practice
(benchmarks/practice.py), some with noise, twelve bent through hundreds of features (benchmarks/many_features.py),
sixteen simulated measurements (benchmarks/simulated.py), and sixteen tables (benchmarks/recordings.py). All estimators
get the same samples; DANCo, which is slow, the first 2,000 of them. *ours* is ``mc.find_dimension`` with its defaults,
*active* the active dimensions of the model that it keeps. The estimators have scikit-dimension's defaults. Each works
on the whole data set; *local PCA* is the mean over the neighbourhoods of 100 samples around each. All on one core.

    make estimators, or python -m benchmarks.estimators [--of NAME] [--samples N] [--seeds N] [--out FILE]

What the file already has, of the same commit, device, versions and number of samples, is not measured again; one of
this day that is of others is renamed by its commit.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from manifold_core.experiments import paper

import manifold_core as mc
from manifold_core import provenance
from manifold_core.bench.table import in_markdown
from manifold_core.data import synthetic_manifold
from manifold_core.storage.differences import differences
from manifold_core.storage.files import write_json

from .manifolds import BENT
from .many_features import MANY_FEATURES
from .practice import PRACTICE
from .recordings import RECORDED
from .results_files import Results, newest_first, newest_of_each, results_file, set_aside
from .simulated import SIMULATED

__all__ = ["Manifold", "files", "manifolds", "measure", "newest", "summary", "table"]

Array = np.ndarray[Any, np.dtype[np.float64]]
TABLE_1_KAPPA = 20
# The groups of manifolds.
PAPERS, THEIRS, FURTHER = "Table 1 of the paper", "scikit-dimension's benchmark", "closed or bent ones"
LIKE_PRACTICE = "data like those of practice"
IN_MANY = "bent through hundreds of features"
OF_SIMULATIONS = "simulated measurements and images"
IN_TABLES = "recordings in tables"
FEW = 2_000
KIND = "dimension"  # of the result files
ESTIMATORS = ("PCA", "local PCA", "MLE", "TwoNN", "DANCo")
WAYS = ("ours", "active", *ESTIMATORS)
NOT_YET = "Not measured yet: `python -m benchmarks.estimators`.\n"


class Manifold(NamedTuple):
    """A manifold to read the dimension of."""

    of: str
    name: str
    r: int
    samples: Callable[[int, int], Array]  # ``[n, d]``, of n and a seed


def manifolds() -> Iterator[Manifold]:
    """The paper's, then scikit-dimension's, then those of ours."""
    for row in paper.rows("table1"):
        d, r = row["d"], row["r"]
        if row["kappa"] == TABLE_1_KAPPA and r < d:
            yield Manifold(PAPERS, f"d = {d}", r, _of_table_1(d, r))
    from skdim.datasets import BenchmarkManifolds

    for name, r in BenchmarkManifolds(random_state=0).truth["Intrinsic Dimension"].items():
        yield Manifold(THEIRS, str(name).replace("_", " "), int(r), _of_benchmark(str(name)))
    further = (
        (FURTHER, BENT),
        (LIKE_PRACTICE, PRACTICE),
        (IN_MANY, MANY_FEATURES),
        (OF_SIMULATIONS, SIMULATED),
        (IN_TABLES, RECORDED),
    )
    for of, known in further:
        for name, r, samples in known:
            yield Manifold(of, name, r, partial(_drawn, samples))


def _drawn(samples: Callable[[np.random.Generator, int], Array], n: int, seed: int) -> Array:
    return samples(np.random.default_rng(seed), n)


def _of_table_1(d: int, r: int) -> Callable[[int, int], Array]:
    def samples(n: int, seed: int) -> Array:
        made = synthetic_manifold(ambient_dim=d, manifold_dim=r, n_train=n, n_validation=1, seed=seed)
        return made.train.double().numpy()

    return samples


def _of_benchmark(name: str) -> Callable[[int, int], Array]:
    return lambda n, seed: np.asarray(_benchmark(n, seed)[name], np.float64)


@lru_cache(maxsize=4)
def _benchmark(n: int, seed: int) -> Mapping[str, Array]:
    """All at once: some cannot be made by name alone."""
    from skdim.datasets import BenchmarkManifolds

    made: Mapping[str, Array] = BenchmarkManifolds(random_state=seed).generate(n=n)
    return made


def ours(x: Array, seed: int) -> tuple[float | None, float | None, float | None, list[str]]:
    """The dimension, its gap, the active dimensions of the model, and the doubts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the samples; the doubts are kept
        found = mc.find_dimension(x, mc.SearchPlan(seed=seed), progress=False)
    return found.dimension or None, found.gap, found.best.active_dimensions or None, list(found.doubts)


def estimate(name: str, x: Array) -> float:
    """The dimension by an estimator of scikit-dimension."""
    import skdim

    if name == "local PCA":
        local: Array = skdim.id.lPCA().fit_pw(x, n_neighbors=100, n_jobs=1).dimension_pw_
        return float(local.mean())
    return float(getattr(skdim.id, {"PCA": "lPCA"}.get(name, name))().fit(x).dimension_)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    return call(), time.perf_counter() - begun


def measure(manifold: Manifold, samples: int, seed: int) -> dict[str, Any]:
    """A row of the file: what each finds, and the seconds it took."""
    x = manifold.samples(samples, seed)
    (count, gap, active, doubts), seconds = _timed(lambda: ours(x, seed))
    found, took = {"ours": count, "active": active}, {"ours": seconds, "active": seconds}
    for name in ESTIMATORS:
        few = x[:FEW] if name == "DANCo" else x
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name], took[name] = _timed(lambda few=few, name=name: estimate(name, few))  # type: ignore[misc]
    row = {"of": manifold.of, "manifold": manifold.name, "r": manifold.r, "d": x.shape[1], "seed": seed, "gap": gap}
    return {**row, "doubts": doubts, "found": found, "seconds": {name: round(s, 2) for name, s in took.items()}}


def files(folder: Path) -> list[Path]:
    """The result files, the newest first."""
    return newest_first(folder.glob(f"{KIND}-*.json"))


def newest(paths: Iterable[Path]) -> tuple[Results, list[tuple[Results, Path]]]:
    """The newest row of each manifold, of files of the device, the number of samples and the version of
    scikit-dimension measured last, and the files that rows are from, the newest first."""
    rows, sources = newest_of_each(paths, _what, ("device", "samples", "scikit-dimension"))
    of_rows = {row["commit"] for row in rows}
    return {**sources[0][0], "rows": rows}, [one for one in sources if one[0]["commit"] in of_rows]


def _what(row: Results) -> tuple[str, str, int, int]:
    return row["of"], row["manifold"], row["r"], row["seed"]


def table(results: dict[str, Any]) -> str:
    """One line per manifold: medians over its seeds."""
    rows: list[dict[str, Any]] = results["rows"]
    ways = _ways(rows)
    head, lines = ("of", "manifold", "d", "r", "gap", *ways), []
    for of, name, r in dict.fromkeys((row["of"], row["manifold"], row["r"]) for row in rows):
        own = [row for row in rows if (row["of"], row["manifold"], row["r"]) == (of, name, r)]
        gaps = [row["gap"] for row in own]
        gap = "–" if None in gaps else f"{statistics.median(gaps):,.1f}"
        lines.append((of, name, str(own[0]["d"]), str(r), gap, *(_median(own, way, r) for way in ways)))
    return in_markdown(head, lines)


def summary(results: dict[str, Any]) -> str:
    """How many each way gets right after rounding, and the seconds that it took."""
    rows: list[dict[str, Any]] = results["rows"]
    ways = _ways(rows)
    head, lines = ("right of", "data sets", *ways), []
    for of in dict.fromkeys(row["of"] for row in rows):
        own = [row for row in rows if row["of"] == of]
        lines.append((of, str(len(own)), *(str(sum(_right(row, way) for row in own)) for way in ways)))
    spent = [statistics.median(row["seconds"][way] for row in rows) for way in ways]
    lines.append(("seconds a data set, median", "", *(f"{s:.2g}" for s in spent)))
    return in_markdown(head, lines)


def _ways(rows: list[dict[str, Any]]) -> list[str]:
    """The ways that were measured: earlier files know only the active dimensions, and call them ours."""
    return [way for way in WAYS if all(way in row["found"] for row in rows)]


def _right(row: dict[str, Any], way: str) -> bool:
    found = row["found"][way]
    return found is not None and math.isfinite(found) and round(found) == row["r"]


def _median(rows: list[dict[str, Any]], way: str, r: int) -> str:
    """In bold if it is r after rounding."""
    found = [row["found"][way] for row in rows]
    if None in found or not all(map(math.isfinite, found)):
        return "–"
    middle = statistics.median(found)
    text = f"{middle:.0f}" if middle == round(middle) else f"{middle:.1f}"
    return f"**{text}**" if round(middle) == r else text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.estimators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=5_000, help="of each manifold (default: 5000)")
    parser.add_argument(
        "--of", default="", metavar="NAME", help="only those with this in the name of their group, or their own"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of samples, weights and noise (default: 1)")
    parser.add_argument("--out", type=Path, help="the results; default: a file of this device and day")
    options = parser.parse_args()
    import skdim
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    where = provenance.where() | {"samples": options.samples, "scikit-dimension": skdim.__version__}
    out: Path = options.out or results_file(KIND, where["device"], where["date"])
    rows: list[dict[str, Any]] = []
    if out.exists():
        before = json.loads(out.read_text(encoding="utf-8"))
        rows = before.pop("rows")
        if other := differences(before | {name: where[name] for name in ("date", "time")}, where):
            if options.out is not None:
                parser.error(f"{out} is of another measurement: {other}; name another --out")
            set_aside(out)
            rows = []
    have = set(map(_what, rows))
    with threadpool_limits(1):  # those of the libraries that scikit-dimension calls
        for manifold in (one for one in manifolds() if options.of in f"{one.of}: {one.name}"):
            for seed in range(options.seeds):
                if (manifold.of, manifold.name, manifold.r, seed) not in have:
                    rows.append(measure(manifold, options.samples, seed))
                    print(json.dumps(rows[-1]), flush=True)
                    write_json(out, {**where, "rows": rows})
    print(table({"rows": rows}), summary({"rows": rows}), sep="\n")


if __name__ == "__main__":
    main()
