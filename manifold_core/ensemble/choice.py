"""Which backend trains an ensemble: an engine, or the one training loop."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..arguments import check_integer
from ..errors import InputError
from ..kernels import Backend, Choice, explain, extension
from ..models.checks import check_tensor
from .spec import ModelSpec, Spec, check_kinds, weights

__all__ = ["BACKENDS", "check_threads", "choose", "explain_ensemble"]

BACKENDS: tuple[Backend, ...] = ("auto", "reference", "cpu", "cuda")

# From this many weights in a model on, PyTorch's matrix products are faster than a fused step with all threads at work,
# and this many samples are work for one thread. On two cores the engine was this many times as fast as the loop: with
# one MLP of 784-256-20 1.6, 1.1 and 1.9 for B = 128, 512 and 2,048; of 784-400-20 1.0, 0.8 and 1.1, with four 1.3 and
# 1.2; of 784-512-512-32 0.7, 0.5 and 1.0, with four 1.4 and 1.0; with four of 3,072-256-32 0.8 and 0.6.
LARGE = 2**20
OF_A_THREAD = 512


def explain_ensemble(
    specs: Sequence[Spec], x: Tensor, *, backend: Backend = "auto", threads: int | None = None
) -> Choice:
    """Which backend :func:`train_ensemble` takes for these specifications, and why.

    Args:
        specs: the models.
        x: ``[N, d]``; of a tensor without columns only the device counts, and the size of the models does not.
        backend, threads: see :func:`train_ensemble`.

    Raises:
        InputError: no specifications, not a tensor, not a positive number of threads, or an unknown backend.
        RuntimeError: the named backend cannot serve; says why.
    """
    check_tensor("x", x)
    check_kinds(specs)
    shapes = [(len(x), x.shape[1])] * len(specs) if x.dim() == 2 else []
    return choose(specs, x, shapes, backend, check_threads(threads))


def check_threads(threads: int | None) -> int:
    """PyTorch's number if none is given. Raises InputError if it is not a positive integer."""
    return torch.get_num_threads() if threads is None else check_integer("threads", threads, 1)


def choose(
    specs: Sequence[Spec], x: Tensor, shapes: Sequence[tuple[int, int]], backend: Backend, threads: int = 1
) -> Choice:
    """``shapes``: number of samples and width of each model's data; if there are none, no model counts as large."""
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {BACKENDS}, got {backend!r}")
    choice = explain(x, backend=backend)
    if choice.backend == "triton":
        return Choice("reference", f"there is no engine in Triton, and {extension.cuda_missing_because}")
    if choice.backend != "reference":
        for index, spec in enumerate(specs):
            beyond = spec.beyond_engines
            if not beyond and choice.backend == "cuda" and cast(ModelSpec, spec).covariance != "diagonal":
                beyond = "has a full covariance on a GPU"
            if beyond:
                obstacle = f"specs[{index}] {beyond}, which only 'reference' trains"
                if backend != "auto":
                    raise RuntimeError(f"backend {backend!r} cannot serve this ensemble: {obstacle}")
                return Choice("reference", obstacle)
    if choice.backend == "cpu" and backend == "auto" and shapes:
        return _unless_large(choice, specs, shapes, threads)
    return choice


def _unless_large(choice: Choice, specs: Sequence[Spec], shapes: Sequence[tuple[int, int]], threads: int) -> Choice:
    batches = [min(spec.training.batch_size, samples) for spec, (samples, _) in zip(specs, shapes, strict=True)]
    busy = min(threads, sum(-(-batch // OF_A_THREAD) for batch in batches))
    most = LARGE * busy // threads
    work = large = 0
    for spec, batch, (_, width) in zip(specs, batches, shapes, strict=True):
        numbers = weights(spec, width)
        of_all_steps = numbers * batch * spec.training.steps
        work += of_all_steps
        large += of_all_steps if numbers > most else 0
    if 2 * large > work:
        reason = f"most of the work is for models with more than {most:,} weights, on {busy} of {threads} threads"
        return Choice("reference", reason)
    return choice
