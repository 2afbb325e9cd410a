"""What the C++ engine promises of its numbers, whoever works on them: and what it refuses."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from ensemble.kinds import kinds, toy
from instruction_sets import NEEDS_COMPILED
from poison import poisoned
from torch import Tensor

import manifold_core as mc
from manifold_core.ensemble.data import SamplesLike, check_data
from manifold_core.ensemble.program import DENSE_FIELDS, MODEL_FIELDS
from manifold_core.ensemble.spec import MOST_LAYERS
from manifold_core.ensemble.state import EngineState

Numbers = dict[str, Tensor]


def advance(
    specs: Sequence[mc.ModelSpec], data: list[SamplesLike], threads: int, calls: Sequence[int] = (10**6,)
) -> Numbers:
    """All that has changed after calls of so many steps."""
    state = EngineState(specs, check_data(data))
    for steps in calls:
        torch.ops.manifold_core.ensemble_steps(state.words, steps, threads)
    return state.tensors()


def same(a: Numbers, b: Numbers) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def of_groups(batch: int, steps: int = 3) -> tuple[list[mc.ModelSpec], list[SamplesLike]]:
    """One small model of a batch that several threads share."""
    generator = torch.Generator().manual_seed(0)
    training = mc.TrainingConfig(steps, batch, seed=5)
    spec = mc.ModelSpec(3, (5,), "prelu", gamma="analytic", training=training)
    return [spec], [torch.randn(batch + batch // 2, 4, generator=generator)]


@pytest.mark.parametrize("threads", [2, 3, 5, 20])
def test_numbers_do_not_depend_on_the_number_of_threads(cpu: str, threads: int) -> None:
    specs = kinds(7)
    for some in (specs, specs[:2], specs[2:3], specs[6:10]):
        assert same(advance(some, toy(), threads), advance(some, toy(), 1))


@pytest.mark.parametrize("batch", [1, 512, 513, 1025, 32_768, 34_000])  # one group to 64, of which some have two tiles
def test_threads_share_a_batch(cpu: str, batch: int) -> None:
    specs, data = of_groups(batch)
    alone = advance(specs, data, 1)
    for threads in (2, 3, 5):
        assert same(advance(specs, data, threads), alone)


@pytest.mark.parametrize("calls", [[1] * 31, [2, 3, 5, 7, 11, 13], [0, 30, 0, 10**9], [9, 22]])
@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_do_not_depend_on_the_split_into_calls(cpu: str, calls: list[int], threads: int) -> None:
    specs = [  # of different lengths, and more steps than records
        dataclasses.replace(spec, training=dataclasses.replace(spec.training, steps=25 + i % 5))
        for i, spec in enumerate(kinds(1))
    ]
    assert same(advance(specs, toy(), threads, calls), advance(specs, toy(), 1))


def test_a_model_learns_the_same_alone_as_beside_others(cpu: str) -> None:
    specs, data = [*kinds(5), *kinds(5, learning_rate=0.03)[:2]], check_data(toy())
    together, alone = EngineState(specs, data), [EngineState([spec], data) for spec in specs]
    for state in (together, *alone):
        torch.ops.manifold_core.ensemble_steps(state.words, 5, 1)
    for index, state in enumerate(alone):
        for name, tensor in state.model(0).state_dict().items():
            assert torch.equal(together.model(index).state_dict()[name], tensor), name
        assert together.history(index, 0) == state.history(0, 0)


def test_every_model_makes_the_steps_of_a_call(cpu: str) -> None:
    state = EngineState(kinds(40), check_data(toy()))
    for done in (1, 1, 14, 30, 40):
        torch.ops.manifold_core.ensemble_steps(state.words, done - int(state.progress[0, 0]), 2)
        assert state.progress.tolist() == [[done, 0]] * len(kinds(40))


def test_memory_is_written_before_it_is_read(cpu: str) -> None:
    found = poisoned(lambda: tuple(advance(kinds(3), toy(), 2).values()))
    assert all(tensor.isfinite().all() for tensor in found)


def test_data_and_schedule_are_left_alone(cpu: str) -> None:
    state = EngineState(kinds(3), check_data(toy()))
    read = [*state.data, *state._schedules.values()]
    before = [tensor.clone() for tensor in read]
    torch.ops.manifold_core.ensemble_steps(state.words, 3, 2)
    assert (state.progress == torch.tensor([3, 0])).all()
    assert all(torch.equal(a, b) for a, b in zip(before, read, strict=True))


def test_subnormal_numbers_of_the_caller_are_not_lost(cpu: str) -> None:
    """The engine takes them for zero, in its own threads and in the caller's, which works with it."""
    small = torch.full((64,), 1e-40)
    for threads in (1, 2):
        advance(kinds(3), toy(), threads)
        assert ((small * torch.ones(64)) != 0).all()
        mc.train_ensemble(kinds(1)[:1], toy(), backend="cpu", threads=threads, progress=False)
        assert ((small * torch.ones(64)) != 0).all()


