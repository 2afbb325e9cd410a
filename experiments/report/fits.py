"""The columns of a fit, a slope over log γ."""

import math
from collections.abc import Callable

from .results import Fit
from .text import BY_DECODER, NOTHING, fixed, integer, label, significant

__all__ = ["WORDS_OF_FIT", "columns_of_fit"]

# What falls with γ, and as which power of it.
_EXPONENTS: tuple[tuple[str, Callable[[Fit], tuple[float, ...]]], ...] = (
    ("squared error ∝ γ^", lambda fit: fit.recon),
    ("active variances ∝ γ^", lambda fit: fit.active_variance),
    ("inactive ∝ γ^", lambda fit: fit.inactive_variance),
)
LEVEL = "inactive at the smallest γ"  # 1 by the theorems: as a power of γ, any constant is as good
MODELS, ACTIVE = "models", "active dimensions, in the order of the points"
WORDS_OF_FIT = (MODELS, ACTIVE, BY_DECODER)  # the others are numbers


def columns_of_fit(fit: Fit) -> dict[str, str]:
    """The cells of a fit, by the heads of their columns; that of the decoder only if it was measured."""
    found = {
        MODELS: label(fit),
        "expected": significant(fit.expected, 4),
        "slope": significant(fit.slope, 4, padded=True),
        "off by": f"{100 * fit.error:.2f} %" if math.isfinite(fit.error) else NOTHING,
        "between the last two": significant(fit.last_slope, 4, padded=True),
        "intercept": fixed(fit.intercept),
        "R²": fixed(fit.r_squared, 4),
        "points": str(len(fit.points)),
        **{name: fixed(fit.exponent(values(fit))) for name, values in _EXPONENTS},
        LEVEL: fixed(fit.inactive_variance[-1], 3) if fit.inactive_variance else NOTHING,
        ACTIVE: ", ".join(map(integer, fit.active_dimensions)),
    }
    if fit.local_dimensions:
        found[BY_DECODER] = ", ".join(map(integer, fit.local_dimensions))
    return found
