"""One model trained by two processes: the numbers are those of one process on the joined batch.

The tests run in pytest's process, what they compare in two others, which run this file as a program.
"""

import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import manifold_core as mc
from manifold_core import cli
from manifold_core.distributed import Group, everywhere, from_first, gathered, group_of_torchrun, joined_mean
from manifold_core.networks import BatchNorm2d
from manifold_core.storage import checkpoint
from manifold_core.storage.files import locked
from manifold_core.training import batches, noise_seed

PROCESSES = 2
CONFIG = {"steps": 15, "batch_size": 12, "learning_rate": 0.01, "seed": 3}


def data(kind: str) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(7)
    if kind.startswith("conv"):
        return torch.randn(30, 1, 8, 8, generator=generator, dtype=torch.float64), None
    if kind == "every step":
        steps = torch.randn(30, 4, 3, generator=generator, dtype=torch.float64)
        return steps[:, -1], steps[:, :-1]
    u = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    return torch.tanh(u @ torch.randn(3, 6, generator=generator, dtype=torch.float64)), u[:, :2]


def model(kind: str, seed: int) -> mc.VAE | mc.CVAE:
    torch.manual_seed(seed)
    gamma = kind.split()[-1] if kind.endswith(("analytic", "fixed")) else "learned"
    elbo = mc.GaussianELBO(gamma, log_gamma=float(-seed))  # type: ignore[arg-type]
    if kind.startswith("conv"):
        made: mc.VAE | mc.CVAE = mc.VAE.conv((1, 8, 8), 3, 2, elbo=elbo, hidden=(4,))
    elif kind == "every step":
        made = mc.EveryStepCVAE.lstm(3, 2, 5, share_weights=True, elbo=elbo)
    elif kind.startswith("cvae"):
        made = mc.CVAE.mlp(6, 2, 3, (8,), condition_hidden=(4,), activation="prelu", attention=True, elbo=elbo)
    else:
        made = mc.VAE.mlp(6, 3, (8,), elbo=elbo)
    return made.double()


def trained(
    group: Group, kind: str, folder: str | None = None, stop: int | None = None, precision: str | None = None
) -> Any:
    """Weights and buffers after training, and the curves; in float64 but for a precision. Processes begin with weights
    of their own."""
    x, c = data(kind)
    made = model(kind, 0 if group is None else group.rank())
    if precision is not None:
        made, x, c = made.float(), x.float(), None if c is None else c.float()

    class Stopped(Exception):
        pass

    def look(_module: nn.Module, _arguments: object, keywords: dict[str, int]) -> None:
        if keywords["seed"] == noise_seed(CONFIG["seed"], -1 if stop is None else stop):  # type: ignore[arg-type]
            raise Stopped

    made.register_forward_pre_hook(look, with_kwargs=True)
    history = None
    try:
        history = mc.train(
            made,
            x,
            mc.TrainingConfig(**CONFIG, precision=precision or "float32"),  # type: ignore[arg-type]
            condition=c if isinstance(made, mc.CVAE) else None,
            folder=None if folder is None else Path(folder) / str(0 if group is None else group.rank()),
            checkpoint_seconds=0,
            progress=False,
            process_group=group,
        )
    except Stopped:
        assert stop is not None
    assert all(getattr(module, "process_group", None) is None for module in made.modules())
    curves = None if history is None else (history.step, history.neg_elbo, history.gamma, history.active_dimensions)
    return {name: tensor.clone() for name, tensor in made.state_dict().items()}, curves


def noise(group: Group) -> Tensor:
    """The samples of the posterior in the first step, of a posterior that is N(0, I): the noise itself."""

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mu, log_var = (0 * self.layer(x)).chunk(2, dim=1)
            return mu, log_var

    found: list[Tensor] = []
    made = mc.VAE(Unit(), nn.Linear(3, 6), 3).double()
    made.register_forward_hook(lambda _module, _arguments, terms: found.append(terms.z.detach()))
    config = mc.TrainingConfig(**(CONFIG | {"steps": 1}))  # type: ignore[arg-type]
    mc.train(made, data("vae")[0], config, progress=False, process_group=group)
    return found[0]


