"""Pictures of a run, as PNG files. Needs matplotlib (extra ``experiments``), imported where it is used."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .metrics.active import THRESHOLD
from .models import CVAE, VAE
from .storage.files import write_atomically
from .training import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "import_matplotlib",
    "new_figure",
    "plot_classes",
    "plot_curves",
    "plot_images",
    "plot_search",
    "plot_variances",
    "save",
]

COLUMNS = 10  # of images
NAMED_CLASSES = 40  # at most; the names of more would not fit
ACTIVE, INACTIVE, ACCENT, EIGEN, OTHERS = "#1f6f8b", "#c8c8c8", "#d1495b", "#7b3fa0", "#e0902e"
DECODER = "#8bc34a"


def import_matplotlib() -> None:
    """Also where MPLBACKEND names a backend that is not installed, as in what a notebook starts from another
    environment: no file needs one, but matplotlib cannot be imported then. A backend that is there stays chosen.

    Raises:
        ImportError: there is no matplotlib.
    """
    first, named = "matplotlib" not in sys.modules, os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if first and named:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named


def new_figure(width: float, height: float) -> "Figure":
    import_matplotlib()
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def save(figure: "Figure", path: Path) -> Path:
    write_atomically(path, lambda to: figure.savefig(to, format="png", bbox_inches="tight"))
    return path


def plot_variances(
    path: Path,
    variance: list[float],
    manifold_dim: int | None = None,
    spectrum: list[float] | None = None,
    others: Sequence[list[float]] = (),
    local: Mapping[str, Any] | None = None,
) -> Path:
    """Encoder variances in ascending order, on a log scale, with the threshold of activity; for a full covariance also
    the eigenvalues, ``spectrum``; the variances of the ``others`` trained beside this model; and ``local``, what the
    decoder says, as ``metrics.json`` has it."""
    from matplotlib.ticker import MaxNLocator

    values = sorted(variance)
    count = sum(v < THRESHOLD for v in values)
    figure = new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    axes.bar(range(1, len(values) + 1), values, color=[ACTIVE if v < THRESHOLD else INACTIVE for v in values])
    found = f"{count} active of {len(values)} dimensions"
    for index, other in enumerate(others):
        label = f"{len(others)} other{'s' if len(others) > 1 else ''}" if index == 0 else None
        axes.plot(range(1, len(other) + 1), sorted(other), color=OTHERS, linewidth=0.8, label=label)
    if spectrum is not None:
        axes.plot(
            range(1, len(spectrum) + 1), sorted(spectrum), color=EIGEN, marker="o", markersize=4, label="eigenvalues"
        )
        found += f", {sum(v < THRESHOLD for v in spectrum)} by eigenvalue"
    if local is not None:
        places = range(1, len(local["spectrum"]) + 1)
        axes.plot(
            places,
            local["spectrum"],
            color=DECODER,
            linestyle="none",
            marker="_",
            markersize=14,
            markeredgewidth=2.5,
            label="by the decoder",
        )
        found += f", {local['count']} at a sample"
    axes.axhline(THRESHOLD, color=ACCENT, linewidth=1.2, linestyle="--", label=f"threshold {THRESHOLD:g}")
    axes.set_yscale("log")
    axes.set_xlim(0.4, len(values) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("latent dimension, sorted")
    axes.set_ylabel("mean encoder variance σ²")
    truth = "" if manifold_dim is None else f", true dimension {manifold_dim}"
    axes.set_title(f"{found}{truth}")
    axes.legend(framealpha=1, edgecolor="none", loc="lower right")  # over the bars of those that are inactive
    return save(figure, path)


def plot_curves(path: Path, history: History) -> Path:
    """−ELBO, γ and the number of active dimensions of the mini-batches over the steps."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6.4, 6.0)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(history.step, history.neg_elbo, color=ACTIVE, linewidth=1.0)
    top.set_ylabel("−ELBO (nats)")
    middle.plot(history.step, history.gamma, color=ACTIVE, linewidth=1.0)
    middle.set_yscale("log")
    middle.set_ylabel("γ")
    bottom.step(history.step, history.active_dimensions, where="post", color=ACTIVE, linewidth=1.0)
    bottom.set_ylabel("active dimensions")
    bottom.set_ylim(bottom=0)
    bottom.yaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.set_xlabel("step")
    figure.suptitle("training")
    return save(figure, path)


