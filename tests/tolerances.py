"""How far a result may be from the exact number."""

import torch
from dtypes import F32, F64
from torch import Tensor

# The error that the contract allows a number computed in that arithmetic, relative to the sum of the absolute values of
# the terms it is made of: the terms of a KL never cancel, so there it is the relative error.
ALLOWED = {F32: 1e-6, F64: 1e-13}
# Below its smallest normal number a type has no relative precision.
SMALLEST = {F32: 2.0**-126, F64: 2.0**-1022}
UNIT_ROUNDOFF = {F32: 2.0**-24, F64: 2.0**-53}


def sum_rounding(n: int, dtype: torch.dtype) -> float:
    """What rounding may add to a sum of n terms, relative to the sum of their absolute values.

    Of n terms added up in p partial sums it is at most (n / p + p) unit roundoffs. Both torch and the kernels have at
    least four partial sums and start new ones after 512 terms; a few roundoffs more belong to each term.
    """
    return (min(n, 512) / 4 + 8) * UNIT_ROUNDOFF[dtype]


def assert_within(name: str, actual: Tensor, expected: Tensor, bound: Tensor | float, arithmetic: torch.dtype) -> None:
    """A result is a number within the bound of what is expected, both float64, or in half precision the rounding of
    such a number. NaN and infinity have to be just that."""
    assert actual.shape == expected.shape, name
    expected, bound = expected.detach(), torch.as_tensor(bound) + SMALLEST[arithmetic]
    rounded, seen = expected.to(actual.dtype), actual.detach()
    if actual.dtype == arithmetic:
        near = (seen.double() - expected).abs() <= bound
    else:  # rounding is monotone
        near = (seen >= (expected - bound).to(seen.dtype)) & (seen <= (expected + bound).to(seen.dtype))
    good = (near & expected.isfinite()) | (seen == rounded) | (seen.isnan() & expected.isnan())
    if not good.all():
        where = tuple((~good).nonzero()[0].tolist())
        distance = (seen.double() - expected).abs() / (bound + 0 * expected)
        raise AssertionError(
            f"{name}{list(where)} is {seen[where].item()!r}, expected {expected[where].item()!r}, "
            f"{distance[where].item():.3g} bounds away; {int((~good).sum())} of {good.numel()} are wrong"
        )
