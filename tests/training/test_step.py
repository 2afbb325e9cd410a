"""A captured training step: bit for bit the plain one. On a CPU a function that is run again stands for the graph."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dropout import Encoder
from runs import Stopped, run_again, stop_at_save
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.storage import checkpoint
from manifold_core.training import loop
from manifold_core.training.graph import cuda_graph
from manifold_core.training.schedule import noise_seed
from manifold_core.training.step import GraphStep, PlainStep

Capture = Callable[[Callable[[], None]], Callable[[], None]]
BACKENDS = ("cuda", "triton")  # kernels of ours on a GPU


def problem(kind: str) -> tuple[mc.VAE | mc.CVAE, Tensor, Tensor | None]:
    torch.manual_seed(5)
    x = torch.rand(50, 6)
    if kind == "conv":
        return mc.VAE.conv((1, 8, 8), 3, 2, hidden=(4,)), torch.rand(50, 1, 8, 8), None
    if kind == "cvae":
        return mc.CVAE.mlp(6, 2, 3, (8,), attention=True), x, torch.rand(50, 2)
    if kind == "dropout":
        return mc.VAE(Encoder(12), nn.Linear(3, 6), 3), x, None
    if kind in BACKENDS:
        return mc.VAE.mlp(6, 3, (8,), elbo=mc.GaussianELBO(backend=kind)), x, None
    return mc.VAE.mlp(6, 3, (8,), elbo=mc.GaussianELBO("analytic" if kind == "analytic" else "learned")), x, None


def trained(
    kind: str, capture: Capture | None, monkeypatch: pytest.MonkeyPatch, **arguments: Any
) -> tuple[dict[str, Tensor], mc.History]:
    model, x, condition = problem(kind)
    config = mc.TrainingConfig(steps=25, batch_size=16, learning_rate=0.02, seed=1, **arguments.pop("config", {}))
    with monkeypatch.context() as patch:
        if capture is not None:
            patch.setattr(loop, "PlainStep", lambda *made: GraphStep(PlainStep(*made), capture))
        history = mc.train(model, x, config, condition=condition, progress=False, **arguments)
    return model.state_dict(), history


def assert_same(found: tuple[dict[str, Tensor], mc.History], expected: tuple[dict[str, Tensor], mc.History]) -> None:
    for name, tensor in expected[0].items():
        assert torch.equal(found[0][name], tensor), name
    for curve in ("step", "neg_elbo", "gamma", "active_dimensions"):
        assert getattr(found[1], curve) == getattr(expected[1], curve), curve


@pytest.mark.parametrize("kind", ["learned", "analytic", "cvae", "conv", "dropout"])
def test_a_replayed_step_is_the_plain_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warming up leaves no trace: neither in γ, nor in running statistics, nor in torch's random numbers."""
    assert_same(trained(kind, run_again, monkeypatch), trained(kind, None, monkeypatch))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_so_it_is_in_half_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"precision": precision}
    assert_same(
        trained("cvae", run_again, monkeypatch, config=config), trained("cvae", None, monkeypatch, config=config)
    )


def test_a_replayed_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(function: Callable[[], None]) -> Callable[[], None]:
        calls = iter(range(10))

        def replay() -> None:
            if next(calls, None) is None:
                raise Stopped
            function()

        return replay

    with pytest.raises(Stopped):
        trained("conv", stopping, monkeypatch, folder=tmp_path, checkpoint_seconds=0)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] == 10
    found = trained("conv", run_again, monkeypatch, folder=tmp_path)
    assert_same(found, trained("conv", None, monkeypatch))


def test_where_capture_fails_the_plain_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable[[], None]) -> Callable[[], None]:
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nlong advice")

    with pytest.warns(RuntimeWarning, match=r"could not be captured .*: operation not permitted .* is capturing$"):
        found = trained("conv", refuse, monkeypatch)
    assert_same(found, trained("conv", None, monkeypatch))


