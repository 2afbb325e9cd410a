"""What training refuses or warns of: configurations, samples, conditions, weights."""

import json
import typing
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import cvae, toy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import manifold_core as mc


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"batch_size": -1}, "batch_size must be a positive integer, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive, finite number, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be a positive, finite number, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive, finite number, got 0"),
        ({"log_gamma_rate": 0.0}, "log_gamma_rate must be a positive, finite number, got 0.0"),
        ({"beta2": 1.0}, "beta2 must be a number between 0 and 1, got 1.0"),
        ({"beta2": float("nan")}, "beta2 must be a number between 0 and 1, got nan"),
        ({"seed": -1}, "seed must be an integer from 0 to 2"),
        ({"seed": 2**31}, "seed must be an integer from 0 to 2"),
        ({"steps": 1.0}, "steps must be a positive integer, got 1.0"),
        ({"batch_size": True}, "batch_size must be a positive integer, got True"),
        ({"learning_rate": "0.1"}, "learning_rate must be a positive, finite number, got '0.1'"),
        ({"beta2": None}, "beta2 must be a number between 0 and 1, got None"),
        ({"seed": "0"}, "seed must be an integer from 0 to 2"),
        ({"cycle_steps": 0}, "cycle_steps must be a positive integer, got 0"),
        ({"steps": 10, "cycle_steps": 9}, "cycle_steps must be at least steps, 10, got 9"),
    ],
)
def test_bad_configuration_is_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.TrainingConfig(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_numbers_of_numpy_are_taken_as_python_s() -> None:
    config = mc.TrainingConfig(np.int64(3), np.int32(4), np.float32(0.5), beta2=np.float64(0.5), seed=np.int8(1))  # type: ignore[arg-type]
    assert config == mc.TrainingConfig(3, 4, 0.5, beta2=0.5, seed=1)
    assert json.loads(json.dumps(asdict(config))) == asdict(config)


def test_a_loss_that_is_no_number_is_refused() -> None:
    model = mc.VAE.mlp(5, 2, elbo=mc.GaussianELBO(reduction="none"))
    with pytest.raises(mc.InputError, match="elbo must have reduction='mean' or 'sum' to be trained, got 'none'"):
        mc.train(model, torch.rand(9, 5), mc.TrainingConfig(steps=1), progress=False)


def test_no_samples_are_refused() -> None:
    with pytest.raises(mc.InputError, match="x must hold at least one sample"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(0, 5), mc.TrainingConfig(steps=1), progress=False)


def test_flags_and_groups_are_checked_before_anything_is_trained() -> None:
    model, x, config = mc.VAE.mlp(5, 2), torch.rand(9, 5), mc.TrainingConfig(steps=1)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(mc.InputError, match=r"cuda_graphs must be .*got 'yes'"):
        mc.train(model, x, config, cuda_graphs="yes", progress=False)  # type: ignore[arg-type]
    with pytest.raises(mc.InputError, match=r"process_group must be a group of torch\.distributed, .*got 'gloo'"):
        mc.train(model, x, config, process_group="gloo", progress=False)  # type: ignore[arg-type]
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", mc.__all__)
def test_type_hints_are_those_of_types_that_exist(name: str) -> None:
    """What reads them at run time, such as pydantic, finds them."""
    found = getattr(mc, name)
    for one in (found, found.__init__) if isinstance(found, type) else (found,):
        typing.get_type_hints(one)


def test_something_else_than_a_configuration_is_refused() -> None:
    with pytest.raises(mc.InputError, match=r"^config must be a TrainingConfig, such as .*, got \{'steps': 3\}$"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(9, 5), {"steps": 3}, progress=False)  # type: ignore[arg-type]
    with pytest.raises(mc.InputError, match=r"got Tensor of shape \(9, 2\): give a condition by its name"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(9, 5), torch.rand(9, 2), progress=False)  # type: ignore[arg-type]


def train_a_step(model: mc.VAE | mc.CVAE, x: Tensor, condition: Tensor | None = None) -> None:
    mc.train(model, x, mc.TrainingConfig(steps=1), condition=condition, progress=False)


@pytest.mark.parametrize("call", [mc.active_dimensions, mc.evaluate, train_a_step])
def test_a_condition_has_to_go_with_model_and_samples(call: Callable[..., object]) -> None:
    x, c = toy()
    with pytest.raises(mc.InputError, match=r"condition must be None for a VAE, got a tensor of shape \(200, 2\)"):
        call(mc.VAE.mlp(6, 2), x, c)
    with pytest.raises(mc.InputError, match="condition must be given for a CVAE"):
        call(cvae(), x, None)
    for bad, found in ((c[:150], r"\(150, 2\)"), (c[:, :1], r"\(200, 1\)"), (c[:, 0], r"\(200,\)")):
        with pytest.raises(mc.InputError, match=rf"condition must be .* of shape \[200, 2\], .* got shape {found}"):
            call(cvae(), x, bad)
    with pytest.raises(mc.InputError, match="x must hold at least one sample, got none"):
        call(cvae(), x[:0], c[:0])


@pytest.mark.parametrize("call", [mc.active_dimensions, mc.evaluate, train_a_step])
def test_samples_and_conditions_are_where_the_model_is(call: Callable[..., object]) -> None:
    """The meta device stands for a GPU."""
    x, c, vae, cvae = torch.rand(9, 4), torch.rand(9, 2), mc.VAE.mlp(4, 2), mc.CVAE.mlp(4, 2, 2)
    with pytest.raises(mc.InputError, match=r"^x must be on the device of the model, meta, got cpu: x\.to\(device\)$"):
        call(mc.VAE.mlp(4, 2).to("meta"), x)
    with pytest.raises(mc.InputError, match=r"^x must be on the device of the model, cpu, got meta"):
        call(vae, x.to("meta"))
    with pytest.raises(mc.InputError, match=r"^condition must be on the device of the model, cpu, got meta"):
        call(cvae, x, c.to("meta"))
    with pytest.raises(
        mc.InputError, match=r"^x must be dense, got a tensor of layout torch\.sparse_coo; x\.to_dense\(\)"
    ):
        call(vae, x.to_sparse())
    nested = torch.nested.nested_tensor([torch.rand(3), torch.rand(3)], layout=torch.jagged)
    with pytest.raises(mc.InputError, match=r"^x must be dense, got a nested tensor"):
        call(vae, nested)
    with pytest.raises(mc.InputError, match=r"^condition must be dense, got a tensor of layout torch\.sparse_coo; "):
        call(cvae, x, c.to_sparse())


def test_a_condition_of_nothing_trains() -> None:
    """To see what it brings: nothing is as if there were none."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = mc.VAE.mlp(4, 2, (3,)).encoder

        def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            pair: tuple[Tensor, Tensor] = self.head(torch.cat((x, c), 1))
            return pair

    class Decoder(nn.Linear):
        def forward(self, z: Tensor, c: Tensor) -> Tensor:
            return super().forward(torch.cat((z, c), 1))

    model, x, c = mc.CVAE(Encoder(), Decoder(2, 4), 2), torch.rand(20, 4), torch.zeros(20, 0)
    mc.train(model, x, mc.TrainingConfig(steps=2, batch_size=8), condition=c, progress=False)
    assert mc.evaluate(model, x, c).samples == 20


@pytest.mark.parametrize("by", ["loop", "ensemble"])
def test_data_of_another_scale_are_warned_of(by: str) -> None:
    x = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    config = mc.TrainingConfig(steps=1, batch_size=8)

    def train(x: Tensor) -> None:
        if by == "loop":
            mc.train(mc.VAE.mlp(4, 2), x, config, progress=False)
        else:
            mc.train_ensemble([mc.ModelSpec(2, training=config)], x, progress=False)

    size, spread = float(x.square().mean().sqrt()), float((x - x.mean(dim=0)).square().mean().sqrt())
    # No warning, which would be an error here.
    for fitting in (9.9 / size * x, 0.031 / spread * x, 0.031 / spread * x + 5, torch.ones(50, 4), torch.zeros(50, 4)):
        train(fitting)
    expected = "but training expects about 1.*standardise"
    for large in (10.1 / size * x, x + 20, torch.full((50, 4), 10.1)):
        with pytest.warns(UserWarning, match=f"x is about [12].* in size, {expected}"):
            train(large)
    for small in (0.029 / spread * x, 0.029 / spread * x + 5):
        with pytest.warns(UserWarning, match=rf"x varies by about 0\.029, {expected}"):
            train(small)


@pytest.mark.parametrize("by", ["loop", "ensemble"])
def test_a_large_condition_is_warned_of(by: str) -> None:
    x, years = torch.rand(50, 4), torch.arange(1990, 2040)[:, None]
    config = mc.TrainingConfig(steps=1, batch_size=8)

    def train(condition: Tensor) -> None:
        torch.manual_seed(1)  # with many others the first loss is infinite
        if by == "loop":
            mc.train(mc.CVAE.mlp(4, condition.shape[1], 2), x, config, condition=condition, progress=False)
        else:
            spec = mc.ModelSpec(2, condition_dim=condition.shape[1], training=config)
            mc.train_ensemble([spec], (x, condition), progress=False)

    train(torch.eye(50).bool())  # classes: no warning
    for large in (years, (years - 1900).float()):
        with pytest.warns(UserWarning, match=r"condition is about .* in size, but .* about 1: the loss may blow up"):
            train(large)


@pytest.mark.parametrize("by", ["loop", "ensemble"])
def test_a_condition_of_another_scale_is_warned_of(by: str) -> None:
    c = torch.randn(50, 2, dtype=torch.float64)
    c = (c - c.mean(0)) / c.std(0, correction=0)

    def train(condition: Tensor) -> None:
        condition = condition if condition.dtype == torch.int64 else condition.float()
        x = torch.rand(len(condition), 4)
        config = mc.TrainingConfig(steps=1, batch_size=8)
        if by == "loop":
            mc.train(mc.CVAE.mlp(4, condition.shape[1], 2), x, config, condition=condition, progress=False)
        else:
            spec = mc.ModelSpec(2, condition_dim=condition.shape[1], training=config)
            mc.train_ensemble([spec], (x, condition), progress=False)

    constant, rare = torch.ones(50, 1), torch.zeros(20_000, 2)
    rare[0, 0], rare[1:, 1] = 1.0, 1.0  # a class of one sample, which varies by 0.007
    fitting = (c, 0.011 * c, 0.051 * c + 1, c + 1.9, 3.1 * c + 3, rare, rare.long(), constant, -2 * constant, 0 * c)
    for good in (*fitting, torch.cat((c, constant), 1)):
        train(good)  # no warning, which would be an error here
    cases = [
        (0.009 * c, r"varies by about 0\.009 around -?[\de.-]+ in column 0"),
        (1e-4 * c, r"varies by about 0\.0001 around -?[\de.-]+ in column 0"),
        (0.049 * c + 1, r"varies by about 0\.049 around 1 in column 0"),
        (0.09 * c - 1.9, r"varies by about 0\.09 around -1\.9 in column 0"),
        (0.1 * c + 8, r"varies by about 0\.1 around 8 in column 0"),
        (c + torch.tensor([0.0, 2.1]), r"varies by about 1 around 2\.1 in column 1"),
        (torch.cat((c, 8 * constant), 1), r"varies by about 0 around 8 in column 2"),
        (torch.randint(3, 6, (50, 1)), r"varies by about 0\.\d+ around \d\.?\d* in column 0"),
    ]
    for bad, found in cases:
        expected = f"condition {found}, but training expects 1 around 0: the dimension may be wrong; "
        with pytest.warns(UserWarning, match=expected + r"standardise it with \(condition - condition\.mean\(0\)\) / "):
            train(bad)


def test_the_scale_of_a_sequence_is_that_of_all_its_steps() -> None:
    def train(condition: Tensor) -> None:
        model, config = mc.SequentialCVAE.lstm(2, 2), mc.TrainingConfig(steps=1, batch_size=8)
        mc.train(model, torch.randn(40, 2), config, condition=condition, progress=False)

    steps = torch.randn(40, 6, 2)
    steps[:, 0] *= 1e-4  # one step alone does no harm
    train(steps)
    expected = r"in column 1.* \(condition - condition\.mean\(\(0, 1\)\)\) / condition\.std\(\(0, 1\)\).* same numbers"
    with pytest.warns(UserWarning, match=expected):
        train(steps * torch.tensor([1.0, 1e-4]))


def test_labels_that_a_network_embeds_are_no_large_numbers() -> None:
    class Embedded(nn.Module):
        condition_shape = ()

        def __init__(self, outputs: int, pair: bool) -> None:
            super().__init__()
            self.of_label, self.layer, self.pair = nn.Embedding(3000, 4), nn.Linear(8, outputs), pair

        def forward(self, x: Tensor, label: Tensor) -> Any:
            y = self.layer(torch.cat([nn.functional.pad(x, (0, 4 - x.shape[1])), self.of_label(label)], 1))
            return y.chunk(2, 1) if self.pair else y

    model = mc.CVAE(Embedded(4, True), Embedded(4, False), 2)
    config = mc.TrainingConfig(steps=1, batch_size=8)
    mc.train(model, torch.rand(50, 4), config, condition=torch.arange(2000, 2050), progress=False)


def test_weights_that_cannot_be_trained_are_refused() -> None:
    x, config = torch.rand(50, 4), mc.TrainingConfig(steps=1)
    for dtype in (torch.bfloat16, torch.float16):
        model = mc.VAE.mlp(4, 2).to(dtype)
        with pytest.raises(mc.InputError, match=rf"^model must have trainable weights of float32 or .* of {dtype}"):
            mc.train(model, x.to(dtype), config, progress=False)
    model = mc.VAE.mlp(4, 2).requires_grad_(False)
    with pytest.raises(mc.InputError, match=r"^model must have a parameter that requires a gradient, got none$"):
        mc.train(model, x, config, progress=False)


def test_training_where_there_are_no_gradients_is_refused() -> None:
    model, x = mc.VAE.mlp(4, 2), torch.rand(50, 4)
    with torch.inference_mode(), pytest.raises(mc.InputError, match=r"outside of torch\.inference_mode\(\)"):
        mc.train(model, x, mc.TrainingConfig(steps=1), progress=False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_in_an_autocast_of_the_caller_is_refused(precision: typing.Literal["float32", "bfloat16"]) -> None:
    """It keeps the weights that it has cast to its end: the networks would not follow Adam."""
    config = mc.TrainingConfig(steps=1, precision=precision)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(mc.InputError, match=r"outside of torch\.autocast"):
        mc.train(mc.VAE.mlp(5, 2), torch.rand(9, 5), config, progress=False)


def test_gradients_that_are_off_are_on_for_the_while() -> None:
    """As in a notebook that begins with ``torch.set_grad_enabled(False)``."""
    model, x, config = mc.VAE.mlp(5, 2), torch.rand(9, 5), mc.TrainingConfig(2)
    before = model.elbo.log_gamma.clone()
    with torch.no_grad():
        mc.train(model, x, config, progress=False)
        (other,) = mc.train_ensemble([mc.ModelSpec(2, training=config)], x, backend="reference", progress=False)
        assert not torch.is_grad_enabled()
    assert model.elbo.log_gamma != before
    assert other.model.elbo.log_gamma != before


@pytest.mark.parametrize("seconds", ["5", None, True, -1, float("nan")])
def test_seconds_that_are_none_are_refused(seconds: Any) -> None:
    x, config = torch.rand(50, 4), mc.TrainingConfig(steps=1)
    with pytest.raises(mc.InputError, match=rf"^checkpoint_seconds must .*, got {seconds!r}$"):
        mc.train(mc.VAE.mlp(4, 2), x, config, checkpoint_seconds=seconds, progress=False)
    with pytest.raises(mc.InputError, match=rf"^checkpoint_seconds must .*, got {seconds!r}$"):
        mc.train_ensemble([mc.ModelSpec(2, training=config)], x, checkpoint_seconds=seconds, progress=False)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (np.zeros((5, 4)), "got ndarray; torch.as_tensor"),
        ([[0.0] * 4], "got list; torch.as_tensor"),
        ((torch.rand(5, 1), torch.rand(5, 3)), r"got tuple; torch\.cat\(parts, dim=1\) or torch\.stack"),
        (DataLoader(TensorDataset(torch.rand(5, 4))), "got DataLoader; give all samples as one tensor, or train by "),
        (3, "got int$"),
    ],
)
def test_what_is_no_tensor_is_named_and_how_it_becomes_one(given: Any, hint: str) -> None:
    with pytest.raises(mc.InputError, match=rf"^x must be a tensor, {hint}"):
        mc.train(mc.VAE.mlp(4, 2), given, mc.TrainingConfig(steps=1), progress=False)


@pytest.mark.parametrize("progress", [None, 0, np.False_])
def test_progress_is_any_truth_value(progress: Any, capsys: pytest.CaptureFixture[str]) -> None:
    mc.train(mc.VAE.mlp(4, 2), torch.rand(50, 4), mc.TrainingConfig(steps=2), progress=progress)
    assert capsys.readouterr().err == ""


class Own(nn.Module):
    """That does not say what it reads."""

    def __init__(self, cast: bool = False) -> None:
        super().__init__()
        self.layer, self.cast = nn.Linear(6, 4), cast

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layer(x.float() if self.cast else x).chunk(2, dim=1)
        return mu, log_var


@pytest.mark.parametrize("call", [mc.train, mc.evaluate, mc.active_dimensions, mc.local_dimensions])
def test_samples_of_numpy_s_dtype_for_networks_of_one_s_own_are_explained(call: Callable[..., Any]) -> None:
    """float64, where weights are float32."""
    model, x = mc.VAE(Own(), nn.Linear(2, 6), 2), torch.from_numpy(np.random.default_rng(0).normal(size=(9, 6)))
    with pytest.raises(mc.InputError, match=r"x must be of the dtype .* torch\.float32, got torch\.float64; x\.to\("):
        call(model, x)


@pytest.mark.parametrize("call", [mc.train, mc.evaluate, mc.active_dimensions, mc.local_dimensions])
def test_samples_of_numpy_s_dtype_are_refused_before_anything_is_made(call: Callable[..., Any], tmp_path: Path) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 6)))
    then = {"folder": tmp_path / "new"} if call is mc.train else {}
    said = r"must be of the dtype .* torch\.float32, got torch\.float64; {0}\.to\(torch\.float32\)"
    with pytest.raises(mc.InputError, match="^x " + said.format("x")):
        call(mc.VAE.mlp(6, 2), x, **then)
    with pytest.raises(mc.InputError, match="^condition " + said.format("condition")):
        call(mc.CVAE.mlp(6, 6, 2), x.float(), condition=x, **then)
    assert list(tmp_path.iterdir()) == []


def test_samples_of_half_the_size_are_taken_where_the_step_casts_them() -> None:
    config = mc.TrainingConfig(steps=1, precision="bfloat16")
    x = torch.rand(9, 6).bfloat16()
    assert mc.train(mc.VAE.mlp(6, 2), x, config, progress=False).step == [1]
    with pytest.raises(mc.InputError, match=r"^x must be of the dtype .* torch\.float32, got torch\.bfloat16"):
        mc.train(mc.VAE.mlp(6, 2), x, mc.TrainingConfig(steps=1), progress=False)


def test_networks_that_cast_them_are_left_alone() -> None:
    model, x = mc.VAE(Own(cast=True), nn.Linear(2, 6), 2), torch.rand(9, 6, dtype=torch.float64)
    mc.train(model, x, mc.TrainingConfig(steps=1), progress=False)
    assert mc.active_dimensions(model, x).variance.isfinite().all()


def test_other_errors_of_a_network_come_out_as_they_are() -> None:
    class Broken(Own):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            raise RuntimeError(said)

    for said, dtype in (("type of another kind", torch.float32), ("out of memory", torch.float64)):
        with pytest.raises(RuntimeError, match=f"^{said}$"):
            mc.active_dimensions(mc.VAE(Broken(), nn.Linear(2, 6), 2), torch.rand(9, 6, dtype=dtype))


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = mc.VAE.mlp(4, 2, (8,))
    with pytest.raises(mc.InputError, match=r"model must have been made outside of torch\.inference_mode"):
        mc.train(model, torch.randn(20, 4), mc.TrainingConfig(steps=1, batch_size=10), progress=False)


def test_an_lstm_in_float16_is_refused_on_a_cpu() -> None:
    model = mc.SequentialCVAE.lstm(3, 2, 4)
    config = mc.TrainingConfig(steps=1, batch_size=10, precision="float16")
    with pytest.raises(mc.InputError, match="precision must be 'float32' or 'bfloat16' for an LSTM on a CPU"):
        mc.train(model, torch.randn(20, 3), config, condition=torch.randn(20, 2, 3), progress=False)
