"""Samples of one manifold, with some of their latent dimensions as the condition."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import check_integer
from ..errors import InputError
from .checks import check_dims
from .dataset import Dataset
from .seeds import stream
from .synthetic import random_manifold

__all__ = ["conditional_manifold", "varying_condition"]


def conditional_manifold(
    ambient_dim: int = 20,
    manifold_dim: int = 10,
    condition_dim: int = 5,
    *,
    n_train: int = 100_000,
    n_validation: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """x = sigmoid(W u + b) and c = (u_1, …, u_t): given c, r − t dimensions of x are left.

    The samples are those of :func:`synthetic_manifold` with the same arguments and seed, whatever t is, and are as
    reproducible; the first n are the same for every size. The scale of c is that of u: it is not standardised.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", sections 4.1 and 4.3: Table 3,
    whose G_c is I. For Table 7, section 4.5, the text does not say which it is.

    Args:
        ambient_dim: d, the number of features.
        manifold_dim: r ≤ d, the dimension of the manifold.
        condition_dim: t, from 1 to r; with t = r the condition leaves nothing open.
        n_train, n_validation: numbers of samples.
        seed: any integer.

    Returns:
        Data set with ``train`` ``[n_train, d]`` and ``validation`` ``[n_validation, d]``, float32 in [0, 1];
        ``train_condition`` ``[n_train, t]`` and ``validation_condition`` ``[n_validation, t]``, float32, computed in
        float64; no labels; ``manifold_dim`` = r, that of x without c.

    Raises:
        InputError: an argument is of the wrong kind or out of range.
    """
    manifold = random_manifold(ambient_dim, manifold_dim, seed)
    condition_dim = check_integer("condition_dim", condition_dim, 1)
    if condition_dim > manifold_dim:
        raise InputError(f"condition_dim must be at most manifold_dim, {manifold_dim}, got {condition_dim}")
    n_train = check_integer("n_train", n_train, 1)
    n_validation = check_integer("n_validation", n_validation, 1)

    train_u, train = manifold.samples(n_train, stream(seed, "train"))
    validation_u, validation = manifold.samples(n_validation, stream(seed, "validation"))
    return Dataset(
        name=f"conditional-d{ambient_dim}-r{manifold_dim}-t{condition_dim}",
        train=train,
        validation=validation,
        manifold_dim=int(manifold_dim),
        train_condition=train_u[:, :condition_dim].to(torch.float32),
        validation_condition=validation_u[:, :condition_dim].to(torch.float32),
    )


def varying_condition(
    ambient_dim: int = 20,
    manifold_dim: int = 12,
    condition_dims: Sequence[int] = (2, 4, 6, 8, 10),
    *,
    n_train: int = 100_000,
    n_validation: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """x_i = sigmoid(W u_i + b) and c_i = (u_i1, …, u_it, 0, …, 0), where t varies from sample to sample.

    Sample i has t = condition_dims[i mod m], so all m values are equally frequent; given c_i, r − t dimensions of x are
    left. Only the zeros tell how many dimensions are seen. The samples x are those of :func:`synthetic_manifold` with
    the same arguments and seed, whatever ``condition_dims`` is, and are as reproducible; the first n samples with their
    conditions are the same for every size.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", section 4.4 (Table 6). The paper
    does not say which sample has which t; nor does that matter, as the samples are independent.

    Args:
        ambient_dim: d, the number of features.
        manifold_dim: r ≤ d, the dimension of the manifold.
        condition_dims: the m values of t, each from 1 to r, in any order.
        n_train, n_validation: numbers of samples.
        seed: any integer.

    Returns:
        Data set with ``train`` ``[n_train, d]`` and ``validation`` ``[n_validation, d]``, float32 in [0, 1];
        ``train_condition`` and ``validation_condition`` ``[N, max(condition_dims)]``, float32, computed in float64;
        labels ``[N]``, int64: i mod m, the place of a sample's t in ``condition_dims``; ``manifold_dim`` = r, that of
        x without c.

    Raises:
        InputError: an argument is of the wrong kind or out of range.
    """
    manifold = random_manifold(ambient_dim, manifold_dim, seed)
    dims = check_dims("condition_dims", condition_dims, largest="manifold_dim", maximum=manifold_dim)
    n_train = check_integer("n_train", n_train, 1)
    n_validation = check_integer("n_validation", n_validation, 1)

    def samples(n: int, purpose: str) -> tuple[Tensor, Tensor, Tensor]:
        u, x = manifold.samples(n, stream(seed, purpose))
        labels = torch.arange(n, device="cpu") % len(dims)
        is_seen = torch.arange(max(dims), device="cpu") < torch.tensor(dims, device="cpu")[labels, None]
        return x, torch.where(is_seen, u[:, : max(dims)], 0.0).to(torch.float32), labels

    train, train_condition, train_labels = samples(n_train, "train")
    validation, validation_condition, validation_labels = samples(n_validation, "validation")
    return Dataset(
        name=f"varying-d{ambient_dim}-r{manifold_dim}-t{'-'.join(map(str, dims))}",
        train=train,
        validation=validation,
        train_labels=train_labels,
        validation_labels=validation_labels,
        manifold_dim=int(manifold_dim),
        train_condition=train_condition,
        validation_condition=validation_condition,
    )
