"""Bad input, and what networks of a user's own take and give: it is named before anything is done."""

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from own_networks import Encoder, First
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.models.inputs import check_inputs
from manifold_core.networks import ConvDecoder, ConvEncoder, MLPEncoder


@pytest.mark.parametrize("n", [-1, 2.0, "3", None, True])
def test_a_number_of_samples_that_is_none(n: Any) -> None:
    with pytest.raises(mc.InputError, match=rf"^n must be an integer of at least 0, got {n!r}$"):
        mc.VAE.mlp(5, 2).sample(n)


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


def test_an_elbo_is_no_prior() -> None:
    parts = mc.CVAE.mlp(6, 2, 3)
    with pytest.raises(mc.InputError, match="prior must be a network, got a GaussianELBO: give elbo="):
        mc.CVAE(parts.encoder, parts.decoder, 3, mc.GaussianELBO("analytic"))
