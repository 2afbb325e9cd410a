"""Local dimensions, against decoders whose derivatives are known."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad

import manifold_core as mc
from manifold_core.metrics import local
from manifold_core.metrics.local import in_words, is_clear, local_dimensions_of_some
from manifold_core.metrics.subset import some_rows


class Known(nn.Module):
    """mu = x's first numbers; log_var = 0."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.latent_dim], torch.zeros(len(x), self.latent_dim, dtype=x.dtype)


class Sphere(nn.Module):
    """z / ‖z‖: across the radius the derivative is 1/‖z‖, along it 0."""

    def forward(self, z: Tensor) -> Tensor:
        return z / z.norm(dim=1, keepdim=True)


def linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


def fixed(gamma: float) -> mc.GaussianELBO:
    return mc.GaussianELBO("fixed", log_gamma=math.log(gamma))


def oracle(model: Any, *inputs: Tensor) -> Tensor:
    """Backwards, number for number, in float64."""
    model = model.double().eval()
    x, *condition = (part.double() for part in inputs)
    found = []
    for row in range(len(x)):
        under = [c[row : row + 1] for c in condition]
        z = model.posterior(x[row : row + 1], *under)[0].detach().requires_grad_()
        seen = z
        if getattr(model, "gate", None) is not None:
            seen = z * torch.sigmoid(model.gate(*under))
        x_hat = model.decoder(seen, *under).flatten()
        jacobian = torch.cat([grad(number, z, retain_graph=True)[0] for number in x_hat])
        if getattr(model, "prior", None) is not None:
            jacobian = jacobian * torch.exp(model.prior(*under)[1] / 2)
        covariance = torch.linalg.inv(torch.eye(z.shape[1]) + jacobian.T @ jacobian / model.elbo.log_gamma.exp())
        found.append(torch.linalg.eigvalsh(covariance))
    return torch.stack(found).detach()


