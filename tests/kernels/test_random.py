import math
from types import ModuleType

import mpmath
import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import lay_out
from manifold_core.kernels import extension
from manifold_core.kernels.random import draw_seed, noise_words, philox4x32_10, standard_normal
from poison import poisoned
from scipy import stats
from threads import assert_same_on_threads
from torch import Tensor

import manifold_core as mc

# seed, row, column, word, and the noise by mpmath. These never change: the seed in someone's paper keeps its meaning.
KNOWN_NOISE = [
    (0, 0, 0, 0x6627E8D5, 0.9911376799303858),
    (0, 0, 1, 0xE169C58D, -0.924662587665535),
    (0, 0, 2, 0xBC57AC4C, -0.6176089594591906),
    (0, 0, 3, 0x9B00DBD8, -0.4820685874871797),
    (1, 0, 4, 0xAC08141B, 0.6269478532419017),
    (42, 7, 13, 0x62E4195F, 1.4887354451518842),
    (2**32, 2**32, 0, 0x7F6C13FF, 1.0764305184009269),
    (2**63 - 1, 2**40 + 3, 1001, 0xB18E61C6, -1.759525471071758),
    (20260101, 123456789, 6, 0xB8E01C6D, 0.010078596956974337),
]

# row, column, word: where seed 1 has the words at which a radius is largest, smallest or computed in another way, and
# at which an angle is as close to a multiple of pi/4 as it gets, from either side. From a search through 2**33 rows.
EXTREME_WORDS = [
    (1584056743, 2, 0x00000000),
    (8284874539, 0, 0x00000000),
    (1383420613, 0, 0x00000001),
    (758802067, 2, 0x00000001),
    (1017386737, 0, 0xB504F333),
    (664363121, 2, 0xB504F333),
    (725537248, 2, 0xB504F334),
    (652170290, 0, 0xFFFFFFFE),
    (1617406869, 2, 0xFFFFFFFE),
    (4126510883, 0, 0xFFFFFFFF),
    (6082069811, 2, 0xFFFFFFFF),
    (1546927590, 1, 0x00000000),
    (1105669362, 3, 0x00000000),
    (765644447, 1, 0x1FFFFFFF),
    (2606374269, 1, 0x20000000),
    (2077609565, 3, 0x20000000),
    (2833426987, 1, 0x3FFFFFFF),
    (464740063, 3, 0x3FFFFFFF),
    (7054139370, 1, 0x40000000),
    (1280264404, 3, 0x40000000),
    (4597418329, 3, 0x5FFFFFFF),
    (1862701756, 1, 0x60000000),
    (7013616272, 3, 0x60000000),
    (790214423, 1, 0x7FFFFFFF),
    (1687828648, 3, 0x7FFFFFFF),
    (7184219308, 1, 0x80000000),
    (7038760873, 3, 0x80000000),
    (1781177725, 3, 0x9FFFFFFF),
    (1593447637, 1, 0xA0000000),
    (2506724970, 3, 0xA0000000),
    (2543778316, 1, 0xBFFFFFFF),
    (3880518784, 1, 0xC0000000),
    (2559758263, 3, 0xC0000000),
    (6104332042, 1, 0xDFFFFFFF),
    (4974930826, 3, 0xDFFFFFFF),
    (941813803, 1, 0xE0000000),
    (3866877468, 3, 0xE0000000),
    (2919165377, 1, 0xFFFFFFFF),
    (2249695892, 3, 0xFFFFFFFF),
]

# More columns than a tile has, fewer than a block has; rows around the edge of the counter's second word.
SHAPES = [(40, 37, 0), (300, 5, 7), (7, 1, 2**32 - 3), (3, 701, 2**32 - 1), (2, 512, 5), (2, 513, 2**62), (65, 8, 0)]

SEEDS = st.integers(-(2**63), 2**63 - 1)


