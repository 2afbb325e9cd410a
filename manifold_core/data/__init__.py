"""Data sets: made, published, or the user's own."""

from .arma import arma_windows
from .conditional import conditional_manifold, varying_condition
from .dataset import Dataset
from .files import load_file
from .images import find_images, load_images
from .standardisation import Standardisation
from .synthetic import synthetic_manifold
from .union import union_of_manifolds

__all__ = [
    "Dataset",
    "Standardisation",
    "arma_windows",
    "conditional_manifold",
    "find_images",
    "load_file",
    "load_images",
    "synthetic_manifold",
    "union_of_manifolds",
    "varying_condition",
]
