"""What a result file holds of a trained model."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..data import Dataset
from ..ensemble import TrainedModel
from ..ensemble.data import Samples
from ..metrics.evaluation import Metrics, metrics_of, of_class
from ..metrics.local import local_dimensions_of_some
from ..models import CVAE, VAE
from ..models.inputs import check_inputs
from . import paper
from .tables import Cell, on_test_images, on_training_images

__all__ = ["runs_of", "training_samples"]


def training_samples(data: Dataset, device: str) -> Samples:
    return Samples(data.train, data.train_condition).to(device)


def runs_of(cell: Cell, seed: int, trained: TrainedModel, data: Dataset, inputs: Samples) -> list[dict[str, Any]]:
    """The runs of one model: one, or for data with classes one per class, or with held-out images one for the training
    images and one for the held-out ones.

    Args:
        inputs: the training samples, where the model is.
    """
    measured = {}
    if cell.measure is not None and trained.diverged_at is None:
        measured = {"measured": cell.measure(trained.model, *inputs.parts)}
    return [
        {"cell": {**cell.columns, **columns}, "variant": variant, "seed": seed, "true_active": true_active}
        | _numbers(metrics, trained.model)
        | {"local": _local(metrics, trained.model, samples)}
        | {"diverged_at": trained.diverged_at, **measured, **by_class}
        for columns, variant, true_active, metrics, samples, by_class in _rows(cell, trained, data, inputs)
    ]


def _rows(
    cell: Cell, trained: TrainedModel, data: Dataset, inputs: Samples
) -> Iterator[tuple[Mapping[str, float], str, int | None, Metrics, tuple[Tensor, ...], dict[str, Any]]]:
    """Columns that the row adds, variant, true active dimensions, metrics, the samples that these are of, and the
    figures for each class."""
    model = trained.model
    if cell.held_out:
        held_out = Samples(data.validation, data.validation_condition).to(str(inputs.x.device))
        for variant, samples, labels, metrics in (
            (on_training_images(cell.variant), inputs, data.train_labels, trained.metrics),
            (on_test_images(cell.variant), held_out, data.validation_labels, _metrics_of(model, held_out.parts)),
        ):
            yield {}, variant, cell.true_active[0], metrics, samples.parts, _classes(cell, model, samples, labels)
        return
    for index, (columns, true_active) in enumerate(zip(cell.classes, cell.true_active, strict=True)):
        if len(cell.classes) == 1:
            yield columns, cell.variant, true_active, trained.metrics, inputs.parts, {}
        else:
            own = _of_class(inputs, data.train_labels, index)
            yield columns, cell.variant, true_active, _metrics_of(model, own), own, {}


def _of_class(samples: Samples, labels: Tensor | None, index: int) -> tuple[Tensor, ...]:
    assert labels is not None
    return of_class(samples.parts, labels, index)


def _metrics_of(model: VAE | CVAE, samples: tuple[Tensor, ...]) -> Metrics:
    return metrics_of(model, check_inputs(model, *samples))


def _classes(cell: Cell, model: VAE | CVAE, samples: Samples, labels: Tensor | None) -> dict[str, Any]:
    """The figures for each class, if there are classes."""
    if not cell.class_names:
        return {}
    found = []
    for index, name in enumerate(cell.class_names):
        metrics = _metrics_of(model, _of_class(samples, labels, index))
        found.append({"name": name, "interval": list(metrics.interval), **_numbers(metrics, model)})
    return {"classes": found}


def _numbers(m: Metrics, model: VAE | CVAE) -> dict[str, Any]:
    numbers = {
        "active_dimensions": m.active_dimensions,
        "gap": m.gap,
        "neg_elbo": paper.doubled(m.neg_elbo),
        "kl": paper.doubled(m.kl),
        "recon": m.recon,
        "gamma": m.gamma,
        "variance": m.variance,
    }
    if model.elbo.covariance == "cholesky":  # a diagonal one has the variances as its spectrum
        numbers |= {"spectrum_count": m.spectrum_count, "spectrum": m.spectrum}
    return numbers


def _local(metrics: Metrics, model: VAE | CVAE, samples: tuple[Tensor, ...]) -> dict[str, Any] | None:
    """What the decoder says about the dimension; None if the model diverged."""
    if metrics.active_dimensions is None:
        return None
    found = local_dimensions_of_some(model, samples).as_dict()
    del found["spectrum"]  # as many numbers as the variances, for every run
    return found
