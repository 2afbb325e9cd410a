"""What a trained model leaves in the folder of its run: metrics, weights and pictures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoint, plots
from ..data import Dataset
from ..evaluation import Metrics, metrics_of
from ..files import write_json
from ..finished import METRICS, WEIGHTS
from ..models import VAE
from ..neighbours import two_nn
from ..training import History
from .several import clear

__all__ = ["PICTURES", "finish"]

UNITS = (
    "nats per sample; neg_elbo = nll + kl, recon = squared error; see paper_convention for the paper's. Samples are "
    "measured as the model takes them, (x - mean) / scale of standardisation: in the units of the data recon and gamma "
    "are scale**2 times as large, neg_elbo and nll of d features greater by d log scale"
)
PICTURES = {"variances": "variances.png", "curves": "curves.png", "images": "images.png", "search": "search.png"}


def finish(
    description: dict[str, Any],
    folder: Path,
    data: Dataset,
    fingerprint: str,
    model: VAE,
    measured: Metrics,
    held_out: Tensor,
    history: History,
    more: dict[str, Any],
) -> dict[str, Any]:
    validation = metrics_of(model, (held_out,))  # one sample far from all others may have any loss
    others = [one for one in more.get("models", []) if one["seed"] != more["seed"] and one["diverged_at"] is None]
    pictures = _draw(folder, model, history, measured, data.manifold_dim, held_out, others, more.get("trials"))
    checkpoint.save_tensors(folder / WEIGHTS, model.state_dict())
    metrics = {
        "data": data.name,
        "manifold_dim": data.manifold_dim,
        "latent_dim": model.latent_dim,
        "active_dimensions": measured.active_dimensions,
        "two_nn": two_nn(data.train),
        **more,
        "train": measured.as_dict(),
        "validation": validation.as_dict(),
        "units": UNITS,
        "standardisation": data.standardisation.as_dict(),
        "config": description,
        "fingerprint": fingerprint,
        "sample_shape": list(data.train.shape[1:]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": _versions(),
        "pictures": pictures,
        "history": asdict(history),
    }
    write_json(folder / METRICS, metrics)
    clear(folder)
    return metrics


def _versions() -> dict[str, str]:
    from .. import __version__

    return {"manifold_core": __version__, "torch": torch.__version__}


def _draw(
    folder: Path,
    model: VAE,
    history: Any,
    measured: Metrics,
    manifold_dim: int | None,
    held_out: Tensor,
    others: Sequence[dict[str, Any]],
    trials: Sequence[dict[str, Any]] | None,
) -> list[str]:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return []
    full = model.elbo.covariance == "cholesky"
    drawn = [
        plots.plot_variances(
            folder / PICTURES["variances"],
            measured.variance,
            manifold_dim=manifold_dim,
            spectrum=measured.spectrum if full else None,
            others=[one["spectrum" if full else "variance"] for one in others],
        ),
        plots.plot_curves(folder / PICTURES["curves"], history),
    ]
    if trials is not None:
        drawn.append(plots.plot_search(folder / PICTURES["search"], trials))
    if held_out.dim() == 4:
        drawn.append(plots.plot_images(folder / PICTURES["images"], model, held_out))
    return [path.name for path in drawn]
