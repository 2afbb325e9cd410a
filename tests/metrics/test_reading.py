"""What speaks for and against a dimension: each doubt where it is due, by bounds that were measured, and only there."""

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import manifold_core as mc
from manifold_core.metrics.neighbours import two_nn_of_cube
from manifold_core.metrics.reading import Reading
from manifold_core.metrics.residual import directions_of_noise, residual_directions, residuals
from manifold_core.metrics.subset import some_rows

SPECTRUM = torch.tensor([0.001, 0.001, 0.9, 1.0], dtype=torch.float64)
TWO = mc.LocalDimensions(SPECTRUM, torch.full((10,), 2), SPECTRUM)  # clear, by a gap of 900
NONE = mc.LocalDimensions(torch.ones(4), torch.zeros(10, dtype=torch.int64), torch.ones(4))


def reading(**changed: Any) -> Reading:
    """Of two dimensions in twenty, with nothing against them."""
    usual: dict[str, Any] = {
        "local": TWO,
        "two_nn": 1.95,
        "two_nn_of_cube": 1.97,
        "error_ratio": 1.1,
        "residual_directions": 15.0,
        "directions": 18,
        "features": 20,
        "samples": 540,
        "conditional": False,
    }
    return Reading(**usual | changed)


def test_nothing_speaks_against_what_is_usual() -> None:
    usual = reading()
    assert usual.doubts == ()
    assert usual.noise == ""
    assert json.loads(json.dumps(usual.as_dict())) == {
        "local": TWO.as_dict(),
        "doubts": [],
        "noise": "",
        "two_nn": 1.95,
        "two_nn_of_cube": 1.97,
        "error_ratio": 1.1,
        "residual_directions": 15.0,
        "directions": 18,
    }


def unclear(first: float) -> mc.LocalDimensions:
    spectrum = torch.tensor([first, 0.1, 0.27, 0.6])
    return mc.LocalDimensions(spectrum, torch.ones(1, dtype=torch.int64), spectrum)


def unlike(others: int) -> mc.LocalDimensions:
    """Two thirds of the samples have what is read, or fewer."""
    spectrum = torch.tensor([0.001, 0.5, 1.0, 1.0])
    return mc.LocalDimensions(spectrum, torch.tensor([1, 1, *others * [2]]), spectrum)


def all_of(count: int, directions: int) -> dict[str, Any]:
    """So many dimensions, clear and as neighbours see them, of samples that vary in so many directions."""
    spectrum = torch.full((count,), 0.001)
    local = mc.LocalDimensions(spectrum, torch.full((10,), count), spectrum)
    return {"local": local, "two_nn": 0.9 * count, "two_nn_of_cube": 0.9 * count, "directions": directions}


@pytest.mark.parametrize(
    ("doubtful", "fine", "said"),
    [
        (
            {"error_ratio": 4.0},
            {"error_ratio": 3.9},
            "fits its 540 training samples 4 times as well as those held out",
        ),
        (
            {"error_ratio": 4.1},
            {"error_ratio": None},
            "learned these samples more than the manifold; take more samples, or fewer",
        ),
        (
            {"local": NONE, "two_nn_of_cube": None},
            {},
            "no dimension from its 540 training samples: the 0 means nothing; take more steps",
        ),
        (
            {"local": unclear(0.0126)},
            {"local": unclear(0.0124)},
            "dimension 1 is a guess: the gap in the decoder's eigenvalues is 7.9, and clear only from 8 on",
        ),
        ({"local": unlike(2)}, {"local": unlike(1)}, "samples differ in dimension, 1 at 50 %, 2 at 50 % of them"),
        ({"two_nn": 1.64}, {"two_nn": 1.65}, "see 1.6 .* would see 2.0 in a flat space of 2 .* fewer than 2;"),
        ({"two_nn": 1.64}, {"two_nn": None}, "curved or closed"),
        ({"two_nn": 1.64}, {"two_nn_of_cube": None}, "curved or closed"),
        # Of 5 of 5 neighbours would see 4.
        (all_of(11, 11), all_of(11, 12), "vary in 11 directions, .*: .* of 10 dimensions .*, such as a sphere"),
        (all_of(6, 6), all_of(5, 5), "they fill a flat space, or lie on a surface of 5 dimensions in it"),
        # A direction is missed: what is left lies along few.
        (
            {"two_nn": 2.17, "residual_directions": 2.4},
            {"two_nn": 2.16, "residual_directions": 2.4},
            "see 2.2 dimensions, .* few directions: the manifold may have more than 2;",
        ),
        (
            {"two_nn": 2.17, "residual_directions": 2.4},
            {"two_nn": 2.17, "residual_directions": 2.6},
            "few directions",
        ),
        (
            {"two_nn": 2.47, "residual_directions": 5.8},  # of 18 that the manifold has not, along which noise has 17.4
            {"two_nn": 2.47, "residual_directions": 5.9},  # as many as noise may have
            "few directions",
        ),
        (
            {"two_nn": 2.47, "features": 500, "samples": 300, "residual_directions": 62.3},  # of 498: noise has 187
            {"two_nn": 2.47, "features": 500, "samples": 300, "residual_directions": 62.5},
            "few directions",
        ),
        (
            {"two_nn": 2.47, "features": 7, "residual_directions": 2.4},  # a third of five would be fewer
            {"two_nn": 2.47, "features": 7, "residual_directions": 2.5},
            "few directions",
        ),
        (
            {"two_nn": 2.47, "residual_directions": None},
            {"two_nn": 2.46, "residual_directions": None},
            "may have more",
        ),
    ],
)
def test_a_doubt_has_its_bound(doubtful: dict[str, Any], fine: dict[str, Any], said: str) -> None:
    (doubt,) = reading(**doubtful).doubts
    assert re.search(said, doubt)
    assert reading(**fine).doubts == ()


