"""Weights that a seed determines."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

__all__ = ["drawn_from"]


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Weights made here are those of the seed, float32 and drawn on the CPU, whatever torch's defaults are, but for
    ``torch.device("meta")``, which draws none. torch's global generators and defaults are left alone."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    # torch.device as a context does not stand a stop on its way in or out.
    drawn_on = nullcontext() if device.type in ("cpu", "meta") else torch.device("cpu")
    with torch.random.fork_rng(devices=[]), drawn_on:
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