def test_of_a_linear_decoder_it_is_the_covariance_of_the_posterior() -> None:
    """Singular values 3, 1, 0 and γ = 0.25: 1/(1 + 9/0.25), 1/(1 + 1/0.25) and 1, whatever the rotation of z."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.0])) @ turn
    model = mc.VAE(Known(3), linear(matrix), 3, elbo=fixed(0.25))
    found = mc.local_dimensions(model, torch.randn(7, 3))
    assert found.spectrum.tolist() == pytest.approx([1 / 37, 1 / 5, 1], rel=1e-6)
    assert (found.count, found.shares) == (1, {1: 1.0})
    assert found.gap == pytest.approx(37 / 5, rel=1e-6)


def test_a_sphere_has_two_dimensions_though_every_axis_is_needed() -> None:
    """What variances cannot see: those of the best diagonal posterior are below the threshold on all three axes."""
    x = nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)))
    gamma = 1e-4
    model = mc.VAE(Known(3), Sphere(), 3, elbo=fixed(gamma))
    found = mc.local_dimensions(model, x)
    assert found.spectrum.tolist() == pytest.approx([gamma / (1 + gamma)] * 2 + [1], rel=1e-4)
    assert (found.count, found.counts.tolist()) == (2, [2] * 500)
    best = 1 / (1 + (1 - x.double().square()) / gamma)
    assert (best.mean(dim=0) < 0.05).all()


def test_pieces_of_several_dimensions_are_told_apart() -> None:
    class Pieces(nn.Module):
        """A line where z₁ < 0, a plane where it is not."""

        def forward(self, z: Tensor) -> Tensor:
            return torch.stack((z[:, 0], torch.where(z[:, 0] < 0, 0.0, z[:, 1])), dim=1)

    x = torch.tensor([[-1.0, 0.3], [2.0, 0.1], [-0.5, 2.0], [-2.0, -1.0]])
    found = mc.local_dimensions(mc.VAE(Known(2), Pieces(), 2, elbo=fixed(1e-6)), x)
    assert found.counts.tolist() == [1, 2, 1, 1]
    assert found.shares == {1: 0.75, 2: 0.25}
    assert (found.count, found.share) == (1, 0.75)
    assert found.spectrum.tolist() == pytest.approx([1e-6, 0.75], rel=1e-3)
    assert found.spectrum_of_most.tolist() == pytest.approx([1e-6, 1], rel=1e-3)
    assert found.gap == pytest.approx(0.75e6, rel=1e-3)


class Pieces(nn.Module):
    """The line z₁ where z₃ < 0, the plane of z₁ and z₂ where it is not; z₂ is ``narrow`` times as wide."""

    def __init__(self, narrow: float) -> None:
        super().__init__()
        self.narrow = narrow

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack((z[:, 0], torch.where(z[:, 2] < 0, 0.0, self.narrow * z[:, 1])), dim=1)


@pytest.mark.parametrize(
    ("on_the_line", "narrow", "count", "gap", "share"),
    [
        (
            1,
            1.0,
            2,
            1e6,
            0.9,
        ),  # one of ten: the gap of the means is behind the first, and no sample of the plane has it
        (3, 1.0, 2, 1e6, 0.7),
        (4, 1.0, 1, 0.4e6, 0.4),  # no two thirds agree
        (7, 1.0, 1, 0.7e6, 0.7),
        (1, 0.1, 1, 0.1e6, 0.1),  # at those of the plane the second is a hundred times the first: not clearly there
    ],
)
def test_what_most_samples_agree_on(on_the_line: int, narrow: float, count: int, gap: float, share: float) -> None:
    """γ = 10⁻⁶, and of ten samples some on a line."""
    z = torch.ones(10, 3)
    z[:on_the_line, 2] = -1
    found = mc.local_dimensions(mc.VAE(Known(3), Pieces(narrow), 3, elbo=fixed(1e-6)), z)
    assert (found.count, found.share) == (count, share)
    assert found.gap == pytest.approx(gap, rel=2e-3)
    assert found.clear == (share >= 2 / 3)


def test_pieces_without_any_dimension_hide_none() -> None:
    """A fifth of them: the mean of the first eigenvalue is not below 0.05."""
    low, high = torch.tensor([1e-6, 1.0]), torch.tensor([0.2, 1.0])
    found = mc.LocalDimensions(high.double(), torch.tensor([0, 1, 1, 1, 1]), low.double())
    assert (found.count, found.gap) == (1, pytest.approx(1e6, rel=1e-6))


def test_two_thirds_of_the_samples_and_a_gap_of_eight_are_enough() -> None:
    spectrum = torch.tensor([0.125, 1.0], dtype=torch.float64)
    found = mc.LocalDimensions(spectrum, torch.tensor([0, 1, 1]), spectrum / 8)
    assert (found.count, found.gap, found.share) == (1, 8.0, 2 / 3)
    assert found.clear
    assert is_clear(8.0, 2 / 3)
    assert not is_clear(7.99, 2 / 3)
    assert not is_clear(8.0, 0.66)


def test_shares_are_told_the_most_frequent_first_without_the_rare() -> None:
    assert in_words({1: 0.04, 2: 0.36, 3: 0.6}) == "3 at 60 %, 2 at 36 %"
    assert in_words({0: 0.05, 4: 0.95}) == "4 at 95 %, 0 at 5 %"


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_networks_of_vectors(covariance: Any) -> None:
    torch.manual_seed(0)
    x, c = 3 * torch.randn(20, 6), torch.randn(20, 3)
    for attention in (False, True):
        for prior in ("learned", "standard"):
            model = mc.CVAE.mlp(6, 3, 4, (16,), prior=cast(Any, prior), attention=attention, covariance=covariance)
            model.elbo.log_gamma.data.fill_(-4)
            found = mc.local_dimensions(model, x, c)
            torch.testing.assert_close(found.spectrum, oracle(model, x, c).mean(dim=0), rtol=1e-5, atol=1e-6)
    vae = mc.VAE.mlp(6, 4, (16, 8), activation="prelu", covariance=covariance)
    found = mc.local_dimensions(vae, x)
    torch.testing.assert_close(found.spectrum, oracle(vae, x).mean(dim=0), rtol=1e-5, atol=1e-6)


def test_networks_of_images_and_of_sequences() -> None:
    """In evaluation mode: on a batch's own statistics the images would depend on each other."""
    torch.manual_seed(0)
    images, labels = torch.rand(5, 1, 8, 8), torch.eye(5)
    models: list[tuple[Any, tuple[Tensor, ...]]] = [
        (mc.VAE.conv((1, 8, 8), 4, hidden=(8,)), (images,)),
        (mc.CVAE.conv((1, 8, 8), 5, 4, channels=4, attention=True), (images, labels)),
        (mc.SequentialCVAE.lstm(6, 4), (torch.randn(5, 6), torch.randn(5, 3, 6))),
        (mc.EveryStepCVAE.lstm(6, 4), (torch.randn(5, 6), torch.randn(5, 3, 6))),
    ]
    for model, inputs in models:
        model.train()
        model.elbo.log_gamma.data.fill_(-4)
        found = mc.local_dimensions(model, *inputs)
        assert all(module.training for module in model.modules())
        torch.testing.assert_close(found.spectrum, oracle(model, *inputs).mean(dim=0), rtol=1e-5, atol=1e-6)


