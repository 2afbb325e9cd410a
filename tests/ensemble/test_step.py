"""One step of the engine against autograd in float64, for every kind of network."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import hypothesis
import pytest
import torch
from ensemble.oracle import Step, Weights, expected_step, gradient_scales, losses, mini_batch, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import manifold_core as mc
from manifold_core.ensemble.data import Samples
from manifold_core.ensemble.program import Program
from manifold_core.ensemble.spec import outline
from manifold_core.ensemble.state import EngineState
from manifold_core.training import schedule_table

# What rounding may do, of a gradient relative to the largest in its tensor of the mean of |gradient of a sample|, of a
# record relative to the terms it is made of; and where a network multiplies what rounding does, so many times what it
# does to autograd in float32.
GRADIENT, RECORD = 1e-5, 2e-6
TIMES = 4
# To either side of an activation's kink, relative to the largest number there, lies rounding's share.
KINK = 1e-5


def step_of(state: EngineState, step: int, threads: int) -> None:
    """That step of every model, as the first one: with moments that are zero."""
    state.progress[:, 0] = step
    torch.ops.manifold_core.ensemble_steps(state.words, 1, threads)


def unscrew(spec: mc.ModelSpec, data_dim: int, seed: int) -> Weights:
    """Weights that differ from each other by more than PyTorch makes them: no two slopes, say, are the same."""
    generator = torch.Generator().manual_seed(seed)
    weights = weights_of(spec, data_dim)
    return {
        name: tensor * torch.empty(tensor.shape).uniform_(0.3, 2, generator=generator)
        for name, tensor in weights.items()
    }


def away_from_kinks(
    spec: mc.ModelSpec, w: Weights, samples: int, data_dim: int, step: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Samples and conditions, of which none in the mini-batch of that step is where rounding decides between two
    gradients."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, data_dim, generator=generator)
    c = torch.randn(samples, spec.condition_dim, generator=generator)
    index, noise = mini_batch(spec, samples, step)
    exact = {name: tensor.double() for name, tensor in w.items()}
    for _ in range(50):
        found = losses(spec, exact, x[index].double(), c[index].double(), noise)
        near = torch.stack([(h.abs() < KINK * h.abs().max()).any(dim=1) for h in found.kinks]).any(dim=0)
        if not near.any():
            return x, c
        x[index[near]] = torch.randn(int(near.sum()), data_dim, generator=generator)
        c[index[near]] = torch.randn(int(near.sum()), spec.condition_dim, generator=generator)
    return hypothesis.reject()  # of a few tiny networks every sample is there


@dataclass(frozen=True)
class Example:
    spec: mc.ModelSpec
    data_dim: int
    samples: int
    step: int
    seed: int


@dataclass(frozen=True)
class Expected:
    """What goes in, and what has to come out."""

    weights: Weights
    x: Tensor
    c: Tensor
    step: Step
    gradient_scales: dict[str, float]

    def errors(self, found: Step) -> tuple[float, float]:
        """Of the gradients and of the record, relative to what each may be."""
        distances = [
            float((found.gradients[name].double() - g).abs().max()) / max(self.gradient_scales[name], 1e-30)
            for name, g in self.step.gradients.items()
        ]
        record = (found.record.double() - self.step.record).abs() / self.step.record_scales
        return max(distances), float(record.max())


@cache  # one instruction set after the other meets the same examples
def expected(example: Example) -> tuple[Expected, tuple[float, float]]:
    """And the errors of autograd in float32."""
    spec = example.spec
    w = unscrew(spec, example.data_dim, example.seed)
    x, c = away_from_kinks(spec, w, example.samples, example.data_dim, example.step, example.seed)
    index, noise = mini_batch(spec, example.samples, example.step)
    exact = {name: tensor.double() for name, tensor in w.items()}
    batch = x[index].double(), c[index].double(), noise
    found = Expected(w, x, c, expected_step(spec, exact, *batch), gradient_scales(spec, exact, *batch))
    return found, found.errors(expected_step(spec, w, x[index], c[index], noise.float()))


def found_errors(example: Example, threads: int) -> tuple[float, float]:
    """Of the engine's gradients and record."""
    spec, step, wanted = example.spec, example.step, expected(example)[0]
    w, x, c = wanted.weights, wanted.x, wanted.c
    state = EngineState([spec], [Samples(x, c if spec.condition_dim else None)])
    program = Program.of(outline(spec, example.data_dim))
    count = program.parameter_count
    flat = torch.zeros(count + (spec.gamma != "learned"))
    for name, tensor in w.items():
        flat[program.places.get(name, count) :][: tensor.numel()] = tensor.flatten()
    state.parameters[: len(flat)] = flat
    step_of(state, step, threads)
    assert state.progress.tolist() == [[step + 1, 0]]

    numbers = schedule_table(spec.training)[step].float().double().tolist()
    size, of_log_gamma, one_minus_beta1, one_minus_beta2, inv_root = numbers
    gradient = state.exp_avg[:count].double() / one_minus_beta1
    assert sum(g.numel() for g in wanted.step.gradients.values()) == count
    parts = {
        name: gradient[program.places[name] :][: g.numel()].view(g.shape) for name, g in wanted.step.gradients.items()
    }
    width = 4 + spec.latent_dim
    record = state.records[step * width :][:width]
    found = Step(parts, record, record)
    # What Adam makes of that gradient, as its own float32 rounds it.
    assert torch.allclose(state.exp_avg_sq[:count].double(), one_minus_beta2 * gradient**2, rtol=1e-6, atol=1e-37)
    rate = torch.full((count,), size)
    if spec.gamma == "learned":
        rate[-1] = of_log_gamma  # the last parameter
    moved = flat[:count].double() - rate * state.exp_avg[:count].double() / (
        state.exp_avg_sq[:count].double().sqrt() * inv_root + 1e-8
    )
    assert torch.allclose(state.parameters[:count].double(), moved, rtol=1e-6, atol=1e-7)
    if spec.gamma == "fixed":
        assert state.parameters[count] == flat[count]
    elif spec.gamma == "analytic":
        assert state.parameters[count] == record[3]
    # Nothing beside what was to be written.
    rest = [state.parameters[len(flat) :], state.exp_avg[count:], state.exp_avg_sq[count:]]
    rest += [state.records[: step * width], state.records[(step + 1) * width :]]
    assert not torch.cat(rest).any()
    return wanted.errors(found)


