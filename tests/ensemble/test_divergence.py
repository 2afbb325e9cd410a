"""A model whose loss is no longer a number ends alone, before the step that would have spoilt it."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from ensemble.kinds import kinds, toy
from torch import Tensor

import manifold_core as mc
from manifold_core.ensemble import all_diverged
from manifold_core.ensemble.data import check_data
from manifold_core.ensemble.state import EngineState

STEPS = 12
pytestmark = pytest.mark.filterwarnings("ignore:.*x (is about|varies by)")  # it is what makes them diverge


def diverging(gamma: str, **changes: object) -> mc.ModelSpec:
    training = mc.TrainingConfig(STEPS, 300, changes.pop("learning_rate", 0.01), seed=3)  # type: ignore[arg-type]
    return mc.ModelSpec(3, (6,), gamma=gamma, training=training, **changes)  # type: ignore[arg-type]


# Of each the step whose loss is not finite: 1 where γ or the data are such from the start, 2 where the first step is
# too long. A γ that float cannot divide by, though double could, is not let through to the gradients, not even where
# the data are so small that their loss is finite.
BAD = [
    *((diverging(gamma, learning_rate=1e6), 1.0, 2) for gamma in ("learned", "analytic", "fixed")),
    *((diverging(gamma, log_gamma=-200.0), 1.0, 1) for gamma in ("learned", "fixed")),
    *((diverging(gamma, log_gamma=-90.0), 1.0, 1) for gamma in ("learned", "fixed")),
    *((diverging(gamma, log_gamma=-89.0), 1e-3, 1) for gamma in ("learned", "fixed")),
    (diverging("fixed", log_gamma=-1e4), 1.0, 1),
    (diverging("fixed", log_gamma=-80.0), 100.0, 1),  # a loss of about 1e39, which double could hold
    *((diverging(gamma), 1e20, 1) for gamma in ("learned", "analytic", "fixed")),
]


def test_a_loss_that_is_no_number_says_nothing_of_the_dimension(backend: str) -> None:
    spec = dataclasses.replace(diverging("learned", learning_rate=1e6), latent_dim=5)
    (found,) = mc.train_ensemble([spec], toy()[:1], backend=backend, progress=False)
    assert found.diverged_at is not None
    assert not math.isfinite(found.metrics.neg_elbo)
    assert (found.metrics.active_dimensions, found.metrics.spectrum_count, found.metrics.gap) == (None, None, None)


def test_where_none_is_left_the_first_to_diverge_is_named(backend: str) -> None:
    specs = [diverging("learned", learning_rate=1e6), diverging("learned", log_gamma=-200.0), *kinds(1)[:1]]
    trained = mc.train_ensemble(specs, toy(), backend=backend, progress=False)
    assert [one.diverged_at for one in trained] == [2, 1, None]
    error = all_diverged(trained)
    assert error.step == 1
    assert error.history is trained[1].history


def test_a_curve_is_kept_where_its_model_diverges_at_once_after_a_resume(backend: str, tmp_path: Path) -> None:
    def train() -> mc.TrainedModel:
        spec, given = diverging("learned", learning_rate=1e6), {"folder": tmp_path, "checkpoint_seconds": 0.0}
        return mc.train_ensemble([spec], toy()[:1], backend=backend, progress=False, **given)[0]  # type: ignore[arg-type]

    first, again = train(), train()
    assert first.diverged_at == again.diverged_at == 2
    assert len(first.history.neg_elbo) == 1
    assert again.history.neg_elbo == first.history.neg_elbo


def data_of(scale: float) -> list[Tensor | tuple[Tensor, Tensor]]:
    x, conditional = toy()
    assert isinstance(x, Tensor)
    return [x, conditional, x * scale]


def bad_one(spec: mc.ModelSpec, scale: float) -> mc.ModelSpec:
    return dataclasses.replace(spec, data=0 if scale == 1 else 2)


@pytest.mark.parametrize(("spec", "scale", "step"), BAD)
def test_its_step_is_reported_and_its_weights_are_those_before(
    backend: str, spec: mc.ModelSpec, scale: float, step: int
) -> None:
    (found,) = mc.train_ensemble([bad_one(spec, scale)], data_of(scale), backend=backend, progress=False)
    assert found.diverged_at == step
    assert found.history.step == list(range(1, step))
    assert all(math.isfinite(number) for number in found.history.neg_elbo)
    weights = found.model.state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    if step == 1:
        for name, tensor in spec.build(9).state_dict().items():
            assert torch.equal(weights[name], tensor), name


def test_what_its_weights_do_not_say_is_none(backend: str) -> None:
    """Of data 1e20 wide variances are infinite, or zero; of γ = e⁻²⁰⁰ they are those of a new model, near 1; of
    either the loss says nothing."""
    specs = [bad_one(diverging("learned"), 1e20), diverging("learned", log_gamma=-200.0)]
    found = mc.train_ensemble(specs, data_of(1e20), backend=backend, progress=False)
    assert [one.diverged_at for one in found] == [1, 1]
    assert [one.metrics.active_dimensions for one in found] == [None, None]
    assert [one.metrics.spectrum_count for one in found] == [None, None]
    assert all(math.isfinite(number) for number in found[1].metrics.variance)
    assert not all(math.isfinite(number) for number in found[0].metrics.variance)


@pytest.mark.parametrize("gamma", ["learned", "analytic", "fixed"])
def test_weights_are_those_of_the_step_before(cpu: str, gamma: str) -> None:
    """Bit for bit what so many steps alone would have made of them, γ of the last batch included."""
    spec, data = diverging(gamma, learning_rate=10.0), check_data(toy())
    state, before = EngineState([spec], data), EngineState([spec], data)
    torch.ops.manifold_core.ensemble_steps(state.words, STEPS, 2)
    done, step = state.progress[0].tolist()
    assert step == done + 1 > 2, "this is to go wrong after a few steps"
    torch.ops.manifold_core.ensemble_steps(before.words, done, 1)
    for name, tensor in before.tensors().items():
        assert name == "progress" or torch.equal(state.tensors()[name], tensor), name
    torch.ops.manifold_core.ensemble_steps(state.words, STEPS, 1)  # it does not begin again
    assert state.progress[0].tolist() == [done, step]


@pytest.mark.parametrize("threads", [1, 3, 20])
def test_the_others_go_on_to_the_numbers_they_have_without_it(cpu: str, threads: int) -> None:
    good = kinds(STEPS)
    specs: list[mc.ModelSpec] = []
    for index, spec in enumerate(good):
        specs += [bad_one(*BAD[index % len(BAD)][:2]), spec]
    data = data_of(1e20)
    found = mc.train_ensemble(specs, data, backend=cpu, threads=threads, progress=False)
    without = mc.train_ensemble(good, data, backend=cpu, threads=1, progress=False)
    assert [one.diverged_at for one in found[::2]] == [BAD[i % len(BAD)][2] for i in range(len(good))]
    for a, b in zip(found[1::2], without, strict=True):
        assert a.diverged_at is None
        assert a.metrics == b.metrics
        assert (a.history.step, a.history.neg_elbo, a.history.gamma) == (
            b.history.step,
            b.history.neg_elbo,
            b.history.gamma,
        )
        for name, tensor in b.model.state_dict().items():
            assert torch.equal(a.model.state_dict()[name], tensor), name


def test_the_reference_goes_on_without_it_too() -> None:
    good = kinds(2)[:2]
    specs = [good[0], bad_one(*BAD[3][:2]), good[1]]
    found = mc.train_ensemble(specs, toy(), backend="reference", progress=False)
    without = mc.train_ensemble(good, toy(), backend="reference", progress=False)
    assert [one.diverged_at for one in found] == [None, 1, None]
    assert [found[0].metrics, found[2].metrics] == [one.metrics for one in without]


def test_the_bar_ends_with_the_last_model(backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where one diverged, and where all was over before."""
    x, _ = toy()
    for _ in range(2):
        mc.train_ensemble(
            [diverging("learned", learning_rate=1e6), diverging("learned")], x, backend=backend, folder=tmp_path
        )
        last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
        assert last.startswith("100%")


