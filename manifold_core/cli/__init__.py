"""The command line: ``dimension``, ``train``, ``reproduce``, ``eager``, ``report``, ``bench`` and ``info``."""

from .process import main
from .results import table

__all__ = ["main", "table"]
