"""Independent random streams from one seed."""

import hashlib

import torch

from ..arguments import check_integer

__all__ = ["stream"]


def stream(seed: int, purpose: str) -> torch.Generator:
    """CPU generator seeded with the first 4 bytes, little-endian, of SHA-256 of ``"{seed}/{purpose}"``.

    Streams of one seed with different purposes are independent, so more draws from one never move another.
    Four bytes, because the CPU generator of PyTorch (MT19937) uses no more of its seed.

    Raises:
        InputError: ``seed`` is not an integer; every integer will do, negative ones too.
    """
    digest = hashlib.sha256(f"{check_integer('seed', seed)}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
