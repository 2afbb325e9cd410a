"""The compiled modules, or the reason why they are missing. Importing them registers the operators with torch."""

import importlib
import importlib.util
import re
import warnings
from types import ModuleType

import torch  # before the compiled modules, which need its libraries loaded

__all__ = ["compiled", "cuda_missing_because", "missing_because", "nodes", "nodes_missing_because"]

compiled: ModuleType | None = None
missing_because = ""
try:
    compiled = importlib.import_module(".._C", __package__)
except ModuleNotFoundError:
    missing_because = (
        "the compiled module is not built; install a C++17 compiler (g++ or clang++) and reinstall manifold-core"
    )
except ImportError as error:  # it was built, so the user counts on it
    missing_because = f"the compiled module does not load: {error}"
    warnings.warn(f"{missing_because}; manifold_core works on its reference backend", RuntimeWarning, stacklevel=2)


def _load_cuda_kernels() -> str:
    """Why they are missing; empty once they are loaded. Does not look for a device, so the process can still fork."""
    spec = importlib.util.find_spec(".._C_cuda", __package__)
    if spec is None or spec.origin is None:
        return "the CUDA kernels are not built; have nvcc and a torch for CUDA in place and reinstall manifold-core"
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        reason = f"the CUDA kernels do not load: {error}"
        warnings.warn(f"{reason}; manifold_core works without them", RuntimeWarning, stacklevel=3)
        return reason
    return ""


cuda_missing_because = _load_cuda_kernels()

# The autograd nodes in C++ fit one version of torch, which setup.py puts into their name: any other finds none.
nodes: ModuleType | None = None
nodes_missing_because = ""
try:
    _version = re.sub(r"\W", "_", torch.__version__.partition("+")[0])
    nodes = importlib.import_module(f".._autograd_{_version}", __package__)
except ImportError as error:
    nodes_missing_because = f"not built for torch {torch.__version__}; small calls are slower ({error})"