def test_batches_change_nothing() -> None:
    torch.manual_seed(0)
    model, x = mc.VAE.mlp(6, 4, (16,)), torch.randn(10, 6)
    whole, parts = mc.local_dimensions(model, x), mc.local_dimensions(model, x, batch_size=3)
    torch.testing.assert_close(parts.spectrum, whole.spectrum, rtol=1e-6, atol=0)
    assert parts.counts.tolist() == whole.counts.tolist()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # of torch itself
def test_what_is_compiled_is_run_as_it_was_written() -> None:
    torch.manual_seed(0)
    model, x = mc.VAE.mlp(6, 4, (16,)), torch.randn(10, 6)
    found = mc.local_dimensions(model, x)
    inner = mc.VAE(model.encoder, cast(nn.Module, torch.compile(model.decoder)), 4, elbo=model.elbo)
    assert mc.local_dimensions(inner, x).spectrum.tolist() == found.spectrum.tolist()
    assert mc.local_dimensions(cast(Any, torch.compile(model)), x).spectrum.tolist() == found.spectrum.tolist()


def test_in_inference_mode_and_of_models_of_other_types() -> None:
    torch.manual_seed(0)
    model, x = mc.VAE.mlp(6, 4, (16,)), torch.randn(10, 6)
    expected = mc.local_dimensions(model, x)
    assert expected.spectrum[0] < 0.99
    with torch.inference_mode():
        assert mc.local_dimensions(model, x).spectrum.tolist() == expected.spectrum.tolist()
    found = mc.local_dimensions(model.double(), x.double())
    torch.testing.assert_close(found.spectrum, expected.spectrum, rtol=1e-5, atol=0)


