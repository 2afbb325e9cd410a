"""The table of runs, and the sentences below it on what its numbers are worth."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..metrics.active import gap_between
from ..metrics.evaluation import count_name
from ..metrics.local import CLEAR

__all__ = ["table"]

# Of the table, with their least widths.
COLUMNS = {
    "data": 20,
    "C×H×W": 14,
    "r": 4,
    "active": 8,
    "local": 7,
    "by eigenvalue": 15,
    "of": 5,
    "active gap": 12,
    "-ELBO": 11,
    "recon": 11,
    "KL": 9,
    "gamma": 11,
    "held-out -ELBO": 17,
}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """One line per run, measured on its training data as the model takes them; nats."""
    rows = [_cells(metrics) for metrics in runs]
    full = any(_is_full(metrics) for metrics in runs)
    images = any(len(metrics["sample_shape"]) == 3 for metrics in runs)
    left_out = {*(() if images else ("C×H×W",)), *(() if full else ("by eigenvalue",))}
    # A space before each column, however long its numbers are.
    widths = {
        title: max([width, 1 + len(title), *(1 + len(row[title]) for row in rows)])
        for title, width in COLUMNS.items()
        if title not in left_out
    }
    head = _line({title: title for title in widths}, widths)
    lines = [_found(metrics) for metrics in runs if "trials" in metrics]
    lines += [head, "-" * len(head), *(_line(row, widths) for row in rows)]
    lines.append(
        f"\nactive gap: smallest inactive over largest active {'variance or eigenvalue' if full else 'variance'}; if "
        "it is near 1, the number of active dimensions depends on the threshold: train longer\n"
        "local: dimensions at a sample, read off the decoder's derivative"
    )
    lines += [sentence for note in NOTES for metrics in runs if (sentence := note(metrics))]
    return "\n".join(lines)


def _found(metrics: dict[str, Any]) -> str:
    """The dimension that a search has found, and whether to trust it, for those who read the first line alone."""
    data, local = metrics["data"], metrics["local"]
    if local["count"] == 0:
        return f"{data}: no dimension found\n"
    said = f"{data}: dimension {local['count']}, found at {100 * local['share']:.0f} % of the samples, with a gap of"
    doubtful = "; doubtful, see below" if metrics["doubts"] else ""
    return f"{said} {local['gap']:.3g} (clear from {CLEAR:g} on){doubtful}\n"


def _cells(metrics: dict[str, Any]) -> dict[str, str]:
    """What the table says of a run, by the titles of its columns."""
    measured, sides = metrics["train"], metrics["sample_shape"]
    return {
        "data": metrics["data"],
        "C×H×W": "×".join(map(str, sides)) if len(sides) == 3 else "-",
        "r": "?" if metrics["manifold_dim"] is None else str(metrics["manifold_dim"]),
        "active": str(metrics["active_dimensions"]),
        "local": str(metrics["local"]["count"]),
        "by eigenvalue": str(measured["spectrum_count"]) if _is_full(metrics) else "-",
        "of": str(metrics["latent_dim"]),
        "active gap": _number(_gap(metrics), ".3g"),
        "-ELBO": _number(measured["neg_elbo"], ".3f"),
        "recon": _number(measured["recon"], ".4g"),
        "KL": _number(measured["kl"], ".3f"),
        "gamma": _number(measured["gamma"], ".3g"),
        "held-out -ELBO": _number(metrics["validation"]["neg_elbo"], ".3f"),
    }


def _number(value: float | None, form: str) -> str:
    """None stands for one that is not finite, or missing."""
    return "-" if value is None else format(value, form)


def _line(row: dict[str, str], widths: dict[str, int]) -> str:
    data, *others = widths
    return f"{row[data]:<{widths[data]}}" + "".join(f"{row[title]:>{widths[title]}}" for title in others)


def _why_no_gap(metrics: dict[str, Any]) -> str:
    """If all dimensions are of one kind, their number says nothing about the manifold's."""
    if _gap(metrics) is not None:
        return ""
    data, kappa, full = metrics["data"], metrics["latent_dim"], _is_full(metrics)
    count = metrics["train"]["spectrum_count"] if full else metrics["active_dimensions"]
    if count == 0 and any(one[_count(metrics)] for one in metrics.get("classes", [])):
        return f"{data} has no active gap, as no dimension is active over all classes together: see those of each class"
    if count == 0:
        filled = "" if "trials" in metrics else "; if the data may fill their space, use manifold-core dimension"
        if "condition" in metrics:
            filled = "; or the condition leaves the samples no dimension"
        return (
            f"{data} has no active gap, as no dimension is active: train longer, with more --steps, or begin with a "
            f"smaller gamma, --log-gamma{filled}"
        )
    if count is None:
        return f"{data} has no active gap, as its loss is not finite: its numbers mean nothing; lower --learning-rate"
    every = f"{data} has no active gap, as all {kappa} latent dimensions are active"
    if "trials" not in metrics:
        return f"{every}: the manifold may have more; raise --latent-dim"
    features = math.prod(metrics["sample_shape"])
    if kappa == max(map(int, metrics["by_latent_dim"])) < features:  # a doubt says what follows from that
        return ""
    if kappa == features:
        return f"{every}, as many as features: the data fill their space, or lie on a closed manifold"
    return f"{every}: compare the -ELBO with fewer and with more, below"


