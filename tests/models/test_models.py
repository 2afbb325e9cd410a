"""The VAE, the CVAE and their networks: shapes, a user's own modules, gradients, sampling, bad input."""

import copy
import inspect
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from manifold_core.kernels.random import standard_normal
from torch import Tensor, nn
from torch.nn.utils import parametrize

import manifold_core as mc
from manifold_core.models.inputs import check_inputs
from manifold_core.networks import ConvDecoder, ConvEncoder, MLPEncoder
from manifold_core.networks.residual import channels_last


class Encoder(nn.Module):
    """What a user would write."""

    def __init__(self) -> None:
        super().__init__()
        self.mu, self.log_var = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(x), self.log_var(x)


@pytest.mark.parametrize("n", [-1, 2.0, "3", None, True])
def test_a_number_of_samples_that_is_none(n: Any) -> None:
    with pytest.raises(mc.InputError, match=rf"^n must be an integer of at least 0, got {n!r}$"):
        mc.VAE.mlp(5, 2).sample(n)


def test_any_integer_is_a_number_of_samples() -> None:
    assert [len(mc.VAE.mlp(5, 2).sample(n)) for n in (0, np.int32(3), torch.tensor(2))] == [0, 3, 2]  # type: ignore[arg-type]


def test_own_modules_plug_in() -> None:
    model = mc.VAE(Encoder(), nn.Linear(2, 6), latent_dim=2)
    terms = model(torch.rand(5, 6), seed=1)
    terms.loss.backward()
    assert terms.z.shape == (5, 2)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("hidden", [(16,), (8, 12), ()])
def test_mlp_layers_mirror_each_other(hidden: tuple[int, ...]) -> None:
    model = mc.VAE.mlp(7, 3, hidden)
    widths = [layer.out_features for layer in model.encoder.modules() if isinstance(layer, nn.Linear)]
    assert widths == [*hidden, 6]
    widths = [layer.out_features for layer in model.decoder.modules() if isinstance(layer, nn.Linear)]
    assert widths == [*reversed(hidden), 7]
    assert model(torch.rand(4, 7)).x_hat.shape == (4, 7)


def test_mlp_head_is_read_without_a_copy() -> None:
    mu, log_var = MLPEncoder(7, 3)(torch.rand(4, 7))
    assert mu.untyped_storage().data_ptr() == log_var.untyped_storage().data_ptr()
    assert mu.stride() == (6, 1)


def test_eigenvalues_of_a_diagonal_covariance_are_its_variances_in_order() -> None:
    model, x = mc.VAE.mlp(7, 5), torch.rand(9, 7)
    variances = model.posterior(x)[1].double().exp()
    assert not torch.equal(variances, variances.sort(dim=1).values)
    torch.testing.assert_close(model.spectrum(x), variances.sort(dim=1).values)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 12)])
def test_residual_networks_of_appendix_a(shape: tuple[int, int, int]) -> None:
    model = mc.VAE.conv(shape, 4, channels=5)
    terms = model(torch.rand(2, *shape))
    assert [t.shape for t in terms.posterior] == [(2, 4), (2, 4)]
    assert terms.x_hat.shape == (2, *shape)
    # Two blocks each way: in an encoder block two 3x3 convolutions and a 1x1 shortcut, each with batch normalisation;
    # in a decoder block one 3x3 convolution with batch normalisation and a transposed convolution.
    encoder, decoder = list(model.encoder.modules()), list(model.decoder.modules())
    kernels = [layer.kernel_size for layer in encoder if isinstance(layer, nn.Conv2d)]
    assert sorted(kernels) == [(1, 1)] * 2 + [(3, 3)] * 4
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in encoder) == 6
    assert [layer.kernel_size for layer in decoder if isinstance(layer, nn.Conv2d)] == [(3, 3)] * 2
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in decoder) == 2
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in decoder) == 2


def test_reconstruction_is_the_decoder_at_the_mean() -> None:
    model = mc.VAE.mlp(7, 3)
    x = torch.rand(4, 7)
    torch.testing.assert_close(model.reconstruct(x), model.decoder(model.posterior(x)[0]))


