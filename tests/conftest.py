"""What all tests share: how hypothesis searches, memory that holds rubbish before a result is written to it, and, where
there is no GPU, Triton's interpreter."""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from threads import on_one_thread
from torch import Tensor


def mend_interpreter() -> None:
    """Triton's interpreter asks int() of arrays with one number, which numpy refuses in later versions; and for each
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


if importlib.util.find_spec("triton") is not None and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before a kernel is defined
    mend_interpreter()


# The same examples on every run: a failure in CI is one that a developer can repeat. No deadline: nothing is timed.
# The fixtures of the tests hold no state that an example could change.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_packaging.py")


M_PERTURB = -6  # glibc: each block is filled with the complement of this byte before malloc hands it out
BUFFERS = 12  # of one size: more than the allocator keeps aside before it hands freed memory out again


def fill_new_memory(byte: int) -> None:
    """From now on every allocation begins as the complement of this byte; 0 ends that. Other C libraries ignore it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, byte)


def fill_free_memory_with_nan(sizes: Iterable[int]) -> None:
    """Leave NaN, of every floating type, in the memory that the next tensors of so many bytes are likely to get."""
    buffers = [torch.full((size,), 0xFF, dtype=torch.uint8) for size in sizes for _ in range(BUFFERS)]
    del buffers


@pytest.fixture
def poisoned() -> Callable[[Callable[[], tuple[Tensor | None, ...]]], tuple[Tensor, ...]]:
    """``poisoned(f)`` is f(), a tuple of tensors, after a check that it writes every element of them.

    f is called twice, in memory full of 0xFE, which is about -1e38, and in memory that was last full of NaN. Both
    calls have to agree to the last bit.
    """

    def run(function: Callable[[], tuple[Tensor | None, ...]]) -> tuple[Tensor, ...]:
        fill_new_memory(0x01)
        try:
            first = function()
        finally:
            fill_new_memory(0)
        fill_free_memory_with_nan(result.nbytes for result in first if result is not None)
        second = function()
        for a, b in zip(first, second, strict=True):
            if a is not None:
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        return second

    return run


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For the tests of a module."""
    with on_one_thread():
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second a run."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
