"""What all tests share: how hypothesis searches, and, where there is no GPU, Triton's interpreter."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from interpreter import prepare_interpreter
from threads import on_one_thread

prepare_interpreter()  # before a kernel is defined


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