def words() -> Tensor:
    """Of memory that is no longer there."""
    return EngineState(kinds(2)[:2], check_data(toy())).words


def wider(words: Tensor) -> Tensor:
    return torch.cat((words, words[:, :1]), dim=1)


@NEEDS_COMPILED
def test_python_and_cpp_agree_on_the_words_of_a_model() -> None:
    state = EngineState(kinds(2)[:2], check_data(toy()))
    assert state.words.shape == (2, len(MODEL_FIELDS) + MOST_LAYERS * len(DENSE_FIELDS))
    torch.ops.manifold_core.ensemble_steps(state.words, 1, 1)
    assert state.progress.tolist() == [[1, 0], [1, 0]]


@NEEDS_COMPILED
@pytest.mark.parametrize(
    "spoil",
    [
        wider,
        lambda words: words[:, :-1].contiguous(),
        lambda words: words[0],
        lambda words: words[None],
        lambda words: words.double(),
        lambda words: words.int(),
        lambda words: words[:0, :5],
        lambda words: wider(words)[:, :-1],
        lambda words: words.t().contiguous().t(),
    ],
)
def test_words_that_are_none_are_refused(spoil: Callable[[Tensor], Tensor]) -> None:
    width = words().shape[1]
    for call in (
        lambda: torch.ops.manifold_core.ensemble_steps(spoil(words()), 1, 1),
        lambda: torch.ops.manifold_core.ensemble_workspace(spoil(words()), 1),
    ):
        with pytest.raises(RuntimeError, match=rf"models must be int64 \[M, {width}\], dense"):
            call()


@NEEDS_COMPILED
@pytest.mark.parametrize(
    ("steps", "threads", "message"),
    [
        (-1, 1, "steps must not be negative, got -1"),
        (1, 0, "threads must lie between 1 and 65536, got 0"),
        (1, -3, "threads must lie between 1 and 65536, got -3"),
        (1, 2**62, "threads must lie between 1 and 65536"),
    ],
)
def test_steps_and_threads_out_of_range_are_refused(steps: int, threads: int, message: str) -> None:
    state = EngineState(kinds(2)[:2], check_data(toy()))
    with pytest.raises(RuntimeError, match=message):
        torch.ops.manifold_core.ensemble_steps(state.words, steps, threads)
    assert not state.progress.any()


@NEEDS_COMPILED
def test_no_models_are_nothing_to_do() -> None:
    torch.ops.manifold_core.ensemble_steps(words()[:0], 5, 2)
    assert torch.ops.manifold_core.ensemble_workspace(words()[:0], 2) == 0


@NEEDS_COMPILED
def test_workspace_grows_with_threads_and_groups() -> None:
    """Rows of a tile for each thread, a gradient for each group of each team."""

    def workspace(batch: int, threads: int) -> int:
        specs, data = of_groups(batch)
        return int(torch.ops.manifold_core.ensemble_workspace(EngineState(specs, check_data(data)).words, threads))

    specs, _ = of_groups(10)
    parameters = sum(parameter.numel() for parameter in specs[0].build(4).parameters())
    assert workspace(513, 1) - workspace(512, 1) == 4 * parameters + 8 * (2 + 3)
    assert workspace(100_000, 1) == workspace(32_768, 1)
    assert workspace(1000, 3) - workspace(1000, 2) == workspace(1000, 2) - workspace(1000, 1) > 4 * 512 * (4 + 3 + 3)