def widths(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(1, most), min_size=1, max_size=3).map(tuple)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    conditional = draw(st.booleans())
    samples = draw(st.one_of(st.integers(1, 80), st.integers(400, 1100)))
    steps = draw(st.integers(1, 30))
    training = mc.TrainingConfig(
        steps=steps,
        batch_size=draw(st.one_of(st.just(1), st.integers(1, samples), st.integers(samples, 2 * samples))),
        learning_rate=draw(st.floats(1e-4, 0.1)),
        log_gamma_rate=draw(st.floats(0.5, 20)),
        beta2=draw(st.floats(0.9, 0.999)),
        seed=draw(st.integers(0, 2**31 - 1)),
    )
    spec = mc.ModelSpec(
        latent_dim=draw(st.integers(1, 11)),
        hidden=draw(widths(37)),
        activation=draw(st.sampled_from(("relu", "prelu"))),
        gamma=draw(st.sampled_from(("learned", "analytic", "fixed"))),
        log_gamma=draw(st.floats(-4, 2)),
        condition_dim=draw(st.integers(1, 19)) if conditional else 0,
        condition_hidden=draw(widths(21)),
        condition_features=draw(st.none() | st.integers(1, 9)),
        prior=draw(st.sampled_from(("learned", "standard"))),
        attention=draw(st.booleans()),
        training=training,
    )
    return Example(
        spec, draw(st.integers(1, 40)), samples, draw(st.integers(0, steps - 1)), draw(st.integers(0, 2**20))
    )


def assert_is_autograds(example: Example, threads: int) -> None:
    gradient, record = found_errors(example, threads)
    rounded_gradient, rounded_record = expected(example)[1]
    assert gradient <= max(GRADIENT, TIMES * rounded_gradient)
    assert record <= max(RECORD, TIMES * rounded_record)


@hypothesis.seed(0)  # else each instruction set has examples of its own
@settings(max_examples=60)
@given(example=examples(), threads=st.integers(1, 3))
def test_gradient_records_and_adam_of_a_step(cpu: str, example: Example, threads: int) -> None:
    assert_is_autograds(example, threads)


def with_full_covariance(example: Example) -> Example:
    return replace(example, spec=replace(example.spec, covariance="cholesky"))


@hypothesis.seed(0)  # else each instruction set has examples of its own
@settings(max_examples=60)
@given(example=examples().map(with_full_covariance), threads=st.integers(1, 3))
def test_so_they_are_of_a_full_covariance(cpu: str, example: Example, threads: int) -> None:
    assert_is_autograds(example, threads)


@pytest.mark.parametrize("batch", [1100, 34_000])  # groups of a tile each; 64 groups, of which some have two
@pytest.mark.parametrize("gamma", ["learned", "analytic"])
def test_batches_of_many_groups(cpu: str, gamma: Literal["learned", "analytic"], batch: int) -> None:
    spec = mc.ModelSpec(3, (5,), "prelu", gamma=gamma, training=mc.TrainingConfig(3, batch, seed=7))
    example = Example(spec, data_dim=4, samples=batch + 50, step=1, seed=1)
    gradient, record = found_errors(example, 2)
    assert gradient <= GRADIENT
    assert record <= RECORD
