"""The compiled module, or the reason why there is none. Importing it registers the operators with torch."""

from types import ModuleType

import torch  # noqa: F401  (the compiled module finds torch's libraries already loaded)

__all__ = ["compiled", "missing_because"]

compiled: ModuleType | None
missing_because: str
try:
    from .. import _C as compiled  # type: ignore[attr-defined, no-redef]

    missing_because = ""
except ImportError as error:
    compiled = None
    built = not isinstance(error, ModuleNotFoundError) and "cannot import name" not in str(error)
    missing_because = (
        f"the compiled module does not load: {error}"
        if built
        else "the compiled module is not built; install a C++17 compiler (g++ or clang++) and reinstall manifold-core"
    )