def test_encode_and_decode_are_those_of_evaluation_mode() -> None:
    vae, cvae = mc.VAE.conv((1, 8, 8), 3, 2), mc.CVAE.conv((1, 8, 8), 2, 3, 2, attention=True)
    x, c, z = torch.rand(4, 1, 8, 8), torch.rand(4, 2), torch.randn(5, 3)
    for model, given in ((vae, (x,)), (cvae, (x, c))):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for found, wanted in zip(model.encode(*given), copy.deepcopy(model).eval().posterior(*given), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
            assert not found.requires_grad
        assert model.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
    torch.testing.assert_close(vae.decode(z), copy.deepcopy(vae).eval().decoder(z), rtol=0, atol=0)
    assert cvae.gate is not None
    attention = 1 / (1 + torch.exp(-cvae.gate(c).double()))
    expected = copy.deepcopy(cvae).eval().decoder((z[:4] * attention).float(), c)
    torch.testing.assert_close(cvae.decode(z[:4], c), expected)
    assert not cvae.decode(z[:4], c).requires_grad
    for bad, got in ((z[:, :2], r"shape \(5, 2\)"), (z[0], r"shape \(3,\)"), ([0.0], "list")):
        for decode in (lambda bad: vae.decode(bad), lambda bad: cvae.decode(bad, c)):
            with pytest.raises(mc.InputError, match=rf"z must be a tensor of shape \[n, 3\], got {got}"):
                decode(bad)
    with pytest.raises(mc.InputError, match=r"z must have a row for each condition, 4, got shape \(5, 3\)"):
        cvae.decode(z, c)


class Counting(nn.Module):
    """A parametrization, some of which draw numbers or iterate whenever they are computed."""

    calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight.clone()


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (mc.VAE.mlp(6, 3), [(5, 6)]),
        (mc.CVAE.mlp(6, 2, 3, attention=True), [(5, 6), (5, 2)]),
        (mc.VAE.conv((1, 8, 8), 3, 2, hidden=(4,)), [(5, 1, 8, 8)]),
        (mc.CVAE.conv((1, 8, 8), 2, 3, 2), [(5, 1, 8, 8), (5, 2)]),
        (mc.SequentialCVAE.lstm(6, 3), [(5, 6), (5, 4, 6)]),
    ],
    ids=["VAE", "CVAE", "VAE of images", "CVAE of images", "sequences"],
)
def test_a_parametrized_weight_is_computed_once_a_call(model: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    model, counts = copy.deepcopy(model), []
    for layer in [*model.modules()]:
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            parametrize.register_parametrization(layer, "weight", count := Counting())
            count.calls = 0
            counts.append(count)
    model(*map(torch.rand, shapes))
    assert {count.calls for count in counts} == {1}


class Merging(nn.Linear):
    """As layers that merge other weights into their own for evaluation."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        self.merged = not mode
        return super().train(mode)


def test_after_evaluation_modules_are_put_back_by_their_own_train() -> None:
    frozen = nn.Sequential(Merging(2, 2)).eval()
    model = mc.VAE(Encoder(), nn.Sequential(frozen, Merging(2, 6)), 2)
    model.reconstruct(torch.rand(5, 6))
    modes = [(module.training, module.merged) for module in model.modules() if isinstance(module, Merging)]
    assert modes == [(False, True), (True, False)]
    assert [module.training for module in (model, model.decoder, frozen)] == [True, True, False]


def test_z_of_another_dtype_or_device_is_named() -> None:
    z, c, image = torch.randn(2, 3), torch.rand(2, 2), (1, 8, 8)
    sequences = mc.SequentialCVAE.lstm(5, 3)
    cases = [
        (mc.VAE.mlp(5, 3), ()),
        (mc.VAE.conv(image, 3, 2), ()),
        (mc.CVAE.mlp(5, 2, 3), (c,)),
        (mc.CVAE.conv(image, 2, 3, 2), (c,)),
        (mc.with_standard_prior(mc.CVAE.mlp(5, 2, 3)), (c,)),
        (sequences, (torch.rand(2, 4, 5),)),
    ]
    for model, given in cases:
        for bad in (z.double(), z.half(), z.long()):
            message = rf"^z must be of the dtype of the decoder's weights, torch\.float32, got {bad.dtype}; z\.to"
            with pytest.raises(mc.InputError, match=message):
                model.decode(bad, *given)
        with pytest.raises(
            mc.InputError, match=r"^z must be on the device of the model, cpu, got meta: z\.to\(device\)"
        ):
            model.decode(z.to("meta"), *given)
        assert len(model.decode(z, *given)) == 2
        doubled = copy.deepcopy(model).double()
        assert doubled.decode(z.double(), *(part.double() for part in given)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):  # under which layers read either
        assert len(mc.VAE.mlp(5, 3).decode(z.bfloat16())) == 2
    assert len(mc.VAE(Encoder(), nn.Identity(), 2).decode(z[:, :2].double())) == 2  # which may read anything


def test_samples_follow_the_prior_and_the_generator() -> None:
    model = mc.VAE(Encoder(), nn.Identity(), latent_dim=2)
    samples = model.sample(20_000, torch.Generator().manual_seed(0))
    assert samples.shape == (20_000, 2)
    assert samples.mean().abs() < 0.03  # four standard errors
    assert (samples.var() - 1).abs() < 0.04
    assert torch.equal(samples, model.sample(20_000, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("kind", ["VAE", "CVAE", "SequentialCVAE", "EveryStepCVAE"])
def test_noise_is_that_of_the_generator_or_of_the_seed_and_the_row(kind: str) -> None:
    c = torch.rand(6, 2)
    if kind in ("VAE", "CVAE"):
        model: mc.VAE | mc.CVAE = mc.VAE.mlp(5, 3) if kind == "VAE" else mc.CVAE.mlp(5, 2, 3)
    else:
        model, c = getattr(mc, kind).lstm(5, 3), torch.rand(6, 4, 5)
    given = (torch.rand(6, 5),) if kind == "VAE" else (torch.rand(6, 5), c)
    z, again, other = (model(*given, generator=torch.Generator().manual_seed(seed)).z for seed in (0, 0, 1))
    assert torch.equal(z, again)
    assert not torch.equal(z, other)
    of_some = model(*(part[2:] for part in given), seed=7, first_row=2).z
    torch.testing.assert_close(of_some, model(*given, seed=7).z[2:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_samples_have_the_dtype_of_the_decoder(dtype: torch.dtype) -> None:
    for vae in (mc.VAE.mlp(6, 2), mc.VAE(Encoder(), nn.Linear(2, 6), 2), mc.VAE.conv((1, 8, 8), 2)):
        samples = vae.to(dtype).sample(4, torch.Generator().manual_seed(0))
        assert samples.dtype == dtype
        z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
        assert torch.equal(samples, vae.eval().decoder(z))
    # Networks of one dtype under an ELBO of another, as GaussianELBO makes its γ in float32.
    assert mc.VAE(Encoder().to(dtype), nn.Linear(2, 6).to(dtype), 2).sample(4).dtype == dtype
    for prior in ("learned", "standard"):
        cvae = mc.CVAE.mlp(6, 3, 2, prior=prior, attention=True).to(dtype)  # type: ignore[arg-type]
        assert cvae.sample(torch.rand(4, 3, dtype=dtype)).dtype == dtype


class OfLabels(nn.Module):
    """An encoder and a decoder of one's own, with an embedding of labels, int64 ``[B]``."""

    condition_shape = ()

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(3, 4), nn.Linear(inputs + 4, outputs)

    def forward(self, first: Tensor, c: Tensor) -> Tensor:
        assert c.dtype == torch.int64
        out: Tensor = self.layer(torch.cat((first, self.embedding(c)), 1))
        return out


class LabelEncoder(OfLabels):
    def forward(self, first: Tensor, c: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(first, c).chunk(2, 1)


def test_labels_of_ones_own_networks_stay_what_they_are() -> None:
    cvae, x, labels = mc.CVAE(LabelEncoder(6, 4), OfLabels(2, 6), 2), torch.rand(9, 6), torch.arange(9) % 3
    mc.train(cvae, x, mc.TrainingConfig(steps=2, batch_size=4), condition=labels, progress=False)
    assert mc.active_dimensions(cvae, x, labels).variance.shape == (2,)
    assert cvae.reconstruct(x, labels).shape == (9, 6)
    samples = cvae.sample(labels, torch.Generator().manual_seed(0))
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, cvae.decoder(z, labels))


def test_labels_for_networks_that_do_not_say_that_they_take_them() -> None:
    """The networks of a user: what they would take is theirs to say."""

    class Silent(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, ...]:
            raise AssertionError

    cvae, x, labels = mc.CVAE(Silent(), OfLabels(2, 6), 2), torch.rand(9, 6), torch.arange(9) % 3
    with pytest.raises(mc.InputError) as caught:
        mc.train(cvae, x, mc.TrainingConfig(steps=2, batch_size=4), condition=labels, progress=False)
    assert str(caught.value) == (
        "condition must be a tensor of shape [9, any], one row for each sample, got shape (9,); for labels, "
        "torch.nn.functional.one_hot(labels).to(x.dtype), or an encoder that takes them as they are and says so: "
        "condition_shape = ()"
    )
    with pytest.raises(mc.InputError, match=r"got shape \(9,\)$"):  # no labels
        mc.train(cvae, x, mc.TrainingConfig(steps=2, batch_size=4), condition=labels / 2, progress=False)
    with pytest.raises(mc.InputError, match=r"an encoder that takes these says so: condition_shape = \(4, 5\)$"):
        cvae.sample(torch.rand(9, 4, 5))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2**24), (torch.bfloat16, 2**8)])