def _blown_up(metrics: dict[str, Any]) -> str:
    """A loss may jump to any height and still be finite."""
    first, last = metrics["history"]["neg_elbo"][0], metrics["train"]["neg_elbo"]
    if last is None or not last > first:  # a loss that is not finite is reported elsewhere
        return ""
    return (
        f"{metrics['data']} ends at a higher -ELBO than near the beginning, {last:.4g} after {first:.4g}: its numbers "
        "mean nothing; lower --learning-rate, or train longer, with more --steps"
    )


def _under_condition(metrics: dict[str, Any]) -> str:
    """What the condition was taken for, and the active dimensions of each class."""
    if (condition := metrics.get("condition")) is None:
        return ""
    if "classes" not in condition:
        width = len(condition["mean"])
        return f"{metrics['data']} has a condition of {width} number{'s' if width > 1 else ''}"
    counts = ", ".join(f"{one['label']}: {one[_count(metrics)]}" for one in metrics["classes"])
    return f"{metrics['data']} has {len(condition['classes'])} classes; active dimensions by class: {counts}"


def _of_several(metrics: dict[str, Any]) -> str:
    """The other models as well: one says little."""
    if not (models := metrics.get("models")):
        return ""
    counts = _listed(models, _count(metrics))
    least = "the lowest held-out -ELBO"
    if metrics["validation"]["neg_elbo"] is None:
        least = "the lowest -ELBO, since that of the held-out samples is finite for none"
    return (
        f"{metrics['data']}: active dimensions of the {len(models)} models: {counts}; the table shows the model of "
        f"seed {metrics['seed']}, which has {least}"
    )


def _listed(models: Sequence[dict[str, Any]], count: str) -> str:
    """The active dimensions of each."""
    # None are known of one that was trained to its end, but whose loss or variances over all samples are not finite.
    found = ("not finite" if one[count] is None else str(one[count]) for one in models)
    return ", ".join("diverged" if one["diverged_at"] else said for one, said in zip(models, found, strict=True))


def _of_search(metrics: dict[str, Any]) -> str:
    """Fewer latent dimensions than the manifold has cost much, more of them nothing."""
    if "trials" not in metrics:
        return ""
    losses = ", ".join(f"{kappa}: {loss:.2f}" for kappa, loss in metrics["by_latent_dim"].items())
    able = [trial for trial in metrics["trials"] if trial["latent_dim"] >= metrics["latent_dim"]]
    counts = _listed(able, "active_dimensions")
    kept, share = metrics["trained_directions"], metrics["trained_share"]
    coordinates = "coordinates" if share == 1 else f"{kept} widest directions, {100 * share:.4g} % of the variance,"
    if metrics["chosen_by"] == "neighbours":
        why = ", a wider network with which nearest neighbours agree, and not with that of the lowest -ELBO"
    else:
        why = ""
    return (
        f"{metrics['data']}: the best of {len(metrics['trials'])} models has {metrics['latent_dim']} latent "
        f"dimensions{why}; active dimensions of the models with {metrics['latent_dim']} or more: {counts}; lowest "
        f"held-out -ELBO by number of latent dimensions: {losses} (in the {coordinates} used for training, and without "
        "the tenth of the samples that fit worst, so it is not the table's)"
    )


def _bent(metrics: dict[str, Any]) -> str:
    """If every axis is needed somewhere, but not all of them at any one sample."""
    local, count = metrics["local"]["count"], metrics["train"][_count(metrics)]
    if count is None or not local < count:
        return ""
    if local == 0:
        return (
            f"{metrics['data']}: {count} dimensions are active, but the decoder has none at a sample: the data take "
            "few values, or nothing is learned yet; train longer, with more --steps"
        )
    return (
        f"{metrics['data']}: the decoder has {local} dimensions at a sample, fewer than the {count} that are active, "
        f"as for a manifold that is closed or bent, or far narrower in some directions; the gap in its eigenvalues is "
        f"{metrics['local']['gap']:.3g}"
    )


def _doubts(metrics: dict[str, Any]) -> str:
    """What speaks against the dimension that is read."""
    return "\n".join(f"{metrics['data']}: {doubt}" for doubt in metrics["doubts"])


def _noise(metrics: dict[str, Any]) -> str:
    """Why neighbours see more, if that is not a doubt."""
    return f"{metrics['data']}: {noise}" if (noise := metrics["noise"]) else ""


def _units(metrics: dict[str, Any]) -> str:
    """The table is of the samples as the model takes them."""
    scale = metrics["standardisation"]["scale"]
    if scale == 1:
        return ""
    greater = math.prod(metrics["sample_shape"]) * math.log(scale)
    return (
        f"{metrics['data']} was measured as (x - mean) / {scale:.4g}; in the units of the data recon and gamma are "
        f"{scale**2:.4g} times as large, -ELBO is {'greater' if greater > 0 else 'lower'} by {abs(greater):.4g}"
    )


NOTES = (
    _why_no_gap,
    _blown_up,
    _under_condition,
    _of_several,
    _of_search,
    _bent,
    _doubts,
    _noise,
    _units,
)


def _gap(metrics: dict[str, Any]) -> float | None:
    """The gap of the count that a rotation of the latent space does not change."""
    measured = metrics["train"]
    if not _is_full(metrics):
        gap: float | None = measured["gap"]
        return gap
    if measured["spectrum_count"] is None:  # its loss is not finite
        return None
    return gap_between(torch.tensor(measured["spectrum"], dtype=torch.float64), measured["threshold"])


def _count(metrics: dict[str, Any]) -> str:
    return count_name(full_covariance=_is_full(metrics))


def _is_full(metrics: dict[str, Any]) -> bool:
    return bool(metrics["config"]["model"]["covariance"] == "cholesky")
