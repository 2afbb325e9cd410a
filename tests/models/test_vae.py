"""The VAE, and what all models share: networks, modes, noise, samples, export."""

import copy
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import numpy as np
import pytest
import torch
from own_networks import Encoder
from torch import Tensor, nn
from torch.nn.utils import parametrize

import manifold_core as mc
from manifold_core.networks import MLPEncoder
from manifold_core.networks.residual import channels_last


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


def test_prelu_has_a_slope_for_each_layer() -> None:
    model = mc.VAE.mlp(7, 3, (8, 12), activation="prelu")
    kinds = [nn.Linear, nn.PReLU, nn.Linear, nn.PReLU, nn.Linear]
    for network in (model.encoder, model.decoder):
        assert [isinstance(layer, kind) for layer, kind in zip(network.layers, kinds, strict=True)] == [True] * 5
    assert [p.shape for p in model.parameters() if p.dim() == 1 and len(p) == 1] == [(1,)] * 4
    conditional = mc.CVAE.mlp(7, 2, 3, (8, 12), activation="prelu", attention=True)
    parts = (conditional.encoder, conditional.decoder, conditional.prior, conditional.gate)
    assert [sum(isinstance(layer, nn.PReLU) for layer in part.modules()) for part in parts if part] == [3, 3, 1, 1]


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
