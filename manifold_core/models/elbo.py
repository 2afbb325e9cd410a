"""The Gaussian ELBO as a module: it owns γ and puts the ops together."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..arguments import check_choice, described
from ..brief import brief
from ..covariance import Covariance
from ..distributed import Joined, joined_mean
from ..errors import InputError
from ..kernels.batch_sums import mean_of_batch, sum_of_batch
from ..kernels.checks import accumulation_dtype, check_of_samples, check_optional_rows, real
from ..kernels.dispatch import BACKENDS, Backend
from ..kernels.gaussian_elbo import gaussian_elbo
from ..kernels.gaussian_nll import gaussian_nll, nll_of, optimal_log_gamma
from ..kernels.rsample_kl import rsample_kl
from ..kernels.rsample_kl.reference import sigmoid
from ..kernels.rsample_kl_cholesky import rsample_kl_cholesky

__all__ = ["ELBOTerms", "GaussianELBO", "elbo_of", "gated"]

Gamma = Literal["learned", "analytic", "fixed"]
Reduction = Literal["mean", "sum", "none"]
CHOICES = {"gamma": Gamma, "covariance": Covariance, "reduction": Reduction}


class ELBOTerms(NamedTuple):
    """One evaluation of the ELBO. Losses in nats; B samples, d features, κ latent dimensions.

    Attributes:
        loss: nll + β·kl, reduced over the batch: the negative ELBO for β = 1.
        nll: ``[B]``, reconstruction term ½ (‖x − x̂‖²/γ + d log 2πγ).
        kl: ``[B]``.
        recon: ``[B]``, squared error ‖x − x̂‖².
        z: ``[B, κ]``, the posterior sample, times the attention if there is one: what the decoder reads.
        x_hat: the decoder's output, of the shape of x.
        posterior: the encoder's output: mu and log_var, or with full covariance mu and tril.
        log_gamma: log of the decoder variance that was used, a scalar.
        variance_ratio: ``[κ]``, batch mean of posterior variance over prior variance, not differentiable: small for an
            active latent dimension.
    """

    loss: Tensor
    nll: Tensor
    kl: Tensor
    recon: Tensor
    z: Tensor
    x_hat: Tensor
    posterior: tuple[Tensor, Tensor]
    log_gamma: Tensor
    variance_ratio: Tensor

    def __repr__(self) -> str:
        """The loss, and the shapes of the rest."""
        said = (f"{name}={brief(value)}" for name, value in zip(self._fields, self, strict=True))
        return f"ELBOTerms({', '.join(said)})"


# By that name torch.export.save writes it; torch has no public way to say it.
if hasattr(pytree, "_register_namedtuple"):
    pytree._register_namedtuple(ELBOTerms, serialized_type_name="manifold_core.ELBOTerms")


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(real("value", value))
    except (TypeError, ValueError):
        return False


def _pair(name: str, given: Any) -> tuple[Tensor, Tensor]:
    # No tensor of two rows either, nor a mapping, whose names it would give.
    if not isinstance(given, tuple | list) or len(given) != 2:
        size = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        size = f" of shape {tuple(given.shape)}" if isinstance(given, Tensor) else size
        raise TypeError(f"{name} must be a pair of tensors, got {type(given).__name__}{size}")
    first, second = given
    return first, second


def gated(z: Tensor, gate_logits: Tensor) -> Tensor:
    """z ⊙ sigmoid(gate_logits), as :func:`rsample_kl` has it."""
    logits = check_optional_rows("gate_logits", gate_logits, z)
    dtype = accumulation_dtype(z, logits)
    return (z.to(dtype) * sigmoid(logits.to(dtype))).to(z.dtype)


class GaussianELBO(Joined, nn.Module):
    """−ELBO = E_q[½ (‖x − x̂(z)‖²/γ + d log 2πγ)] + β KL[q(z|x) ‖ p(z)],  with one sample of z.

    The prior p(z) is N(0, I), or N(prior_mu, exp(prior_log_var)) if given.

    γ is the decoder VARIANCE, one scalar:

    - ``"learned"``: γ = exp(log_gamma), a parameter;
    - ``"analytic"``: γ = Σ‖x − x̂‖² / (B·d), the optimum of the batch, differentiated through. Evaluation mode uses the
      γ of the last training batch, which training writes into the buffer log_gamma; under torch.func that has to be an
      argument, as the weights are. A batch reconstructed without error has no optimum: its loss is NaN;
    - ``"fixed"``: γ = exp(log_gamma), a buffer.

    The posterior q(z|x) has the covariance

    - ``"diagonal"``: diag σ², given as log σ²; see :func:`manifold_core.rsample_kl`;
    - ``"cholesky"``: L Lᵀ, given as packed rows of L; see :func:`manifold_core.rsample_kl_cholesky`.

    ``beta``, ``reduction`` and ``backend`` can be changed later, as in ``elbo.beta = 0.1``; ``gamma`` and
    ``covariance`` cannot.

    Args:
        gamma: one of the three.
        log_gamma: log γ, or its start if learned.
        covariance: one of the two.
        beta: weight of the KL.
        reduction: of ``loss`` over the batch: ``"mean"``, ``"sum"`` or ``"none"``. Features and latents are summed.
        backend: of the ops; see :func:`manifold_core.kernels.explain`.

    Raises:
        InputError: an unknown ``gamma``, ``covariance``, ``reduction`` or ``backend``, or a number not finite, here or
            when set.

    Source: "Learning Manifold Dimensions with Conditional Variational Autoencoders", equation (1), Definitions 1, 4; β
    as in β-VAE.
    """

    __call__: Callable[..., ELBOTerms]  # of nn.Module it is Any
    log_gamma: Tensor
    gamma: Gamma
    covariance: Covariance
    beta: float
    reduction: Reduction
    backend: Backend

    def __init__(
        self,
        gamma: Gamma = "learned",
        log_gamma: float = 0.0,
        *,
        covariance: Covariance = "diagonal",
        beta: float = 1.0,
        reduction: Reduction = "mean",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if not _is_finite(log_gamma):
            raise InputError(f"log_gamma must be a finite number, got {described(log_gamma)}")
        self.gamma = gamma
        self.covariance = covariance
        self.beta = beta
        self.reduction = reduction
        self.backend = backend
        self._first_log_gamma = float(log_gamma)
        if gamma == "learned":
            self.log_gamma = nn.Parameter(torch.tensor(self._first_log_gamma))
        else:
            self.register_buffer("log_gamma", torch.tensor(self._first_log_gamma))

    # Not properties: options are read at each call, which then would take longer.
    def __setattr__(self, name: str, value: Any) -> None:
        """Options that are set are checked."""
        if name in CHOICES:
            check_choice(name, value, CHOICES[name])
            made = self.__dict__.get(name, value)
            if value != made and name != "reduction":
                raise InputError(f"{name} must stay what it was made, {made!r}, got {value!r}: make a new GaussianELBO")
        elif name == "beta" and not torch.compiler.is_compiling():  # a comparison would be a program for each number
            if not (_is_finite(value) and value >= 0):
                hint = "; float(beta) converts it" if isinstance(value, Tensor) else ""  # it would get no gradient
                raise InputError(f"beta must be a finite number, not negative, got {described(value)}{hint}")
            value = float(value)  # torch.compile has NumPy's numbers as arrays
        elif name == "backend" and value not in BACKENDS:
            raise InputError(f"backend must be one of {BACKENDS}, got {described(value)}")
        super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        """Put log γ, of any kind, back to its start; for a module made on the device "meta"."""
        with torch.no_grad():
            self.log_gamma.fill_(self._first_log_gamma)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma!r}, covariance={self.covariance!r}, beta={self.beta}, reduction={self.reduction!r}"

    def forward(
        self,
        x: Tensor,
        posterior: tuple[Tensor, Tensor],
        decoder: Callable[[Tensor], Tensor],
        prior: tuple[Tensor, Tensor] | None = None,
        *,
        gate_logits: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
    ) -> ELBOTerms:
        """Evaluate the ELBO of a batch.

        Args:
            x: ``[B, ...]``.
            posterior: mu ``[B, κ]`` and log_var ``[B, κ]``, or with full covariance tril ``[B, κ(κ+1)/2]``.
            decoder: from z ``[B, κ]`` to x̂ of the shape of x.
            prior: prior_mu and prior_log_var, each ``[B, κ]``, or ``[κ]`` for one prior for all; None is N(0, I).
            gate_logits: attention logits, in one of the same shapes: the decoder gets z ⊙ sigmoid(gate_logits).
            seed, generator, first_row: of the noise, see :func:`manifold_core.rsample_kl`.

        Raises:
            TypeError, ValueError: as the ops do; the posterior or prior is not a pair; the decoder is not callable; x
                and posterior differ in the number of samples.
            RuntimeError: in training, an analytic γ under a torch.func transform of a function that does not have the
                buffer as an argument.
        """
        if not callable(decoder):
            raise TypeError(f"decoder must be a module or a function, got {described(decoder)}")
        prior_mu, prior_log_var = (None, None) if prior is None else _pair("prior", prior)
        noise: dict[str, Any] = {"seed": seed, "generator": generator, "first_row": first_row}
        if self.covariance == "diagonal":
            z, kl, variance_ratio = rsample_kl(
                *_pair("posterior", posterior),
                prior_mu,
                prior_log_var,
                gate_logits=gate_logits,
                return_variance_ratio=True,
                **noise,
                backend=self.backend,
            )
        else:
            z, kl, variance_ratio = rsample_kl_cholesky(
                *_pair("posterior", posterior),
                prior_mu,
                prior_log_var,
                return_variance_ratio=True,
                **noise,
                backend=self.backend,
            )
            if gate_logits is not None:
                z = gated(z, gate_logits)
        x_hat = decoder(z)
        analytic = self.gamma == "analytic" and self.training
        log_gamma = self.log_gamma
        if self.reduction == "mean" and not analytic:
            loss, nll, recon = gaussian_elbo(x_hat, x, log_gamma, kl, beta=self.beta, backend=self.backend)
        else:
            nll, recon = gaussian_nll(
                x_hat, x, 0.0 if analytic else log_gamma, return_squared_error=True, backend=self.backend
            )
            check_of_samples("kl", kl, nll)  # one would be added to all
            if analytic:
                features = x.shape[1:].numel()
                log_gamma = optimal_log_gamma(joined_mean(mean_of_batch(recon), self.process_group), features)
                nll = nll_of(recon, features, log_gamma)
                self._keep(log_gamma)
            loss = nll + self.beta * kl
            if self.reduction != "none":
                loss = mean_of_batch(loss) if self.reduction == "mean" else sum_of_batch(loss)
        if not analytic:  # a copy: training writes into the parameter or buffer
            log_gamma = log_gamma.clone()
        return ELBOTerms(loss, nll, kl, recon, z, x_hat, posterior, log_gamma, variance_ratio)

    def _keep(self, log_gamma: Tensor) -> None:
        """The γ of a training batch, for evaluation mode."""
        try:
            # Detached, not under no_grad, of which torch.export makes a part that it cannot save.
            kept, found = self.log_gamma.detach(), log_gamma.detach()
            kept.copy_(torch.where(found.isfinite(), found, kept))
        except RuntimeError as error:
            if not torch._C._are_functorch_transforms_active():
                raise
            raise RuntimeError(
                "manifold_core: in training mode gamma='analytic' writes the γ of each batch into its buffer "
                "log_gamma, which torch.func forbids for what is no argument of the function: make the buffers one, "
                "with torch.func.functional_call, and give each call of vmap its own; or call model.eval() first"
            ) from error


def elbo_of(elbo: GaussianELBO | None, covariance: Covariance | None) -> GaussianELBO:
    """The ELBO of a model for which both were asked, either or none."""
    if elbo is None:
        return GaussianELBO(covariance=covariance or "diagonal")
    if not hasattr(elbo, "covariance"):
        meant = f"; try GaussianELBO({elbo!r})" if isinstance(elbo, str) and elbo in get_args(Gamma) else ""
        raise InputError(f"elbo must be a GaussianELBO, got {described(elbo)}{meant}")
    if covariance not in (None, elbo.covariance):
        raise InputError(f"covariance must be that of elbo, {elbo.covariance!r}, got {covariance!r}")
    return elbo