def test_a_learned_prior_moved_into_the_decoder_changes_nothing() -> None:
    torch.manual_seed(0)
    x, c = torch.randn(20, 6), torch.randn(20, 3)
    model = mc.CVAE.mlp(6, 3, 4, (16,), attention=True)
    expected, found = (mc.local_dimensions(one, x, c).spectrum for one in (model, mc.with_standard_prior(model)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_what_a_decoder_raises_is_its_own() -> None:
    class Broken(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        mc.local_dimensions(mc.VAE(Known(2), Broken(), 2), torch.rand(4, 3))


def test_of_many_features_few_samples_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    model = mc.VAE.mlp(6, 4, (16,))
    model.decoder.register_forward_hook(lambda _, given, found: seen.append(len(found)))
    monkeypatch.setattr(local, "MOST_NUMBERS", 3 * 4 * 6 + 5)
    mc.local_dimensions(model, torch.randn(10, 6))
    assert seen == [3, 3, 12, 3, 3, 12, 3, 3, 12, 1, 1, 4]  # after those by which both modes are compared
    monkeypatch.setattr(local, "MOST_NUMBERS", 1)
    mc.local_dimensions(model, torch.randn(2, 6))
    assert seen[12:] == [1, 1, 4, 1, 1, 4]


def test_a_decoder_that_does_not_look_at_z_has_none() -> None:
    class Constant(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.ones(len(z), 3)

    found = mc.local_dimensions(mc.VAE(Known(2), Constant(), 2), torch.rand(4, 3))
    assert (found.spectrum.tolist(), found.count) == ([1.0, 1.0], 0)


def test_bad_input_is_named() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            return 2 * z

    class Own(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return cast(Tensor, Doubled.apply(z))

    x = torch.rand(4, 3)
    vae = mc.VAE.mlp(3, 2, (4,))
    with pytest.raises(mc.InputError, match=r"x must have shape \[B, 3\]"):
        mc.local_dimensions(vae, torch.rand(4, 2))
    with pytest.raises(mc.InputError, match="condition must be given for a CVAE"):
        mc.local_dimensions(mc.CVAE.mlp(3, 1, 2, (4,)), x)
    with pytest.raises(mc.InputError, match=r"batch_size must be a positive integer, got 0"):
        mc.local_dimensions(vae, x, batch_size=0)
    with pytest.raises(mc.InputError, match=r"a derivative, in forward mode: .*jvp.*; or in reverse mode: .*vjp"):
        mc.local_dimensions(mc.VAE(Known(3), Own(), 3), x)
    with pytest.raises(mc.InputError, match="a finite derivative at every sample"):
        mc.local_dimensions(mc.VAE(Known(3), linear(torch.full((3, 3), math.inf)), 3), x)


@pytest.mark.parametrize(
    ("spectrum", "count", "gap"),
    [
        ([0.01, 0.02, 0.5], 2, 25.0),
        ([0.01, 0.02, 0.03], 3, 1 / 0.03),  # all are
        ([0.01, 0.03, 0.051], 3, 1 / 0.051),  # above any threshold, and yet like the others
        ([1e-5, 0.01, 0.9], 1, 1000.0),  # below it, and yet not
        ([0.06, 0.9, 1.0], 0, None),  # nothing is learned
        ([1.0, 1.0, 1.0], 0, None),
    ],
)
def test_the_widest_gap_decides(spectrum: list[float], count: int, gap: float | None) -> None:
    values = torch.tensor(spectrum, dtype=torch.float64)
    found = mc.LocalDimensions(values, torch.tensor([0, 1, 2, 3]), torch.ones(3))  # of which none is that of most
    assert found.count == count
    assert found.share == 0.25
    assert int(local._before_the_widest_gap(values)) == count  # as it is of one sample
    assert found.gap == (None if gap is None else pytest.approx(gap, rel=1e-12))


def test_a_look_is_at_some_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vae, x = mc.VAE.mlp(3, 2, (4,)), torch.rand(40, 3)
    assert local_dimensions_of_some(vae, (x,)).spectrum.tolist() == mc.local_dimensions(vae, x).spectrum.tolist()
    monkeypatch.setattr(local, "MOST_PASSES", 14)
    found = local_dimensions_of_some(vae, (x,))
    rows = some_rows(40, 7)
    assert (len(rows), len(found.counts)) == (7, 7)
    assert found.spectrum.tolist() == mc.local_dimensions(vae, x[rows]).spectrum.tolist()
    images, conv = torch.rand(9, 1, 8, 8), mc.VAE.conv((1, 8, 8), 2)
    monkeypatch.setattr(local, "MOST_PASSES_OF_IMAGES", 6)
    assert len(local_dimensions_of_some(conv, (images,)).counts) == 3


def test_what_is_found_is_told_in_a_line() -> None:
    spectrum = torch.tensor([1e-6, 0.75], dtype=torch.float64)
    found = mc.LocalDimensions(spectrum, torch.tensor([1, 2, 1, 1]), torch.tensor([1e-6, 1.0]))
    assert repr(found) == "LocalDimensions(count=1, gap=7.5e+05, shares={1: 0.75, 2: 0.25}, spectrum=[1e-06, 0.75])"
    assert found.as_dict() == {
        "count": 1,
        "gap": 0.75 / 1e-6,
        "clear": True,
        "share": 0.75,
        "shares": {"1": 0.75, "2": 0.25},
        "spectrum": [1e-6, 0.75],
        "samples": 4,
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_on_a_device_as_on_a_cpu(network: str) -> None:
    """Forward mode through the kernels that serve its layers there, and through cuDNN's."""
    if network == "mlp":
        model, x = mc.VAE.mlp(20, 5, (16,), elbo=fixed(0.1)), torch.randn(30, 20)
    else:
        model, x = mc.VAE.conv((1, 8, 8), 5, channels=4, elbo=fixed(0.1)), torch.rand(30, 1, 8, 8)
    expected = mc.local_dimensions(model.double(), x.double()).spectrum
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = mc.local_dimensions(model.float().cuda(), x.cuda()).spectrum
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