@pytest.mark.parametrize("error", [ValueError("a number was asked for"), KeyboardInterrupt()])
def test_what_ended_a_capture_is_told_from_its_end(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception inside torch.cuda.graph invalidates the capture, whose end then raises one of its own."""

    def refuse(function: Callable[[], None]) -> Callable[[], None]:
        try:
            raise error
        finally:
            raise RuntimeError("capture invalidated")

    if isinstance(error, Exception):
        with pytest.warns(RuntimeWarning, match="a number was asked for$"):
            trained("learned", refuse, monkeypatch)
    else:
        with pytest.raises(KeyboardInterrupt):
            trained("learned", refuse, monkeypatch)


def test_samples_and_seed_keep_their_place_in_memory() -> None:
    """What a graph reads stands where it stood while it was captured; a seed has 63 bits."""
    model, x, _ = problem("learned")
    seen: list[tuple[int, int]] = []
    rows: list[list[float]] = []

    def look(_module: nn.Module, arguments: tuple[Tensor], keywords: dict[str, Tensor]) -> None:
        seen.append((keywords["seed"].data_ptr(), int(keywords["seed"])))
        rows.append(arguments[0][:, 0].tolist())

    model.register_forward_pre_hook(look, with_kwargs=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = GraphStep(PlainStep(model, (x,), 4, "float32", scaler, None), run_again)
    seeds = [noise_seed(2**31 - 1, 2**32 - 1), 1, 2]
    indices = [torch.tensor([3, 1, 4, 1]) + k for k in range(3)]
    for index, seed in zip(indices, seeds, strict=True):
        step(index, seed)
    assert len({place for place, _ in seen}) == 1
    assert [value for _, value in seen[3:]] == seeds
    assert rows[3:] == [x[index, 0].tolist() for index in indices]


@pytest.mark.parametrize("kind", ["learned", "analytic", "cvae", "conv"])
def test_nothing_in_a_step_waits_for_the_device(kind: str) -> None:
    """On PyTorch's meta device tensors have no numbers: whoever asks for one, as a host that waits does, is refused."""
    model, x, condition = problem(kind)
    model.to("meta")
    inputs = tuple(part.to("meta") for part in (x, condition) if part is not None)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = PlainStep(model, inputs, 16, "float32", scaler, None)
    terms = step(torch.zeros(16, dtype=torch.int64, device="meta"), torch.zeros((), dtype=torch.int64, device="meta"))
    assert terms.z.device.type == "meta"
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["learned", "analytic", "cvae", "conv", "cuda", "triton"])
def test_a_cuda_graph_trains_as_the_plain_step(kind: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for cuda_graphs in (False, True):
        model, x, condition = problem(kind)
        model.cuda()
        config = mc.TrainingConfig(steps=25, batch_size=16, seed=1, precision=precision)  # type: ignore[arg-type]
        moved = None if condition is None else condition.cuda()
        # Of convolutions cuDNN may take another algorithm each time, and Adam makes the most of small differences.
        with (
            warnings.catch_warnings(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            monkeypatch.context() as patch,
        ):
            warnings.simplefilter("error")  # as that capture failed
            # Half precision makes large differences of the smallest: there the other is the same step, run by Python.
            if not cuda_graphs and precision != "float32":
                patch.setattr(loop, "cuda_graph", run_again)
            graphs = cuda_graphs or precision != "float32"
            mc.train(model, x.cuda(), config, condition=moved, progress=False, cuda_graphs=graphs)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("covariance", ["diagonal", "cholesky"])
def test_our_kernels_train_as_the_reference(covariance: str, backend: str) -> None:
    states = []
    for taken in ("reference", backend):
        torch.manual_seed(5)
        elbo = mc.GaussianELBO(backend=taken, covariance=covariance)  # type: ignore[arg-type]
        model, x = mc.VAE.mlp(6, 3, (8,), elbo=elbo).cuda(), torch.rand(50, 6).cuda()
        mc.train(model, x, mc.TrainingConfig(steps=25, batch_size=16, seed=1), progress=False)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_replay_sees_other_samples_and_other_noise() -> None:
    model, x, _ = problem("learned")
    model.cuda()
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    step = GraphStep(PlainStep(model, (x.cuda(),), 4, "float32", scaler, None), cuda_graph)
    first, second = torch.arange(4, device="cuda"), torch.arange(4, 8, device="cuda")
    found = [step(index, seed).z.clone() for index, seed in ((first, 1), (first, 2), (second, 1), (first, 1))]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_dropout_on_a_gpu_goes_on_where_it_was(
    cuda_graphs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, config = torch.rand(50, 6).cuda(), mc.TrainingConfig(steps=20, batch_size=16, seed=1)
    given: dict[str, Any] = {"progress": False, "cuda_graphs": cuda_graphs, "checkpoint_seconds": 0.0}
    undisturbed = problem("dropout")[0].cuda()
    mc.train(undisturbed, x, config, **given)
    with monkeypatch.context() as patch:
        stop_at_save(patch, 9)
        with pytest.raises(Stopped):
            mc.train(problem("dropout")[0].cuda(), x, config, folder=tmp_path, **given)
    stopped = problem("dropout")[0].cuda()
    mc.train(stopped, x, config, folder=tmp_path, **given)
    for name, tensor in undisturbed.state_dict().items():
        torch.testing.assert_close(stopped.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