def diverged(group: Group, kind: str, sample: int) -> tuple[str, int, list[float]]:
    """One sample is huge: where it is drawn, one process has it, and all must stop."""
    x, _ = data("vae")
    x[sample] = 1e200  # finite; its square is not
    with pytest.raises(mc.Diverged) as caught:
        mc.train(model(kind, 0), x, mc.TrainingConfig(steps=6, batch_size=4), progress=False, process_group=group)
    return str(caught.value), caught.value.step, caught.value.history.neg_elbo


def normalised(group: Group, half: bool) -> tuple[Tensor, ...]:
    """Far from zero, where means of squares lose all their digits; and the gradient of a sum that all share."""
    x = (1000 + torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))).to(
        torch.bfloat16 if half else torch.float64
    )
    weights = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    layer = BatchNorm2d(3) if half else BatchNorm2d(3).double()
    layer.process_group = group
    rows = slice(None) if group is None else slice(3 * group.rank(), 3 * group.rank() + 3)
    part = x[rows].clone().requires_grad_()
    out = layer(part)
    (out.double() * weights[rows]).sum().backward()
    assert part.grad is not None
    layer.eval()
    return out.detach(), part.grad, layer.running_mean, layer.running_var, layer.num_batches_tracked, layer(x).detach()


def mean(group: Group) -> tuple[Tensor, Tensor]:
    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    part = x.mean(0) if group is None else x[group.rank()].clone()
    part.requires_grad_()
    found = joined_mean(part, group)
    (found**3).sum().backward()
    assert part.grad is not None
    return found.detach(), part.grad


def refusal(group: Group, what: str, folder: str | None = None) -> str:
    """The message of the InputError that every process gets."""
    assert group is not None
    x, _ = data("vae")
    made = cast(mc.VAE, model("vae", 0))
    config = mc.TrainingConfig(steps=3, batch_size=12)
    if what == "share":
        config = mc.TrainingConfig(steps=3, batch_size=15)
    elif what == "few samples":
        x = x[:7]
    elif what == "batch norm":
        made.decoder = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)).double()
    elif what == "sum":
        made.elbo.reduction = "sum"
    elif what == "config":
        config = mc.TrainingConfig(steps=3, batch_size=12, seed=group.rank())
    elif what == "samples":
        x = x[: 30 - group.rank()]
    elif what == "samples that no two share":  # though a batch of the first is
        x, config = x[: 30 - group.rank()], mc.TrainingConfig(steps=3, batch_size=64)
    elif what == "other samples":
        x = x + group.rank()
    elif what == "weights":
        made = mc.VAE.mlp(6, 3, (8 + group.rank(),)).double()
    elif what == "unused":
        made.decoder.register_parameter("spare", nn.Parameter(torch.zeros(1)))
    elif what == "network" and folder is not None:
        mc.train(made, x, config, folder=folder, progress=False, process_group=group)
        made = cast(mc.VAE, model("vae", 1))
        made.decoder.register_forward_hook(lambda _module, _arguments, found: found.abs())
    elif what == "checkpoint" and group.rank() == 0:
        assert folder is not None
        (Path(folder) / "checkpoint.json").write_text("{")

    def call() -> None:
        if group.rank() == (1 if what == "everywhere" else 0):
            raise mc.InputError(f"bad in process {group.rank()}")

    def train() -> None:
        place = Path(folder) if folder else None
        saying = {"identity": 0, "identity of the second": 1}.get(what)
        said = {"day": 3} if group.rank() == saying else None
        mc.train(made, x, config, folder=place, identity=said, progress=False, process_group=group)

    tried = {"everywhere": lambda: everywhere(call, group), "from first": lambda: from_first(call, group)}
    with pytest.raises(mc.InputError) as caught:
        tried.get(what, train)()
    return str(caught.value)


