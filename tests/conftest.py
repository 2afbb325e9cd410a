"""What all tests share: how hypothesis searches, and, where there is no GPU, Triton's interpreter."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from threads import on_one_thread


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For the tests of a module."""
    with on_one_thread():
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second a run."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
