"""Active dimensions and the metrics of an evaluation, against encoders whose variances are known."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from manifold_core.kernels.random import standard_normal
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_core as mc
from manifold_core.metrics.active import count_active, samples_at_a_time
from manifold_core.metrics.evaluation import metrics_of
from manifold_core.models.checks import check_finite


class KnownPosterior(nn.Module):
    """mu = x, variances that alternate between two values from sample to sample."""

    def __init__(self, even: list[float], odd: list[float]) -> None:
        super().__init__()
        self.even, self.odd = torch.tensor(even).log(), torch.tensor(odd).log()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        odd = (torch.arange(len(x)) % 2).bool().unsqueeze(1)
        return x, torch.where(odd, self.odd, self.even)


def model() -> mc.VAE:
    # Means: 0.049, 0.051, 1.0 — the mean of the variances counts, not the variance of the mean of the logarithms.
    return mc.VAE(KnownPosterior([0.001, 0.002, 0.9], [0.097, 0.100, 1.1]), nn.Linear(3, 3), 3)


def test_variances_are_averaged_and_compared_with_the_threshold() -> None:
    found = mc.active_dimensions(model(), torch.rand(10, 3))
    assert found.variance.tolist() == pytest.approx([0.049, 0.051, 1.0], rel=1e-6)
    assert found.active.tolist() == [True, False, False]
    assert found.count == 1
    assert found.gap == pytest.approx(0.051 / 0.049, rel=1e-6)
    assert mc.active_dimensions(model(), torch.rand(10, 3), threshold=0.01).gap is None
    assert mc.active_dimensions(model(), torch.rand(10, 3), threshold=0.06).count == 2


def test_the_interval_is_two_standard_errors_of_the_mean_wide() -> None:
    """Of ten samples, half at each of two values h apart, the mean is uncertain by h / 2 / √9."""
    found = mc.active_dimensions(model(), torch.rand(10, 3))
    error = [0.048 / 3, 0.049 / 3, 0.1 / 3]
    assert found.standard_error.tolist() == pytest.approx(error, rel=1e-5)
    assert found.interval == (0, 2)
    assert mc.active_dimensions(model(), torch.rand(10, 3), threshold=0.9).interval == (2, 2)
    # 0.049 + 2 · 0.016 = 0.081 and 0.051 − 2 · 0.0163 = 0.018
    assert mc.active_dimensions(model(), torch.rand(10, 3), threshold=0.0815).interval == (1, 2)
    assert mc.active_dimensions(model(), torch.rand(10, 3), threshold=0.0175).interval == (0, 1)
    assert mc.evaluate(model(), torch.rand(10, 3)).interval == (0, 2)


def test_what_was_found_is_told_in_plain_numbers() -> None:
    found = mc.active_dimensions(model(), torch.rand(10, 3), threshold=np.float32(0.0625))  # type: ignore[arg-type]
    assert json.loads(json.dumps(found.as_dict())) == {
        "count": 2,
        "interval": list(found.interval),
        "gap": found.gap,
        "spectrum_count": found.spectrum_count,
        "threshold": 0.0625,
        "variance": found.variance.tolist(),
        "standard_error": found.standard_error.tolist(),
        "spectrum": found.spectrum.tolist(),
    }
    measured = mc.evaluate(model(), torch.rand(10, 3), threshold=np.float32(0.0625))  # type: ignore[arg-type]
    assert json.loads(json.dumps(measured.as_dict()))["threshold"] == 0.0625


def test_of_one_sample_nothing_is_known_of_others() -> None:
    """Its own variances are 0.001, 0.002 and 0.9: two are active, and of other samples there may be none to three."""
    found = mc.active_dimensions(model(), torch.rand(1, 3))
    assert (found.count, found.interval) == (2, (0, 3))
    assert found.standard_error.tolist() == [math.inf] * 3
    assert mc.evaluate(model(), torch.rand(1, 3)).interval == (0, 3)
    assert mc.active_dimensions(model(), torch.rand(2, 3)).standard_error.isfinite().all()


@pytest.mark.parametrize("samples", [7, 25, 28])
def test_variances_that_are_alike_at_all_samples_leave_no_doubt(samples: int) -> None:
    """The mean of the squares may round to less than the square of the mean."""
    found = mc.active_dimensions(
        mc.VAE(KnownPosterior(3 * [0.01], 3 * [0.01]), nn.Linear(3, 3), 3), torch.rand(samples, 3)
    )
    assert found.standard_error.tolist() == pytest.approx([0.0] * 3, abs=1e-8)
    assert found.interval == (3, 3)


def test_the_spectrum_of_a_diagonal_posterior_is_its_variances_in_the_order_of_each_sample() -> None:
    vae = mc.VAE(KnownPosterior([0.1, 0.3, 0.2], [0.5, 0.02, 0.4]), nn.Linear(3, 3), 3)
    for found in (
        mc.active_dimensions(vae, torch.rand(10, 3)),
        mc.active_dimensions(vae, torch.rand(10, 3), batch_size=4),
    ):
        assert found.spectrum.tolist() == pytest.approx([0.06, 0.3, 0.4], rel=1e-6)
        assert (found.count, found.spectrum_count) == (0, 0)


def test_batches_are_weighted_by_their_size() -> None:
    x = torch.rand(10, 3)
    whole, parts = mc.active_dimensions(model(), x), mc.active_dimensions(model(), x, batch_size=4)
    torch.testing.assert_close(parts.variance, whole.variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.standard_error, whole.standard_error, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("covariance", "latent_dim", "shapes", "of_gpu", "of_cpu"),
    [
        ("diagonal", 20, ((100_000, 20),), 2**22 // 40, 4096),
        ("diagonal", 20, ((100_000, 20), (100_000, 5, 20)), 2**22 // 140, 4096),
        ("cholesky", 20, ((100_000, 20),), 2**22 // 420, 4096),
        ("cholesky", 256, ((100_000, 784),), 63, 63),
        ("diagonal", 32, ((60_000, 784),), 2**22 // 816, 4096),
        ("diagonal", 2, ((10**6, 3),), 2**17, 4096),
        ("diagonal", 20, ((60_000, 10**6),), 4, 4),
        ("diagonal", 16, ((60_000, 1, 28, 28),), 2**22 // 800, 2**18 // 800),
        ("diagonal", 2, ((10**6, 1, 4, 4),), 2**17, 4096),
        ("diagonal", 64, ((60_000, 3, 224, 224),), 2**22 // (3 * 224**2 + 64), 1),
        ("diagonal", 64, ((100, 3, 1024, 2048),), 1, 1),  # larger than all that is to be held
    ],
)
def test_a_gpu_gets_larger_batches_and_images_smaller_ones(
    covariance: Literal["diagonal", "cholesky"],
    latent_dim: int,
    shapes: tuple[tuple[int, ...], ...],
    of_gpu: int,
    of_cpu: int,
) -> None:
    vae = mc.VAE.mlp(20, latent_dim, (4,), covariance=covariance)
    with FakeTensorMode():
        on_gpu, on_cpu = (tuple(torch.empty(shape, device=device) for shape in shapes) for device in ("cuda", "cpu"))
        assert samples_at_a_time(vae, on_gpu, None) == of_gpu
        assert samples_at_a_time(vae, on_cpu, None) == of_cpu
        assert samples_at_a_time(vae, on_gpu, 7) == samples_at_a_time(vae, on_cpu, 7) == 7


class Reads(TorchDispatchMode):
    """Counts how often a number is read off a tensor, for which a device would be waited."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_batch_is_waited_for() -> None:
    x, counts = torch.rand(12, 3), []
    for batch_size in (12, 2):
        with Reads() as reads:
            metrics_of(model(), (x,), batch_size=batch_size)
        counts.append(reads.count)
    assert counts[0] == counts[1]


