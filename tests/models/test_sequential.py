"""The sequential CVAE: its loss against the formulas with the LSTM written out, shared weights, sampling, training."""

import copy
import math
from pathlib import Path

import pytest
import torch
from manifold_core.kernels.random import standard_normal
from runs import stop_before
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.storage import checkpoint

D, KAPPA, HIDDEN, T = 4, 3, 5, 6


def model(
    share_weights: bool,
    gamma: str = "learned",
    decoder_hidden: tuple[int, ...] = (),
    kind: type[mc.SequentialCVAE] = mc.SequentialCVAE,
) -> mc.SequentialCVAE:
    torch.manual_seed(0)
    elbo = mc.GaussianELBO(gamma, -0.7)  # type: ignore[arg-type]
    return kind.lstm(*(D, KAPPA, HIDDEN), share_weights=share_weights, decoder_hidden=decoder_hidden, elbo=elbo)


def windows(samples: int = 9) -> tuple[Tensor, Tensor]:
    steps = torch.randn(samples, T + 1, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return steps[:, T], steps[:, :T]


def lstm(sequence: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Hochreiter and Schmidhuber's cell with a forget gate, step after step; the last output."""
    w, v, b, a = (weights[f"{name}.lstm.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = cell = torch.zeros(len(sequence), HIDDEN, dtype=torch.float64)
    for step in range(sequence.shape[1]):
        pre = sequence[:, step] @ w.T + b + h @ v.T + a
        write, keep, new, out = (pre[:, i * HIDDEN : (i + 1) * HIDDEN] for i in range(4))
        cell = cell / (1 + torch.exp(-keep)) + torch.tanh(new) / (1 + torch.exp(-write))
        h = torch.tanh(cell) / (1 + torch.exp(-out))
    return h


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gaussian(sequence: Tensor, weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    both = linear(lstm(sequence, weights, name), weights, f"{name}.head")
    return both[:, :KAPPA], both[:, KAPPA:]


def decoded(z: Tensor, c: Tensor, weights: dict[str, Tensor], decoder_hidden: tuple[int, ...]) -> Tensor:
    x_hat = torch.cat((z, lstm(c, weights, "decoder")), 1)
    for layer, width in enumerate((*decoder_hidden, D)):
        x_hat = linear(x_hat, weights, f"decoder.layers.{2 * layer}")
        assert x_hat.shape == (9, width)
        x_hat = x_hat.clamp(min=0) if layer < len(decoder_hidden) else x_hat
    return x_hat


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("gamma", ["learned", "analytic"])
@pytest.mark.parametrize("decoder_hidden", [(), (7,), (7, 2)])
def test_loss_and_gradients_are_the_formulas(share_weights: bool, gamma: str, decoder_hidden: tuple[int, ...]) -> None:
    found = model(share_weights, gamma, decoder_hidden).double()
    x, c = windows()
    weights = {name: p.detach().clone().requires_grad_() for name, p in found.named_parameters()}
    terms = found(x, c, seed=11, first_row=4)
    terms.loss.backward()

    mu, log_var = gaussian(torch.cat((c, x.reshape(9, 1, D)), 1), weights, "encoder.network")
    m, p = gaussian(c, weights, "encoder.network" if share_weights else "prior")
    z = mu + log_var.exp().sqrt() * standard_normal(torch.tensor(11), 9, KAPPA, 4)
    kl = ((p - log_var + (log_var.exp() + (mu - m) ** 2) / p.exp() - 1) / 2).sum(1)
    x_hat = decoded(z, c, weights, decoder_hidden)
    error = ((x - x_hat) ** 2).sum(1)
    used = weights["elbo.log_gamma"].exp() if gamma == "learned" else error.mean() / D
    nll = (error / used + D * torch.log(2 * math.pi * used)) / 2
    loss = (nll + kl).mean()
    loss.backward()

    named = ((terms.loss, loss), (terms.nll, nll), (terms.kl, kl), (terms.recon, error), (terms.z, z))
    for ours, expected in named:
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-11, msg=lambda s, n=name: f"{n}: {s}"
        )
    torch.testing.assert_close(found.variance_ratio(x, c), (log_var - p).exp())
    torch.testing.assert_close(found.posterior(x, c), (mu, log_var))
    measured, active = mc.evaluate(found, x, c, batch_size=4), mc.active_dimensions(found, x, c, batch_size=4)
    torch.testing.assert_close(torch.tensor(measured.kl).double(), kl_at(found, x, c))
    for variance in (active.variance, torch.tensor(measured.variance).double()):
        torch.testing.assert_close(variance, (log_var - p).exp().mean(0).detach())


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("gamma", ["learned", "analytic"])
@pytest.mark.parametrize("decoder_hidden", [(), (7, 2)])
def test_the_loss_of_every_step_is_equation_3(share_weights: bool, gamma: str, decoder_hidden: tuple[int, ...]) -> None:
    """Term by term, each LSTM begun anew for each l; of no steps its state is zero."""
    found = model(share_weights, gamma, decoder_hidden, mc.EveryStepCVAE).double()
    x, c = windows()
    weights = {name: p.detach().clone().requires_grad_() for name, p in found.named_parameters()}
    terms = found(x, c, seed=11, first_row=4)
    terms.loss.backward()

    steps, n = torch.cat((c, x.reshape(9, 1, D)), 1), T + 1
    noise = standard_normal(torch.tensor(11), 9 * n, KAPPA, 4 * n).reshape(9, n, KAPPA)
    samples, means, kl, ratio = [], [], torch.zeros(9, n, dtype=torch.float64), torch.zeros(9, KAPPA).double()
    for l in range(n):
        mu, log_var = gaussian(steps[:, : l + 1], weights, "encoder.network")
        m, p = gaussian(steps[:, :l], weights, "encoder.network" if share_weights else "prior")
        samples.append(mu + log_var.exp().sqrt() * noise[:, l])
        means.append(decoded(samples[-1], steps[:, :l], weights, decoder_hidden))
        kl[:, l] = ((p - log_var + (log_var.exp() + (mu - m) ** 2) / p.exp() - 1) / 2).sum(1)
        ratio = ratio + (log_var - p).exp() / n
    x_hat = torch.stack(means, 1)
    error = ((steps - x_hat) ** 2).sum(2)
    used = weights["elbo.log_gamma"].exp() if gamma == "learned" else error.mean() / D
    nll = (error / used + D * torch.log(2 * math.pi * used)) / 2
    loss = (nll + kl).sum(1).mean() / n
    loss.backward()

    expected = {
        "loss": loss,
        **{name: values.mean(1) for name, values in (("nll", nll), ("kl", kl), ("recon", error))},
        "z": torch.stack(samples, 1),
        "x_hat": x_hat,
        "variance_ratio": ratio.mean(0),
    }
    for name, values in expected.items():
        torch.testing.assert_close(
            getattr(terms, name), values, rtol=1e-11, atol=1e-12, msg=lambda s, n=name: f"{n}: {s}"
        )
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-11, msg=lambda s, n=name: f"{n}: {s}"
        )
    torch.testing.assert_close(found.variance_ratio(x, c), ratio)
    for part, of_last in zip(terms.posterior, found.posterior(x, c), strict=True):
        assert part.shape == (9, n, KAPPA)
        torch.testing.assert_close(part[:, -1], of_last)
    assert found.sample(c).shape == found.reconstruct(x, c).shape == x.shape


@pytest.mark.parametrize("share_weights", [False, True])
def test_the_first_step_has_none_before_it(share_weights: bool) -> None:
    """Prior and decoder read an LSTM's state before it has read anything, zeros: their biases are left."""
    found = model(share_weights, "fixed", (7,), mc.EveryStepCVAE).double()
    x, c = windows()
    none = c[:, :0]
    weights = dict(found.named_parameters()) | dict(found.named_buffers())
    m, p = weights["encoder.network.head.bias" if share_weights else "prior.head.bias"].chunk(2)

    def x_hat(z: Tensor) -> Tensor:
        hidden = torch.cat((z, torch.zeros(9, HIDDEN)), 1)
        return linear(linear(hidden, weights, "decoder.layers.0").clamp(min=0), weights, "decoder.layers.2")

    mu, log_var = gaussian(x.reshape(9, 1, D), weights, "encoder.network")
    z = mu + (log_var / 2).exp() * standard_normal(torch.tensor(3), 9, KAPPA)
    kl = ((p - log_var + (log_var.exp() + (mu - m) ** 2) / p.exp() - 1) / 2).sum(1)
    error = ((x - x_hat(z)) ** 2).sum(1)
    loss = (error / weights["elbo.log_gamma"].exp() + D * (math.log(2 * math.pi) - 0.7)) / 2 + kl
    torch.testing.assert_close(found(x, none, seed=3).loss, loss.mean(), rtol=1e-6, atol=0)  # -0.7 is float32
    torch.testing.assert_close(found.reconstruct(x, none), x_hat(mu).detach())
    draws = torch.randn(9, KAPPA, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampled = found.sample(none, torch.Generator().manual_seed(1))
    torch.testing.assert_close(sampled, x_hat(m + (p / 2).exp() * draws).detach())
    assert mc.active_dimensions(found, x, none).variance.shape == (KAPPA,)
    with pytest.raises(mc.InputError, match=r"L of at least 1, got shape \(9, 0, 4"):
        model(share_weights).double().sample(none)


def factor(sequence: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """mu and L ``[9, κ, κ]``, whose rows the encoder gives in units of their diagonal."""
    last = lstm(sequence, weights, "encoder.network")
    both = linear(last, weights, "encoder.network.head")
    left = linear(last, weights, "encoder.network.head.below")
    unit, below = both[:, KAPPA:].exp(), torch.zeros(9, KAPPA, KAPPA, dtype=torch.float64)
    below[:, 1, 0], below[:, 2, 0], below[:, 2, 1] = left.unbind(1)
    return both[:, :KAPPA], unit[:, :, None] * (below + torch.eye(KAPPA))


@pytest.mark.parametrize("kind", [mc.SequentialCVAE, mc.EveryStepCVAE])
def test_with_full_covariance_it_is_the_formulas(kind: type[mc.SequentialCVAE]) -> None:
    """The same terms, of N(μ, L Lᵀ); of the first kind that of the last step alone."""
    torch.manual_seed(0)
    found = kind.lstm(D, KAPPA, HIDDEN, covariance="cholesky").double()
    x, c = windows()
    weights = {name: p.detach().clone().requires_grad_() for name, p in found.named_parameters()}
    terms = found(x, c, seed=11, first_row=4)
    terms.loss.backward()

    steps, n = torch.cat((c, x.reshape(9, 1, D)), 1), T + 1
    lengths = range(n) if kind is mc.EveryStepCVAE else (T,)
    noise = standard_normal(torch.tensor(11), 9 * len(lengths), KAPPA, 4 * len(lengths)).reshape(9, -1, KAPPA)
    losses, ratios, spectra = [], [], []
    for index, l in enumerate(lengths):
        mu, full = factor(steps[:, : l + 1], weights)
        m, p = gaussian(steps[:, :l], weights, "prior")
        z = mu + torch.einsum("bij,bj->bi", full, noise[:, index])
        error = ((steps[:, l] - decoded(z, steps[:, :l], weights, ())) ** 2).sum(1)
        relative = full @ full.mT / (p[:, :, None] / 2).exp() / (p[:, None, :] / 2).exp()
        trace = relative.diagonal(dim1=1, dim2=2)
        kl = (trace.sum(1) + ((mu - m) ** 2 / p.exp()).sum(1) - KAPPA - torch.logdet(relative)) / 2
        used = weights["elbo.log_gamma"]
        losses.append((error / used.exp() + D * (math.log(2 * math.pi) + used)) / 2 + kl)
        ratios.append(trace.detach())
        spectra.append(torch.linalg.eigvalsh(relative.detach()))
    loss = torch.stack(losses).mean()
    loss.backward()

    torch.testing.assert_close(terms.loss, loss, rtol=1e-11, atol=1e-12)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-11, msg=lambda s, n=name: f"{n}: {s}"
        )
    ratio, spectrum = torch.stack(ratios).mean(0), torch.stack(spectra).mean(0)
    assert (ratio - spectrum).abs().max() > 0.01
    torch.testing.assert_close(terms.variance_ratio, ratio.mean(0))
    torch.testing.assert_close(found.variance_ratio(x, c), ratio)
    torch.testing.assert_close(found.spectrum(x, c), spectrum)
    torch.testing.assert_close(mc.active_dimensions(found, x, c, batch_size=4).spectrum, spectrum.mean(0))
    assert found.posterior(x, c)[1].shape == (9, KAPPA * (KAPPA + 1) // 2)
    assert found.sample(c).shape == found.reconstruct(x, c).shape == x.shape


def test_what_is_measured_of_every_step_does_not_depend_on_the_batches() -> None:
    found = model(True, kind=mc.EveryStepCVAE).double()
    x, c = windows()
    whole, parts = mc.evaluate(found, x, c), mc.evaluate(found, x, c, batch_size=4)
    for name in ("nll", "kl", "recon", "variance"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), rel=1e-10)
    terms = found(x, c, seed=0)
    assert whole.neg_elbo == pytest.approx(float(terms.loss.detach()), rel=1e-10)
    assert whole.samples == 9
    assert whole.variance == pytest.approx(mc.active_dimensions(found, x, c, batch_size=5).variance.tolist(), rel=1e-6)


def test_what_prior_and_decoder_return_of_every_step_is_checked() -> None:
    class Of(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.shape = shape

        def at_every_length(self, *_: Tensor) -> Tensor:
            return torch.zeros(self.shape)

    good, (x, c) = model(False), windows()
    parts = {"encoder": good.encoder, "decoder": good.decoder, "prior": good.prior}
    for name, shape, said in (
        (
            "prior",
            (2, 7, KAPPA),
            r"prior must return \(.*\), both of shape \(2, 7, 3\), got a tensor of shape \(2, 7, 3\)$",
        ),
        ("decoder", (2, 6, D), r"decoder must return a tensor of the shape of x, \(2, 7, 4\), got .* \(2, 6, 4\)"),
    ):
        bad = mc.EveryStepCVAE(**(parts | {name: Of(*shape)}), latent_dim=KAPPA)
        with pytest.raises(mc.InputError, match=said):
            bad(x[:2].float(), c[:2].float())


def test_every_step_wants_networks_of_every_length_and_a_mean() -> None:
    good = model(False)
    parts = {"encoder": good.encoder, "decoder": good.decoder, "prior": good.prior}
    for name, shown in (("encoder", "encoder.network"), ("decoder", "decoder"), ("prior", "prior")):
        with pytest.raises(
            mc.InputError, match=rf"^{shown} must have a method at_every_length, .* got (Linear|NoneType)"
        ):
            mc.EveryStepCVAE(**(parts | {name: nn.Linear(2, 2)}), latent_dim=KAPPA)  # type: ignore[arg-type]
    for kind in (mc.SequentialCVAE, mc.EveryStepCVAE):
        with pytest.raises(mc.InputError, match=r"^covariance must be 'diagonal' if encoder and prior are one network"):
            kind.lstm(D, KAPPA, share_weights=True, covariance="cholesky")
        for make in (kind.mlp, kind.conv):
            with pytest.raises(
                mc.InputError, match=f"^{kind.__name__} must be made by lstm, or of networks of your own"
            ):
                make(D, KAPPA, 2)
    parts["prior"] = good.encoder.network
    with pytest.raises(
        mc.InputError, match=r"^covariance must be 'diagonal' if encoder and prior are one .* 'cholesky'$"
    ):
        mc.EveryStepCVAE(**parts, latent_dim=KAPPA, covariance="cholesky")  # type: ignore[arg-type]
    with pytest.raises(mc.InputError, match="elbo must have reduction='mean', got 'sum'"):
        mc.EveryStepCVAE.lstm(D, KAPPA, elbo=mc.GaussianELBO(reduction="sum"))
    x, c = windows()
    found = model(True, kind=mc.EveryStepCVAE).double()
    with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[9, any, 4\], .* got shape \(9, 6, 3\)"):
        found(x, c[:, :, :3])
    with pytest.raises(mc.InputError, match=r"x must be a tensor of shape \[B, 4\], the step after c"):
        found(c[:, :2], c)
    found.latent_dim = KAPPA + 1
    with pytest.raises(mc.InputError, match=r"encoder must return .* of shapes \(9, 8, 4\) .*, got .* \(9, 8, 3\)"):
        found(x, c)
    with pytest.raises(mc.InputError, match="model must be a CVAE with one prior per sample, got an EveryStepCVAE"):
        mc.with_standard_prior(found)


def kl_at(found: mc.SequentialCVAE, x: Tensor, c: Tensor) -> Tensor:
    """It has no noise."""
    return found(x, c, seed=0).kl.mean().detach()


def test_each_parameter_stands_once() -> None:
    apart, tied = model(False), model(True)
    own = 4 * HIDDEN * (D + HIDDEN + 2) + 2 * KAPPA * (HIDDEN + 1)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (apart, tied)]
    assert sizes[0] - sizes[1] == own
    assert len({id(p) for p in tied.parameters()}) == len(list(tied.parameters()))
    assert len(list(apart.parameters())) - len(list(tied.parameters())) == 6
    for m in (tied, copy.deepcopy(tied).double()):
        assert m.prior is m.encoder.network
    assert not {id(p) for p in apart.encoder.parameters()} & {id(p) for p in apart.prior.parameters()}  # type: ignore[union-attr]


def test_the_gradient_of_shared_weights_is_the_sum_of_both_uses() -> None:
    tied, apart = model(True).double(), model(False).double()
    apart.load_state_dict(tied.state_dict())
    x, c = windows()
    for m in (tied, apart):
        m(x, c, seed=3).loss.backward()
    for name, parameter in tied.prior.named_parameters():  # type: ignore[union-attr]
        of_encoder = apart.get_parameter(f"encoder.network.{name}").grad
        of_prior = apart.get_parameter(f"prior.{name}").grad
        assert of_encoder is not None
        assert of_prior is not None
        assert of_encoder.abs().max() > 1e-4
        assert of_prior.abs().max() > 1e-4
        torch.testing.assert_close(parameter.grad, of_encoder + of_prior, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("share_weights", [False, True])
def test_prior_and_samples_know_nothing_of_the_next_step(share_weights: bool) -> None:
    found = model(share_weights)
    c = windows(2)[1].float()
    m, p = found.prior(c)  # type: ignore[misc]
    found.decoder = nn.Module()
    found.decoder.forward = lambda z, _c: z  # type: ignore[method-assign]
    samples = found.sample(c.repeat(20_000, 1, 1), torch.Generator().manual_seed(0))
    assert torch.equal(samples, found.sample(c.repeat(20_000, 1, 1), torch.Generator().manual_seed(0)))
    for row in (0, 1):
        standard = (samples[row::2] - m[row]) * torch.exp(-p[row] / 2)
        assert standard.mean(0).abs().max() < 0.03  # four standard errors
        assert (standard.var(0) - 1).abs().max() < 0.04


def test_samples_and_reconstructions_are_steps() -> None:
    found = model(True).double()
    x, c = windows()
    assert found.sample(c).shape == x.shape
    assert found.sample(c).dtype == torch.float64
    torch.testing.assert_close(found.reconstruct(x, c), found.decoder(found.posterior(x, c)[0], c))
    assert found.sample(c[:, :1]).shape == x.shape  # sequences of any length
    signs = c > 0
    torch.testing.assert_close(found.reconstruct(x, signs), found.reconstruct(x, signs.double()))
    assert found.bfloat16().sample(c.bfloat16()).dtype == torch.bfloat16


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("stop", [1, 17])
def test_a_stopped_run_with_shared_weights_goes_on_to_the_same_numbers(tmp_path: Path, stop: int) -> None:
    (x, c), config = windows(50), mc.TrainingConfig(steps=20, batch_size=16)
    x, c = x.float(), c.float()
    expected, stopped, found = model(True), model(True), model(True)
    curve = mc.train(expected, x, config, condition=c, progress=False)
    stop_before(stopped, stop, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        mc.train(stopped, x, config, condition=c, folder=tmp_path, checkpoint_seconds=0, progress=False)
    history = mc.train(found, x, config, condition=c, folder=tmp_path, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert history.neg_elbo == curve.neg_elbo
    assert found.prior is found.encoder.network
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    moments = {name.split(".")[1] for name in loaded.tensors if name.startswith("optimizer.")}
    assert len(moments) == len(list(found.parameters()))


def test_shapes_that_do_not_fit_are_named() -> None:
    found, (x, c) = model(False).double(), windows()
    for bad in (c[:8], c[:, :, :3], c[:, 0], c[0]):
        for call in (found, found.posterior, found.reconstruct, found.variance_ratio):
            with pytest.raises(
                mc.InputError, match=r"c must be a tensor of shape \[9, any, 4\], .* got shape"
            ) as caught:
                call(x, bad)
            assert str(caught.value).endswith(str(tuple(bad.shape)))
        with pytest.raises(mc.InputError, match=r"condition must be a tensor of shape \[9, any, 4\]"):
            mc.train(found, x, mc.TrainingConfig(steps=1), condition=bad, progress=False)
    with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[B, any, 4\], .* got shape \(9, 4\)"):
        found.sample(c[:, 0])
    for bad in (x[:, :3], x[:, 0], c[:, :D]):
        with pytest.raises(mc.InputError, match=r"x must be a tensor of shape \[B, 4\], the step after c, got shape"):
            found(bad, c)
    with pytest.raises(
        mc.InputError, match=r"sequence must be .* \[B, L, 4\] with L of at least 1, got shape \(9, 0, 4"
    ):
        found(x, c[:, :0])
    for sizes in ((0, 3, 5), (4, 0, 5), (4, 3, 0)):
        with pytest.raises(mc.InputError, match=r"(data_dim|latent_dim|hidden) must be a positive integer, got 0"):
            mc.SequentialCVAE.lstm(*sizes)
    with pytest.raises(mc.InputError, match=r"decoder_hidden\[1\] must be a positive integer, got 0"):
        mc.SequentialCVAE.lstm(4, 3, 5, decoder_hidden=(4, 0))


def test_own_networks_take_conditions_of_any_width() -> None:
    class Encoder(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            return x + c.mean(1)[:, :D], x

    class Decoder(nn.Module):
        def forward(self, z: Tensor, c: Tensor) -> Tensor:
            return z + c[:, -1, :D]

    found, (x, c) = mc.SequentialCVAE(Encoder(), Decoder(), D), windows()
    assert found(x, torch.cat((c, c), 2)).x_hat.shape == x.shape
    with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[9, any, any\]"):
        found(x, x)


def autoregressive(samples: int) -> tuple[Tensor, Tensor]:
    """Steps of two numbers, each half the one before plus noise, as four features; the last step, and five before."""
    generator = torch.Generator().manual_seed(0)
    latent = [torch.zeros(samples, 2)]
    for noise in torch.randn(20, samples, 2, generator=generator):
        latent.append(0.5 * latent[-1] + noise)
    steps = torch.stack(latent[-6:], dim=1) @ torch.randn(2, 4, generator=generator)
    return steps[:, 5], steps[:, :5]


# Matrices of an LSTM this small leave threads nothing but to wait for each other.
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", [mc.SequentialCVAE, mc.EveryStepCVAE])
def test_shared_weights_cost_loss(kind: type[mc.SequentialCVAE]) -> None:
    """Theorem 3, early in training, where it shows at its clearest."""
    x, c = autoregressive(2000)
    config = mc.TrainingConfig(steps=300, batch_size=128, learning_rate=0.02, seed=2)
    found = []
    for share_weights in (False, True):
        torch.manual_seed(2)
        trained = kind.lstm(4, 4, 16, share_weights=share_weights)
        mc.train(trained, x, config, condition=c, progress=False)
        found.append(mc.evaluate(trained, x, c).neg_elbo)
    apart, shared = found
    assert apart < shared - 0.5


@pytest.mark.parametrize("first_row", [True, "3", 1.5, None, -1])
def test_a_first_row_that_is_none_is_named_as_it_was_given(first_row: object) -> None:
    x, c = (part.float() for part in windows())
    for kind in (mc.SequentialCVAE, mc.EveryStepCVAE):
        with pytest.raises(ValueError, match=rf"^first_row must be an integer .*, got {first_row!r}$"):
            model(False, "learned", (), kind)(x, c, seed=1, first_row=first_row)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_another_reduction_is_refused_wherever_it_comes_from(reduction: str) -> None:
    """The ELBO has a row for each step: its sum would be n times that of the samples."""
    with pytest.raises(mc.InputError, match="elbo must have reduction='mean', got"):
        mc.EveryStepCVAE.lstm(3, 2, 4, elbo=mc.GaussianELBO(reduction=reduction))  # type: ignore[arg-type]
    model = mc.EveryStepCVAE.lstm(3, 2, 4)
    model.elbo.reduction = reduction  # type: ignore[assignment]
    with pytest.raises(mc.InputError, match="elbo must have reduction='mean', got"):
        model(torch.randn(5, 3), torch.randn(5, 2, 3))