def noise(
    backend: str, seed: int, rows: int, cols: int, first_row: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The noise as a caller gets to see it: mean 0, variance 1."""
    zeros = torch.zeros((), dtype=dtype).expand(rows, cols)
    return mc.rsample_kl(zeros, zeros, seed=seed, first_row=first_row, backend=backend)[0]


def box_muller(seed: int, rows: int, cols: int, first_row: int = 0) -> Tensor:
    """The definition, evaluated with 30 digits from the words."""
    words = noise_words(torch.tensor(seed), rows, cols, first_row).tolist()
    with mpmath.workdps(30):
        half, size = mpmath.mpf(0.5), mpmath.mpf(2) ** 32
        numbers = []
        for row in words:
            for w0, w1 in zip(row[::2], row[1::2], strict=True):
                radius, angle = mpmath.sqrt(-2 * mpmath.log((w0 + half) / size)), 2 * mpmath.pi * (w1 + half) / size
                numbers += [float(radius * mpmath.cos(angle)), float(radius * mpmath.sin(angle))]
    return torch.tensor(numbers, dtype=torch.float64).reshape(rows, -1)[:, :cols]


@pytest.fixture(scope="module")
def exact_noise() -> dict[tuple[int, int, int], Tensor]:
    """By mpmath, for each of SHAPES; seed 3."""
    return {shape: box_muller(3, *shape) for shape in SHAPES}


@pytest.mark.parametrize(("counter", "key", "words"), oracles.PHILOX)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    found = philox4x32_10(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(word.item() for word in found) == words


@pytest.mark.parametrize(("counter", "key", "words"), oracles.PHILOX)
def test_philox_known_answers_of_the_binding(
    compiled: ModuleType, counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    found = compiled.philox4x32_10(counter, key)
    assert found.dtype == np.uint32
    assert tuple(found.tolist()) == words


@given(SEEDS, st.integers(0, 2**62), st.integers(0, 9), st.integers(0, 70))
def test_words_of_reference_and_binding_agree(
    compiled: ModuleType, seed: int, first_row: int, rows: int, cols: int
) -> None:
    words = noise_words(torch.tensor(seed), rows, cols, first_row)
    assert words.shape == (rows, (cols + 3) // 4 * 4)
    bound = compiled.noise_words(seed % 2**64, rows, cols, first_row)
    assert bound.dtype == np.uint32
    assert bound.shape == (rows, cols)
    np.testing.assert_array_equal(words[:, :cols].numpy(), bound)


@pytest.mark.parametrize("seed", [0, 1, 0x123456789ABCDEF0, 2**63 - 1])
@pytest.mark.parametrize("row", [0, 1, 0xFFFFFFFF, 2**32, 0x0123456789ABCDEF])
def test_counter_and_key_are_what_the_contract_says(seed: int, row: int) -> None:
    words = noise_words(torch.tensor(seed), 1, 2100, row)[0]
    for col in (0, 1, 2, 3, 4, 7, 511, 512, 513, 2047, 2099):
        block = philox4x32_10(
            tuple(map(torch.tensor, (col // 4, row % 2**32, row // 2**32, 0))),
            (torch.tensor(seed % 2**32), torch.tensor(seed // 2**32)),
        )
        assert words[col] == block[col % 4]


@pytest.mark.parametrize(("seed", "row", "col", "word", "value"), KNOWN_NOISE)
def test_known_noise(backend: str, seed: int, row: int, col: int, word: int, value: float) -> None:
    assert noise_words(torch.tensor(seed), 1, col + 1, row)[0, col] == word
    found = noise(backend, seed, 1, col + 1, row, torch.float64)[0, col].item()
    assert found == pytest.approx(value, rel=1e-13, abs=0)
    assert noise(backend, seed, 1, col + 1, row)[0, col].item() == pytest.approx(value, rel=1e-6, abs=0)


# The definition is over the real numbers. float32 is within 4e-7 by its own account; the contract's number is 1e-6.
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_box_and_muller_of_the_words(
    backend: str,
    exact_noise: dict[tuple[int, int, int], Tensor],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    relative: float,
) -> None:
    (found,) = poisoned(lambda: (noise(backend, 3, *shape, dtype=dtype),))
    exact = exact_noise[shape]
    assert ((found.double() - exact).abs() <= relative * exact.abs()).all()


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_noise_of_extreme_words(backend: str, dtype: torch.dtype, relative: float) -> None:
    for row, col, word in EXTREME_WORDS:
        assert noise_words(torch.tensor(1), 1, 4, row)[0, col] == word
        exact = box_muller(1, 1, 4, row)
        found = noise(backend, 1, 1, 4, row, dtype).double()
        assert ((found - exact).abs() <= relative * exact.abs()).all(), (row, found, exact)


def test_standard_normal_is_the_noise_of_the_reference() -> None:
    found = standard_normal(torch.tensor(3), 6, 7, 2**33)
    assert found.dtype == torch.float64
    assert torch.equal(found, noise("reference", 3, 6, 7, 2**33, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_does_not_depend_on_the_number_of_threads(backend: str, dtype: torch.dtype) -> None:
    for rows, cols in ((3001, 37), (67, 1025)):
        assert_same_on_threads((1, 2, 3), lambda *shape: [noise(backend, 8, *shape, dtype=dtype)], rows, cols)


@pytest.mark.parametrize("first_row", [0, 2**32 - 20])
@pytest.mark.parametrize("cols", [1, 6, 37, 129, 600])
def test_noise_does_not_depend_on_the_split_of_the_batch(backend: str, cols: int, first_row: int) -> None:
    whole = noise(backend, 9, 41, cols, first_row)
    for split in ((41,), (1, 40), (5, 17, 19), (1,) * 41):
        starts = np.cumsum((0, *split[:-1])).tolist()
        parts = [noise(backend, 9, n, cols, first_row + s) for n, s in zip(split, starts, strict=True)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("cols", [1, 2, 3, 4, 5, 37, 126, 128, 130, 511, 512, 513, 777])
def test_noise_does_not_depend_on_the_number_of_columns(backend: str, cols: int) -> None:
    assert torch.equal(noise(backend, 10, 33, cols), noise(backend, 10, 33, 1030)[:, :cols])


@pytest.mark.parametrize("layout", ["first head", "second head", "transposed", "steps", "offset", "one number"])
def test_noise_does_not_depend_on_strides(backend: str, layout: str) -> None:
    zeros = torch.zeros(19, 23)
    for mu, log_var in ((lay_out(zeros, layout), zeros), (zeros, lay_out(zeros, layout))):
        z, _ = mc.rsample_kl(mu, log_var, seed=11, backend=backend)
        assert torch.equal(z, noise(backend, 11, 19, 23))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_noise_is_that_of_float32_rounded(backend: str, dtype: torch.dtype) -> None:
    assert torch.equal(noise(backend, 12, 50, 50, dtype=dtype), noise(backend, 12, 50, 50).to(dtype))


def test_noise_does_not_depend_on_the_instruction_set(compiled: ModuleType) -> None:
    before, found = compiled.instruction_set(), {}
    try:
        for name in compiled.supported_instruction_sets():
            compiled.use_instruction_set(name)
            assert compiled.instruction_set() == name
            found[name] = noise("cpu", 13, 1000, 50)
    finally:
        compiled.use_instruction_set(before)
    for other in found.values():  # to rounding
        assert ((other - found["portable"]).abs() <= 1e-6 * other.abs()).all()


def test_an_unknown_instruction_set_is_refused(compiled: ModuleType) -> None:
    before = compiled.instruction_set()
    with pytest.raises(ValueError, match=r"supported_instruction_sets.*'mmx'"):
        compiled.use_instruction_set("mmx")
    assert compiled.instruction_set() == before


# Thresholds of four standard errors and more: the seed is fixed, so these pass always or never.


def test_moments_and_distribution() -> None:
    x = noise("auto", 2026, 1000, 1000, dtype=torch.float64).flatten()
    n = len(x)
    # E x^2k = (2k - 1)!!, odd moments are 0; the variance of x^k is E x^2k - (E x^k)^2
    for k, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10395 - 225)):
        assert abs(x.pow(k).mean().item() - mean) < 4 * math.sqrt(variance / n), k
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3
    for part in (x[0::4], x[1::4], x[2::4], x[3::4]):  # of each lane of a block
        assert stats.kstest(part.numpy(), "norm").pvalue > 1e-3
    # P(max |x| < 4) is e^-63 and P(max |x| > 7) is 3e-6
    assert 4 < x.abs().max() < 7


@pytest.mark.parametrize("shape", [(1000, 1000), (250_000, 4)])
def test_neighbours_are_not_correlated(shape: tuple[int, int]) -> None:
    x = noise("auto", 2027, *shape, dtype=torch.float64)
    wide = (x.square() - 1) / math.sqrt(2)  # neighbours of a block share a radius: their squares would tell
    for lag in (1, 2, 3, 4, 5, 8, 64, 512):
        for a, b in (
            *((v[lag:], w[:-lag]) for v in (x, wide) for w in (x, wide)),
            *((v[:, lag:], w[:, :-lag]) for v in (x, wide) for w in (x, wide) if lag < shape[1]),
        ):
            assert abs((a * b).mean().item()) < 4.5 / math.sqrt(a.numel()), lag


@pytest.mark.parametrize("other", [2029, 2028 + 2**32, 2028 + 2**62, 0])
def test_different_seeds_give_unrelated_noise(other: int) -> None:
    a, b = (noise("auto", seed, 1000, 100, dtype=torch.float64) for seed in (2028, other))
    assert (a == b).sum() <= 2
    assert abs((a * b).mean().item()) < 4.5 / math.sqrt(a.numel())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distribution_of_100_million(dtype: torch.dtype) -> None:
    rows, cols, parts, bins = 10_000, 100, 100, 100_000
    n = rows * cols * parts
    counts, sums = torch.zeros(bins, dtype=torch.int64), torch.zeros(4, dtype=torch.float64)
    lagged, squares, tail = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64), 0
    for part in range(parts):
        x = noise("auto", 2030, rows, cols, part * rows, dtype).double()
        counts += torch.bincount((torch.special.ndtr(x) * bins).long().flatten(), minlength=bins)
        sums += torch.stack([x.pow(k).sum() for k in (1, 2, 3, 4)])
        lagged += torch.stack([(x[:, lag:] * x[:, :-lag]).sum() for lag in range(1, 9)])
        wide = (x.square() - 1) / math.sqrt(2)
        squares += torch.stack([(wide[:, lag:] * wide[:, :-lag]).sum() for lag in range(1, 9)])
        tail += int((x.abs() > 5).sum())
    for found, mean, variance in zip(sums.tolist(), (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(found / n - mean) < 4.5 * math.sqrt(variance / n)
    for correlated in (lagged, squares):
        for lag, found in enumerate(correlated.tolist(), start=1):
            assert abs(found) < 4.5 * math.sqrt(parts * rows * (cols - lag))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    # Kolmogorov and Smirnov's statistic, taken at the edges of the bins.
    distance = (counts.cumsum(0) / n - torch.arange(1, bins + 1) / bins).abs().max().item()
    assert stats.kstwobign.sf(distance * math.sqrt(n)) > 1e-4
    expected_tail = n * 2 * stats.norm.sf(5)
    assert abs(tail - expected_tail) < 4.5 * math.sqrt(expected_tail)


CPU = torch.device("cpu")


def test_a_drawn_seed_comes_from_the_generator() -> None:
    def seeds(start: int) -> list[int]:
        generator = torch.Generator().manual_seed(start)
        return [draw_seed(None, generator, CPU).item() for _ in range(20)]

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2)}) == 40
    assert all(0 <= seed < 2**63 for seed in seeds(1))
    assert max(seeds(1)) >= 2**32  # both words of the key are in use


def test_a_drawn_seed_comes_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    try:
        torch.manual_seed(4)
        first, second = draw_seed(None, None, CPU), draw_seed(None, None, CPU)
        torch.manual_seed(4)
        assert torch.equal(draw_seed(None, None, CPU), first)
        assert first != second
        assert first.dtype == torch.int64
        assert first.shape == ()
    finally:
        torch.set_rng_state(state)


def test_only_the_generator_that_was_asked_moves() -> None:
    state = torch.get_rng_state()
    mu = torch.zeros(3, 4)
    mc.rsample_kl(mu, mu, seed=5)
    mc.rsample_kl(mu, mu, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_given_seed_is_used_as_it_is() -> None:
    tensor = torch.tensor(77)
    assert draw_seed(tensor, None, CPU) is tensor
    for seed in (0, 77, 2**63 - 1):
        found = draw_seed(seed, None, CPU)
        assert (found.item(), found.dtype, found.shape) == (seed, torch.int64, ())


def test_noise_of_a_generator(backend: str) -> None:
    mu = torch.zeros(5, 6)
    first, second = torch.Generator().manual_seed(6), torch.Generator().manual_seed(6)
    a, b = (mc.rsample_kl(mu, mu, generator=first, backend=backend)[0] for _ in range(2))
    seed = draw_seed(None, second, CPU)
    assert torch.equal(a, mc.rsample_kl(mu, mu, seed=seed, backend=backend)[0])
    assert torch.equal(a, mc.rsample_kl(mu, mu, seed=seed.item(), backend=backend)[0])
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (1.0, r"seed must be an integer from 0 to 2\*\*63 - 1, got 1\.0"),
        (True, r"seed must be an integer .* got True"),
        (-1, r"seed must be an integer .* got -1"),
        (2**63, r"seed must be an integer .* got 9223372036854775808"),
        ("7", r"seed must be an integer .* got '7'"),
        (np.float32(2), r"seed must be an integer .* got .*2\.0"),
        (torch.tensor(1, dtype=torch.int32), r"seed must be an int64 tensor .* on cpu, got torch\.int32"),
        (torch.tensor(1.0), r"seed must be an int64 tensor .* got torch\.float32"),
        (torch.tensor([1]), r"seed must be an int64 tensor of no dimensions .* got torch\.int64 of shape \(1,\)"),
        (torch.empty((), dtype=torch.int64, device="meta"), r"seed must be an int64 tensor .* on cpu, got .* on meta"),
    ],
)
def test_a_bad_seed_is_refused(seed: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_seed(seed, None, CPU)
    mu = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=message):
        mc.rsample_kl(mu, mu, seed=seed)


def test_what_is_no_generator_is_refused() -> None:
    mu = torch.zeros(2, 3)
    for call in (lambda: draw_seed(None, 5, CPU), lambda: mc.rsample_kl(mu, mu, generator=5)):  # type: ignore[arg-type, call-overload]
        with pytest.raises(TypeError, match=r"^generator must be a torch\.Generator or None, got 5$"):
            call()


def test_a_compiled_function_draws_from_a_generator_too() -> None:
    """Between two graphs."""
    mu, generator = torch.zeros(2, 3), torch.Generator()

    def draw(mu: Tensor) -> Tensor:
        return mc.rsample_kl(mu, mu, generator=generator)[0]

    generator.manual_seed(1)
    expected = [draw(mu), draw(mu)]
    generator.manual_seed(1)
    compiled = torch.compile(draw, backend="aot_eager")
    for one in expected:
        assert torch.equal(compiled(mu), one)
    torch._dynamo.reset()


def test_seed_and_generator_together_are_refused() -> None:
    with pytest.raises(ValueError, match="either seed or generator, not both"):
        draw_seed(1, torch.Generator(), CPU)
    mu = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="either seed or generator, not both"):
        mc.rsample_kl(mu, mu, seed=1, generator=torch.Generator())


def test_the_compiled_module_says_what_it_is(compiled: ModuleType) -> None:
    assert extension.missing_because == ""
    names = compiled.supported_instruction_sets()
    assert names[0] == "portable"
    assert set(names) <= {"portable", "avx2", "avx512"}
    assert compiled.instruction_set() == names[-1]  # the widest, where nothing else was asked for