def test_integers_that_become_others_are_refused(dtype: torch.dtype, most: int) -> None:
    cvae, x = mc.CVAE.mlp(6, 1, 2).to(dtype), torch.rand(3, 6, dtype=dtype)
    assert check_inputs(cvae, x, torch.tensor([[0], [-most], [most]]))[1].tolist() == [[0.0], [-most], [most]]
    with pytest.raises(mc.InputError, match=rf"^condition must hold integers that {dtype} can hold, but row 1 has"):
        mc.train(cvae, x, condition=torch.tensor([[0], [-most - 1], [most + 1]]), progress=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["mlp", "conv", "moved prior"])
def test_labels_in_one_hot_form_are_numbers_of_the_models_dtype(kind: str, dtype: torch.dtype) -> None:
    """As torch.nn.functional.one_hot gives them, and as a comparison does."""
    cvae = mc.CVAE.conv((1, 8, 8), 3, 2, 2, attention=True) if kind == "conv" else mc.CVAE.mlp(6, 3, 2, attention=True)
    cvae.to(dtype).eval()
    if kind == "moved prior":
        cvae = mc.with_standard_prior(cvae)
    x = torch.rand((9, 1, 8, 8) if kind == "conv" else (9, 6), dtype=dtype)
    labels = torch.arange(9) % 3
    hot = torch.nn.functional.one_hot(labels, 3)
    for given in (hot, hot.bool(), hot.to(torch.uint8)):
        assert torch.equal(cvae(x, given, seed=1).loss, cvae(x, hot.to(dtype), seed=1).loss)
        assert torch.equal(cvae.variance_ratio(x, given), cvae.variance_ratio(x, hot.to(dtype)))
        assert torch.equal(cvae.spectrum(x, given), cvae.spectrum(x, hot.to(dtype)))
        assert torch.equal(cvae.reconstruct(x, given), cvae.reconstruct(x, hot.to(dtype)))
        assert cvae.sample(given).dtype == dtype
        assert mc.evaluate(cvae, x, given) == mc.evaluate(cvae, x, hot.to(dtype))
        mc.train(cvae, x, mc.TrainingConfig(steps=1, batch_size=4), condition=given, progress=False)
    wanted = r"must be .* \[9, 3\], .* got shape \(9,\); for labels, torch\.nn\.functional\.one_hot\(labels, 3\)$"
    with pytest.raises(mc.InputError, match=f"^c {wanted}"):
        cvae(x, labels)
    with pytest.raises(mc.InputError, match=f"^condition {wanted}"):
        mc.evaluate(cvae, x, labels)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    with pytest.raises(mc.InputError, match=rf"^c must be of the dtype .*, {dtype}, got {other}; c\.to\({dtype}\)$"):
        cvae(x, hot.to(other))


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_an_encoder_of_another_latent_dim_is_named_before_training(covariance: str) -> None:
    spread, size = ("log_var", 3) if covariance == "diagonal" else ("tril", 6)
    wanted = rf"^encoder must return \(mu, {spread}\) of shapes \(5, 3\) and \(5, {size}\) for latent_dim=3, got "
    x = torch.rand(5, 6)

    def refused(encoder: nn.Module, got: str) -> None:
        vae = mc.VAE(encoder, nn.Linear(3, 6), 3, covariance=covariance)  # type: ignore[arg-type]
        weights = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
        for call in (vae, vae.posterior, vae.variance_ratio, vae.reconstruct):
            with pytest.raises(mc.InputError, match=wanted + got):
                call(x)
        with pytest.raises(mc.InputError, match=wanted + got):
            mc.train(vae, x, mc.TrainingConfig(steps=3), progress=False)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in vae.state_dict().items())

    sizes = r"\(a tensor of shape \(5, 2\), a tensor of shape \(5, {}\)\)$"
    refused(MLPEncoder(6, 2, covariance=covariance), sizes.format(2 if covariance == "diagonal" else 3))  # type: ignore[arg-type]
    refused(nn.Linear(6, 6), r"a tensor of shape \(5, 6\)$")
    refused(First(), r"a tensor of shape \(5, 6\)$")


def test_other_things_that_networks_give_are_named() -> None:
    class Several(First):
        def forward(self, first: Tensor, *_rest: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
            return first, None, first

    x, c = torch.rand(2, 3), torch.rand(2, 3)
    one = r"a tensor of shape \(2, 3\)"
    with pytest.raises(mc.InputError, match=rf"got \({one}, NoneType, {one}\)$"):
        mc.CVAE(Several(), First(), 3)(x, c)
    for call in (lambda m: m(x, c), lambda m: m.sample(c), lambda m: m.variance_ratio(x, c)):
        with pytest.raises(mc.InputError, match=rf"^prior must return \(prior_mu, .* got {one}$"):
            call(mc.CVAE(mc.CVAE.mlp(3, 3, 3).encoder, First(), 3, prior=First()))
    encoder, of_two = mc.CVAE.mlp(3, 3, 3).encoder, r"a tensor of shape \(2, 2\)"
    for call in (lambda m: m(x, c), lambda m: m.sample(c), lambda m: m.variance_ratio(x, c)):
        with pytest.raises(
            mc.InputError, match=rf"\(prior_mu, .*\), both of shape \(2, 3\), got \({of_two}, {of_two}\)$"
        ):
            call(mc.CVAE(encoder, First(), 3, prior=MLPEncoder(3, 2)))
    for call in (lambda m: m(x, c), lambda m: m.sample(c), lambda m: m.decode(x, c)):
        for gate, got in ((nn.Linear(3, 2), of_two), (Several(), rf"\({one}, NoneType, {one}\)")):
            with pytest.raises(mc.InputError, match=rf"^gate must return a tensor of shape \(2, 3\), got {got}$"):
                call(mc.CVAE(encoder, First(), 3, gate=gate))
    decoded = r"^decoder must return a tensor of the shape of x, \(2, 3\), got "
    with pytest.raises(mc.InputError, match=rf"{decoded}a tensor of shape \(2, 4\)$"):
        mc.VAE(MLPEncoder(3, 2), nn.Linear(2, 4), 2)(x)
    with pytest.raises(mc.InputError, match=rf"{decoded}\({one}, NoneType, {one}\)$"):
        mc.CVAE(mc.CVAE.mlp(3, 3, 3).encoder, Several(), 3)(x, c)


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_a_wrapped_cvae_is_a_cvae(wrap: Callable[[nn.Module], mc.CVAE]) -> None:
    torch.manual_seed(0)
    cvae, x, c = mc.CVAE.mlp(6, 2, 3), torch.rand(9, 6), torch.rand(9, 2)
    assert mc.evaluate(wrap(cvae), x, c) == mc.evaluate(cvae, x, c)
    found, expected = mc.active_dimensions(nn.DataParallel(wrap(cvae)), x, c), mc.active_dimensions(cvae, x, c)
    assert torch.equal(found.variance, expected.variance)
    assert mc.with_standard_prior(wrap(cvae))(x, c, seed=1).loss == mc.with_standard_prior(cvae)(x, c, seed=1).loss
    with pytest.raises(mc.InputError, match="condition must be given for a CVAE"):
        mc.evaluate(wrap(cvae), x)
    with pytest.raises(mc.InputError, match="condition must be None for a VAE"):
        mc.evaluate(wrap(mc.VAE.mlp(6, 3)), x, c)


def test_a_compiled_cvae_is_trained_and_another_module_is_not() -> None:
    config, x, c = mc.TrainingConfig(steps=3, batch_size=4), torch.rand(9, 6), torch.rand(9, 2)
    cvae = mc.CVAE.mlp(6, 2, 3)
    compiled = copy.deepcopy(cvae)
    mc.train(cvae, x, config, condition=c, progress=False)
    mc.train(torch.compile(compiled, backend="eager"), x, config, condition=c, progress=False)
    for name, tensor in cvae.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor)
    own = nn.Module()  # of a class of one's own, which uses it
    own.elbo = mc.GaussianELBO()
    hint_of_own = r"; mc.VAE\(encoder, .*"
    others = (
        (nn.DataParallel(cvae), ": give model.module; .*"),
        (nn.Linear(6, 6), hint_of_own),
        (own, hint_of_own),
    )
    for other, hint in others:
        with pytest.raises(mc.InputError, match=f"^model must be .* got {type(other).__name__}{hint}$"):
            mc.train(other, x, config, condition=c, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("conditional", [False, True])
def test_samples_and_reconstructions_leave_a_model_in_training_alone(conditional: bool) -> None:
    """They are those of evaluation mode; a module that is frozen stays that."""
    model = mc.CVAE.conv((1, 8, 8), 3, 2, 2) if conditional else mc.VAE.conv((1, 8, 8), 2, 2)
    if isinstance(model, mc.CVAE):
        assert model.prior is not None
        model.prior = nn.Sequential(nn.Dropout(), model.prior)
    x, c = torch.rand(6, 1, 8, 8), torch.rand(6, 3)
    inputs = (x, c) if conditional else (x,)
    mc.train(model, x, mc.TrainingConfig(3, 4), condition=c if conditional else None, progress=False)
    frozen = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][1]

    def drawn() -> tuple[Tensor, Tensor]:
        first = c if conditional else 6
        return model.sample(first, torch.Generator().manual_seed(0)), model.reconstruct(*inputs)  # type: ignore[arg-type]

    expected = drawn()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    frozen.eval()
    for found, wanted in zip(drawn(), expected, strict=True):
        assert torch.equal(found, wanted)
    assert [module for module in model.modules() if not module.training] == [frozen]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["mlp", "conv", "conditional mlp", "conditional conv", "moved prior"])
