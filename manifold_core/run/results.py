"""What a trained model leaves in the folder of its run: metrics, weights and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import plots
from ..data import Standardisation
from ..data.encoding import OneHot
from ..ensemble import TrainedModel
from ..metrics.evaluation import count_name, metrics_of, of_class
from ..metrics.reading import Reading
from ..models import CVAE, VAE
from ..storage import checkpoint
from ..storage.files import finite, write_json
from ..storage.finished import METRICS, WEIGHTS
from .data import RunData
from .several import clear

__all__ = ["PICTURES", "finish", "of_model"]

UNITS = (
    "nats per sample; neg_elbo = nll + kl, recon = squared error. Samples are measured as the model takes them, "
    "(x - mean) / scale of standardisation: in the units of the data recon and gamma are scale**2 times as large, "
    "neg_elbo and nll of d features greater by d log scale; null stands for NaN or infinity"
)
PICTURES = {name: f"{name}.png" for name in ("variances", "curves", "classes", "images", "search")}


def finish(
    folder: Path, description: dict[str, Any], data: RunData, trained: TrainedModel, more: dict[str, Any]
) -> dict[str, Any]:
    """Write all of it, with what there is ``more`` to say; then delete the checkpoints."""
    model, dataset = trained.model, data.dataset
    checkpoint.save_tensors(folder / WEIGHTS, model.state_dict())  # first: what follows may need too much memory
    validation = metrics_of(model, data.held_out.parts)  # one sample far from all others may have any loss
    reading = Reading.of(model, data.train.parts, data.held_out.parts)
    doubts = [*reading.doubts, *more.get("doubts", [])]
    more = reading.as_dict() | more | {"doubts": doubts} | _under_condition(data, model)
    if "trials" in more:  # a search has one answer
        more = {"dimension": more["local"]["count"]} | more
    metrics = finite(
        {
            "data": dataset.name,
            "manifold_dim": dataset.manifold_dim,
            **more,
            "validation": validation.as_dict(),
            "fingerprint": data.fingerprint,
            "pictures": _draw(folder, data, trained, more),
            **of_model(trained, description, dataset.standardisation, dataset.train.shape[1:]),
        }
    )
    write_json(folder / METRICS, metrics)
    clear(folder)
    return metrics


def of_model(
    trained: TrainedModel, description: dict[str, Any], standardisation: Standardisation, sample_shape: Sequence[int]
) -> dict[str, Any]:
    """What is said of every model, and what it is loaded by; the description has it under ``model``."""
    return {
        "latent_dim": trained.model.latent_dim,
        "active_dimensions": trained.metrics.active_dimensions,
        "train": trained.metrics.as_dict(),
        "units": UNITS,
        "standardisation": standardisation.as_dict(),
        "config": description,
        "sample_shape": list(sample_shape),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "versions": _versions(),
        "history": trained.history.as_dict(),
    }


def _under_condition(data: RunData, model: VAE | CVAE) -> dict[str, Any]:
    """What a run with conditions adds: their encoding, and for classes the metrics of each one's training samples."""
    encoding, labels = data.dataset.condition_encoding, data.dataset.train_labels
    if encoding is None:
        return {}
    said = {"condition": encoding.as_dict()}
    if not isinstance(encoding, OneHot) or labels is None:
        return said
    measured = {
        label: metrics_of(model, of_class(data.train.parts, labels, place))
        for place, label in enumerate(encoding.classes)
        if (labels == place).any()  # those of a rare class may all be held out
    }
    return said | {"classes": [{"label": label, **metrics.as_dict()} for label, metrics in measured.items()]}


def _versions() -> dict[str, str]:
    from .. import __version__

    return {"manifold_core": __version__, "torch": torch.__version__}


def _draw(folder: Path, data: RunData, trained: TrainedModel, more: dict[str, Any]) -> list[str]:
    try:
        plots.import_matplotlib()
    except ImportError:
        return []
    model, held_out = trained.model, data.held_out
    others = [one for one in more.get("models", []) if one["seed"] != more["seed"] and one["diverged_at"] is None]
    full = model.elbo.covariance == "cholesky"
    drawn = [
        plots.plot_variances(
            folder / PICTURES["variances"],
            trained.metrics.variance,
            manifold_dim=data.dataset.manifold_dim,
            spectrum=trained.metrics.spectrum if full else None,
            others=[one["spectrum" if full else "variance"] for one in others],
            local=more["local"],
        ),
        plots.plot_curves(folder / PICTURES["curves"], trained.history),
    ]
    if "trials" in more:
        found = more["local"]["count"]
        drawn.append(plots.plot_search(folder / PICTURES["search"], more["trials"], more["by_latent_dim"], found))
    if "classes" in more:
        count = count_name(full_covariance=full)
        drawn.append(plots.plot_classes(folder / PICTURES["classes"], more["classes"], count))
    if held_out.x.dim() == 4:
        drawn.append(plots.plot_images(folder / PICTURES["images"], model, held_out.x, held_out.condition))
    return [path.name for path in drawn]
