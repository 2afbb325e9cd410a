"""What a specification refuses, and the model it makes."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.functional import linear as linear_map

import manifold_core as mc
from manifold_core.ensemble.spec import outline

CONDITIONAL = {"condition_dim": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be a positive integer, got 0"),
        ({"latent_dim": -3}, "latent_dim must be a positive integer, got -3"),
        ({"latent_dim": 2.0}, "latent_dim must be a positive integer, got 2.0"),
        ({"latent_dim": True}, "latent_dim must be a positive integer, got True"),
        ({"hidden": ()}, "hidden must be a sequence of positive integers, such as (64,), got ()"),
        ({"hidden": 16}, "hidden must be a sequence of positive integers, such as (64,), got 16"),
        ({"hidden": (4, 0)}, "hidden[1] must be a positive integer, got 0"),
        ({"hidden": (2.5,)}, "hidden[0] must be a positive integer, got 2.5"),
        ({"activation": "tanh"}, "activation must be 'relu' or 'prelu', got 'tanh'"),
        ({"gamma": "free"}, "gamma must be 'learned', 'analytic' or 'fixed', got 'free'"),
        ({"log_gamma": float("nan")}, "log_gamma must be a finite number, got nan"),
        ({"log_gamma": float("-inf"), "gamma": "fixed"}, "log_gamma must be a finite number, got -inf"),
        ({"condition_dim": -1}, "condition_dim must be an integer of at least 0, got -1"),
        ({"condition_dim": 1.0}, "condition_dim must be an integer of at least 0, got 1.0"),
        ({"condition_dim": True}, "condition_dim must be an integer of at least 0, got True"),
        ({"condition_hidden": ()}, "condition_hidden must be a sequence of positive integers, such as (64,), got ()"),
        (CONDITIONAL | {"condition_hidden": (0,)}, "condition_hidden[0] must be a positive integer, got 0"),
        (CONDITIONAL | {"condition_features": 0}, "condition_features must be a positive integer, got 0"),
        (CONDITIONAL | {"prior": "flat"}, "prior must be 'learned' or 'standard', got 'flat'"),
        ({"attention": "no"}, "attention must be True or False, got 'no'"),
        (CONDITIONAL | {"attention": 2}, "attention must be True or False, got 2"),
        ({"covariance": "full"}, "covariance must be 'diagonal' or 'cholesky', got 'full'"),
        (
            {"training": {"steps": 3}},
            "training must be a TrainingConfig, such as TrainingConfig(steps=1000), got {'steps': 3}",
        ),
    ],
)
def test_bad_specifications_name_the_argument_and_its_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.ModelSpec(**({"latent_dim": 3} | arguments))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [mc.ModelSpec, mc.SequentialSpec, mc.ConvSpec])
def test_every_kind_wants_a_training_configuration(kind: type[mc.ModelSpec]) -> None:
    for bad in (None, {"steps": 3}, mc.TrainingConfig):
        with pytest.raises(mc.InputError, match=r"^training must be a TrainingConfig, such as"):
            kind(3, training=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [mc.ModelSpec, mc.SequentialSpec, mc.ConvSpec])
def test_data_sets_are_counted_from_0(kind: type[mc.ModelSpec]) -> None:
    for bad in (-1, True, 0.0, "0"):
        with pytest.raises(mc.InputError) as caught:
            kind(3, data=bad)  # type: ignore[arg-type]
        assert str(caught.value) == f"data must be an integer of at least 0, got {bad!r}"


def test_flags_are_flags() -> None:
    for name in ("every_step", "share_weights"):
        with pytest.raises(mc.InputError, match=rf"^{name} must be True or False, got 'no'$"):
            mc.SequentialSpec(3, **{name: "no"})  # type: ignore[arg-type]
    with pytest.raises(mc.InputError, match=r"^attention must be True or False, got None$"):
        mc.ConvSpec(3, attention=None)  # type: ignore[arg-type]
    assert mc.ModelSpec(3, condition_dim=2, attention=np.True_).attention is True  # type: ignore[arg-type]


def test_numbers_of_numpy_are_taken_as_python_s() -> None:
    """A checkpoint has the specification as JSON."""
    spec = mc.ModelSpec(np.int64(3), log_gamma=np.float32(-0.5), condition_dim=np.int8(2), attention=np.True_)
    assert json.loads(json.dumps(asdict(spec))) == json.loads(
        json.dumps(asdict(mc.ModelSpec(3, log_gamma=-0.5, condition_dim=2, attention=True)))
    )
    images = mc.ConvSpec(3, log_gamma=np.float64(1), condition_dim=2, attention=np.bool_(False))
    assert (type(images.log_gamma), images.attention) == (float, False)
    sequences = mc.SequentialSpec(3, every_step=np.True_, share_weights=np.True_)
    assert sequences.every_step is sequences.share_weights is True


def test_lists_of_widths_are_kept_as_tuples() -> None:
    widths = [5, 4]
    spec = mc.ModelSpec(3, widths, condition_hidden=[7])
    widths.append(3)
    assert (spec.hidden, spec.condition_hidden) == ((5, 4), (7,))
    assert hash(spec) == hash(mc.ModelSpec(3, (5, 4), condition_hidden=(7,)))


def test_engines_have_room_for_so_many_layers() -> None:
    assert mc.ModelSpec(2, (3,) * 11).beyond_engines == ""
    assert mc.ModelSpec(2, (3,) * 12).beyond_engines == "has 26 layers"
    three = {"hidden": (2,) * 3, "condition_dim": 2, "attention": True}
    assert mc.ModelSpec(2, **three, condition_hidden=(2,) * 3).beyond_engines == ""  # type: ignore[arg-type]
    assert mc.ModelSpec(2, **three, condition_hidden=(2,) * 4).beyond_engines == "has 28 layers"  # type: ignore[arg-type]


def test_the_weights_are_those_of_the_seed_and_no_others_lose_theirs() -> None:
    spec = mc.ModelSpec(3, (5, 4), "prelu", gamma="fixed", log_gamma=-1.5, training=mc.TrainingConfig(seed=9))
    state = torch.get_rng_state()
    model = spec.build(6)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    expected = mc.VAE.mlp(6, 3, (5, 4), elbo=mc.GaussianELBO("fixed", -1.5), activation="prelu")
    assert str(model) == str(expected)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_specification_with_a_condition_makes_a_cvae_of_all_it_says() -> None:
    spec = mc.ModelSpec(3, (5, 4), condition_dim=2, condition_hidden=(7, 6), condition_features=8, attention=True)
    torch.manual_seed(0)
    expected = mc.CVAE.mlp(6, 2, 3, (5, 4), condition_hidden=(7, 6), condition_features=8, attention=True)
    found = spec.build(6)
    assert str(found) == str(expected)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    standard = mc.ModelSpec(3, condition_dim=2, prior="standard").build(6)
    assert isinstance(standard, mc.CVAE)
    assert standard.prior is None
    assert standard.gate is None


def test_an_outline_takes_no_memory() -> None:
    found = outline(mc.ModelSpec(10**6, (10**9,)), 10**6)
    assert sum(parameter.numel() for parameter in found.parameters()) > 10**15
    assert {parameter.device.type for parameter in found.parameters()} == {"meta"}


def test_a_full_covariance_is_the_models() -> None:
    for conditional in ({}, CONDITIONAL):
        model = mc.ModelSpec(3, covariance="cholesky", **conditional).build(6)  # type: ignore[arg-type]
        assert model.elbo.covariance == "cholesky"
        assert model.encoder.layers[-1].below.out_features == 3  # beside the three on the diagonal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be a positive integer, got 0"),
        ({"channels": 2.0}, "channels must be a positive integer, got 2.0"),
        ({"condition_dim": -1}, "condition_dim must be an integer of at least 0, got -1"),
        (CONDITIONAL | {"prior": "flat"}, "prior must be 'learned' or 'standard', got 'flat'"),
        ({"covariance": "full"}, "covariance must be 'diagonal' or 'cholesky', got 'full'"),
        ({"gamma": "free"}, "gamma must be 'learned', 'analytic' or 'fixed', got 'free'"),
        ({"log_gamma": float("nan")}, "log_gamma must be a finite number, got nan"),
    ],
)
def test_bad_specifications_of_residual_networks(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.ConvSpec(**({"latent_dim": 3} | arguments))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_residual_networks_are_the_ones_that_are_asked_for(covariance: Literal["diagonal", "cholesky"]) -> None:
    training = mc.TrainingConfig(seed=9)
    elbo = mc.GaussianELBO("fixed", -1.5, covariance=covariance)
    rest = {"covariance": covariance, "gamma": "fixed", "log_gamma": -1.5, "training": training}
    found = mc.ConvSpec(3, 2, **rest).build(1, 8, 12)  # type: ignore[arg-type]
    torch.manual_seed(9)
    expected: mc.VAE | mc.CVAE = mc.VAE.conv((1, 8, 12), 3, 2, elbo=elbo)
    assert str(found) == str(expected)
    conditional = mc.ConvSpec(3, 2, condition_dim=4, prior="standard", attention=True, **rest).build(1, 8, 12)  # type: ignore[arg-type]
    torch.manual_seed(9)
    cvae = mc.CVAE.conv((1, 8, 12), 4, 3, 2, prior="standard", attention=True, elbo=elbo)
    assert str(conditional) == str(cvae)
    for model, wanted in ((found, expected), (conditional, cvae)):
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize(("covariance", "diagonal"), [("diagonal", [0, 1, 2]), ("cholesky", [0, 2, 5])])
def test_hidden_layers_stand_beside_the_linear_ones(
    covariance: Literal["diagonal", "cholesky"], diagonal: list[int]
) -> None:
    for rest, images, width in (({}, 0, 3), ({"condition_dim": 4}, 1, 6)):
        plain = mc.ConvSpec(3, 2, covariance=covariance, **rest).build(1, 8, 12)  # type: ignore[arg-type]
        model = mc.ConvSpec(3, 2, covariance=covariance, hidden=(7, 5), **rest).build(1, 8, 12)  # type: ignore[arg-type]
        added = model.state_dict().keys() - plain.state_dict().keys()
        layers = {name.rpartition(".")[0] for name in added}
        assert len(layers) == 2 * 5  # of each network two linear ones, their normalisations, and a linear one
        assert all(".beside." in name for name in layers)
        encoder, decoder = (network.image if images else network for network in (model.encoder, model.decoder))

        z = torch.randn(2, width)
        features = _linear_and_mlp(decoder.head, decoder.beside, (width, 5, 7, 4 * 2 * 3), z)
        torch.testing.assert_close(decoder(z), decoder.blocks(features.reshape(2, 4, 2, 3)))

        x = torch.randn(2, encoder.input_shape[0], 8, 12)
        features = encoder.blocks(x).flatten(1)
        expected = _linear_and_mlp(encoder.head, encoder.head.beside, (4 * 2 * 3, 7, 5, 6), features)
        mu, spread = encoder(x)
        torch.testing.assert_close(torch.cat((mu, spread[:, diagonal]), 1), expected)
    with pytest.raises(mc.InputError, match=r"hidden\[1\] must be a positive integer, got 0"):
        mc.ConvSpec(3, hidden=(4, 0))


def _linear_and_mlp(linear: nn.Linear, mlp: nn.Sequential, sizes: tuple[int, ...], x: Tensor) -> Tensor:
    """What both give, added up, once the MLP is of these sizes, its layers normalised, with ReLUs."""
    layers = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == list(pairwise(sizes))
    first, second, third = (layer.weight for layer in layers)
    hidden = torch.relu(batch_norm(linear_map(x, first), None, None, training=True))
    hidden = torch.relu(batch_norm(linear_map(hidden, second), None, None, training=True))
    return linear_map(x, linear.weight, linear.bias) + linear_map(hidden, third, layers[-1].bias)


def test_channels_are_those_of_the_model_and_of_the_paper() -> None:
    """Five for a VAE, 32 for a CVAE, whoever makes them."""
    for model, channels in (
        (mc.ConvSpec(3).build(1, 8, 8), 5),
        (mc.VAE.conv((1, 8, 8), 3), 5),
        (mc.ConvSpec(3, condition_dim=4).build(1, 8, 8), 32),
        (replace(mc.ConvSpec(3), condition_dim=4).build(1, 8, 8), 32),
        (mc.CVAE.conv((1, 8, 8), 4, 3), 32),
        (mc.ConvSpec(3, 2, condition_dim=4).build(1, 8, 8), 2),
    ):
        encoder, decoder = (getattr(network, "image", network) for network in (model.encoder, model.decoder))
        assert encoder.blocks[0].main[0][0].out_channels == channels
        assert decoder.blocks[1].up.in_channels == channels
