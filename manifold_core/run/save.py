"""What a search in Python has found, as the folder of a run."""

from ..errors import InputError
from ..search import DimensionSearch
from ..storage import checkpoint
from ..storage.files import AnyPath, as_folder, finite, locked, output_folder, write_json
from ..storage.finished import METRICS, WEIGHTS
from .results import of_model
from .searching import model_of

__all__ = ["save_run"]


def save_run(found: DimensionSearch, folder: AnyPath) -> None:
    """Write what :func:`manifold_core.find_dimension` found into a folder, for :func:`manifold_core.load_run`: the best
    model as ``weights.safetensors``, and ``metrics.json`` as ``manifold-core dimension`` writes it, except for what
    that measures on the held-out samples.

    Args:
        found: the whole result of a search.
        folder: made if it is missing. It may be the one in which the search kept its checkpoints, which stay.

    Raises:
        InputError: not the result of a search; a folder that holds a finished run, or that another process uses.
    """
    if not isinstance(found, DimensionSearch):
        raise InputError(f"found must be what mc.find_dimension returns, got {type(found).__name__}")
    place = output_folder(as_folder("folder", folder), "folder")
    with locked(place, "folder"):
        if (place / METRICS).exists():
            raise InputError(f"folder must be one without a finished run: {str(place / METRICS)!r} is in the way")
        if (place / WEIGHTS).exists():  # of anybody, or of a process that was killed before it wrote the metrics
            raise InputError(f"folder must be one without weights: {str(place / WEIGHTS)!r} is in the way; remove it")
        description = {"model": model_of(found.best).description()}
        features = found.standardisation.mean.shape
        metrics = found.as_dict() | of_model(found.best.trained, description, found.standardisation, features)
        checkpoint.save_tensors(place / WEIGHTS, found.model.state_dict())
        write_json(place / METRICS, finite(metrics))  # last: with it the run is finished