def overflowing(model: Any) -> Any:
    """Of samples of 50 the loss is finite, and the gradient is not."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.layers[0].weight.fill_(1.0)
        model.encoder.layers[2].bias[2:] = 88.0
    return model


def test_the_bar_counts_a_last_step_once_that_ruins_the_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = mc.ModelSpec.build
    monkeypatch.setattr(mc.ModelSpec, "build", lambda spec, data_dim: overflowing(build(spec, data_dim)))
    spec = mc.ModelSpec(2, (4,), training=mc.TrainingConfig(1, 1))
    (found,) = mc.train_ensemble([spec], torch.full((1, 3), 50.0), backend="reference")
    assert found.diverged_at == 1
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("100%")
    assert "1/1" in last


def test_a_gradient_that_overflows_where_the_loss_does_not_is_reported(cpu: str) -> None:
    """In the last step, of which no other tells: a KL of e⁸⁸, times what the head reads."""
    spec = mc.ModelSpec(2, (4,), training=mc.TrainingConfig(1, 1, seed=3))
    state = EngineState([spec], check_data(torch.full((1, 3), 50.0)))
    model = overflowing(spec.build(3))
    for name, parameter in model.named_parameters():
        at = state._programs[0].places[name]
        state.parameters[at : at + parameter.numel()] = parameter.detach().flatten()
    assert state.diverged_at(0) is None
    torch.ops.manifold_core.ensemble_steps(state.words, 1, 1)
    assert state.progress[0].tolist() == [1, 0]
    assert state.diverged_at(0) == 1
    assert not state.model(0).encoder.layers[2].weight.isfinite().all()


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_a_weight_that_is_no_number_is_not_hidden_by_an_activation(
    cpu: str, activation: Literal["relu", "prelu"]
) -> None:
    spec = mc.ModelSpec(2, (4,), activation, training=mc.TrainingConfig(1, 1, seed=3))
    state = EngineState([spec], check_data(torch.ones(1, 3)))
    state.parameters[state._programs[0].places["encoder.layers.0.weight"]] = math.nan
    torch.ops.manifold_core.ensemble_steps(state.words, 1, 1)
    assert state.progress[0].tolist() == [0, 1]
