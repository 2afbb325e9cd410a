"""Many models trained side by side against one after the other by the one training loop."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ensemble.apart import AT_A_KINK, assert_the_way_of_the_reference, largest
from ensemble.kinds import kinds, toy
from instruction_sets import NEEDS_COMPILED
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import manifold_core as mc
from manifold_core.ensemble import explain_ensemble, state
from manifold_core.ensemble.spec import weights


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_every_kind_goes_the_way_of_the_reference(cpu: str, steps: int) -> None:
    specs = kinds(steps)
    assert_the_way_of_the_reference(mc.train_ensemble(specs, toy(), backend=cpu, progress=False), specs)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_full_covariances_go_the_way_of_the_reference(cpu: str, steps: int) -> None:
    """VAEs of every γ, one of them of a single latent dimension, and CVAEs with all that they can have."""
    diagonal = kinds(steps)
    specs = [replace(diagonal[at], covariance="cholesky") for at in (0, 2, 4, 9, 10)]
    specs.append(replace(diagonal[1], latent_dim=1, covariance="cholesky"))
    assert explain_ensemble(specs, torch.empty(0)).backend == "cpu"
    assert_the_way_of_the_reference(mc.train_ensemble(specs, toy(), backend=cpu, progress=False), specs, at_a_kink=0)


@pytest.mark.parametrize("index", [0, 1, 6, 9])
def test_a_trained_model_is_an_ordinary_one(backend: str, index: int) -> None:
    spec = kinds(20)[index]
    data = toy()[spec.data]
    x, condition = (data, None) if isinstance(data, Tensor) else data
    (found,) = mc.train_ensemble([spec], toy(), backend=backend, progress=False)
    model, fresh = found.model, spec.build(x.shape[1])
    assert type(model) is (mc.VAE if condition is None else mc.CVAE)
    assert str(model) == str(fresh)
    assert list(model.state_dict()) == list(fresh.state_dict())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert found.metrics == mc.evaluate(model, x, condition)
    assert found.metrics.gamma == pytest.approx(model.elbo.log_gamma.detach().double().exp().item())
    assert mc.active_dimensions(model, x, condition).count == found.metrics.active_dimensions
    history = mc.train(model, x, mc.TrainingConfig(30, 350), condition=condition, progress=False)
    assert history.neg_elbo[-1] < found.history.neg_elbo[-1] < found.history.neg_elbo[0]


def test_a_trained_model_is_told_in_a_line() -> None:
    spec = mc.ModelSpec(3, (8,) * 5, training=mc.TrainingConfig(steps=5, batch_size=8, seed=17))
    (found,) = mc.train_ensemble([spec], torch.rand(20, 4), backend="reference", progress=False)
    count, loss = found.metrics.active_dimensions, found.metrics.neg_elbo
    of_spec = "spec=ModelSpec(latent_dim=3, seed=17, …)"
    assert repr(found) == f"TrainedModel(active_dimensions={count}, neg_elbo={loss:.4g}, {of_spec})"
    assert repr(replace(found, diverged_at=4)) == f"TrainedModel(diverged_at=4, {of_spec})"


def test_the_models_share_no_memory(backend: str) -> None:
    specs = kinds(2)[:1] * 2
    first, second = mc.train_ensemble(specs, toy(), backend=backend, progress=False)
    before = {name: tensor.clone() for name, tensor in second.model.state_dict().items()}
    for parameter in first.model.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in second.model.state_dict().items())


@pytest.mark.parametrize("steps", [499, 1000, 1003])
def test_long_curves_have_the_points_of_the_reference(backend: str, steps: int) -> None:
    """A point of every second step from 1,000 steps on, and of the last."""
    spec = mc.ModelSpec(1, (1,), training=mc.TrainingConfig(steps, 2))
    (found,) = mc.train_ensemble([spec], torch.randn(4, 1), backend=backend, progress=False)
    every = max(1, steps // 500)
    assert found.history.step == sorted({*range(every, steps + 1, every), steps})
    assert len(found.history.neg_elbo) == len(found.history.gamma) == len(found.history.step)
    assert found.history.seconds > 0


def test_points_between_which_steps_lie(cpu: str) -> None:
    spec = mc.ModelSpec(2, (4,), "prelu", training=mc.TrainingConfig(1501, 16))
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    (found,) = mc.train_ensemble([spec], x, backend=cpu, progress=False)
    (expected,) = mc.train_ensemble([spec], x, backend="reference", progress=False)
    assert found.history.step == expected.history.step
    assert found.history.step[-2:] == [1500, 1501]
    assert found.history.gamma[-1] == pytest.approx(found.history.gamma[-2], rel=0.01)  # the last is no empty record
    for name in ("neg_elbo", "gamma", "active_dimensions"):  # for as long as rounding has not grown
        assert getattr(found.history, name)[:100] == pytest.approx(getattr(expected.history, name)[:100], rel=1e-4)


@pytest.mark.parametrize("layers", [4, 11, 12])
def test_networks_of_many_layers(layers: int) -> None:
    spec = mc.ModelSpec(2, (6,) * layers, training=mc.TrainingConfig(10, 32, 0.01))
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    (found,) = mc.train_ensemble([spec], x, progress=False)
    (expected,) = mc.train_ensemble([spec], x, backend="reference", progress=False)
    weights = largest(list(found.model.state_dict().values()), list(expected.model.state_dict().values()))
    assert weights <= AT_A_KINK[10][0]
    assert (weights == 0) == (layers == 12 or explain_ensemble([spec], x).backend == "reference")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], torch.empty(0)), "specs must hold at least one specification, got none"),
        (
            (mc.ModelSpec(2), torch.empty(0)),
            "specs must be a sequence of specifications, such as a list, got ModelSpec",
        ),
        (([3], torch.empty(0)), r"specs\[0\] must be a ModelSpec, a SequentialSpec or a ConvSpec, got int"),
        (([mc.ModelSpec(2)], [[1.0]]), "x must be a tensor, got list"),
    ],
)
def test_a_backend_for_what_cannot_be_trained(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(mc.InputError, match=message):
        explain_ensemble(*arguments)
    for threads in (0, -1, "2"):
        with pytest.raises(mc.InputError, match=rf"threads must be a positive integer, got {threads!r}"):
            explain_ensemble([mc.ModelSpec(2)], torch.empty(0), threads=threads)  # type: ignore[arg-type]


@NEEDS_COMPILED
def test_most_of_the_work_in_large_models_is_for_the_reference() -> None:
    """Where it falls to the engine by the batch, the steps, or the width of the data."""
    small, large = mc.ModelSpec(20, (64,)), mc.ModelSpec(20, (700,))
    x, narrow = torch.empty(8192, 784), torch.empty(8192, 20)
    assert (weights(small, 784), weights(large, 784)) == (105_145, 1_141_825)
    for specs, data, backend in [
        ([small], x, "cpu"),
        ([large], x, "reference"),
        ([large], narrow, "cpu"),
        ([small] * 10 + [large], x, "reference"),
        ([small] * 11 + [large], x, "cpu"),
        ([replace(small, training=mc.TrainingConfig(20_000 * 11)), large], x, "cpu"),
        ([replace(small, training=mc.TrainingConfig(batch_size=1024 * 11)), large], x, "reference"),  # of 8,192 samples
        ([replace(small, training=mc.TrainingConfig(20_000 * 2, 1024 * 6)), large], x, "cpu"),
    ]:
        assert explain_ensemble(specs, data, threads=2).backend == backend, specs
    assert explain_ensemble([large], torch.empty(0)).backend == "cpu"
    assert explain_ensemble([large], x, backend="cpu").backend == "cpu"


@NEEDS_COMPILED
def test_threads_without_work_make_the_reference_faster_sooner() -> None:
    x = torch.empty(4096, 784)
    spec = mc.ModelSpec(20, (400,))  # 652,825 weights
    for batch, models, threads, backend in [
        (512, 1, 1, "cpu"),
        (512, 1, 2, "reference"),
        (513, 1, 2, "cpu"),
        (512, 2, 2, "cpu"),
        (512, 2, 4, "reference"),
        (1024, 2, 4, "cpu"),
        (1024, 1, 4, "reference"),
        (4096, 1, 16, "reference"),
        (8192, 2, 16, "cpu"),
    ]:
        specs = [replace(spec, training=mc.TrainingConfig(100, batch))] * models
        assert explain_ensemble(specs, x, threads=threads).backend == backend, (batch, models, threads)
    assert explain_ensemble([spec], x, threads=4).reason == (
        "most of the work is for models with more than 524,288 weights, on 2 of 4 threads"
    )


@NEEDS_COMPILED
def test_each_model_is_as_large_as_its_own_data_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifold_core.ensemble.choice.LARGE", 500)
    operator, called = torch.ops.manifold_core.ensemble_steps, []
    monkeypatch.setattr(torch.ops.manifold_core, "ensemble_steps", lambda *words: called.append(operator(*words)))
    specs = [mc.ModelSpec(2, (8,), training=mc.TrainingConfig(2, 4), data=one) for one in (0, 1)]
    for widths, by_engine in (((3, 40), False), ((3, 4), True), ((40, 3), False)):
        called.clear()
        mc.train_ensemble(specs, [torch.randn(4, width) for width in widths], threads=1, progress=False)
        assert bool(called) == by_engine


@NEEDS_COMPILED
def test_auto_is_the_engine_and_threads_are_those_of_torch() -> None:
    asked = []
    operator = torch.ops.manifold_core.ensemble_steps

    def noting(models: Tensor, steps: int, threads: int) -> None:
        asked.append(threads)
        operator(models, steps, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.manifold_core, "ensemble_steps", noting)
        patch.setattr(torch, "get_num_threads", lambda: 3)
        found = mc.train_ensemble(kinds(5), toy(), progress=False)
        mc.train_ensemble(kinds(5), toy(), threads=4, progress=False)
        mc.train_ensemble(kinds(5)[:1], toy(), backend="reference", progress=False)
    assert set(asked) == {3, 4}
    assert asked == sorted(asked)
    for a, b in zip(found, mc.train_ensemble(kinds(5), toy(), backend="cpu", threads=1, progress=False), strict=True):
        assert a.metrics == b.metrics


@NEEDS_COMPILED
def test_models_that_are_over_take_no_part() -> None:
    taken = []
    operator = torch.ops.manifold_core.ensemble_steps

    def noting(models: Tensor, steps: int, threads: int) -> None:
        taken.append(len(models))
        operator(models, 1, threads)

    specs = [mc.ModelSpec(2, (4,), training=mc.TrainingConfig(steps, 16)) for steps in (2, 5, 3)]
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.manifold_core, "ensemble_steps", noting)
        found = mc.train_ensemble(specs, x, backend="cpu", progress=False)
    assert taken == [3, 3, 2, 1, 1]
    assert [trained.history.step[-1] for trained in found] == [2, 5, 3]


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_bad_threads_are_named(backend: str, threads: object) -> None:
    with pytest.raises(mc.InputError, match=f"threads must be a positive integer, got {threads!r}"):
        mc.train_ensemble(kinds(1)[:1], toy(), backend=backend, threads=threads, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["triton", "gpu", "CPU", ""])
def test_unknown_backends_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"backend must be one of \('auto', .*\), got '{name}'"):
        mc.train_ensemble(kinds(1)[:1], toy(), backend=name, progress=False)


def test_a_backend_that_cannot_serve_says_why() -> None:
    with pytest.raises(RuntimeError, match="backend 'cuda' cannot serve this call: "):
        mc.train_ensemble(kinds(1)[:1], toy(), backend="cuda", progress=False)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_goes_to_standard_error(backend: str, progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    mc.train_ensemble(kinds(1)[:1], toy(), backend=backend, progress=progress)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert bool(printed.err) == progress
    assert ("active=" in printed.err) == ("gamma=" in printed.err) == ("neg_elbo=" in printed.err) == progress


@NEEDS_COMPILED
def test_of_several_models_the_bar_says_how_many_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    mc.train_ensemble(kinds(3)[:2], toy(), backend="cpu")
    assert "training=0, diverged=0" in capsys.readouterr().err


@NEEDS_COMPILED
def test_the_default_dtype_plays_no_part() -> None:
    specs, data = [*kinds(5)[:2], kinds(5)[6]], toy()
    wanted = mc.train_ensemble(specs, data, backend="cpu", progress=False)
    torch.set_default_dtype(torch.float64)
    try:
        found = mc.train_ensemble(specs, data, backend="cpu", progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, wanted, strict=True):
        for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
            assert x.dtype == torch.float32
            assert torch.equal(x, y)


@pytest.mark.parametrize("triton", [True, False])
def test_auto_takes_the_engine_on_a_gpu_where_it_is_built(monkeypatch: pytest.MonkeyPatch, triton: bool) -> None:
    specs, wide = [mc.ModelSpec(2)], [mc.ModelSpec(2), mc.ModelSpec(2, (65,), covariance="cholesky")]
    monkeypatch.setattr("manifold_core.kernels.dispatch.TRITON_INSTALLED", triton)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="A100", major=8, minor=0))
    with FakeTensorMode():
        x = torch.empty(0, device="cuda")
        monkeypatch.setattr("manifold_core.kernels.extension.cuda_missing_because", "")
        assert explain_ensemble(specs, x).backend == "cuda"
        assert explain_ensemble(wide, x).reason.startswith("specs[1] has a full covariance behind 65 neurons")
        narrow = [mc.ModelSpec(2, covariance="cholesky")]
        assert explain_ensemble(narrow, x).reason.startswith("specs[0] has a full covariance on a GPU, which only")
        monkeypatch.setattr("manifold_core.kernels.extension.cuda_missing_because", "it rained")
        choice = explain_ensemble(specs, x)
    assert choice.backend == "reference"
    assert choice.reason == (
        "there is no engine in Triton, and it rained"
        if triton
        else "it rained; triton is not installed; pip install triton"
    )
    with pytest.raises(
        ValueError, match=r"backend must be one of \('auto', 'reference', 'cpu', 'cuda'\), got 'triton'"
    ):
        explain_ensemble(specs, x, backend="triton")


@NEEDS_COMPILED
def test_a_schedule_is_made_once_for_all_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 steps it takes a third of a second."""
    made, schedule_table = [], state.schedule_table
    monkeypatch.setattr(state, "schedule_table", lambda cycle: made.append(cycle) or schedule_table(cycle))
    rates = [2.0**-k for k in range(12)]
    specs = [
        mc.ModelSpec(2, (3,), training=mc.TrainingConfig(2, learning_rate=rate, seed=seed))
        for seed in range(3)
        for rate in rates
    ]
    mc.train_ensemble(specs, torch.rand(20, 4), backend="cpu", progress=False)
    assert [cycle.learning_rate for cycle in made] == rates
