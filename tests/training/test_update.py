"""Adam as it is captured: PyTorch's to rounding. On a CPU a function that is run again stands for the graph."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Stopped, run_again
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.storage import checkpoint
from manifold_core.training import loop
from manifold_core.training.graph import cuda_graph
from manifold_core.training.schedule import make_optimizer
from manifold_core.training.state import TrainingState
from manifold_core.training.step import GraphStep, PlainStep
from manifold_core.training.update import GraphUpdate, TableAdam

Replay = Callable[[], None]
STEPS = 25


def problem(kind: str) -> tuple[mc.VAE, Tensor]:
    torch.manual_seed(5)
    if kind == "conv":
        return mc.VAE.conv((1, 8, 8), 3, 2, hidden=(4,)), torch.rand(50, 1, 8, 8)
    elbo = mc.GaussianELBO("analytic" if kind == "analytic" else "learned")
    model, x = mc.VAE.mlp(6, 3, (8,), elbo=elbo), torch.rand(50, 6)
    return (model.double(), x.double()) if kind == "double" else (model, x)


def config_of(**arguments: Any) -> mc.TrainingConfig:
    return mc.TrainingConfig(STEPS, batch_size=16, learning_rate=0.02, log_gamma_rate=3.0, seed=1, **arguments)


@pytest.fixture
def by_pytorch(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each step that PyTorch's Adam has made; those of a schedule alone have no gradients."""
    calls: list[None] = []
    whole = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *arguments: Any) -> Any:
        calls.extend([None] * any(p.grad is not None for group in self.param_groups for p in group["params"]))
        return whole(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return calls


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Tensor], mc.History]]:
    def trained(
        kind: str, capture: Callable[..., Replay] | None, precision: str = "float32", **arguments: Any
    ) -> tuple[dict[str, Tensor], mc.History]:
        model, x = problem(kind)
        with monkeypatch.context() as patch:
            if capture is not None:
                patch.setattr(loop, "_has_graphs", lambda _device: True)
                patch.setattr(loop, "cuda_graph", capture)
            history = mc.train(model, x, config_of(precision=precision), progress=False, **arguments)
        return model.state_dict(), history

    return trained


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
@pytest.mark.parametrize("learned", [True, False])
def test_it_is_the_adam_of_pytorch(dtype: torch.dtype, rounding: float, learned: bool) -> None:
    """Of weights with strides of their own, of any sizes, and of one that has no gradient; they keep their memory."""
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(5, 3, 3, 3), (7,), (1,), (), (2, 4)]

    def made() -> tuple[list[nn.Parameter], torch.optim.Adam, torch.optim.lr_scheduler.OneCycleLR]:
        generator = torch.Generator().manual_seed(1)
        tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
        parameters = [nn.Parameter(tensor) for tensor in tensors]
        log_gamma = nn.Parameter(torch.zeros((), dtype=dtype)) if learned else torch.zeros((), dtype=dtype)
        optimizer, schedule = make_optimizer(parameters, log_gamma, config)
        return [p for group in optimizer.param_groups for p in group["params"]], optimizer, schedule

    config = config_of(beta2=0.98)
    (expected, plain, schedule), (found, ours, _) = made(), made()
    places = [parameter.data_ptr() for parameter in found]
    adam: TableAdam | None = None
    for step in range(STEPS):
        for number, parameters in enumerate(zip(expected, found, strict=True)):
            gradient = torch.randn_like(parameters[0]) * 10.0 ** (number - 3) * (step % 3 > 0)
            for parameter in parameters:
                parameter.grad = None if number == 1 else gradient.clone(memory_format=torch.preserve_format)
        plain.step()
        schedule.step()
        if step == 0:
            ours.step()
        else:
            adam = adam or TableAdam(ours, config, step)
            adam()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rounding, atol=rounding)
        for name in ("exp_avg", "exp_avg_sq")[: len(plain.state[other])]:
            moment = ours.state[one][name]
            torch.testing.assert_close(moment, plain.state[other][name], rtol=10 * rounding, atol=1e-30)
            assert moment.stride() == one.stride()
    assert places == [parameter.data_ptr() for parameter in found]


def test_it_asks_the_device_for_no_number() -> None:
    """On PyTorch's meta device tensors have none."""
    parameters = [nn.Parameter(torch.zeros(3, 2, device="meta")), nn.Parameter(torch.zeros((), device="meta"))]
    optimizer = torch.optim.Adam([{"params": [parameter]} for parameter in parameters])
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
        optimizer.state[parameter] = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
    TableAdam(optimizer, config_of(), 1)()


@pytest.mark.parametrize("kind", ["learned", "analytic", "conv", "double"])
def test_a_replayed_run_is_the_plain_one(kind: str, train: Any, by_pytorch: list[None]) -> None:
    expected, curves = train(kind, None)
    by_pytorch.clear()
    captured: list[int] = []

    def capture(function: Replay, warm_ups: int = 3) -> Replay:
        captured.append(warm_ups)
        return run_again(function, warm_ups)

    found, history = train(kind, capture)
    assert len(by_pytorch) == 1  # which makes the moments
    assert captured == [3, 0]  # a step of Adam that was only tried nobody could take back
    bound = 1e-9 if kind == "double" else 1e-3
    assert_same(found, expected, rtol=bound, atol=bound / 10)
    assert history.step == curves.step
    assert history.neg_elbo == pytest.approx(curves.neg_elbo, rel=bound)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_is_done_to_gradients_between_two_steps_changes_nothing(precision: str, train: Any) -> None:
    """A graph writes gradients where they were when it was captured, and gives them to no parameter again."""
    models: list[mc.VAE] = []

    def in_place(function: Any, warm_ups: int = 3) -> Replay:
        if not warm_ups:
            return run_again(function, 0)  # Adam
        run_again(function, warm_ups)
        model = function.__self__._step.model
        models.append(model)
        function()
        places = [parameter.grad for parameter in model.parameters()]

        def replay() -> None:
            there = [parameter.grad for parameter in model.parameters()]
            function()
            for parameter, place, was in zip(model.parameters(), places, there, strict=True):
                place.copy_(parameter.grad)
                parameter.grad = was

        return replay

    def clear(_history: mc.History) -> None:
        models[-1].zero_grad()

    expected, curves = train("learned", in_place, precision)
    found, history = train("learned", in_place, precision, after_record=clear)
    assert_same(found, expected)
    assert history.neg_elbo == curves.neg_elbo


