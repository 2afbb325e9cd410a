"""The compiled kernels, as each instruction set has them."""

from collections.abc import Iterator

import pytest
from manifold_core.kernels import extension

__all__ = ["CPU", "INSTRUCTION_SETS", "NEEDS_COMPILED", "ONCE", "use"]

INSTRUCTION_SETS = extension.compiled.supported_instruction_sets() if extension.compiled is not None else ["none"]
NEEDS_COMPILED = pytest.mark.skipif(extension.compiled is None, reason=extension.missing_because or "compiled")
CPU = [pytest.param(name, id=f"cpu-{name}", marks=NEEDS_COMPILED) for name in INSTRUCTION_SETS]
# The definition, and the compiled kernels once: for what does not depend on the instruction set.
ONCE = pytest.mark.parametrize("backend", [pytest.param("reference", id="reference"), CPU[-1]], indirect=True)


def use(name: str) -> Iterator[str]:
    """The name of a backend. Where it is the name of an instruction set, "cpu", which works with that set meanwhile."""
    if name == "reference":
        yield name
        return
    before = extension.compiled.instruction_set()
    extension.compiled.use_instruction_set(name)
    try:
        yield "cpu"
    finally:
        extension.compiled.use_instruction_set(before)
