"""Triton's interpreter, which runs its kernels on the CPU where there is no GPU."""

import importlib.util
import os
from typing import Any

import pytest
import torch

INTERPRETED = importlib.util.find_spec("triton") is not None and not torch.cuda.is_available()
IN_THE_INTERPRETER = pytest.mark.skipif(
    not INTERPRETED,
    reason="Triton takes CPU tensors in its interpreter alone: where it is installed, and there is no GPU",
)


def mend() -> None:
    """The interpreter asks int() of arrays with one number, which numpy refuses in later versions; and for each
    call of a function inside a kernel it patches the language again, which takes most of its time."""
    from triton import language
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch
    patched: set[str] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = self.fn.__module__
        if module not in patched and language not in self.fn.__globals__.values():  # Triton's own, such as tl.sum
            interpreter._patch_lang(self.fn)
            patched.add(module)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


def prepare_interpreter() -> None:
    if INTERPRETED:
        os.environ["TRITON_INTERPRET"] = "1"
        mend()