def test_x_of_another_shape_is_named_before_anything_is_done(kind: str) -> None:
    c, of_images = torch.rand(5, 2), "conv" in kind
    if kind in ("mlp", "conv"):
        model: mc.VAE | mc.CVAE = mc.VAE.conv((1, 4, 8), 3) if of_images else mc.VAE.mlp(6, 3)
    else:
        model = mc.CVAE.conv((1, 4, 8), 2, 3, 2) if of_images else mc.CVAE.mlp(6, 2, 3)
    if kind == "moved prior":
        model = mc.with_standard_prior(model)  # type: ignore[arg-type]
    condition = c if isinstance(model, mc.CVAE) else None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    of_one = "1, 4, 8" if of_images else "6"
    for shape in ((5, 4, 6), (5, 7), (5, 1, 2, 3), (5,), (5, 2, 4, 8), (5, 32), (5, 4, 8)):
        x = torch.rand(shape)
        inputs = (x,) if condition is None else (x, condition)
        wanted = re.escape(f"x must have shape [B, {of_one}], as the encoder reads it, got shape {shape}") + "$"
        for call in (model, model.posterior, model.variance_ratio, model.spectrum, model.reconstruct):
            with pytest.raises(mc.InputError, match=wanted):
                call(*inputs)
        for function in (mc.evaluate, mc.active_dimensions):
            with pytest.raises(mc.InputError, match=wanted):
                function(model, x, condition)
        with pytest.raises(mc.InputError, match=wanted):
            mc.train(model, x, mc.TrainingConfig(steps=1), condition=condition, progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_networks_that_do_not_say_what_they_read_get_any_shape() -> None:
    model = mc.VAE(Encoder(), nn.Linear(2, 6), 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.rand(5, 7))
    model.encoder.input_shape = (6,)
    with pytest.raises(mc.InputError, match=r"^x must have shape \[B, 6\], .* got shape \(5, 7\)$"):
        model(torch.rand(5, 7))
    assert model(torch.rand(5, 6)).z.shape == (5, 2)
    model.encoder.input_shape = [6]
    with pytest.raises(mc.InputError, match=r"^x must have shape \[B, 6\], .* got shape \(5, 7\)$"):
        model(torch.rand(5, 7))
    assert model(torch.rand(5, 6)).z.shape == (5, 2)


def test_attributes_that_are_no_shape_or_dtype_say_nothing() -> None:
    """They are of the network's author, who may mean something else by them."""
    encoder = Encoder()
    encoder.input_shape, encoder.input_dtype = 3 * 2, "float32"  # type: ignore[assignment]
    assert mc.VAE(encoder, nn.Linear(2, 6), 2)(torch.rand(5, 6)).z.shape == (5, 2)
    model = mc.CVAE.mlp(6, 2, 3)
    model.encoder.condition_shape = 2  # type: ignore[assignment]
    assert mc.CVAE(model.encoder, model.decoder, 3)(torch.rand(5, 6), torch.rand(5, 2)).z.shape == (5, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8, torch.int64])
def test_x_of_another_dtype_is_named(dtype: torch.dtype) -> None:
    shown = rf"^x must be of the dtype of the encoder's weights, torch\.float32, got {dtype}; x\.to\(torch\.float32\)$"
    c = torch.rand(5, 2)
    cases = [
        (mc.VAE.mlp(6, 3), torch.ones(5, 6), None),
        (mc.VAE.conv((1, 8, 8), 3), torch.ones(5, 1, 8, 8), None),
        (mc.CVAE.mlp(6, 2, 3), torch.ones(5, 6), c),
        (mc.CVAE.conv((1, 8, 8), 2, 3, 2), torch.ones(5, 1, 8, 8), c),
        (mc.SequentialCVAE.lstm(6, 3), torch.ones(5, 6), torch.rand(5, 4, 6)),
        (mc.EveryStepCVAE.lstm(6, 3), torch.ones(5, 6), torch.rand(5, 4, 6)),
    ]
    for model, x, condition in cases:
        inputs = [x.to(dtype)] if condition is None else [x.to(dtype), condition]
        for call in (model, model.posterior, model.variance_ratio, model.reconstruct):
            with pytest.raises(mc.InputError, match=shown):
                call(*inputs)
        hint = r"x\.float\(\)" if dtype == torch.bool else ".*apply"
        message = shown if dtype.is_floating_point else f"^x must be of a floating-point dtype, got {dtype}; {hint}"
        with pytest.raises(mc.InputError, match=message):
            mc.train(model, inputs[0], mc.TrainingConfig(steps=1), condition=condition, progress=False)