def test_a_condition_may_leave_no_dimension_or_unlike_ones() -> None:
    """Then a 0 may be right, and be the mean over samples that have different dimensions."""
    under = {"conditional": True, "two_nn_of_cube": None, "directions": None}
    (doubt,) = reading(local=NONE, **under).doubts
    assert doubt.startswith("either the condition leaves the samples no dimension, or the model has learned none")
    spectrum = torch.tensor([0.3, 0.5, 1.0, 1.0])
    counts = torch.tensor([0, 0, 1, 1, 2, 2])
    for local in (mc.LocalDimensions(spectrum, counts, spectrum), unlike(2)):
        (doubt,) = reading(local=local, **under).doubts
        assert re.search(r"^samples differ in dimension, .*: the condition decides it, the manifold has several", doubt)
    (doubt,) = reading(local=unlike(2)).doubts
    assert "condition" not in doubt


def test_a_curve_has_no_fewer_dimensions_than_one() -> None:
    spectrum = torch.tensor([0.001, 0.9, 0.9, 1.0])
    curve = mc.LocalDimensions(spectrum, torch.ones(10, dtype=torch.int64), spectrum)
    assert reading(local=curve, two_nn=0.7, two_nn_of_cube=1.0).doubts == ()


def test_neighbours_count_noise_which_is_no_doubt() -> None:
    noisy = reading(two_nn=9.8, residual_directions=17.0)
    assert noisy.doubts == ()
    assert "(TwoNN) see 9.8 dimensions, since they count noise" in noisy.noise
    assert reading(two_nn=9.8, residual_directions=5.8).noise == ""
    assert reading(two_nn=2.47, residual_directions=17.0).noise != ""
    assert reading(two_nn=2.46, residual_directions=17.0).noise == ""


