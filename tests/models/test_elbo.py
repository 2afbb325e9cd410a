"""GaussianELBO against the formula in float64, its three kinds of γ, and bad input."""

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from instruction_sets import NEEDS_COMPILED
from manifold_core.kernels.random import standard_normal
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_core as mc
from manifold_core.covariance import Covariance
from manifold_core.models.elbo import Gamma, Reduction

LOG_2PI = math.log(2 * math.pi)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(batch: int = 7, features: int = 5, latents: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, features, generator=generator, dtype=torch.float64)
    mu = torch.randn(batch, latents, generator=generator, dtype=torch.float64, requires_grad=True)
    log_var = torch.randn(batch, latents, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(latents, features, generator=generator, dtype=torch.float64, requires_grad=True)
    return x, mu, log_var, weight


def by_hand(
    x: Tensor, mu: Tensor, log_var: Tensor, weight: Tensor, log_gamma: Tensor | None, seed: int
) -> dict[str, Tensor]:
    """Equation (1) written out; log_gamma None is the optimum of the batch."""
    noise = standard_normal(torch.tensor(seed), *mu.shape)
    z = mu + torch.exp(log_var / 2) * noise
    recon = (x - z @ weight).pow(2).sum(1)
    gamma = recon.sum() / x.numel() if log_gamma is None else log_gamma.exp()
    nll = (recon / gamma + x.shape[1] * (LOG_2PI + gamma.log())) / 2
    kl = (mu.pow(2) + log_var.exp() - 1 - log_var).sum(1) / 2
    return {"z": z, "recon": recon, "nll": nll, "kl": kl, "gamma": gamma}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("gamma", ["learned", "analytic", "fixed"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", [1.0, 0.25, 0.0])
def test_terms_and_gradients_are_the_formula(gamma: str, reduction: str, beta: float, backend: str) -> None:
    x, mu, log_var, weight = inputs()
    elbo = mc.GaussianELBO(gamma, -0.7, beta=beta, reduction=reduction, backend=backend).double()
    terms = elbo(x, (mu, log_var), lambda z: z @ weight, seed=11)
    own_log_gamma = None
    if gamma != "analytic":
        own_log_gamma = torch.tensor(-0.7, dtype=torch.float64, requires_grad=gamma == "learned")
        # The module was made in float32 and widened: the same rounding.
        own_log_gamma = own_log_gamma.detach().float().double().requires_grad_(gamma == "learned")
    expected = by_hand(x, mu, log_var, weight, own_log_gamma, 11)
    per_sample = expected["nll"] + beta * expected["kl"]
    loss = {"mean": per_sample.mean(), "sum": per_sample.sum(), "none": per_sample}[reduction]

    for name in ("z", "recon", "nll", "kl"):
        torch.testing.assert_close(getattr(terms, name), expected[name], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(terms.loss, loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(terms.log_gamma.exp(), expected["gamma"], rtol=1e-12, atol=0)

    # A weight for each sample, so that a gradient that forgets γ's dependence on the batch is found out.
    incoming = torch.linspace(-1, 2, loss.numel(), dtype=torch.float64).reshape(loss.shape)
    wanted: list[Tensor] = [mu, log_var, weight]
    got = torch.autograd.grad(terms.loss, wanted + ([elbo.log_gamma] if gamma == "learned" else []), incoming)
    assert own_log_gamma is not None or gamma == "analytic"
    by_autograd = torch.autograd.grad(loss, wanted + ([own_log_gamma] if gamma == "learned" else []), incoming)
    for ours, theirs in zip(got, by_autograd, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_prior_and_a_gate_are_those_of_the_formula(rows: int, backend: str) -> None:
    x, mu, log_var, weight = inputs()
    generator = torch.Generator().manual_seed(1)
    prior_mu, prior_log_var, gate_logits = (
        torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    leaves = (mu, log_var, weight, prior_mu, prior_log_var, gate_logits)
    elbo = mc.GaussianELBO("fixed", beta=0.5, backend=backend).double()
    terms = elbo(x, (mu, log_var), lambda z: z @ weight, (prior_mu, prior_log_var), gate_logits=gate_logits, seed=11)
    z = (mu + torch.exp(log_var / 2) * standard_normal(torch.tensor(11), 7, 3)) / (1 + torch.exp(-gate_logits))
    ratio = torch.exp(log_var) / torch.exp(prior_log_var)
    kl = 0.5 * ((mu - prior_mu).square() / torch.exp(prior_log_var) + ratio - 1 - ratio.log()).sum(dim=1)
    loss = (0.5 * ((x - z @ weight).square().sum(dim=1) + 5 * LOG_2PI) + 0.5 * kl).mean()
    torch.testing.assert_close(terms.z, z)
    torch.testing.assert_close(terms.kl, kl)
    torch.testing.assert_close(terms.loss, loss)
    torch.testing.assert_close(terms.variance_ratio, ratio.mean(dim=0).detach())
    assert not terms.variance_ratio.requires_grad
    pairs = zip(torch.autograd.grad(terms.loss, leaves), torch.autograd.grad(loss, leaves), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_full_covariance_is_that_of_torch_distributions(backend: str) -> None:
    x, mu, _, weight = inputs()
    generator = torch.Generator().manual_seed(2)
    tril = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    gate_logits = torch.randn(3, generator=generator, dtype=torch.float64)
    prior = torch.randn(3, generator=generator).double(), torch.randn(3, generator=generator).double()
    elbo = mc.GaussianELBO("fixed", covariance="cholesky", backend=backend).double()
    terms = elbo(x, (mu, tril), lambda z: z @ weight, prior, gate_logits=gate_logits, seed=11)
    scale = torch.zeros(7, 3, 3, dtype=torch.float64)
    row, col = torch.tril_indices(3, 3)
    scale[:, row, col] = tril
    scale.diagonal(dim1=1, dim2=2).exp_()
    posterior = torch.distributions.MultivariateNormal(mu, scale_tril=scale)
    conditional = torch.distributions.MultivariateNormal(prior[0], prior[1].exp().diag())
    noise = standard_normal(torch.tensor(11), 7, 3)
    torch.testing.assert_close(terms.kl, torch.distributions.kl_divergence(posterior, conditional))
    torch.testing.assert_close(terms.z, (mu + (scale @ noise.unsqueeze(2)).squeeze(2)) / (1 + torch.exp(-gate_logits)))
    torch.testing.assert_close(terms.variance_ratio, (posterior.variance / prior[1].exp()).mean(dim=0).detach())


class Ours(TorchDispatchMode):
    """Which operators of ours are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function.namespace == "manifold_core":
            self.names.append(function._opname)
        return function(*args, **(kwargs or {}))


@NEEDS_COMPILED
@pytest.mark.parametrize(("covariance", "sampling"), [("diagonal", "rsample_kl"), ("cholesky", "rsample_kl_cholesky")])
@pytest.mark.parametrize(("reduction", "error"), [("mean", "gaussian_elbo"), ("sum", "gaussian_nll")])
def test_the_named_backend_computes_every_term(
    covariance: Covariance, sampling: str, reduction: Reduction, error: str
) -> None:
    x, mu, log_var, weight = inputs(latents=1)
    for backend, expected in (("reference", []), ("cpu", [sampling, error])):
        elbo = mc.GaussianELBO(covariance=covariance, reduction=reduction, backend=backend)
        with Ours() as ours:
            elbo(x, (mu, log_var), lambda z: z @ weight)
        assert ours.names == expected


@pytest.mark.parametrize("gamma", ["learned", "analytic", "fixed"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_large_batch_has_one_loss_whatever_the_number_of_threads(gamma: Gamma, reduction: Reduction) -> None:
    generator = torch.Generator().manual_seed(0)
    x, x_hat, mu, log_var = torch.randn(4, 50_000, 5, generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            elbo = mc.GaussianELBO(gamma, reduction=reduction)
            leaves = [part.clone().requires_grad_() for part in (mu, log_var)]
            terms = elbo(x, (leaves[0], leaves[1]), lambda z: z + x_hat, seed=1)
            wanted = [*leaves, *elbo.parameters()]
            found.append([terms.loss, terms.log_gamma, *torch.autograd.grad(terms.loss, wanted)])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            assert torch.equal(a, b)


def test_analytic_gamma_of_images_is_the_mean_square_of_all_their_features() -> None:
    x, posterior = torch.rand(4, 2, 3, 5, dtype=torch.float64), (torch.zeros(4, 1), torch.zeros(4, 1))
    terms = mc.GaussianELBO("analytic").double()(x, posterior, lambda z: torch.zeros_like(x), seed=0)
    torch.testing.assert_close(terms.log_gamma, x.square().mean().log(), rtol=1e-12, atol=0)


def test_analytic_gamma_is_the_best_fixed_one() -> None:
    x, mu, log_var, weight = inputs()
    best = mc.GaussianELBO("analytic").double()(x, (mu, log_var), lambda z: z @ weight, seed=3)
    for step in (-0.1, 0.1):
        other = mc.GaussianELBO("fixed").double()
        other.log_gamma.copy_(best.log_gamma.detach() + step)
        assert other(x, (mu, log_var), lambda z: z @ weight, seed=3).loss > best.loss


def test_analytic_gamma_without_an_error_is_not_kept() -> None:
    """There is no best γ, and log 0 would stay in the model for good."""
    x = torch.ones(4, 3)
    elbo = mc.GaussianELBO("analytic", -2.0)
    terms = elbo(x, (torch.zeros(4, 2), torch.zeros(4, 2)), lambda z: x)
    assert terms.loss.isnan()
    assert float(elbo.log_gamma) == -2.0


def test_analytic_gamma_in_evaluation_mode_is_that_of_the_last_training_batch() -> None:
    x, mu, log_var, weight = inputs()
    elbo = mc.GaussianELBO("analytic").double()
    trained = elbo(x, (mu, log_var), lambda z: z @ weight, seed=3).log_gamma
    elbo.eval()
    evaluated = elbo(10 * x, (mu, log_var), lambda z: z @ weight, seed=3).log_gamma
    torch.testing.assert_close(evaluated, trained.detach())


def test_analytic_gamma_under_torch_func_wants_the_buffers() -> None:
    model = mc.VAE.mlp(6, 3, elbo=mc.GaussianELBO("analytic"))
    many = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    weights, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(state: object, x: Tensor) -> Tensor:
        terms: mc.ELBOTerms = torch.func.functional_call(model, state, (x,), {"seed": 1})  # type: ignore[arg-type]
        return terms.loss

    for call in (
        lambda: torch.func.vmap(lambda x: model(x, seed=1).loss)(many),
        lambda: torch.func.vmap(lambda x: loss((weights, buffers), x))(many),
        lambda: torch.func.grad(loss)(weights, many[0]),
    ):
        with pytest.raises(
            RuntimeError, match=r"^manifold_core: .*gamma='analytic' writes .* buffer .*model\.eval\(\)"
        ):
            call()
    assert model.elbo.log_gamma == 0
    loop = torch.stack([model(x, seed=1).loss for x in many])
    own = {name: buffer.expand(3).clone() for name, buffer in buffers.items()}
    torch.testing.assert_close(torch.func.vmap(lambda b, x: loss((weights, b), x))(own, many), loop)
    torch.testing.assert_close(own["elbo.log_gamma"][2], model.elbo.log_gamma)  # the last of the loop
    slopes = torch.func.grad(lambda w, b: loss((w, b), many[0]))(weights, buffers)
    model(many[0], seed=1).loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(slopes[name], weight.grad)
    model.eval()
    torch.testing.assert_close(
        torch.func.vmap(lambda x: model(x, seed=1).loss)(many), torch.stack([model(x, seed=1).loss for x in many])
    )


def test_gamma_is_a_parameter_only_where_it_is_learned() -> None:
    assert [name for name, _ in mc.GaussianELBO("learned").named_parameters()] == ["log_gamma"]
    for gamma in ("analytic", "fixed"):
        elbo = mc.GaussianELBO(gamma)  # type: ignore[arg-type]
        assert not list(elbo.parameters())
        assert list(elbo.state_dict()) == ["log_gamma"]


@pytest.mark.parametrize(
    ("squared_errors", "gamma"),
    [(1.0, lambda beta: beta / 2), (0.5, lambda beta: beta), (1 / 5, lambda beta: 5 * beta / 2)],
)
def test_the_losses_of_other_libraries_are_those_that_the_documents_say(
    squared_errors: float, gamma: Callable[[float], float]
) -> None:
    """docs/ops.md: the squared error so weighted, and beta KL, have the gradients of beta times the loss."""
    x, mu, log_var, weight = inputs()
    beta, leaves = 0.3, (mu, log_var, weight)
    terms = by_hand(x, mu, log_var, weight, torch.tensor(0.0, dtype=torch.float64), seed=4)
    others = torch.autograd.grad((squared_errors * terms["recon"] + beta * terms["kl"]).mean(), leaves)
    elbo = mc.GaussianELBO("fixed", math.log(gamma(beta))).double()
    ours = torch.autograd.grad(beta * elbo(x, (mu, log_var), lambda z: z @ weight, seed=4).loss, leaves)
    # log γ was a float32 before it became a float64
    torch.testing.assert_close(ours, others, rtol=1e-6, atol=1e-12)


def test_images_are_summed_over_all_their_features() -> None:
    x = torch.rand(4, 2, 3, 5)
    mu, log_var = torch.zeros(4, 1), torch.zeros(4, 1)
    terms = mc.GaussianELBO("fixed")(x, (mu, log_var), lambda z: torch.zeros(4, 2, 3, 5), seed=0)
    torch.testing.assert_close(terms.recon, x.square().sum(dim=(1, 2, 3)))
    torch.testing.assert_close(terms.nll, 0.5 * (terms.recon + 30 * LOG_2PI))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gamma": "free"}, ["gamma", "'free'", "learned"]),
        ({"covariance": "full"}, ["covariance", "'full'", "cholesky"]),
        ({"reduction": "max"}, ["reduction", "'max'", "mean"]),
        ({"log_gamma": float("nan")}, ["log_gamma", "nan", "finite"]),
        ({"beta": -1.0}, ["beta", "-1.0"]),
        ({"beta": float("inf")}, ["beta", "inf"]),
        ({"beta": None}, ["beta", "None", "finite"]),
        ({"log_gamma": "0"}, ["log_gamma", "'0'", "finite"]),
        ({"log_gamma": 10**400}, ["log_gamma", "1000", "finite"]),
        ({"backend": "cpuu"}, ["backend", "'cpuu'", "reference"]),
    ],
)
def test_bad_input_is_named(arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.GaussianELBO(**arguments)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_a_posterior_or_prior_that_is_no_pair_is_refused(covariance: Covariance) -> None:
    mu = torch.zeros(4, 1)
    elbo: Any = mc.GaussianELBO(covariance=covariance)
    for given, what in (
        ((mu, mu, mu), "tuple of 3"),
        ([mu], "list of 1"),
        (mu, r"Tensor of shape \(4, 1\)"),
        (torch.zeros(2, 1), r"Tensor of shape \(2, 1\)"),  # two rows
        ({"mu": mu, "log_var": mu}, "dict"),
        (5, "int"),
    ):
        with pytest.raises(TypeError, match=f"^posterior must be a pair of tensors, got {what}$"):
            elbo(mu, given, nn.Identity())
        with pytest.raises(TypeError, match=f"^prior must be a pair of tensors, got {what}$"):
            elbo(mu, (mu, mu), nn.Identity(), given)


@pytest.mark.parametrize("gamma", ["learned", "analytic", "fixed"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_another_number_of_samples_than_the_posterior_has_is_refused(gamma: Gamma, reduction: Reduction) -> None:
    """One KL would be added to all samples, or that of all to one."""
    x, mu, log_var, weight = inputs()
    elbo = mc.GaussianELBO(gamma, -0.7, reduction=reduction).double()
    for rows, posterior in ((7, (mu[:1], log_var[:1])), (1, (mu, log_var)), (4, (mu, log_var))):
        words = rf"^kl must have shape \({rows},\), one number per sample, on cpu, got \({len(posterior[0])},\) on cpu$"
        with pytest.raises(ValueError, match=words):
            elbo(x[:rows], posterior, lambda z, rows=rows: (z @ weight)[:1].expand(rows, 5))
    with pytest.raises(
        ValueError, match=r"^kl must have shape \(1,\), one number per sample, on cpu, got \(7,\) on cpu$"
    ):
        elbo(x.unsqueeze(0), (mu, log_var), lambda z: (z @ weight).unsqueeze(0))
    assert elbo.log_gamma.item() == pytest.approx(-0.7)  # nothing of it is kept


def test_terms_are_told_in_a_line() -> None:
    x, mu, log_var, weight = inputs()
    terms = mc.GaussianELBO().double()(x, (mu, log_var), lambda z: z @ weight, seed=0)
    shapes = "nll=[7], kl=[7], recon=[7], z=[7, 3], x_hat=[7, 5], posterior=([7, 3], [7, 3])"
    assert repr(terms) == f"ELBOTerms(loss={terms.loss.item():.4g}, {shapes}, log_gamma=0, variance_ratio=[3])"
    assert repr(terms._replace(loss=terms.loss.to("meta"))).startswith("ELBOTerms(loss=[], nll=[7], ")


def test_what_is_no_decoder_is_refused_before_noise_is_drawn() -> None:
    x, mu, log_var, _ = inputs()
    before = torch.get_rng_state()
    for decoder, what in ((None, "None"), ("mlp", "'mlp'"), (x, r"a tensor of shape \(7, 5\)")):
        with pytest.raises(TypeError, match=f"^decoder must be a module or a function, got {what}$"):
            mc.GaussianELBO().double()(x, (mu, log_var), decoder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_decoder_of_another_shape_is_refused() -> None:
    x, mu, log_var, _ = inputs()
    with pytest.raises(ValueError, match=r"x_hat and x must have the same shape, got \(7, 3\) and \(7, 5\)"):
        mc.GaussianELBO().double()(x, (mu, log_var), lambda z: z)


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_a_gate_is_one_of_the_documented_shapes_and_of_any_type(covariance: Covariance) -> None:
    elbo = mc.GaussianELBO(covariance=covariance)
    posterior = (torch.zeros(4, 3), torch.zeros(4, 3 if covariance == "diagonal" else 6))
    decoder = nn.Linear(3, 5)

    def z_of(gate_logits: Any) -> Tensor:
        return elbo(torch.zeros(4, 5), posterior, decoder, gate_logits=gate_logits, seed=1).z

    for shape in ((4, 1), (2, 4, 3), (4, 4), (3, 3)):
        with pytest.raises(ValueError, match="gate_logits must have the shape of mu"):
            z_of(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"gate_logits must be of a floating-point dtype, got torch\.int64"):
        z_of(torch.zeros(4, 3, dtype=torch.int64))
    for shape in ((4, 3), (1, 3), (3,)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            z = z_of(torch.zeros(shape, dtype=dtype))
            assert z.dtype == torch.float32
            torch.testing.assert_close(z, z_of(None) / 2, rtol=1e-6, atol=0)
    # Of a z in half precision, too, the logits are what they are: rounded, a logit of -20.06 is another by 0.06.
    posterior = (posterior[0].bfloat16(), posterior[1].bfloat16())
    decoder = nn.Linear(3, 5).bfloat16()
    expected = (z_of(None).double() / (1 + math.exp(20.06))).bfloat16()
    torch.testing.assert_close(z_of(torch.full((3,), -20.06)), expected, rtol=2.0**-7, atol=0)


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_a_gate_that_is_shut_still_has_a_derivative(covariance: Covariance) -> None:
    """w (1 − w) of w = 1 / (1 + e⁻²⁰) in float32, where 1 − w is 0 if w is rounded first."""
    elbo = mc.GaussianELBO("fixed", covariance=covariance)
    gate_logits = torch.full((4, 3), 20.0, requires_grad=True)
    posterior = (torch.ones(4, 3), torch.full((4, 3 if covariance == "diagonal" else 6), -torch.inf))
    if covariance == "cholesky":
        posterior[1][:, [1, 3, 4]] = 0.0  # below the diagonal
    z = elbo(torch.zeros(4, 3), posterior, nn.Identity(), gate_logits=gate_logits, seed=1).z
    (found,) = torch.autograd.grad(z.sum(), gate_logits)
    expected = (z.detach().double() * math.exp(-20) / (1 + math.exp(-20))).float()
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("gamma", ["learned", "analytic"])
def test_the_gamma_of_a_loss_stays_what_it_was(gamma: Gamma) -> None:
    """Training goes on, in evaluation mode too by another's call, and writes the next one."""
    elbo = mc.GaussianELBO(gamma)
    optimizer = torch.optim.SGD(elbo.parameters(), 0.1) if gamma == "learned" else None
    kept, seen = [], []
    for step in range(3):
        elbo.train(gamma == "learned")
        x, posterior = torch.full((4, 3), 1.0 + step), (torch.zeros(4, 3), torch.zeros(4, 3))
        terms = elbo(x, posterior, nn.Identity(), seed=step)
        kept.append(terms.log_gamma.detach())
        seen.append(float(terms.log_gamma.detach()))
        if optimizer is not None:
            terms.loss.backward()
            optimizer.step()
        else:
            elbo.train()(x, posterior, nn.Identity(), seed=step)
    assert len(set(seen)) == 3
    assert [float(one) for one in kept] == seen


@pytest.mark.parametrize(("gamma", "reduction"), [("analytic", "mean"), ("learned", "sum"), ("learned", "none")])
def test_beta_is_any_number(gamma: str, reduction: str) -> None:
    x, posterior = torch.rand(4, 3), (torch.rand(4, 2), torch.rand(4, 2))
    losses = []
    for beta in (Fraction(1, 2), 0.5):
        elbo = mc.GaussianELBO(gamma, beta=beta, reduction=reduction)  # type: ignore[arg-type]
        losses.append(elbo(x, posterior, lambda z: z @ torch.ones(2, 3), seed=0).loss)
    assert torch.equal(*losses)


def test_options_that_are_set_later_are_checked() -> None:
    elbo: Any = mc.GaussianELBO("fixed", -2.0, beta=0.25)
    for name, value, words in (
        ("reduction", "Mean", "^reduction must be 'mean', 'sum' or 'none', got 'Mean'$"),
        ("gamma", "Analytic", "^gamma must be 'learned', 'analytic' or 'fixed', got 'Analytic'$"),
        ("gamma", "learned", "^gamma must stay what it was made, 'fixed', got 'learned'"),
        ("covariance", "cholesky", "^covariance must stay what it was made, 'diagonal', got 'cholesky'"),
        ("beta", -1.0, r"^beta must be a finite number, not negative, got -1\.0$"),
        ("beta", math.nan, "^beta must be a finite number, not negative, got nan$"),
        (
            "beta",
            torch.tensor(1.0),
            r"not negative, got tensor\(1\.\); float\(beta\) converts it$",
        ),
        ("backend", "cpuu", "^backend must be one of .*, got 'cpuu'$"),
    ):
        before = getattr(elbo, name)
        with pytest.raises(mc.InputError, match=words):
            setattr(elbo, name, value)
        assert getattr(elbo, name) == before
    elbo.reduction, elbo.beta, elbo.backend, elbo.gamma = "sum", 0.5, "reference", "fixed"
    x, posterior = torch.rand(4, 3), (torch.rand(4, 3), torch.rand(4, 3))
    terms = elbo(x, posterior, nn.Identity(), seed=1)
    torch.testing.assert_close(terms.loss, terms.nll.sum() + 0.5 * terms.kl.sum())
    for other in (copy.deepcopy(elbo), pickle.loads(pickle.dumps(elbo))):
        assert repr(other) == "GaussianELBO(gamma='fixed', covariance='diagonal', beta=0.5, reduction='sum')"
        assert other.state_dict() == {"log_gamma": torch.tensor(-2.0)}
        assert torch.equal(other(x, posterior, nn.Identity(), seed=1).loss, terms.loss)


@pytest.mark.parametrize("gamma", ["learned", "analytic", "fixed"])
def test_a_module_made_without_numbers_is_given_its_first_ones(gamma: Gamma) -> None:
    with torch.device("meta"):
        elbo = mc.GaussianELBO(gamma, -3.0)
    elbo.to_empty(device="cpu")
    with torch.no_grad():
        elbo.log_gamma.fill_(77.0)  # what lay there
    elbo.reset_parameters()
    assert elbo.log_gamma.item() == -3.0
    assert isinstance(elbo.log_gamma, nn.Parameter) == (gamma == "learned")


@pytest.mark.parametrize(
    ("gamma", "reduction"), [("learned", "mean"), ("fixed", "mean"), ("learned", "sum"), ("analytic", "mean")]
)
def test_a_beta_that_changes_does_not_compile_anew(fresh_compiler: None, gamma: Gamma, reduction: Reduction) -> None:
    x, mu, log_var, weight = inputs()
    elbo = mc.GaussianELBO(gamma, reduction=reduction).double()
    counter = CompileCounterWithBackend("aot_eager")

    def terms_of(mu: Tensor, log_var: Tensor) -> mc.ELBOTerms:
        terms: mc.ELBOTerms = elbo(x, (mu, log_var), lambda z: z @ weight, seed=11)
        return terms

    compiled = torch.compile(terms_of, fullgraph=True, backend=counter)
    for step in range(12):
        elbo.beta = step / 8
        terms = compiled(mu, log_var)
        expected = by_hand(x, mu, log_var, weight, None if gamma == "analytic" else torch.zeros(()).double(), 11)
        per_sample = expected["nll"] + step / 8 * expected["kl"]
        loss = per_sample.mean() if reduction == "mean" else per_sample.sum()
        torch.testing.assert_close(terms.loss, loss)
        torch.testing.assert_close(terms.nll, expected["nll"])
        torch.testing.assert_close(terms.kl, expected["kl"])  # without β
        found = torch.autograd.grad(terms.loss, (mu, log_var))
        for ours, theirs in zip(found, torch.autograd.grad(loss, (mu, log_var)), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert counter.frame_count <= 3  # a number, then any


def test_a_beta_that_a_compiled_function_sets_is_any_number_too(fresh_compiler: None) -> None:
    x, mu, log_var, weight = inputs()
    elbo = mc.GaussianELBO().double()

    def loss_of(mu: Tensor, beta: float) -> Tensor:
        elbo.beta = beta
        loss: Tensor = elbo(x, (mu, log_var), lambda z: z @ weight, seed=11).loss
        return loss

    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    for step in range(12):
        torch.testing.assert_close(compiled(mu, step / 8), loss_of(mu, step / 8))


def test_a_number_of_numpys_is_kept_as_a_float(fresh_compiler: None) -> None:
    x, mu, log_var, weight = inputs()
    losses = []
    for beta in (np.float64(0.5), np.float32(0.5), 0.5):
        elbo = mc.GaussianELBO("fixed", beta=beta).double()
        assert type(elbo.beta) is float

        def loss_of(mu: Tensor, elbo: mc.GaussianELBO = elbo) -> Tensor:
            loss: Tensor = elbo(x, (mu, log_var), lambda z: z @ weight, seed=11).loss
            return loss

        losses.append(torch.compile(loss_of, fullgraph=True, backend="aot_eager")(mu))
    assert losses[0] == losses[1] == losses[2]
    torch.testing.assert_close(losses[0], loss_of(mu))


@pytest.mark.parametrize("gamma", ["learned", "analytic"])
@pytest.mark.parametrize("sizes", ["one", "any"])
def test_an_exported_model_is_written_and_read(gamma: Gamma, sizes: str) -> None:
    """In training mode, where an analytic γ is kept."""
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    model = mc.VAE.mlp(6, 3, elbo=mc.GaussianELBO(gamma))
    dynamic = {"x": {0: torch.export.Dim("B")}, "seed": None} if sizes == "any" else None
    exported = torch.export.export(model, (x,), {"seed": torch.tensor(3)}, dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    batch = x if sizes == "one" else torch.cat([x, 1 - x])[:7]
    found, expected = loaded(batch, seed=torch.tensor(5)), model(batch, seed=torch.tensor(5))
    assert type(found) is mc.ELBOTerms
    for name in ("loss", "nll", "kl", "recon", "z", "x_hat", "log_gamma", "variance_ratio"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(loaded.state_dict()["elbo.log_gamma"], model.state_dict()["elbo.log_gamma"])
