"""How the cost grows: with B, d, κ, the number of models and the number of threads."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from . import cholesky, elbo, ensemble
from .comparison import Call, Comparison

__all__ = ["COMPARISONS"]

SAMPLES, FEATURES, LATENTS = 4096, 784, 64  # if threads vary
HIDDEN, BATCH = 16, 1024  # of the ensemble's models
THREADS = [2**k for k in range((os.cpu_count() or 1).bit_length())]
Size = tuple[int, ...]


def _same(*size: int) -> Size:
    return size


def _along(
    of: Comparison, name: str, title: str, axes: str, sizes: Sequence[Size], whole: Callable[..., Size] = _same
) -> Comparison:
    """The yardstick and ours at other sizes; ``whole`` turns one of these into a size of ``of``."""
    kept = (of.peers[0], *of.ours[:1])
    return replace(
        of,
        name=name,
        title=title,
        axes=axes,
        goals=dict.fromkeys(sizes, math.nan),
        contenders={key: _at(of.contenders[key], whole) for key in kept},
        error=lambda *size: of.error(*whole(*size)),
        bytes_moved=lambda *size: of.bytes_moved(*whole(*size)),
        operations=lambda *size: of.operations(*whole(*size)),
        ours=of.ours[:1],
        slow=frozenset(),
    )


def _at(prepare: Callable[..., Call], whole: Callable[..., Size]) -> Callable[..., Call]:
    return lambda *size: prepare(*whole(*size))


def _on_threads(comparison: Comparison) -> Comparison:
    """The same with as many threads as the size says, in the processes of the contenders."""

    def limited(prepare: Callable[..., Call]) -> Callable[..., Call]:
        def on_threads(threads: int) -> Call:
            torch.set_num_threads(threads)
            return prepare(threads)

        return on_threads

    return replace(comparison, contenders={name: limited(c) for name, c in comparison.contenders.items()})


def _models() -> Comparison:
    """For the ensemble engine, with one model per thread if there are as many; eager is one model after another."""
    one = _along(
        ensemble.COMPARISON,
        "models",
        f"Training step of one of so many models, hidden {HIDDEN}, B = {BATCH:,}",
        "models",
        [(n,) for n in (1, 2, 4, 16, 64)],
        lambda _: (HIDDEN, BATCH),
    )
    (ours,) = one.ours
    return replace(one, contenders=one.contenders | {ours: lambda n: ensemble.engine(n, None)(HIDDEN, BATCH)})


_ELBO, _CHOLESKY = elbo.COMPARISON, cholesky.COMPARISON
COMPARISONS = (
    _along(_ELBO, "batch", "Sample + KL + NLL, by B", "B, d, κ", [(4**k, 784, 32) for k in range(2, 7)]),
    _along(_ELBO, "features", "Sample + KL + NLL, by d", "B, d, κ", [(1024, 4**k, 32) for k in range(2, 7)]),
    _along(_ELBO, "latents", "Sample + KL + NLL, by κ", "B, d, κ", [(1024, 20, 4**k) for k in range(1, 6)]),
    _along(_CHOLESKY, "triangle", "Sample + KL, full covariance, by κ", "B, κ", [(512, 2**k) for k in range(2, 8)]),
    _models(),
    _on_threads(
        _along(
            _ELBO,
            "threads",
            f"Sample + KL + NLL by threads, B = {SAMPLES:,}, d = {FEATURES}, κ = {LATENTS}",
            "threads",
            [(n,) for n in THREADS],
            lambda _: (SAMPLES, FEATURES, LATENTS),
        )
    ),
)