def test_half_precision_takes_what_autocast_casts() -> None:
    model, x = mc.VAE.mlp(6, 3), torch.rand(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x.bfloat16(), seed=1).loss.isfinite()
        with pytest.raises(mc.InputError, match="x must be of the dtype"):
            model(x.double())
        with pytest.raises(mc.InputError, match="x must be of the dtype"):
            copy.deepcopy(model).double()(x)
    config, conditional = mc.TrainingConfig(steps=1, precision="bfloat16"), mc.CVAE.mlp(6, 2, 3)
    mc.train(model, x.bfloat16(), config, progress=False)
    mc.train(conditional, x.bfloat16(), config, condition=torch.rand(5, 2).bfloat16(), progress=False)
    assert model.bfloat16()(x.bfloat16(), seed=1).loss.isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: mc.VAE.mlp(6, 3, 64), r"hidden must be a sequence of positive integers, such as \(64,\), got 64"),  # type: ignore[arg-type]
        (lambda x: mc.CVAE.mlp(6, 2, 3, condition_hidden=8), "condition_hidden must be a sequence"),  # type: ignore[arg-type]
        (lambda x: mc.VAE.conv(28, 3), r"image_shape must be \(channels, height, width\) .* got 28"),  # type: ignore[arg-type]
        (lambda x: mc.train(mc.VAE.mlp(6, 3), x.numpy(), mc.TrainingConfig(1)), "x must be a tensor, got ndarray"),
        (lambda x: mc.VAE.mlp(6, 3)(x.numpy()), "x must be a tensor, got ndarray"),
        (lambda x: mc.evaluate(mc.VAE.mlp(6, 3), x.sum()), r"x must have shape \[N, \.\.\.\], .* no dimensions"),
        (lambda x: mc.evaluate(mc.CVAE.mlp(6, 2, 3), x, x.numpy()), "condition must be a tensor, got ndarray"),
        (lambda x: mc.CVAE.mlp(6, 2, 3)(x, x.numpy()), "c must be a tensor, got ndarray"),
        (lambda x: mc.evaluate(mc.VAE.mlp(6, 3), x, batch_size=0), "batch_size must be a positive integer, got 0"),
        (lambda x: mc.active_dimensions(mc.VAE.mlp(6, 3), x, batch_size=-1), "batch_size must be .* got -1"),
        (lambda x: mc.with_standard_prior(mc.VAE.mlp(6, 3)), "model must be a CVAE, got VAE"),  # type: ignore[arg-type]
        (lambda x: mc.VAE(Encoder(), lambda z: z, 2), r"decoder must be a torch\.nn\.Module, got <function"),  # type: ignore[arg-type]
        (lambda x: mc.VAE(math.exp, nn.Linear(2, 6), 2), r"encoder must be a torch\.nn\.Module, got <built-in"),  # type: ignore[arg-type]
        (lambda x: mc.CVAE(First(), First(), 2, "standard"), r"prior must be a torch\.nn\.Module, got 'standard'"),  # type: ignore[arg-type]
        (lambda x: mc.CVAE(First(), First(), 2, gate=True), r"gate must be a torch\.nn\.Module, got True"),  # type: ignore[arg-type]
        (lambda x: mc.train_ensemble(mc.ModelSpec(2), x), "specs must be a sequence .* got ModelSpec"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_another_type_is_named(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(mc.InputError, match=f"^{message}"):
        call(torch.rand(5, 6))


def test_integers_are_those_of_numpy_too() -> None:
    n = np.int64
    found = [
        mc.VAE.mlp(n(6), n(3), (n(4),)),
        mc.VAE.conv((n(1), n(8), n(8)), n(3), n(2)),
        mc.CVAE.mlp(n(6), n(2), n(3), (n(4),), condition_hidden=np.array([5]), condition_features=n(2)),  # type: ignore[arg-type]
        mc.CVAE.conv((n(1), n(8), n(8)), n(2), n(3), n(2), condition_features=n(2)),
        mc.SequentialCVAE.lstm(n(6), n(3), n(2), decoder_hidden=(n(4),)),
    ]
    assert [(type(one.latent_dim), one.latent_dim) for one in found] == [(int, 3)] * 5
    model, x = found[0], torch.rand(5, 6)
    assert model(x, seed=n(4)).loss == model(x, seed=4).loss
    assert mc.evaluate(model, x, seed=n(4), batch_size=n(2)) == mc.evaluate(model, x, seed=4, batch_size=2)  # type: ignore[arg-type]
    config = mc.TrainingConfig(n(3), np.uint8(4), seed=np.int32(7))
    assert config == mc.TrainingConfig(3, 4, seed=7)
    spec = mc.ModelSpec(n(3), (n(4),), condition_dim=n(2), condition_features=n(2), training=config, data=n(0))
    assert json.loads(json.dumps(asdict(spec)))["condition_dim"] == 2
    json.dumps([asdict(mc.ConvSpec(n(3), n(4))), asdict(mc.SequentialSpec(n(3), decoder_hidden=(n(4),)))])
    for bad in (np.float64(3), np.bool_(True), np.array([3, 4])):
        with pytest.raises(mc.InputError, match="latent_dim must be a positive integer, got"):
            mc.VAE.mlp(6, bad)  # type: ignore[arg-type]
        with pytest.raises(mc.InputError, match="seed must be an integer from 0 to"):
            mc.TrainingConfig(seed=bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="seed must be an integer from 0 to"):
            model(x, seed=bad)


@pytest.mark.parametrize("elbo", ["analytic", "Analytic", 0.5, torch.zeros(2)])
def test_what_is_no_elbo_is_named(elbo: Any) -> None:
    meant = "; try GaussianELBO('analytic')" if elbo == "analytic" else ""
    got = "a tensor of shape (2,)" if isinstance(elbo, torch.Tensor) else repr(elbo)
    wanted = re.escape(f"elbo must be a GaussianELBO, got {got}{meant}") + "$"
    for make in (
        lambda: mc.VAE.mlp(20, 4, elbo=elbo),
        lambda: mc.VAE.conv((1, 8, 8), 4, elbo=elbo),
        lambda: mc.VAE(Encoder(), nn.Linear(2, 6), 2, elbo=elbo),
        lambda: mc.CVAE.mlp(20, 2, 4, elbo=elbo),
        lambda: mc.CVAE.conv((1, 8, 8), 2, 4, 2, elbo=elbo),
        lambda: mc.CVAE(First(), First(), 2, elbo=elbo),
        lambda: mc.SequentialCVAE.lstm(3, 4, elbo=elbo),
        lambda: mc.EveryStepCVAE.lstm(3, 4, elbo=elbo),
    ):
        with pytest.raises(mc.InputError, match=f"^{wanted}"):
            make()


@pytest.mark.parametrize("latent_dim", [0, -3, 2.5, True])
def test_latent_dim_is_checked(latent_dim: object) -> None:
    with pytest.raises(mc.InputError, match=f"latent_dim must be a positive integer, got {latent_dim}"):
        mc.VAE(Encoder(), nn.Linear(2, 6), latent_dim)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [lambda shape: ConvEncoder(shape, 4), lambda shape: ConvDecoder(4, shape)])
@pytest.mark.parametrize("shape", [(1, 27, 28), (1, 28, 30), (28, 28), (0, 28, 28)])
def test_image_shape_is_checked(make: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(mc.InputError, match="image_shape must be"):
        make(shape)  # type: ignore[operator]


def test_widths_may_come_one_by_one() -> None:
    """Each is read by two networks."""
    widths = (4, 3)
    for made, expected in (
        (mc.VAE.mlp(5, 2, (width for width in widths)), mc.VAE.mlp(5, 2, widths)),  # type: ignore[arg-type]
        (
            mc.CVAE.mlp(5, 2, 2, iter(widths), condition_hidden=iter(widths)),  # type: ignore[arg-type]
            mc.CVAE.mlp(5, 2, 2, widths, condition_hidden=widths),
        ),
        (
            mc.VAE.conv((1, 8, 8), 2, 3, hidden=iter(widths)),  # type: ignore[arg-type]
            mc.VAE.conv((1, 8, 8), 2, 3, hidden=widths),
        ),
        (
            mc.CVAE.conv((1, 8, 8), 2, 2, 3, hidden=iter(widths), condition_hidden=iter(widths)),  # type: ignore[arg-type]
            mc.CVAE.conv((1, 8, 8), 2, 2, 3, hidden=widths, condition_hidden=widths),
        ),
    ):
        assert repr(made) == repr(expected)


@pytest.mark.parametrize("generator", [0, "seed", torch.Generator])
def test_a_generator_is_a_generator(generator: Any) -> None:
    with pytest.raises(mc.InputError, match=r"generator must be a torch\.Generator, such as .* or None, got "):
        mc.VAE.mlp(5, 2).sample(3, generator)
    with pytest.raises(mc.InputError, match=r"generator must be a torch\.Generator"):
        mc.CVAE.mlp(5, 2, 2).sample(torch.rand(3, 2), generator)


@pytest.mark.parametrize("activation", ["tanh", ["relu"], np.array(["relu", "prelu"]), None, torch.nn.ReLU])
def test_activations_are_checked(activation: Any) -> None:
    with pytest.raises(mc.InputError, match="activation must be 'relu' or 'prelu', got "):
        mc.VAE.mlp(5, 2, activation=activation)
    with pytest.raises(mc.InputError, match="activation must be 'relu' or 'prelu', got "):
        mc.CVAE.mlp(5, 2, 3, activation=activation)


def test_hidden_widths_are_checked() -> None:
    with pytest.raises(mc.InputError, match=r"hidden\[1\] must be a positive integer, got 0"):
        mc.VAE.mlp(7, 3, (8, 0))


def test_prelu_has_a_slope_for_each_layer() -> None:
    model = mc.VAE.mlp(7, 3, (8, 12), activation="prelu")
    kinds = [nn.Linear, nn.PReLU, nn.Linear, nn.PReLU, nn.Linear]
    for network in (model.encoder, model.decoder):
        assert [isinstance(layer, kind) for layer, kind in zip(network.layers, kinds, strict=True)] == [True] * 5
    assert [p.shape for p in model.parameters() if p.dim() == 1 and len(p) == 1] == [(1,)] * 4
    conditional = mc.CVAE.mlp(7, 2, 3, (8, 12), activation="prelu", attention=True)
    parts = (conditional.encoder, conditional.decoder, conditional.prior, conditional.gate)
    assert [sum(isinstance(layer, nn.PReLU) for layer in part.modules()) for part in parts if part] == [3, 3, 1, 1]


def perceptron(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Matrix products, written out; slopes are those of PReLU, or 0."""
    numbers = sorted({int(key.removeprefix(f"{name}.").split(".")[0]) for key in weights if key.startswith(f"{name}.")})
    linear = [number for number in numbers if weights[f"{name}.{number}.weight"].dim() == 2]
    for number in linear:
        x = x @ weights[f"{name}.{number}.weight"].T + weights[f"{name}.{number}.bias"]
        if number != linear[-1]:
            x = torch.where(x > 0, x, x * weights.get(f"{name}.{number + 1}.weight", torch.zeros(())))
    return x


CHOICES = list(product(["learned", "standard"], [False, True], ["relu", "prelu"]))


@pytest.mark.parametrize(("prior", "attention", "activation"), CHOICES)
@pytest.mark.parametrize("gamma", ["learned", "analytic"])
def test_loss_and_gradients_of_a_cvae_are_the_formulas(
    prior: str, attention: bool, activation: str, gamma: str
) -> None:
    torch.manual_seed(0)
    model = mc.CVAE.mlp(
        *(7, 2, 3, (8, 6)),
        condition_hidden=(5, 4),
        condition_features=6,
        activation=activation,  # type: ignore[arg-type]
        prior=prior,  # type: ignore[arg-type]
        attention=attention,
        elbo=mc.GaussianELBO(gamma, -0.7),  # type: ignore[arg-type]
    ).double()
    x, c = torch.randn(9, 7, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    terms = model(x, c, seed=11, first_row=4)
    terms.loss.backward()

    mu, log_var = perceptron(
        torch.cat((x, perceptron(c, weights, "encoder.condition")), 1), weights, "encoder.layers"
    ).split(3, dim=1)
    z = mu + log_var.exp().sqrt() * standard_normal(torch.tensor(11), 9, 3, 4)
    m, p = torch.zeros(9, 3), torch.zeros(9, 3)
    if prior == "learned":
        m, p = perceptron(c, weights, "prior.layers").split(3, dim=1)
    kl = ((p - log_var + (log_var.exp() + (mu - m) ** 2) / p.exp() - 1) / 2).sum(1)
    if attention:
        z = z / (1 + torch.exp(-perceptron(c, weights, "gate.layers")))
    x_hat = perceptron(torch.cat((z, perceptron(c, weights, "decoder.condition")), 1), weights, "decoder.layers")
    error = ((x - x_hat) ** 2).sum(1)
    gamma_used = weights["elbo.log_gamma"].exp() if gamma == "learned" else error.mean() / 7
    nll = (error / gamma_used + 7 * torch.log(2 * math.pi * gamma_used)) / 2
    loss = (nll + kl).mean()
    loss.backward()

    assert weights.keys() == {
        *(f"encoder.{name}" for name, _ in model.encoder.named_parameters()),
        *(f"decoder.{name}" for name, _ in model.decoder.named_parameters()),
        *(name for name in weights if name.startswith("prior.") and prior == "learned"),
        *(name for name in weights if name.startswith("gate.") and attention),
        *(["elbo.log_gamma"] if gamma == "learned" else []),
    }
    for found, expected in ((terms.loss, loss), (terms.nll, nll), (terms.kl, kl), (terms.recon, error), (terms.z, z)):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-11, msg=lambda s, n=name: f"{n}: {s}"
        )
    ratio = (log_var - p).exp()
    torch.testing.assert_close(model.variance_ratio(x, c), ratio)
    torch.testing.assert_close(model.spectrum(x, c), ratio.sort(dim=1).values)
    torch.testing.assert_close(terms.variance_ratio, ratio.mean(0).to(terms.variance_ratio.dtype))


@pytest.mark.parametrize("attention", [False, True])
def test_reconstruction_of_a_cvae_is_the_decoder_at_the_mean(attention: bool) -> None:
    model = mc.CVAE.mlp(7, 2, 3, attention=attention)
    x, c = torch.rand(4, 7), torch.rand(4, 2)
    mean = model.posterior(x, c)[0]
    if model.gate is not None:
        mean = mean * model.gate(c).sigmoid()
    torch.testing.assert_close(model.reconstruct(x, c), model.decoder(mean, c))


class First(nn.Module):
    """Gives back what it gets first."""

    def forward(self, first: Tensor, *_rest: Tensor) -> Tensor:
        return first


class Prior(nn.Module):
    """N(c, (c / 2)²)."""

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        return c, 2 * torch.log(c / 2)


@pytest.mark.parametrize("prior", [None, Prior()])
@pytest.mark.parametrize("gate", [None, First()])
def test_samples_follow_the_prior_of_their_condition_and_the_gate(
    prior: nn.Module | None, gate: nn.Module | None
) -> None:
    model = mc.CVAE(First(), First(), 2, prior, gate)
    c = torch.tensor([[1.0, 3.0], [2.0, 0.5]]).repeat(20_000, 1)
    samples = model.sample(c, torch.Generator().manual_seed(0))
    assert torch.equal(samples, model.sample(c, torch.Generator().manual_seed(0)))
    for row in (0, 1):
        mean = c[row] if prior is not None else torch.zeros(2)
        deviation = c[row] / 2 if prior is not None else torch.ones(2)
        if gate is not None:
            mean, deviation = mean * torch.sigmoid(c[row]), deviation * torch.sigmoid(c[row])
        standard = (samples[row::2] - mean) / deviation
        assert standard.mean(0).abs().max() < 0.03  # four standard errors
        assert (standard.var(0) - 1).abs().max() < 0.04
    assert model.double().sample(c[:3].double()).dtype == torch.float64


def test_shapes_of_a_cvae() -> None:
    model = mc.CVAE.mlp(7, 2, 3, (8, 12), condition_hidden=(), attention=True)
    widths = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    encoder, decoder = [(2, 3), (10, 8), (8, 12), (12, 6)], [(2, 3), (6, 12), (12, 8), (8, 7)]
    assert widths == [*encoder, *decoder, (2, 6), (2, 3)]
    terms = model(torch.rand(4, 7), torch.rand(4, 2))
    assert terms.x_hat.shape == (4, 7)
    assert terms.z.shape == (4, 3)
    assert model.sample(torch.rand(5, 2)).shape == (5, 7)
    standard = mc.CVAE.mlp(7, 2, 3, prior="standard")
    assert (standard.prior, standard.gate) == (None, None)


def test_shapes_of_models_of_images() -> None:
    """Hidden widths are the decoder's in reverse; prior and gate have those of the condition."""

    def widths(network: nn.Module | None) -> list[tuple[int, int]]:
        assert network is not None
        return [(one.in_features, one.out_features) for one in network.modules() if isinstance(one, nn.Linear)]

    vae = mc.VAE.conv((1, 8, 8), 3, 2, hidden=(5, 4))  # of 2 · 2 channels of 2 × 2 pixels
    assert widths(vae.encoder) == [(16, 6), (16, 5), (5, 4), (4, 6)]
    assert widths(vae.decoder) == [(3, 16), (3, 4), (4, 5), (5, 16)]
    cvae = mc.CVAE.conv((1, 8, 8), 2, 3, 2, hidden=(5, 4), condition_hidden=(7, 6), attention=True)
    assert widths(cvae.encoder) == [(2, 64), *widths(vae.encoder)]
    assert widths(cvae.decoder) == [(2, 7), (7, 6), (6, 3), (6, 16), (6, 4), (4, 5), (5, 16)]
    assert widths(cvae.prior) == [(2, 7), (7, 6), (6, 6)]
    assert widths(cvae.gate) == [(2, 7), (7, 6), (6, 3)]


def test_a_cvae_compiles_whole() -> None:
    model = mc.CVAE.mlp(7, 2, 3, attention=True)
    x, c = torch.rand(4, 7), torch.rand(4, 2)
    for dynamic in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for condition in (c, c > 0.5):
            torch.testing.assert_close(compiled(x, condition, seed=1).loss, model(x, condition, seed=1).loss)
        torch.testing.assert_close(compiled(x[:3], c[:3], seed=1).loss, model(x[:3], c[:3], seed=1).loss)


@pytest.mark.parametrize("shape", [(4,), (5, 2), (4, 3), (1, 2), (4, 2, 1)])
def test_a_condition_that_does_not_fit_is_named(shape: tuple[int, ...]) -> None:
    model, x, c = mc.CVAE.mlp(7, 2, 3), torch.rand(4, 7), torch.rand(shape)
    for call in (model, model.posterior, model.reconstruct, model.variance_ratio):
        with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[4, 2\], .* got shape \(") as caught:
            call(x, c)
        assert str(caught.value).endswith(str(shape))
    if shape[1:] != (2,):
        with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[B, 2\], .* got shape \("):
            model.sample(c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "normal"}, "prior must be 'learned' or 'standard', got 'normal'"),
        ({"condition_hidden": (4, 0)}, r"condition_hidden\[1\] must be a positive integer, got 0"),
        ({"hidden": (0,)}, r"hidden\[0\] must be a positive integer, got 0"),
        ({"condition_features": 0}, "condition_features must be a positive integer, got 0"),
        ({"condition_dim": 0}, "condition_dim must be a positive integer, got 0"),
        ({"latent_dim": -1}, "latent_dim must be a positive integer, got -1"),
        ({"data_dim": 1.5}, r"data_dim must be a positive integer, got 1\.5"),
    ],
)
def test_arguments_of_a_cvae_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mc.InputError, match=message):
        mc.CVAE.mlp(**{"data_dim": 7, "condition_dim": 2, "latent_dim": 3} | arguments)  # type: ignore[arg-type]


def test_images_are_laid_out_as_the_weights_are() -> None:
    """Channels last all the way, where the weights are; the numbers are the same."""
    torch.manual_seed(0)
    model, x = mc.VAE.conv((1, 8, 8), 4, channels=3).double(), torch.rand(5, 1, 8, 8, dtype=torch.float64)
    expected, seen = model(x, seed=1), []
    foreign = nn.Conv2d(2, 2, 3)  # of the user, who may go on with view
    channels_last(nn.ModuleList([model, foreign]))
    assert foreign.weight.is_contiguous()
    hooks = [block.register_forward_hook(lambda _m, _i, out: seen.append(out)) for block in model.encoder.blocks]
    hooks.append(model.decoder.blocks[0].register_forward_hook(lambda _m, _i, out: seen.append(out)))
    found = model(x, seed=1)
    for hook in hooks:
        hook.remove()
    assert [out.is_contiguous(memory_format=torch.channels_last) for out in seen] == [True] * 3
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.x_hat, expected.x_hat, rtol=1e-10, atol=1e-12)


