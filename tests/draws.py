"""What the synthetic data of a seed have to be, from NumPy's Mersenne Twister; no code of what is tested is used."""

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["WEIGHTS", "latents", "logits", "normals", "projection", "rank", "residual", "uniforms", "x"]

WEIGHTS = (0.2, 0.3, 0.5, 0.3, 0.2)

Array = npt.NDArray[Any]


def uniforms(seed: int, purpose: str, rows: int, columns: int) -> Array:
    """What `stream` and torch.rand have to give: 53 bits of two 32-bit words."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    bits: Any = np.random.MT19937()
    bits._legacy_seeding(int.from_bytes(digest[:4], "little"))
    words = bits.random_raw(2 * rows * columns).astype(np.uint64)
    return ((words[::2] << np.uint64(32) | words[1::2]) % np.uint64(2**53) / 2.0**53).reshape(rows, columns)


def normals(u: Array) -> tuple[Array, Array]:
    half = u.shape[1] // 2
    radius = np.sqrt(-2 * np.log1p(-u[:, :half]))
    return radius * np.cos(2 * np.pi * u[:, half:]), radius * np.sin(2 * np.pi * u[:, half:])


def latents(seed: int, purpose: str, n: int, r: int, place: str = "") -> Array:
    means, log_stds = normals(uniforms(seed, f"{place}mixture", len(WEIGHTS), 2 * r))
    u = uniforms(seed, f"{place}{purpose}", n, 1 + 2 * r)
    component = (u[:, :1] >= np.cumsum(WEIGHTS) / np.sum(WEIGHTS)).sum(axis=1)
    inner, outer = normals(u[:, 1:])
    return means[component] + np.exp(log_stds[component]) * inner + outer


def projection(seed: int, d: int, r: int, place: str = "") -> tuple[Array, Array]:
    entries = (2 * uniforms(seed, f"{place}projection", d, r + 1) - 1) / math.sqrt(r)
    return entries[:, :-1], entries[:, -1]


def x(u: Array, weight: Array, bias: Array) -> Array:
    return 1 / (1 + np.exp(-(u @ weight.T + bias)))


def logits(x: Array) -> tuple[Array, Array]:
    """Those samples whose features are all where float32 has kept the logit's digits: their logits, and which."""
    kept = ((x > 0.05) & (x < 0.95)).all(axis=1)
    features = x[kept].astype(np.float64)
    return np.log(features / (1 - features)), kept


def rank(rows: Array, tolerance: float = 1e-5) -> int:
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    return int((singular > tolerance * singular[0]).sum())


def residual(rows: Array, known: Array) -> Array:
    """What the best linear function of what is known leaves of the rows."""
    known = np.column_stack([known, np.ones(len(known))])
    return rows - known @ np.linalg.lstsq(known, rows, rcond=None)[0]