def shared_values(group: Group, folder: str) -> tuple[Any, Any, bool, list[float]]:
    assert group is not None
    left = Path(folder) / "left"

    def found_or_left() -> bool:
        found = left.exists()
        left.touch()
        return found

    return (
        from_first(lambda: {"rank": group.rank()}, group),
        everywhere(lambda: group.rank(), group),
        everywhere(found_or_left, group),
        gathered(torch.tensor(float(group.rank())), group).tolist(),
    )


def command(group: Group, arguments: list[str]) -> tuple[int, str, str]:
    """The command line as torchrun starts it, but for the group, which is there already: status and what it prints."""
    assert group is not None
    environment = {"RANK": str(group.rank()), "WORLD_SIZE": str(group.size())}
    with (
        patch.dict(os.environ, environment),
        patch("manifold_core.cli.commands.group_of_torchrun", lambda device: nullcontext(group)),
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as errors,
    ):
        return cli.main(arguments), out.getvalue(), errors.getvalue()


SCENARIOS: dict[str, Callable[..., Any]] = {
    function.__name__: function  # type: ignore[attr-defined]
    for function in (trained, noise, diverged, normalised, mean, refusal, shared_values, command)
}


def work(rank: int, store: str) -> None:
    """What one of the processes does: scenarios by name, their results into files."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=60)
    )
    for line in sys.stdin:
        name, arguments, path = json.loads(line)
        try:
            outcome = None, SCENARIOS[name](dist.group.WORLD, **arguments)
        except Exception:
            outcome = traceback.format_exc(), None
        Path(path).write_bytes(pickle.dumps(outcome))
        print("done", flush=True)
    dist.destroy_process_group()


Both = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """``both(f, **arguments)`` is what f gives in each of two processes, called with their group."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder / "store")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(PROCESSES)
    ]

    def run(function: Callable[..., Any], **arguments: Any) -> list[Any]:
        paths = [folder / f"result-{rank}" for rank in range(PROCESSES)]
        for process, path in zip(processes, paths, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps([function.__name__, arguments, str(path)]) + "\n")
            process.stdin.flush()
        results = []
        for process, path in zip(processes, paths, strict=True):
            assert process.stdout is not None
            assert "done\n" in process.stdout  # among what torch has to say: reads up to there
            error, result = pickle.loads(path.read_bytes())
            if error is not None:
                pytest.fail(error)
            results.append(result)
        return results

    try:
        yield run
    finally:
        for process in processes:
            process.communicate(timeout=60)


KINDS = ["vae", "vae analytic", "vae fixed", "cvae", "cvae analytic", "conv", "conv analytic", "every step"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(both: Both, kind: str) -> None:
    """Weights, running statistics, γ and curves; the second process begins with weights and a γ of its own."""
    expected, curves = trained(None, kind)
    results = both(trained, kind=kind)
    assert results[0][1] == results[1][1]
    for state, found in results:
        assert list(state) == list(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        assert found[0] == curves[0] == list(range(1, 16))
        assert found[1] == pytest.approx(curves[1], rel=1e-9)
        assert found[2] == pytest.approx(curves[2], rel=1e-9)
        assert found[3] == curves[3]
    for name, tensor in results[0][0].items():
        assert torch.equal(tensor, results[1][0][name]), name


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02), ("float16", 0.02)])
@pytest.mark.parametrize("kind", ["cvae", "conv analytic"])
def test_so_they_do_in_float32_and_less(both: Both, kind: str, precision: str, tolerance: float) -> None:
    """The processes hold the same weights to the last bit, the scale of float16 included; rounding grows with steps."""
    (first, curves), (second, _) = both(trained, kind=kind, precision=precision)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert curves[1] == pytest.approx(trained(None, kind, precision=precision)[1][1], rel=tolerance)


def test_the_joined_noise_is_that_of_one_process(both: Both) -> None:
    assert torch.equal(torch.cat(both(noise)), noise(None))


