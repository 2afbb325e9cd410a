"""The weights of a training, from its folder."""

from typing import Any

from ..errors import InputError
from ..models import CVAE, VAE
from ..models.inputs import unwrapped
from ..storage import checkpoint
from ..storage.differences import differences
from ..storage.files import AnyPath, as_folder
from ..storage.finished import holds_finished_run
from .config import History
from .snapshot import weights_back
from .state import put_beside

__all__ = ["load_weights", "trained_in"]


def load_weights(model: VAE | CVAE, folder: AnyPath) -> History:
    """Load into ``model`` the weights that :func:`manifold_core.train` kept in a folder, whether training finished or
    was stopped, and put it into evaluation mode. To train on, call ``train`` with that folder.

    Args:
        model: built like the one that was trained; on any device.
        folder: that of the training.

    Returns:
        The curves up to there.

    Raises:
        InputError: no folder, no checkpoint of a training in it, or one that is damaged or of another model; the model
            then keeps its weights.
    """
    model = unwrapped(model)
    place = as_folder("folder", folder)
    begun = checkpoint.load(place)
    if begun is None or (trained := trained_in(begun.state)) is None:
        has = "has none"
        if holds_finished_run(place):
            has = f"holds a finished run of the command line: mc.load_run({str(place)!r}).model has its weights"
        raise InputError(f"folder must hold a checkpoint of manifold_core.train, got {str(place)!r}, which {has}")
    if where := differences(trained, repr(model), "model"):
        raise InputError(f"model must be built like the one trained in {str(place)!r}: its {where}")
    weights = {name.removeprefix("model."): part for name, part in begun.tensors.items() if name.startswith("model.")}
    try:
        history = History(**begun.state["history"])
        with weights_back(model, KeyError, RuntimeError):
            model.load_state_dict(weights)
            put_beside(model, begun.tensors)
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"checkpoint in {str(place)!r} is damaged, or of another model: {error}") from error
    model.eval()
    return history


def trained_in(state: dict[str, Any]) -> Any:
    """The model that the checkpoint of a training says it is of; None if the checkpoint is of something else."""
    said = state.get("identity")
    return said.get("model") if isinstance(said, dict) else None