def plot_search(
    path: Path, trials: Sequence[dict[str, Any]], by_latent_dim: Mapping[str, float], dimension: int
) -> Path:
    """Held-out −ELBO over the number of latent dimensions: a dot per model, a line through the lowest of each number,
    and a ring around the best, which gives the dimension. All from ``metrics.json``."""
    from matplotlib.ticker import MaxNLocator

    ended = [one for one in trials if one["diverged_at"] is None and math.isfinite(one["held_out"])]
    best = min(ended, key=lambda one: float(one["held_out"]))
    figure = new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    axes.plot([int(kappa) for kappa in by_latent_dim], list(by_latent_dim.values()), color=ACTIVE, linewidth=1.0)
    for index, hidden in enumerate(dict.fromkeys(tuple(one["hidden"]) for one in ended)):
        own = [one for one in ended if tuple(one["hidden"]) == hidden]
        axes.scatter(
            [one["latent_dim"] for one in own],
            [one["held_out"] for one in own],
            s=16,
            color=(ACTIVE, OTHERS, EIGEN)[index % 3],
            label="hidden " + "-".join(map(str, hidden)),
        )
    axes.scatter([best["latent_dim"]], [best["held_out"]], s=90, facecolors="none", edgecolors=ACCENT, label="best")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("latent dimensions")
    axes.set_ylabel("held-out −ELBO (nats)")
    axes.set_title(f"the best of {len(ended)} models reads {dimension} dimensions")
    axes.legend(frameon=False)
    return save(figure, path)


def plot_classes(path: Path, classes: Sequence[dict[str, Any]], count: str = "active_dimensions") -> Path:
    """The variance of every latent dimension under every class, dark where it is small, the dimensions in the order of
    their mean, and how many are active. ``classes`` are those of ``metrics.json``; ``count`` is the key under which
    each has that number."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    variance = torch.tensor([one["variance"] for one in classes], dtype=torch.float64)
    variance = variance[:, variance.mean(dim=0).argsort(stable=True)]
    figure = new_figure(6.4, 1.6 + 0.22 * min(len(classes), NAMED_CLASSES))
    axes = figure.add_subplot()
    # Below a thousandth there is nothing more to see, and zero has no logarithm.
    drawn = axes.imshow(variance.clamp(1e-3, 1).numpy(), norm=LogNorm(1e-3, 1), cmap="Blues_r", aspect="auto")
    figure.colorbar(drawn, label="mean σ² over the prior's")
    if len(classes) <= NAMED_CLASSES:
        names = [f"{one['label']}: {one[count]} active" for one in classes]
        axes.set_yticks(range(len(classes)), names)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("class")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("latent dimension, sorted")
    axes.set_title(f"{len(classes)} classes")
    return save(figure, path)


@torch.no_grad()
def plot_images(path: Path, model: VAE | CVAE, x: Tensor, condition: Tensor | None = None) -> Path:
    """Two rows each of originals, reconstructions and samples of the prior, for a CVAE under the originals' conditions;
    images ``[N, C, H, W]``, shown in the range of the originals, at least [0, 1]."""
    originals = x[: 2 * COLUMNS]
    generator = torch.Generator(x.device).manual_seed(0)
    if isinstance(model, CVAE):
        assert condition is not None
        under = condition[: 2 * COLUMNS]
        parts = [originals, model.reconstruct(originals, under), model.sample(under, generator)]
    else:
        parts = [originals, model.reconstruct(originals), model.sample(2 * COLUMNS, generator)]
    low, high = originals.min().clamp_max(0), originals.max().clamp_min(1)
    channels, height, width = x.shape[1:]
    gap = 2
    sheet = torch.ones(channels, 6 * (height + gap) + 2 * 3 * gap, COLUMNS * (width + gap) - gap)
    for part, images in enumerate(parts):
        for index, image in enumerate(((images - low) / (high - low)).clamp(0, 1).cpu()):
            row, column = divmod(index, COLUMNS)
            top = (2 * part + row) * (height + gap) + part * 3 * gap
            left = column * (width + gap)
            sheet[:, top : top + height, left : left + width] = image
    figure = new_figure(6.4, 6.4 * sheet.shape[1] / sheet.shape[2] + 0.4)
    axes = figure.add_subplot()
    if channels == 3:
        axes.imshow(sheet.permute(1, 2, 0).numpy())
    else:
        axes.imshow(sheet.mean(dim=0).numpy(), cmap="gray", vmin=0, vmax=1)
    pair = 2 * (height + gap) + 3 * gap
    axes.set_yticks([height + i * pair for i in range(3)], ["originals", "reconstructions", "samples"])
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return save(figure, path)
