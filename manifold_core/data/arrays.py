"""The user's own data, as an array: what is accepted, and how it is split."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..arguments import check_number
from ..errors import InputError
from .blocks import blocks
from .checks import check_within_float32, places
from .dataset import Dataset
from .encoding import OneHot, encoding_of
from .seeds import stream
from .standardisation import Standardisation

__all__ = ["checked_samples", "split"]


def split(
    source: npt.NDArray[Any],
    name: str,
    where: str,
    validation_fraction: float,
    seed: int,
    standardise: bool,
    condition: npt.NDArray[Any] | None = None,
) -> Dataset:
    """Samples as :func:`checked_samples` gives them, and conditions as :func:`.encoding.checked_condition` does, split
    at random, as :func:`manifold_core.data.load_file` says.

    Raises:
        InputError: ``validation_fraction`` or ``seed`` is out of range; with ``standardise`` all training samples are
            the same, or one that is held out is too far from them for float32.
    """
    fraction = check_number("validation_fraction", validation_fraction, below=1)
    generator = stream(seed, "split")
    n = len(source)
    n_validation = min(max(round(n * fraction), 1), n - 1)
    # Not torch.randperm, whose algorithm is PyTorch's to change.
    order = torch.rand(n, dtype=torch.float64, generator=generator, device="cpu").argsort(stable=True)
    validation, train = order[:n_validation], order[n_validation:]
    rows = train.sort().values.numpy()
    standardisation = Standardisation.of_rows(source, rows, where) if standardise else Standardisation()
    x = torch.empty(source.shape, dtype=torch.float32, device="cpu")
    for block in blocks(source):
        x[block] = standardisation.apply(torch.from_numpy(source[block].astype(np.float64)))
        if not (finite := x[block].isfinite()).all():  # a held-out one: the scale is that of the others
            raise InputError(
                f"{where}: a number too far from the others at {places(~finite.numpy(), block.start)}; expected "
                f"at most 3.4e38 once standardised"
            )
    data = Dataset(name=name, train=x[train], validation=x[validation], standardisation=standardisation)
    if condition is None:
        return data
    encoding = encoding_of(condition, rows, standardise)
    c = encoding.apply(condition)
    if not (finite := c.isfinite()).all():  # a held-out one: the scale is that of the others
        raise InputError(
            f"{where}: a number of the condition too far from the others at {places(~finite.numpy())}; expected "
            f"at most 3.4e38 once standardised"
        )
    labels = encoding.places(condition) if isinstance(encoding, OneHot) else None
    return replace(
        data,
        train_condition=c[train],
        validation_condition=c[validation],
        train_labels=None if labels is None else labels[train],
        validation_labels=None if labels is None else labels[validation],
        condition_encoding=encoding,
    )


def checked_samples(source: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """``[N, d]`` or ``[N, C, H, W]``, N ≥ 2, finite, within float32, not constant; as it is stored."""
    if source.dtype.kind not in "iuf":
        raise InputError(f"{where}: array of type {source.dtype}; expected an integer or floating type")
    if source.ndim not in (2, 3, 4):
        raise InputError(f"{where}: array of shape {source.shape}; expected (N, d), (N, H, W) or (N, C, H, W)")
    if len(source) < 2 or source.size == 0:
        raise InputError(f"{where}: array of shape {source.shape}; expected at least two samples with features")
    check_within_float32(source, where)
    if all((source[rows] == source[0]).all() for rows in blocks(source)):
        raise InputError(f"{where}: all {len(source)} samples are the same; expected features that vary")
    if source.ndim == 4 and source.shape[3] in (1, 3, 4) and min(source.shape[1:3]) > 4:
        raise InputError(
            f"{where}: array of shape {source.shape}, whose last axis looks like the channels of images; expected "
            f"(N, C, H, W): np.moveaxis(x, -1, 1)"
        )
    return source[:, None] if source.ndim == 3 else source
