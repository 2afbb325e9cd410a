"""The compiled module, or the reason why there is none. Importing it registers the operators with torch."""

import importlib
import warnings
from types import ModuleType

import torch  # noqa: F401  (the compiled module finds torch's libraries already loaded)

__all__ = ["compiled", "cuda_missing_because", "missing_because"]

compiled: ModuleType | None = None
missing_because = ""
try:
    compiled = importlib.import_module(".._C", __package__)
except ModuleNotFoundError:
    missing_because = (
        "the compiled module is not built; install a C++17 compiler (g++ or clang++) and reinstall manifold-core"
    )
except ImportError as error:  # it is there, so somebody counts on it
    missing_because = f"the compiled module does not load: {error}"
    warnings.warn(f"{missing_because}; manifold_core works on its reference backend", RuntimeWarning, stacklevel=2)

# Empty once the compiled kernels for CUDA tensors are loaded.
cuda_missing_because = "the CUDA kernels are not built"
