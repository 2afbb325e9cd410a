"""How many threads PyTorch has."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_one_thread() -> AbstractContextManager[None]:
    """Tensors of the tests' sizes gain nothing from threads, which wait for each other on a busy machine."""
    return threads(1)


def assert_same_on_threads(
    numbers: Sequence[int], function: Callable[..., Sequence[Tensor]], *arguments: object
) -> None:
    """Bit for bit the same results, whatever the number of threads."""
    found = []
    for number in numbers:
        with threads(number):
            found.append(function(*arguments))
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))
