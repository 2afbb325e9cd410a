"""The data of a run, and what tells them from others."""

from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoint
from ..data import Dataset, load_file, load_images, synthetic_manifold
from ..data.files import SUFFIXES
from ..errors import InputError
from .build import is_convolutional
from .config import IMAGE_SETS, RunConfig, SearchConfig

__all__ = ["as_input", "fingerprint_of", "load_data"]


def load_data(config: RunConfig | SearchConfig) -> Dataset:
    """The data of a run, users' files standardised.

    Raises:
        InputError: as the loaders do; channels for samples that are no images of residual networks.
    """
    data = _loaded(config)
    if isinstance(config, SearchConfig):
        return data
    sample_shape = tuple(data.train.shape[1:])
    if config.model.channels is not None and not is_convolutional(config.model.hidden, sample_shape):
        raise InputError(
            f"channels must be left out where an MLP is trained, as for {config.data!r} of sample shape {sample_shape}"
            f"{'' if config.model.hidden is None else ' with hidden'}, got {config.model.channels}"
        )
    return data


def _loaded(config: RunConfig | SearchConfig) -> Dataset:
    if config.data == "synthetic":
        return synthetic_manifold(config.ambient_dim, config.manifold_dim, seed=config.training.seed)
    if config.data in IMAGE_SETS:
        return load_images(config.data, config.data_folder)
    if Path(config.data).suffix.lower() not in SUFFIXES:
        raise InputError(
            f"data must be 'synthetic', 'mnist', 'fashion-mnist' or the path of a .npy, .npz or .csv file, "
            f"got {config.data!r}"
        )
    return load_file(config.data, seed=config.training.seed, standardise=True)


def as_input(x: Tensor, config: RunConfig | SearchConfig, sample_shape: tuple[int, ...]) -> Tensor:
    """Samples of this shape as the model takes them: an MLP takes vectors."""
    if isinstance(config, SearchConfig):
        return x.flatten(1)
    return x if is_convolutional(config.model.hidden, sample_shape) else x.flatten(1)


def fingerprint_of(data: Dataset) -> str:
    """Of all of the data that decides the numbers of a run."""
    units = data.standardisation
    scale = torch.tensor(units.scale, dtype=torch.float64)
    return checkpoint.fingerprint(data.train, data.validation, units.mean, scale)