def test_count_of_a_batch() -> None:
    log_var = torch.tensor([[0.001, 0.002, 0.9], [0.097, 0.100, 1.1]]).log()
    assert count_active(log_var.exp().mean(dim=0)) == 1
    assert count_active(log_var.exp().mean(dim=0), threshold=2) == 3


@pytest.mark.parametrize("function", [mc.active_dimensions, mc.evaluate])
def test_mode_of_the_model_is_left_as_it_was(function: object) -> None:
    vae = mc.VAE.conv((1, 8, 8), 2)
    statistics = {name: buffer.clone() for name, buffer in vae.named_buffers()}
    for training in (True, False):
        vae.train(training)
        function(vae, torch.rand(6, 1, 8, 8))  # type: ignore[operator]
        assert vae.training == training
    for name, buffer in vae.named_buffers():  # evaluation mode: running statistics stay as they are
        assert torch.equal(buffer, statistics[name]), name


@pytest.mark.parametrize("function", [mc.active_dimensions, mc.evaluate])
def test_a_module_that_was_frozen_stays_that(function: Callable[..., object]) -> None:
    vae = mc.VAE.conv((1, 8, 8), 2)
    norms = [module for module in vae.modules() if isinstance(module, nn.BatchNorm2d)]
    vae.train()
    norms[2].eval()
    function(vae, torch.rand(6, 1, 8, 8))
    assert [module for module in vae.modules() if not module.training] == [norms[2]]

    def fail(*_arguments: object) -> None:
        raise KeyboardInterrupt

    vae.decoder.register_forward_pre_hook(fail)
    vae.encoder.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        function(vae, torch.rand(6, 1, 8, 8))
    assert [module for module in vae.modules() if not module.training] == [norms[2]]


