"""The data of a run, and the fingerprint that tells them from others."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import Dataset, load_file, load_images, synthetic_manifold
from ..data.encoding import OneHot, listed
from ..data.files import SUFFIXES
from ..data.images import IMAGE_SETS, under_labels
from ..ensemble.data import Samples
from ..errors import InputError
from ..storage import checkpoint
from .build import is_convolutional
from .config import LABELS, RunConfig, SearchConfig

__all__ = ["RunData", "condition_of", "fingerprint_of", "load_data"]


@dataclass(frozen=True)
class RunData:
    """The data of a run as its model takes them: as vectors for an MLP.

    Attributes:
        dataset: as it was loaded.
        fingerprint: of all of it that decides the numbers of a run.
        train, held_out: on the device of the run.
    """

    dataset: Dataset
    fingerprint: str
    train: Samples
    held_out: Samples

    @classmethod
    def of(cls, config: RunConfig | SearchConfig) -> "RunData":
        """Raises InputError as :func:`load_data` does."""
        data = load_data(config)
        images = isinstance(config, RunConfig) and is_convolutional(config.model.hidden, data.train.shape[1:])

        def inputs(x: Tensor, condition: Tensor | None) -> Samples:
            return Samples(x if images else x.flatten(1), condition).to(config.device)

        train = inputs(data.train, data.train_condition)
        return cls(data, fingerprint_of(data), train, inputs(data.validation, data.validation_condition))


def load_data(config: RunConfig | SearchConfig) -> Dataset:
    """The data of a run, users' files standardised. Warns of classes that have no training sample, before hours are
    spent on the others.

    Raises:
        InputError: as the loaders do; channels, but no residual network to have them; a condition that does not go
            with the data.
    """
    data = _loaded(config)
    if isinstance(config, SearchConfig):
        return data
    _warn_of_unseen_classes(data)
    sample_shape = tuple(data.train.shape[1:])
    if config.model.channels is not None and not is_convolutional(config.model.hidden, sample_shape):
        raise InputError(
            f"channels must be left out if an MLP is trained, as for {config.data!r} of sample shape {sample_shape}"
            f"{'' if config.model.hidden is None else ' with hidden'}, got {config.model.channels}"
        )
    return data


def _loaded(config: RunConfig | SearchConfig) -> Dataset:
    condition = condition_of(config)
    if config.data == "synthetic":
        if condition is not None:
            raise InputError(f"condition must be left out with data 'synthetic', which has none, got {condition!r}")
        return synthetic_manifold(config.ambient_dim, config.manifold_dim, seed=config.training.seed)
    if config.data in IMAGE_SETS:
        if condition not in (None, LABELS):
            raise InputError(f"condition must be {LABELS!r} with data {config.data!r}, got {condition!r}")
        data = load_images(config.data, config.data_folder)
        return data if condition is None else under_labels(data)
    if Path(config.data).suffix.lower() not in SUFFIXES:
        raise InputError(
            f"data must be 'synthetic', {', '.join(map(repr, IMAGE_SETS))} or the path of a .npy, .npz or .csv file, "
            f"got {config.data!r}"
        )
    if condition == LABELS:
        raise InputError(f"condition {LABELS!r} is for {' and '.join(IMAGE_SETS)}; expected the path of a file")
    return load_file(config.data, seed=config.training.seed, standardise=True, condition=condition)


def _warn_of_unseen_classes(data: Dataset) -> None:
    if not isinstance(data.condition_encoding, OneHot) or data.train_labels is None:
        return
    seen = set(data.train_labels.unique().tolist())
    unseen = [label for place, label in enumerate(data.condition_encoding.classes) if place not in seen]
    if unseen:
        one = len(unseen) == 1
        classes, have, them = ("class", "has", "it") if one else ("classes", "have", "them")
        warnings.warn(
            f"condition: {classes} {listed(unseen)} {have} no training sample, and so can be neither learned nor "
            f"measured; a tenth of a file is held out: give more samples of {them}, or leave {them} out",
            stacklevel=3,
        )


def condition_of(config: RunConfig | SearchConfig) -> str | None:
    """Where its conditions come from, if it has any."""
    if isinstance(config, SearchConfig) or config.model.condition is None:
        return None
    return config.model.condition.source


def fingerprint_of(data: Dataset) -> str:
    """The fingerprint of all of the data that decides the numbers of a run."""
    units = data.standardisation
    scale = torch.tensor(units.scale, dtype=torch.float64)
    conditions = [part for part in (data.train_condition, data.validation_condition) if part is not None]
    if data.condition_encoding is not None:
        numbers = data.condition_encoding.as_dict().values()
        conditions += [torch.tensor(part, dtype=torch.float64) for part in numbers]
    return checkpoint.fingerprint(data.train, data.validation, units.mean, scale, *conditions)
