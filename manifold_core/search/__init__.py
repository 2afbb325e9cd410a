"""The dimension of a data manifold, searched for by many models."""

from .find import DimensionSearch, find_dimension
from .plan import SearchPlan
from .trials import Trial

__all__ = ["DimensionSearch", "SearchPlan", "Trial", "find_dimension"]