def test_bad_input_is_named() -> None:
    with pytest.raises(mc.InputError, match="x must hold at least one sample"):
        mc.active_dimensions(model(), torch.rand(0, 3))
    for threshold in (1.5, "0.05", None, True):
        with pytest.raises(mc.InputError, match=rf"threshold must be a number between 0 and 1, got {threshold!r}"):
            mc.active_dimensions(model(), torch.rand(2, 3), threshold=threshold)  # type: ignore[arg-type]


def test_what_is_found_is_told_in_a_line() -> None:
    found = mc.ActiveDimensions(torch.tensor([0.01, 0.9]), torch.tensor([0.001, 0.01]), torch.tensor([0.01, 0.9]), 0.05)
    assert repr(found) == (
        "ActiveDimensions(count=1, interval=(1, 1), gap=90, spectrum_count=1, threshold=0.05, variance=[0.01, 0.9])"
    )


@pytest.mark.parametrize("seed", [None, -1, 1.5, 2**63, "0", True])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    """Without one the noise would be PyTorch's, and other numbers each time."""
    x, found = torch.rand(9, 3), model()
    before = torch.get_rng_state()
    with pytest.raises(mc.InputError, match=rf"^seed must be an integer from 0 to 2\*\*63 - 1, got {seed!r}$"):
        mc.evaluate(found, x, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    for good in (np.int64(3), torch.tensor(3)):
        assert mc.evaluate(found, x, seed=good) == mc.evaluate(found, x, seed=3)  # type: ignore[arg-type]


def test_metrics_are_told_in_a_line() -> None:
    numbers = {"neg_elbo": -3.391234, "nll": -1372.123456, "kl": 5.7, "recon": 1 / 3, "gamma": 0.03234567}
    found = mc.Metrics(
        **numbers,
        active_dimensions=1,
        interval=(1, 2),
        spectrum_count=1,
        gap=123.456,
        threshold=0.05,
        variance=[1 / 300, 2 / 3],
        spectrum=[1 / 300, 2 / 3],
        samples=7,
    )
    assert repr(found) == (
        "Metrics(neg_elbo=-3.391, nll=-1372, kl=5.7, recon=0.3333, gamma=0.03235, active_dimensions=1, "
        "interval=(1, 2), gap=123, spectrum_count=1, threshold=0.05, variance=[0.00333, 0.667], samples=7)"
    )
    unknown = repr(replace(found, active_dimensions=None, gap=None, neg_elbo=math.nan, variance=[math.nan]))
    assert unknown.startswith("Metrics(neg_elbo=nan, ")
    assert "active_dimensions=None, interval=(1, 2), gap=None, " in unknown


def spoilt(row: int, value: float, *shape: int) -> Tensor:
    x = torch.rand(shape)
    x[row].view(-1)[-1] = value
    return x


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", [mc.active_dimensions, mc.evaluate, mc.train])
def test_a_sample_that_is_not_finite_is_named(function: Callable[..., object], value: float) -> None:
    """Not the model is bad, nor has the data no dimension."""

    def call(vae: mc.VAE | mc.CVAE, x: Tensor, **more: Tensor) -> None:
        if function is mc.train:
            mc.train(vae, x, mc.TrainingConfig(steps=1), progress=False, **more)  # type: ignore[arg-type]
        else:
            function(vae, x, **more)

    x = spoilt(7, value, 10, 3)
    x[9] = value  # the first is named
    with pytest.raises(mc.InputError, match=r"^x must be finite, but row 7 holds NaN or an infinity$"):
        call(mc.VAE.mlp(3, 2), x)
    with pytest.raises(mc.InputError, match=r"^x must be finite, but row 4 holds NaN or an infinity$"):
        call(mc.VAE.conv((1, 8, 8), 2), spoilt(4, value, 6, 1, 8, 8))
    cvae = mc.CVAE.mlp(3, 2, 2)
    with pytest.raises(mc.InputError, match=r"^condition must be finite, but row 0 holds NaN or an infinity$"):
        call(cvae, torch.rand(10, 3), condition=spoilt(0, value, 10, 2))
    with pytest.raises(mc.InputError, match=r"^x must be finite, but row 7 holds NaN or an infinity$"):
        call(cvae, x, condition=torch.rand(10, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_finite_numbers_whose_sum_is_not_are_fine(dtype: torch.dtype) -> None:
    check_finite("x", torch.full((20, 3), torch.finfo(dtype).max, dtype=dtype))
    check_finite("labels", torch.arange(5))
    with pytest.raises(mc.InputError, match="labels must be finite, but row 2 holds"):
        check_finite("labels", torch.tensor([1.0, 2.0, math.nan]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_variance_that_is_not_finite_is_no_count(value: float) -> None:
    """NaN is not below the threshold, and is not above it."""
    vae = mc.VAE(KnownPosterior([0.01, value, 0.9], [0.02, 0.3, 1.1]), nn.Linear(3, 3), 3)
    shown = f"model must have finite variances, got {value} in latent dimension 1, 1 of 3 in all: are its weights"
    for function in (mc.active_dimensions, mc.evaluate):
        with pytest.raises(mc.InputError, match=shown):
            function(vae, torch.rand(10, 3))
    found = metrics_of(vae, (torch.rand(10, 3),))
    assert (found.active_dimensions, found.spectrum_count, found.gap) == (None, None, None)
    assert found.interval == (1, 2)  # the first is active, the last is not, and of the other nothing is known
    assert found.variance[::2] == pytest.approx([0.015, 1.0], rel=1e-6)


def test_a_variance_beyond_float32_is_finite() -> None:
    encoder = KnownPosterior([0.01, 0.3, 0.9], [0.02, 0.3, 1.1])
    encoder.odd[1] = 95.0  # its exponential is 1.8e41
    vae = mc.VAE(encoder, nn.Linear(3, 3), 3)
    found = mc.active_dimensions(vae, torch.rand(10, 3))
    assert float(found.variance[1]) == pytest.approx(math.exp(95) / 2, rel=1e-5)
    assert mc.evaluate(vae, torch.rand(10, 3)).variance == found.variance.tolist()


def test_spoilt_weights_are_no_manifold_of_dimension_zero() -> None:
    for covariance in ("diagonal", "cholesky"):
        vae = mc.VAE.mlp(3, 2, covariance=covariance)  # type: ignore[arg-type]
        with torch.no_grad():
            next(vae.parameters())[0] = math.nan
        for function in (mc.active_dimensions, mc.evaluate):
            with pytest.raises(mc.InputError, match="got nan in latent dimension 0, 2 of 2 in all"):
                function(vae, torch.rand(10, 3))


def test_metrics_are_the_formula() -> None:
    vae = model()
    x = torch.rand(10, 3)
    # Batches of an even size, so that samples keep the variances that their row gives them.
    measured = mc.evaluate(vae, x, seed=5, batch_size=4)
    with torch.no_grad():
        mu, log_var = (part.double() for part in vae.posterior(x))
        z = mu + torch.exp(log_var / 2) * standard_normal(torch.tensor(5), 10, 3)
        recon = (vae.decoder.double()(z) - x.double()).square().sum(1).mean()
        kl = (0.5 * (mu**2 + log_var.exp() - 1 - log_var)).sum(1).mean()
    nll = 0.5 * (recon + 3 * math.log(2 * math.pi))  # γ = 1
    assert measured.recon == pytest.approx(float(recon), rel=1e-5)
    assert measured.kl == pytest.approx(float(kl), rel=1e-5)
    assert measured.nll == pytest.approx(float(nll), rel=1e-5)
    assert measured.neg_elbo == pytest.approx(float(nll + kl), rel=1e-5)
    assert measured.gamma == 1
    assert measured.samples == 10
    assert measured.active_dimensions == 1


class OfCondition(nn.Module):
    """Posterior or prior: mean 0, log variance the condition, the last argument, plus a number for each latent."""

    def __init__(self, shift: list[float]) -> None:
        super().__init__()
        self.shift = torch.tensor(shift)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        log_var = inputs[-1] + self.shift
        return torch.zeros_like(log_var), log_var


class Decoder(nn.Module):
    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        return z + c


@pytest.mark.parametrize("learned", [True, False])
def test_a_cvaes_variances_are_over_the_priors(learned: bool) -> None:
    """A mean of ratios: a ratio of means would not see that the prior changes with the condition."""
    prior = OfCondition([0.0, 0.0, 1.0]) if learned else None
    cvae = mc.CVAE(OfCondition([-4.0, 0.0, -3.0]), Decoder(), 3, prior)
    c, x = torch.linspace(-2, 2, 10).unsqueeze(1).expand(10, 3), torch.rand(10, 3)
    if not learned:
        expected = (c.double() + torch.tensor([-4.0, 0.0, -3.0])).exp().mean(0)
    else:
        expected = torch.tensor([-4.0, 0.0, -4.0], dtype=torch.float64).exp()
    found, parts = (mc.active_dimensions(cvae, x, c, batch_size=size) for size in (4096, 4))
    torch.testing.assert_close(found.variance, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.variance, found.variance, rtol=1e-12, atol=0)
    assert found.count == (2 if learned else int((expected < 0.05).sum()))
    measured = mc.evaluate(cvae, x, c, seed=5, batch_size=3)
    assert measured.variance == pytest.approx(expected.tolist(), rel=1e-5)
    assert measured.active_dimensions == found.count


def test_metrics_of_a_cvae_are_the_formula() -> None:
    torch.manual_seed(0)
    cvae = mc.CVAE.mlp(3, 2, 4, attention=True)
    x, c = torch.rand(10, 3), torch.rand(10, 2)
    measured, parts = mc.evaluate(cvae, x, c, seed=5), mc.evaluate(cvae, x, c, seed=5, batch_size=3)
    assert cvae.training
    cvae.double()
    x, c = x.double(), c.double()
    with torch.no_grad():
        (mu, log_var), (m, p) = cvae.posterior(x, c), cvae.prior(c)  # type: ignore[misc]
        z = mu + torch.exp(log_var / 2) * standard_normal(torch.tensor(5), 10, 4)
        recon = (cvae.decoder(z * cvae.gate(c).sigmoid(), c) - x).square().sum(1).mean()  # type: ignore[misc]
        kl = ((p - log_var + ((mu - m) ** 2 + log_var.exp()) / p.exp() - 1) / 2).sum(1).mean()
    nll = 0.5 * (recon + 3 * math.log(2 * math.pi))  # γ = 1
    for found in (measured, parts):
        assert found.recon == pytest.approx(float(recon), rel=1e-5)
        assert found.kl == pytest.approx(float(kl), rel=1e-5)
        assert found.neg_elbo == pytest.approx(float(nll + kl), rel=1e-5)