class TestOfAModel:
    """A decoder of two given directions, which a sample may leave."""

    @staticmethod
    def model(features: int = 6) -> mc.VAE:
        class Encoder(torch.nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return x[:, :2], torch.full_like(x[:, :2], -10.0)

        decoder = torch.nn.Linear(2, features, bias=False)
        with torch.no_grad():
            decoder.weight.copy_(torch.eye(features)[:, :2])
        return mc.VAE(Encoder(), decoder, 2, elbo=mc.GaussianELBO(log_gamma=-10.0)).eval()

    @staticmethod
    def samples(*scales: float) -> Tensor:
        draws = torch.randn(900, 6, generator=torch.Generator().manual_seed(0))
        return draws * torch.tensor([1.0, 1.0, *scales])

    def test_directions_of_the_residual_are_those_it_was_drawn_in(self) -> None:
        for scales, expected in (((0.1, 0.1, 0.1, 0.1), 4.0), ((0.1, 0, 0, 0), 1.0), ((2.0, 1.0, 0, 0), 25 / 17)):
            found = residual_directions(self.model(), (self.samples(*scales),))
            assert found == pytest.approx(expected, rel=0.1)
        assert residual_directions(self.model(), (self.samples(0, 0, 0, 0),)) is None

    @pytest.mark.parametrize("samples", [5000, 60])
    def test_directions_are_those_in_which_the_samples_vary(self, samples: int) -> None:
        """A constant, and the sum of two others, are none."""
        x = torch.randn(samples, 6, generator=torch.Generator().manual_seed(0))
        x[:, 3], x[:, 5] = 0.7, x[:, 0] + x[:, 4]
        model = self.model().double()  # float32 would round the sum
        assert Reading.of(model, (x.double(),), (x[:50].double(),)).directions == 4

    def test_an_error_that_all_samples_share_is_no_direction(self) -> None:
        x = self.samples(0.1, 0.1, 0.1, 0.1) + torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0, 0.0])
        assert residual_directions(self.model(), (x,)) == pytest.approx(4, rel=0.1)

    def test_of_many_samples_some_are_looked_at_wherever_they_stand(self) -> None:
        x = self.samples(1.0, 1.0, 1.0, 1.0)
        found = torch.cat([*residuals(self.model(), (x,), 7)])
        rows = some_rows(900, 7)
        assert rows.tolist() != list(range(7))
        assert torch.equal(found, torch.cat((torch.zeros(7, 2), x[rows, 2:]), dim=1).double())

    @pytest.mark.parametrize(("samples", "features"), [(900, 6), (100, 402), (5000, 102)])
    def test_noise_lies_along_as_many_as_samples_and_features_leave_it(self, samples: int, features: int) -> None:
        draws = torch.randn(samples, features, generator=torch.Generator().manual_seed(0))
        expected = directions_of_noise(features - 2, samples)
        assert residual_directions(self.model(features), (draws,)) == pytest.approx(expected, rel=0.02)

    def test_a_few_samples_of_many_features_have_the_same(self) -> None:
        """The smaller of the two matrices of products has all their eigenvalues."""
        x = self.samples(0.3, 0.2, 0.1, 0.1)
        wide = torch.cat((x, torch.zeros(900, 1500)), dim=1)
        narrow, found = (residual_directions(self.model(part.shape[1]), (part,)) for part in (x, wide))
        assert found == pytest.approx(narrow, rel=1e-9)

    def test_the_reading_of_a_plane(self) -> None:
        x = self.samples(0.001, 0.001, 0.001, 0.001)
        found = Reading.of(self.model(), (x[:800],), (x[800:],))
        assert found.local.count == 2
        assert found.doubts == ()
        assert (found.features, found.samples) == (6, 800)
        assert found.two_nn == mc.two_nn(x[:800])
        assert found.two_nn_of_cube == two_nn_of_cube(2, 800)
        assert found.error_ratio == pytest.approx(1, abs=0.3)
        assert found.residual_directions == residual_directions(self.model(), (x[:800],))

    def test_features_of_images_are_their_pixels(self) -> None:
        images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        assert Reading.of(mc.VAE.conv((1, 8, 8), 2).eval(), (images,), (images,)).features == 64

    def test_a_direction_that_is_missed_is_doubted(self) -> None:
        x = self.samples(0.5, 0, 0, 0)
        (doubt,) = Reading.of(self.model(), (x[:800],), (x[800:],)).doubts
        assert "may have more than 2" in doubt

    def test_nothing_is_compared_under_a_condition(self) -> None:
        model = mc.CVAE.mlp(6, 1, 2, (8,)).eval()
        x = self.samples(0.5, 0, 0, 0)
        found = Reading.of(model, (x, x[:, :1]), (x[:9], x[:9, :1]))
        assert found.two_nn_of_cube is None
        assert found.conditional


@pytest.mark.parametrize(("dimension", "least", "most"), [(1, 0.9, 1.1), (3, 2.7, 3.1), (20, 14.0, 18.0)])
def test_a_cube_is_seen_by_neighbours_as_too_few_dimensions(dimension: int, least: float, most: float) -> None:
    found = two_nn_of_cube(dimension, 20_000)
    assert found is not None
    assert least < found < most
    assert found == two_nn_of_cube(dimension, 5_000)  # more they do not look at


def test_of_a_cube_with_fewer_samples_they_see_fewer() -> None:
    """As of others: of 300 in 20 dimensions they see 14.1 to 15.9, by six draws of NumPy's."""
    few, many = (two_nn_of_cube(20, samples) for samples in (300, 5_000))
    assert few is not None
    assert many is not None
    assert 14.1 < few < 15.9 < many
