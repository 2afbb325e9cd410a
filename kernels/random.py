"""Noise as a pure function of (seed, row, column), by Philox4x32-10 and Box and Muller, in plain PyTorch; and the order
of the samples in an epoch, as one of (seed, epoch, place).

This is the definition; ``philox.h``, ``normal.h`` and ``permutation.h`` in ``csrc/include/manifold_core/`` repeat it in
C++. Element (row, column) is word ``column % 4`` of the block with counter
``(column // 4, row low, row high, stream)`` and key ``(seed low, seed high)``. Reference: Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3" (SC 2011).
"""

import math

import torch
from torch import Tensor

from .checks import integer

__all__ = ["draw_seed", "noise_words", "permutation", "philox4x32_10", "standard_normal"]

LOW_WORD = 0xFFFFFFFF
STREAM_NOISE, STREAM_ORDER = 0, 1  # what a block of words is used for; a number once given never changes its meaning


def draw_seed(seed: int | Tensor | None, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The seed of one call: an int64 tensor of no dimensions on ``device``.

    A given ``seed`` is used as it is; else one is drawn from ``generator``, or from torch's global one. Drawing it on
    the device keeps CUDA graphs and torch.compile working, and nothing waits for the device. Only an explicit generator
    breaks the graph of torch.compile, which ``fullgraph=True`` does not allow.

    Raises:
        TypeError: ``generator`` is not a generator.
        ValueError: both are given, or the seed is out of range or not a scalar int64.
    """
    if seed is None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
        return torch.randint(2**63 - 1, (), dtype=torch.int64, device=device, generator=generator)
    if generator is not None:
        raise ValueError("give either seed or generator, not both")
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.dim() != 0 or seed.device != device:
            raise ValueError(
                f"seed must be an int64 tensor of no dimensions on {device}, "
                f"got {seed.dtype} of shape {tuple(seed.shape)} on {seed.device}"
            )
        return seed
    number = integer(seed)
    if number is None or not 0 <= number < 2**63:
        raise ValueError(f"seed must be an integer from 0 to 2**63 - 1, got {seed!r}")
    return torch.full((), number, dtype=torch.int64, device=device)


def _multiply(a: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product; int64 wraps around, which leaves the low 64 bits right."""
    product = a * factor
    return (product >> 32) & LOW_WORD, product & LOW_WORD


def philox4x32_10(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox on 32-bit words held in int64 tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & LOW_WORD, (k1 + 0xBB67AE85) & LOW_WORD
    return c0, c1, c2, c3


def _words(seed: Tensor, row: Tensor, cols: int, stream: int) -> Tensor:
    """The words of some rows, int64 ``[R, 4 * ceil(cols / 4)]``; ``row`` is int64 ``[R]``."""
    shape = row.shape[0], (cols + 3) // 4
    counter = (
        torch.arange(shape[1], device=row.device).expand(shape),
        (row & LOW_WORD).unsqueeze(1).expand(shape),
        ((row >> 32) & LOW_WORD).unsqueeze(1).expand(shape),
        row.new_full((), stream).expand(shape),
    )
    words = philox4x32_10(counter, (seed & LOW_WORD, (seed >> 32) & LOW_WORD))
    return torch.stack(words, dim=-1).flatten(1)


def noise_words(seed: Tensor, rows: int, cols: int, first_row: int = 0) -> Tensor:
    """The random word of each element, int64 ``[rows, 4 * ceil(cols / 4)]`` on the seed's device."""
    return _words(seed, torch.arange(first_row, first_row + rows, device=seed.device), cols, STREAM_NOISE)


def standard_normal(seed: Tensor, rows: int, cols: int, first_row: int = 0) -> Tensor:
    """Independent N(0, 1) values, float64 ``[rows, cols]``:  r cos(a) and r sin(a) from each pair of words, with
    r = sqrt(-2 log((w0 + ½) / 2³²)) and a = 2π (w1 + ½) / 2³².

    Narrower dtypes round these values: the noise of one seed is the same in every dtype.
    """
    pairs = 2 * ((cols + 3) // 4)
    w0, w1 = noise_words(seed, rows, cols, first_row).reshape(rows, pairs, 2).unbind(-1)
    radius = torch.sqrt(-2.0 * torch.log((w0.double() + 0.5) * 2.0**-32))
    # The quadrant is split off the integer, exactly, so that a cosine keeps all digits near its zeros.
    quadrant = ((w1 + 2**29) >> 30) & 3
    offset = (w1 + 2**29) % 2**30 - 2**29
    angle = (2 * offset + 1).double() * (math.pi / 2**32)
    cosine, sine = angle.cos(), angle.sin()
    odd = (quadrant & 1).bool()
    cosine, sine = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    cosine = torch.where(((quadrant + 1) & 2).bool(), -cosine, cosine)
    sine = torch.where((quadrant & 2).bool(), -sine, sine)
    normal = torch.stack((radius * cosine, radius * sine), dim=-1)
    return normal.reshape(rows, 2 * pairs)[:, :cols]


def _scramble(x: Tensor) -> Tensor:
    """A hash of 32-bit words held in int64, which wraps around and leaves the low 64 bits right."""
    x = (x * 0x9E3779B1) & LOW_WORD
    x = ((x ^ (x >> 15)) * 0x85EBCA77) & LOW_WORD
    return x ^ (x >> 13)


def _feistel(value: Tensor, keys: Tensor, bits: int) -> Tensor:
    """Eight Feistel rounds on words of ``bits`` bits. Each changes one half by a function of the other, and so can be
    undone, whatever the function. The keys are ``[..., 8]``."""
    low_bits = bits // 2
    low_mask, high_mask = 2**low_bits - 1, 2 ** (bits - low_bits) - 1
    low, high = value & low_mask, value >> low_bits
    key = keys.unbind(-1)
    for i in range(0, 8, 2):
        high = high ^ (_scramble(low ^ key[i]) & high_mask)
        low = low ^ (_scramble(high ^ key[i + 1]) & low_mask)
    return (high << low_bits) | low


def permutation(seed: Tensor, epoch: Tensor, places: Tensor, n: int) -> Tensor:
    """π(place) = F(F(… F(place))), F applied until the result is below n: the sample at each place of an epoch.

    F is a Feistel network of eight rounds on as many bits as n − 1 has, at least two. Its keys are the Philox words of
    columns 0 to 7 of (seed, row = epoch), in a stream of their own. F permutes all words of that many bits, and so π
    permutes [0, n): from a place below n the cycle of F leads back below n. There is no table, and for n > 2 a place
    costs fewer than two evaluations of F on average.

    Args:
        seed: int64 ``[]``.
        epoch: int64 ``[E]``.
        places: int64 ``[E, P]`` from 0 to n − 1: row e holds places of ``epoch[e]``.
        n: from 1 to 2³².

    Returns:
        int64 ``[E, P]``.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002): the walk along the cycle.
    """
    bits = max(2, (n - 1).bit_length())
    keys = _words(seed, epoch, 8, STREAM_ORDER)
    value = _feistel(places, keys.unsqueeze(1), bits)
    while len(row := (outside := value >= n).nonzero()[:, 0]):
        value[outside] = _feistel(value[outside], keys[row], bits)
    return value
