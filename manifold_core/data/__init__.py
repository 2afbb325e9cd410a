"""Data sets: made, published, or the user's own."""

from .dataset import Dataset
from .files import load_file
from .images import find_images, load_images
from .synthetic import synthetic_manifold

__all__ = ["Dataset", "find_images", "load_file", "load_images", "synthetic_manifold"]