def test_batch_normalisation_is_of_the_joined_batch(both: Both) -> None:
    expected = normalised(None, half=False)
    results = both(normalised, half=False)
    for found, wanted in zip((torch.cat([r[i] for r in results]) for i in range(2)), expected[:2], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    for result in results:
        for found, wanted in zip(result[2:], expected[2:], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-9)


def test_batch_normalisation_of_half_precision_is_summed_in_float32(both: Both) -> None:
    expected = normalised(None, half=True)
    results = both(normalised, half=True)
    out = torch.cat([result[0] for result in results])
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected[0], rtol=2**-8, atol=1e-3)
    for result in results:
        assert result[3].dtype == torch.float32
        torch.testing.assert_close(result[3], expected[3], rtol=1e-4, atol=1e-4)


def test_a_joined_mean_has_the_gradient_of_all_losses(both: Both) -> None:
    """Each of two losses is Σ m³, m = (a + b)/2: the gradient in a of their sum is 3 m²; DDP takes half of it."""
    expected, gradient = mean(None)
    for found, of_part in both(mean):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(of_part, gradient)


def test_values_are_shared(both: Both, tmp_path: Path) -> None:
    """Where each process makes its own, the first comes first, and the others find its files."""
    for rank, values in enumerate(both(shared_values, folder=str(tmp_path))):
        assert values == ({"rank": 0}, rank, rank > 0, [0.0, 1.0])


@pytest.mark.filterwarnings("ignore:x is about")
@pytest.mark.parametrize("kind", ["vae", "vae analytic"])
@pytest.mark.parametrize("sample", [0, 11])
def test_divergence_stops_all_processes_at_the_same_step(both: Both, sample: int, kind: str) -> None:
    """A learned γ leaves the loss of the other process finite."""
    message, step, curve = diverged(None, kind, sample)
    assert step == 1 + next(
        i for i, batch in enumerate(batches(30, mc.TrainingConfig(steps=6, batch_size=4), 0)) if sample in batch
    )
    for found in both(diverged, kind=kind, sample=sample):
        assert found[:2] == (message, step)
        assert found[2] == pytest.approx(curve, rel=1e-9)


@pytest.mark.parametrize("kind", ["cvae", "conv analytic"])
def test_stopped_processes_go_on_to_the_same_numbers(both: Both, tmp_path: Path, kind: str) -> None:
    """The first process alone writes; the second reads nothing."""
    undisturbed = both(trained, kind=kind)
    both(trained, kind=kind, folder=str(tmp_path), stop=9)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    loaded = checkpoint.load(tmp_path / "0")
    assert loaded is not None
    assert loaded.state["step"] == 9
    for (state, curves), (expected, expected_curves) in zip(
        both(trained, kind=kind, folder=str(tmp_path)), undisturbed, strict=True
    ):
        assert curves == expected_curves
        for name, tensor in expected.items():
            assert torch.equal(state[name], tensor), name


def test_one_process_goes_on_where_two_were_stopped(both: Both, tmp_path: Path) -> None:
    both(trained, kind="conv", folder=str(tmp_path), stop=9)
    state, curves = trained(None, "conv", folder=str(tmp_path))
    expected, expected_curves = trained(None, "conv")
    assert curves[1] == pytest.approx(expected_curves[1], rel=1e-9)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-11)


