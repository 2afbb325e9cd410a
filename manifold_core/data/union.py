"""Samples of several manifolds of different dimensions, with the manifold's number as the condition."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import check_integer
from .checks import check_dims
from .dataset import Dataset
from .seeds import stream
from .synthetic import random_manifold

__all__ = ["union_of_manifolds"]


def union_of_manifolds(
    ambient_dim: int = 20,
    manifold_dims: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    n_train: int = 100_000,
    n_validation: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """x = sigmoid(W_k u + b_k) and c = e_k, the one-hot class k: given c, r_k dimensions of x are left.

    Each class k has a mixture, a projection and samples of its own, independent of the other classes and drawn as
    :func:`synthetic_manifold` draws them. Sample i has class i mod m, so the classes are equally large, but for one
    sample if m does not divide the size.

    The same arguments give the same data for ever, as with :func:`synthetic_manifold`: the first n samples are the same
    for every size, and a class keeps its samples, in their order, whatever classes follow it.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", section 4.4 (Table 5). That every
    class has a mixture of its own is a choice: the text says nothing about it.

    Args:
        ambient_dim: d, the number of features.
        manifold_dims: r_k, the dimensions of the m manifolds, each from 1 to d; equal ones are different manifolds.
        n_train, n_validation: numbers of samples, of all classes together.
        seed: any integer.

    Returns:
        Data set with ``train`` ``[n_train, d]`` and ``validation`` ``[n_validation, d]``, float32 in [0, 1], computed
        in float64; ``train_condition`` and ``validation_condition`` ``[N, m]``, float32; labels ``[N]``, int64: the
        class k; ``manifold_dim`` is None, as there are several.

    Raises:
        InputError: an argument is of the wrong kind or out of range.
    """
    ambient_dim = check_integer("ambient_dim", ambient_dim, 1)
    dims = check_dims("manifold_dims", manifold_dims, largest="ambient_dim", maximum=ambient_dim)
    n_train = check_integer("n_train", n_train, 1)
    n_validation = check_integer("n_validation", n_validation, 1)
    manifolds = [random_manifold(ambient_dim, r, seed, f"class {k}/") for k, r in enumerate(dims)]

    def samples(n: int, purpose: str) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.empty(n, ambient_dim, dtype=torch.float32, device="cpu")
        for k, manifold in enumerate(manifolds):
            _, x[k :: len(dims)] = manifold.samples(len(x[k :: len(dims)]), stream(seed, f"class {k}/{purpose}"))
        labels = torch.arange(n, device="cpu") % len(dims)
        return x, torch.eye(len(dims), dtype=torch.float32, device="cpu")[labels], labels

    train, train_condition, train_labels = samples(n_train, "train")
    validation, validation_condition, validation_labels = samples(n_validation, "validation")
    return Dataset(
        name=f"union-d{ambient_dim}-r{'-'.join(map(str, dims))}",
        train=train,
        validation=validation,
        train_labels=train_labels,
        validation_labels=validation_labels,
        train_condition=train_condition,
        validation_condition=validation_condition,
    )
