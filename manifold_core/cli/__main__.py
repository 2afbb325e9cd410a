"""``python -m manifold_core.cli``, as ``torchrun -m manifold_core.cli`` starts it."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
