"""The order of the samples: a permutation computed place by place, the same in Python and C++, without pattern."""

import itertools
from types import ModuleType

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from manifold_core.kernels.random import STREAM_NOISE, STREAM_ORDER, noise_words, permutation
from scipy import stats
from torch import Tensor

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 2**62)

# seed, epoch, n, place, sample. These never change: a seed keeps its meaning.
KNOWN_PLACES = [
    (0, 0, 1, 0, 0),
    (0, 0, 2, 1, 1),
    (3, 2, 10, 0, 8),
    (3, 2, 10, 9, 1),
    (1, 0, 1000, 999, 723),
    (2147483647, 7, 100000, 0, 38320),
    (5, 4294967297, 65537, 65536, 13078),
    (9223372036854775807, 4611686018427387904, 4294967295, 4294967294, 2598208912),
    (42, 1, 4294967296, 0, 2507074352),
    (42, 1, 4294967296, 4294967295, 999279646),
]


def order(seed: int, epochs: list[int], n: int) -> Tensor:
    """All places of each epoch, ``[E, n]``."""
    return permutation(torch.tensor(seed), torch.tensor(epochs), torch.arange(n).unsqueeze(0), n)


def plainly(seed: int, epoch: int, place: int, n: int) -> int:
    """The definition in Python's own integers."""
    keys = oracles.philox_words(seed, epoch, 8, stream=1)
    bits = 2
    while 2**bits < n:
        bits += 1
    half = bits // 2
    while True:
        left, right = divmod(place, 2**half)
        for number, key in enumerate(keys):
            word = ((left if number % 2 else right) ^ key) * 0x9E3779B1 % 2**32
            word = (word ^ word // 2**15) * 0x85EBCA77 % 2**32
            word ^= word // 2**13
            if number % 2:
                right ^= word % 2**half
            else:
                left ^= word % 2 ** (bits - half)
        place = left * 2**half + right
        if place < n:
            return place


@pytest.mark.parametrize("n", range(1, 71))
def test_every_sample_has_one_place(n: int) -> None:
    for seed in (0, 1, 2**31 - 1):
        found = order(seed, [0, 1, 2, 10**9], n)
        assert found.dtype == torch.int64
        assert torch.equal(found.sort(dim=1).values, torch.arange(n).expand(4, n))


@given(SEEDS, EPOCHS, st.one_of(st.integers(71, 40_000), st.integers(6, 15).map(lambda bits: 2**bits + 1)))
def test_every_sample_of_many_has_one_place(seed: int, epoch: int, n: int) -> None:
    assert torch.equal(order(seed, [epoch], n)[0].sort().values, torch.arange(n))


@given(SEEDS, EPOCHS, st.integers(1, 2**32), st.data())
def test_python_and_cpp_and_plain_integers_agree(
    compiled: ModuleType, seed: int, epoch: int, n: int, data: st.DataObject
) -> None:
    places = [*data.draw(st.lists(st.integers(0, n - 1), max_size=4)), n - 1]
    expected = [plainly(seed, epoch, place, n) for place in places]
    assert permutation(torch.tensor(seed), torch.tensor([epoch]), torch.tensor([places]), n)[0].tolist() == expected
    bound = compiled.permutation(seed, epoch, np.array(places, dtype=np.uint32), n)
    assert bound.dtype == np.uint32
    assert bound.tolist() == expected


@given(SEEDS, EPOCHS, st.integers(1, 300))
def test_python_and_cpp_agree_on_whole_epochs(compiled: ModuleType, seed: int, epoch: int, n: int) -> None:
    bound = compiled.permutation(seed, epoch, np.arange(n, dtype=np.uint32), n)
    assert order(seed, [epoch], n)[0].tolist() == bound.tolist()


def test_the_binding_refuses_a_place_out_of_range(compiled: ModuleType) -> None:
    with pytest.raises(ValueError, match="places must be below n"):
        compiled.permutation(0, 0, np.array([5], dtype=np.uint32), 5)


def test_a_place_does_not_depend_on_the_others_of_a_call() -> None:
    """Epochs of different keys in one call, places in any order and more than once."""
    seed, places = torch.tensor(7), torch.tensor([[4, 0, 4, 999], [1, 2, 3, 0], [0, 500, 1, 2]])
    found = permutation(seed, torch.tensor([3, 0, 2**40]), places, 1000)
    for row, epoch in enumerate((3, 0, 2**40)):
        assert found[row].tolist() == order(7, [epoch], 1000)[0, places[row]].tolist()


@pytest.mark.parametrize(("seed", "epoch", "n", "place", "sample"), KNOWN_PLACES)
def test_an_order_never_changes(seed: int, epoch: int, n: int, place: int, sample: int) -> None:
    assert permutation(torch.tensor(seed), torch.tensor([epoch]), torch.tensor([[place]]), n).item() == sample


def test_order_and_noise_share_no_words() -> None:
    assert (STREAM_NOISE, STREAM_ORDER) == (0, 1)
    noise = noise_words(torch.tensor(5), 1, 8, first_row=3)[0].tolist()
    assert noise == oracles.philox_words(5, 3, 8, stream=0)
    assert not set(noise) & set(oracles.philox_words(5, 3, 8, stream=1))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_orders_of_few_samples_are_equally_frequent(n: int) -> None:
    counts = dict.fromkeys(itertools.permutations(range(n)), 0)
    for seed in range(20):
        for found in order(seed, list(range(500)), n).tolist():
            counts[tuple(found)] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("n", [5, 17, 64, 1000])
def test_every_sample_is_equally_likely_in_every_place(n: int) -> None:
    """Places and samples of 1000 in tens: 100 x 100 cells."""
    epochs, cells = 400, min(n, 100)
    counts = np.zeros((cells, cells))
    for seed in range(5):
        found = order(seed, list(range(epochs)), n).numpy()
        place = np.broadcast_to(np.arange(n), found.shape)
        np.add.at(counts, (place * cells // n, found * cells // n), 1)
    # Rows and columns add up to the same, whatever the order: what is free are (cells - 1)² counts, and their variance
    # is smaller than a multinomial's by what the fixed sums take.
    size = n // cells if n % cells == 0 else 1
    expected = 5 * epochs * n / cells**2
    variance = 5 * epochs * size**2 * (n - size) ** 2 / (n**2 * (n - 1))
    statistic = ((counts - expected) ** 2).sum() / variance * (cells - 1) ** 2 / cells**2
    assert stats.chi2((cells - 1) ** 2).cdf(statistic) == pytest.approx(0.5, abs=0.4995)


@pytest.mark.parametrize("n", [10, 1000, 1025])
@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbouring_places_are_not_correlated(n: int, lag: int) -> None:
    """Spearman's correlation of a sample with the one some places later: −1/(n − 1) on average, variance about 1/n."""
    found = torch.cat([order(seed, list(range(200)), n) for seed in range(5)]).double()
    centred = found - (n - 1) / 2
    correlation = (centred * centred.roll(lag, dims=1)).mean(dim=1) * 12 / (n**2 - 1)
    error = correlation.std() / len(correlation) ** 0.5
    assert abs(correlation.mean() + 1 / (n - 1)) < 4 * error
    assert error == pytest.approx((1 / n / len(correlation)) ** 0.5, rel=0.2)


@pytest.mark.parametrize("n", [10, 1000, 1025])
def test_orders_of_different_epochs_and_seeds_are_not_correlated(n: int) -> None:
    """Spearman's correlation of neighbours: mean 0 and variance 1/(n − 1)."""
    orders = torch.stack([order(seed, list(range(100)), n) for seed in range(12)]).double()
    centred = orders - (n - 1) / 2
    pairs = {"epochs": (centred[:, 1:], centred[:, :-1]), "seeds": (centred[1:], centred[:-1])}
    for name, (a, b) in pairs.items():
        correlation = (a * b).mean(dim=-1) * 12 / (n**2 - 1)
        count = correlation.numel()
        assert abs(correlation.mean()) < 4 / ((n - 1) * count) ** 0.5, name
        assert correlation.var() * (n - 1) == pytest.approx(1, abs=5 * (2 / count) ** 0.5), name