REFUSALS = {
    "share": "batch_size must be a multiple of the number of processes, 2, .* got a mini-batch of 15",
    "few samples": "batch_size must be a multiple of the number of processes, 2, .* got a mini-batch of 7",
    "batch norm": "model must normalise over the joined batch .* got a BatchNorm1d as decoder.1",
    "sum": "elbo must have reduction='mean' if processes share it, got 'sum'",
    "config": "training must be the same in all processes, got .*'seed': 0.* in the first and .*'seed': 1",
    "samples": r"x must be the same in all processes, got \(30, 6\) in the first and \(29, 6\) in process 1",
    "samples that no two share": r"x must be the same in all processes, got \(30, 6\) .* and \(29, 6\) in process 1",
    "identity": "day must be the same in all processes, got 3 in the first and None in process 1",
    "identity of the second": "day must be the same in all processes, got None in the first and 3 in process 1",
    "other samples": "data must be the same in all processes, got",
    "weights": "model must be the same in all processes",
    "unused": "model must use all its parameters .* got decoder.spare without a gradient",
    "checkpoint": "checkpoint .* cannot be read",
    "another": "folder must be left to one process, but another is at work in",
    "network": "model must be the one whose checkpoint is in folder .* has its code changed",
    "everywhere": "bad in process 1",
    "from first": "bad in process 0",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_shared_is_refused_in_all_processes(both: Both, tmp_path: Path, what: str) -> None:
    with_folder = ("checkpoint", "another", "network")
    with locked(tmp_path) if what == "another" else nullcontext():
        messages = both(refusal, what=what, folder=str(tmp_path) if what in with_folder else None)
    assert messages[0] == messages[1]
    with pytest.raises(mc.InputError, match=REFUSALS[what]):
        raise mc.InputError(messages[0])


TRAIN = ["train", "--data", "synthetic", "--quiet", "--device", "cpu", "--steps", "12", "--batch-size"]


def test_the_command_line_trains_with_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*torchrun, "-m", "manifold_core.cli", *TRAIN, "64", "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out -ELBO") == 1
    assert cli.main([*TRAIN, "64", "--out", str(tmp_path / "one")]) == 0
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["config"] == two["config"]
    assert two["history"]["neg_elbo"] == pytest.approx(one["history"]["neg_elbo"], rel=1e-4)
    found = mc.load_run(tmp_path / "two").model.state_dict()
    for name, tensor in mc.load_run(tmp_path / "one").model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_finished_folder_is_found_by_all(both: Both, tmp_path: Path) -> None:
    arguments = [*TRAIN, "64", "--out", str(tmp_path)]
    (status, out, _), second = both(command, arguments=arguments)
    assert (status, out.count("held-out -ELBO")) == (0, 1)
    assert second == (0, "", "")
    written = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert [again[:2] for again in both(command, arguments=arguments)] == [(0, out), (0, "")]
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "63"], "batch_size must be a multiple of the number of processes, 2"),
        (["train", "--data", "nowhere.npy"], "nowhere.npy"),
        (["report", "folder"], "with torchrun the command must be train"),
    ],
)
def test_the_command_line_reports_an_error_once(both: Both, tmp_path: Path, arguments: list[str], message: str) -> None:
    out = ["--out", str(tmp_path)]
    (status, _, errors), second = both(command, arguments=arguments + out)
    assert status == 2
    assert errors.startswith("manifold-core: ")
    assert message in errors
    assert second == (0, "", "")


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1), (2, 0), (3, 0), (130, 130), (143, 143)])
def test_what_happens_to_one_process_alone_is_in_its_status(status: int, expected: int) -> None:
    """Else torchrun takes it for done, and the others wait for it."""
    with (
        patch.dict(os.environ, {"RANK": "1", "WORLD_SIZE": "2"}),
        patch("manifold_core.cli.process._main", lambda arguments: status),
    ):
        assert cli.main([]) == expected


def test_each_process_takes_a_gpu_of_its_own() -> None:
    with patch.dict(os.environ, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}):
        for device, message in (
            ("cuda:1", "device must be cpu or cuda with torchrun, .* got 'cuda:1'"),
            ("cuda", "--nproc-per-node must be at most the number of GPUs of a machine, 1, got 2"),
        ):
            with (
                patch.object(torch.cuda, "device_count", lambda: 1),
                pytest.raises(mc.InputError, match=message),
                group_of_torchrun(device),
            ):
                pass
    taken: list[Any] = []
    second_machine = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    with (
        patch.dict(os.environ, second_machine),
        patch.object(torch.cuda, "device_count", lambda: 2),
        patch.object(torch.cuda, "set_device", taken.append),
        patch.object(dist, "init_process_group", lambda backend, device_id: taken.append((backend, device_id))),
        patch.object(dist, "destroy_process_group", lambda: taken.append("over")),
        group_of_torchrun("cuda"),
    ):
        pass
    own = torch.device("cuda", 1)
    assert taken == [own, ("nccl", own), "over"]
    with patch.dict(os.environ, {"RANK": "0", "WORLD_SIZE": "1"}), group_of_torchrun("cpu") as group:
        assert group is None


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