def test_the_encoder_of_images_sees_the_condition_as_a_channel_and_the_decoder_beside_z() -> None:
    torch.manual_seed(0)
    model = mc.CVAE.conv((2, 8, 12), 3, 4, channels=2, condition_hidden=(6,), condition_features=5).double()
    x, c = torch.rand(5, 2, 8, 12, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    weights = dict(model.named_parameters())
    plane = c @ weights["encoder.condition.weight"].T + weights["encoder.condition.bias"]
    expected = model.encoder.image(torch.cat((x, plane.reshape(5, 1, 8, 12)), dim=1))
    torch.testing.assert_close(model.encoder(x, c), expected)
    z = torch.randn(5, 4, dtype=torch.float64)
    features = perceptron(c, weights, "decoder.condition")
    assert features.shape == (5, 5)
    torch.testing.assert_close(model.decoder(z, c), model.decoder.image(torch.cat((z, features), dim=1)))
    assert model.sample(c).shape == (5, 2, 8, 12)
    standard = mc.CVAE.conv((1, 8, 8), 3, 4, 2, prior="standard")
    assert (standard.prior, standard.gate) == (None, None)
    assert mc.CVAE.conv((1, 8, 8), 3, 4, 2, attention=True)(torch.rand(2, 1, 8, 8), c[:2].float()).z.shape == (2, 4)
    with pytest.raises(mc.InputError, match=r"c must be a tensor of shape \[5, 3\], .* got shape \(5, 2\)"):
        model(x, c[:, :2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "normal"}, "prior must be 'learned' or 'standard', got 'normal'"),
        ({"condition_hidden": (4, 0)}, r"condition_hidden\[1\] must be a positive integer, got 0"),
        ({"condition_features": 0}, "condition_features must be a positive integer, got 0"),
        ({"condition_dim": 0}, "condition_dim must be a positive integer, got 0"),
        ({"latent_dim": -1}, "latent_dim must be a positive integer, got -1"),
        ({"channels": 1.5}, r"channels must be a positive integer, got 1\.5"),
        ({"image_shape": (1, 7, 8)}, r"image_shape must be .* multiples of 4, got \(1, 7, 8\)"),
    ],
)
def test_arguments_of_a_cvae_of_images_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mc.InputError, match=message):
        mc.CVAE.conv(**{"image_shape": (1, 8, 8), "condition_dim": 2, "latent_dim": 3} | arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_models_are_exported_for_batches_of_any_size(covariance: Literal["diagonal", "cholesky"]) -> None:
    batch = {0: torch.export.Dim("B")}
    model, x, c = mc.VAE.mlp(6, 3, covariance=covariance).eval(), torch.rand(8, 6), torch.rand(8, 2)
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": batch}).module()
    assert exported(torch.rand(5, 6)).kl.shape == (5,)
    conditional = mc.CVAE.mlp(6, 2, 3, attention=True, covariance=covariance).eval()
    exported = torch.export.export(conditional, (x, c), dynamic_shapes={"x": batch, "c": batch}).module()
    assert exported(torch.rand(5, 6), torch.rand(5, 2)).kl.shape == (5,)


def test_samples_and_reconstructions_go_to_numpy_as_they_are() -> None:
    x, c = torch.rand(4, 6), torch.rand(4, 2)
    model, conditional = mc.VAE.mlp(6, 3), mc.CVAE.mlp(6, 2, 3, attention=True)
    for made in (model.sample(4), model.reconstruct(x), conditional.sample(c), conditional.reconstruct(x, c)):
        assert made.numpy().shape == (4, 6)
    assert model(x).loss.requires_grad  # the mode of the caller is what it was


@pytest.mark.parametrize("kind", [mc.SequentialCVAE, mc.EveryStepCVAE])
def test_flags_are_flags(kind: type[mc.SequentialCVAE]) -> None:
    for bad in ("no", 0, None):
        with pytest.raises(mc.InputError, match=rf"^attention must be True or False, got {bad!r}$"):
            mc.CVAE.mlp(5, 2, 3, attention=bad)  # type: ignore[arg-type]
        with pytest.raises(mc.InputError, match=rf"^attention must be True or False, got {bad!r}$"):
            mc.CVAE.conv((1, 8, 8), 2, 3, attention=bad)  # type: ignore[arg-type]
        with pytest.raises(mc.InputError, match=rf"^share_weights must be True or False, got {bad!r}$"):
            kind.lstm(5, 3, share_weights=bad)  # type: ignore[arg-type]
    for flag in (True, False):  # and those of a NumPy array
        assert (mc.CVAE.mlp(5, 2, 3, attention=np.bool_(flag)).gate is not None) == flag  # type: ignore[arg-type]
        found = kind.lstm(5, 3, share_weights=np.bool_(flag))  # type: ignore[arg-type]
        assert (found.prior is found.encoder.network) == flag


def test_what_a_call_gives_is_known_to_type_checkers() -> None:
    """torch.nn.Module says Any."""
    for kind in (mc.VAE, mc.CVAE):
        assert kind.__annotations__["__call__"] == Callable[..., mc.ELBOTerms]


@pytest.mark.parametrize("kind", [mc.SequentialCVAE, mc.EveryStepCVAE])
def test_what_is_inherited_says_nothing_of_conditions_without_steps(kind: type[mc.SequentialCVAE]) -> None:
    for name in ("forward", "sample", "decode"):
        said = inspect.getdoc(getattr(kind, name))
        assert said is not None
        assert not re.search(r"``\[[Bn], t\]``(?!, for sequences ``\[[Bn], T, d\]``)", said), name


def test_completion_offers_what_is_public() -> None:
    offered = [name for name in dir(mc) if not name.startswith("_")]
    modules = {name for name in offered if inspect.ismodule(getattr(mc, name))}
    assert modules - {"experiments"} == {"data", "ensemble", "kernels", "networks"}
    assert sorted({*offered} - modules) == sorted(mc.__all__)
    assert {"__all__", "__version__", "__doc__"} <= {*dir(mc)}


def test_an_elbo_is_no_prior() -> None:
    parts = mc.CVAE.mlp(6, 2, 3)
    with pytest.raises(mc.InputError, match="prior must be a network, got a GaussianELBO: give elbo="):
        mc.CVAE(parts.encoder, parts.decoder, 3, mc.GaussianELBO("analytic"))