@pytest.mark.parametrize("stop", [1, 2, 3, 10])
def test_a_replayed_run_that_was_stopped_goes_on(stop: int, tmp_path: Path, train: Any) -> None:
    """Bit for bit; and what is kept says what it says of a plain run."""

    def stopping(function: Replay, warm_ups: int = 3) -> Replay:
        calls = iter(range(stop))

        def replay() -> None:
            if next(calls, None) is None:
                raise Stopped
            function()

        return run_again(replay if warm_ups else function, 0)

    def kept(folder: Path, capture: Callable[..., Replay] | None) -> checkpoint.Checkpoint:
        if capture is None:
            train("conv", None, folder=folder)
        else:
            with pytest.raises(Stopped):
                train("conv", capture, folder=folder, checkpoint_seconds=0)
        found = checkpoint.load(folder)
        assert found is not None
        return found

    expected = train("conv", run_again)
    found, plain = kept(tmp_path / "a", stopping), kept(tmp_path / "b", None)
    assert found.state["step"] == stop
    assert found.tensors.keys() == plain.tensors.keys()
    assert {int(found.tensors[name]) for name in found.tensors if name.endswith(".step")} == {stop}
    assert found.state["schedule"]["last_epoch"] == stop
    again = train("conv", run_again, folder=tmp_path / "a")
    assert_same(again[0], expected[0])
    assert again[1].neg_elbo == expected[1].neg_elbo
    ended = checkpoint.load(tmp_path / "a")
    assert ended is not None
    for part in ("param_groups", "schedule"):
        assert ended.state[part] == plain.state[part]


def test_where_its_capture_fails_it_runs_without(train: Any) -> None:
    def refuse(function: Replay, warm_ups: int = 3) -> Replay:
        if warm_ups == 0:
            raise RuntimeError("operation not permitted when stream is capturing")
        return run_again(function, warm_ups)

    with pytest.warns(RuntimeWarning, match=r"^Adam's step could not be captured .*: operation not permitted"):
        found = train("conv", refuse)
    assert_same(found[0], train("conv", run_again)[0])


@pytest.mark.parametrize(("precision", "steps"), [("bfloat16", 1), ("float16", STEPS)])
def test_a_scaled_loss_is_left_to_pytorch(precision: str, steps: int, train: Any, by_pytorch: list[None]) -> None:
    """Which looks at each step whether it can be made."""
    train("learned", run_again, precision)
    assert len(by_pytorch) == steps


def test_gradients_that_are_not_replayed_are_left_to_pytorch(train: Any, by_pytorch: list[None]) -> None:
    def refuse(function: Replay, warm_ups: int = 3) -> Replay:
        raise RuntimeError("operation not permitted")

    expected = train("conv", None)
    by_pytorch.clear()
    with pytest.warns(RuntimeWarning, match=r"^the training step could not be captured"):
        found = train("conv", refuse)
    assert len(by_pytorch) == STEPS
    assert_same(found[0], expected[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replayed_step_waits_for_no_gpu(precision: str, by_pytorch: list[None]) -> None:
    model, x = problem("conv")
    model.cuda()
    config = config_of(precision=precision)
    run = TrainingState(model, (x.cuda(),), config, {})
    step = GraphStep(PlainStep(model, (x.cuda(),), 16, config.precision, run.scaler, None), cuda_graph)
    update = GraphUpdate(run, step, lambda function: cuda_graph(function, warm_ups=0))
    index = torch.arange(16, device="cuda")
    before: list[Tensor] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as that capture failed
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        try:
            for seed in range(10):
                if seed == 4:  # all is captured
                    before = [parameter.detach().clone() for parameter in model.parameters()]
                    torch.cuda.set_sync_debug_mode("error")
                step(index, seed)
                update()
                run.step += 1
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(by_pytorch) == 1
    assert not any(map(torch.equal, model.parameters(), before))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_run_on_a_gpu_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def trained(steps: int, **arguments: Any) -> dict[str, Tensor]:
        model, x = problem("learned")
        config = mc.TrainingConfig(steps, batch_size=16, learning_rate=0.02, seed=1, cycle_steps=30)
        mc.train(model.cuda(), x.cuda(), config, progress=False, **arguments)
        return model.state_dict()

    expected = trained(30)
    trained(12, folder=tmp_path)
    index = tmp_path / checkpoint.INDEX  # as of a run of 30 steps that was stopped after 12
    index.write_text(index.read_text().replace('"steps": 12', '"steps": 30'))
    found = trained(30, folder=tmp_path)
    assert_same(found, expected, rtol=1e-4, atol=1e-5)
