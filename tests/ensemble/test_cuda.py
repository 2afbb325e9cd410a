"""The CUDA engine of ensembles: on a GPU where there is one, and everywhere compiled for the processor.

Held against training in float64 that is written here once more: autograd, torch's Adam, the order of the samples in
plain integers.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_on_host.build import NAMESPACE, load
from ensemble.apart import assert_the_way_of_the_reference
from ensemble.kinds import kinds, toy
from instruction_sets import NEEDS_COMPILED
from manifold_core.kernels import extension
from manifold_core.kernels.random import permutation, standard_normal
from torch import Tensor

import manifold_core as mc
from manifold_core.ensemble.data import check_data
from manifold_core.ensemble.state import EngineState

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
ON_DEVICE = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
MOST_LAYERS = 24
LIMITS = (227 << 10, 64 << 10, 25 << 10, 16 << 10, 6 << 10)  # shared memory of an H100, a T4, and less and less
H100, T4, *_, NOTHING = LIMITS
MULTIPROCESSORS = 3  # of the device that is no device, each with room for one block


@dataclass(frozen=True)
class Case:
    """A model and its training."""

    features: int = 5
    latents: int = 3
    hidden: tuple[int, ...] = (7,)
    activation: str = "relu"
    conditions: int = 0
    condition_features: int = 4
    prior: bool = False
    gate: bool = False
    gamma: str = "learned"
    log_gamma: float = -0.5
    samples: int = 50
    batch: int = 20
    steps: int = 3
    record_every: int = 1
    seed: int = 11


@dataclass
class Network:
    """Dense layers one after another, by the words of each."""

    name: str
    sizes: tuple[int, ...]
    layers: list[dict[str, int]] = field(default_factory=list)


class Program:
    """The words of a model: rows are given out as they are needed."""

    def __init__(self, case: Case) -> None:
        self.case, self.rows, self.places = case, 0, 0
        self.layers: list[dict[str, int]] = []
        d, t, k, h = case.features, case.conditions, case.latents, case.condition_features
        self.x = self.take(d)
        of_encoder = self.take(h) if t else -1  # features of the condition, beside x
        self.condition = self.take(t)
        if t:
            self.network(self.condition, t, (t, 6, h), of_encoder)
        self.mu = self.network(self.x, d, (d + h * bool(t), *case.hidden, 2 * k))
        self.prior = self.network(self.condition, t, (t, 6, 2 * k)) if case.prior else -1
        self.gate = self.network(self.condition, t, (t, 6, k), room=k) if case.gate else -1
        self.sampled_after = len(self.layers)
        self.noise, self.z = self.take(k), self.take(k)
        if t:
            self.network(self.condition, t, (t, 6, h), self.take(h))
        self.x_hat = self.network(self.z, 0, (k + h * bool(t), *reversed(case.hidden), d))
        self.log_gamma = self.places
        self.parameter_count = self.places + (case.gamma == "learned")

    def take(self, rows: int) -> int:
        self.rows += rows
        return self.rows - rows

    def parameters(self, count: int) -> int:
        self.places += count
        return self.places - count

    def network(self, first: int, wanted_from: int, sizes: tuple[int, ...], out: int = -1, room: int = 0) -> int:
        """Adds layers that read from row ``first`` on; says where the last one writes: ``out``, or new rows."""
        kind = {"relu": 1, "prelu": 2}[self.case.activation]
        producer = -1
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            last = i == len(sizes) - 2
            activation = 0 if last else kind
            to = out if last and out >= 0 else self.take(outputs + room * last)
            self.layers.append(
                {
                    "in": first,
                    "inputs": inputs,
                    "out": to,
                    "outputs": outputs,
                    "weight": self.parameters(inputs * outputs),
                    "bias": self.parameters(outputs),
                    "activation": activation,
                    "slope": self.parameters(1) if activation == 2 else -1,
                    "before": self.take(outputs) if activation == 2 else -1,
                    "wanted_from": wanted_from,
                    "producer": producer,
                }
            )
            first, wanted_from, producer = to, 0, len(self.layers) - 1 if activation else -1
        return first


BETA2 = 0.97
LOG_GAMMA_RATE = 5.0


def schedule(case: Case) -> tuple[list[tuple[float, float]], Tensor]:
    """Learning rate and beta1 of each step, and the table of the engine."""
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=0.02)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=max(case.steps, 2))
    rates, table = [], []
    for t in range(1, case.steps + 1):
        (group,) = optimizer.param_groups
        lr, beta1 = group["lr"], group["betas"][0]
        rates.append((lr, beta1))
        size = lr / (1 - beta1**t)
        table.append([size, LOG_GAMMA_RATE * size, 1 - beta1, 1 - BETA2, 1 / math.sqrt(1 - BETA2**t)])
        optimizer.step()
        if t < case.steps:
            cycle.step()
    return rates, torch.tensor(table, dtype=torch.float32)


class Run:
    """A model in memory, as the engine wants it."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.program = case, Program(case)
        generator = torch.Generator().manual_seed(case.seed)
        p, count = self.program, self.program.parameter_count
        self.data = torch.randn(case.samples, case.features + case.conditions, generator=generator).to(device)
        parameters = torch.empty(count + 1).uniform_(-0.6, 0.6, generator=generator)
        for layer in p.layers:
            if layer["slope"] >= 0:
                parameters[layer["slope"]] = 0.25
        parameters[p.log_gamma] = case.log_gamma
        self.start = parameters.clone()
        self.parameters = parameters.to(device)
        self.exp_avg, self.exp_avg_sq = torch.zeros(2, count, device=device)
        self.rates, table = schedule(case)
        self.schedule = table.to(device)
        records = -(-case.steps // case.record_every)
        self.records = torch.full((records, 4 + case.latents), math.nan, device=device)
        self.state = torch.zeros(2, dtype=torch.int64, device=device)

    def words(self) -> list[int]:
        c, p = self.case, self.program
        addresses = (self.data, self.parameters, self.exp_avg, self.exp_avg_sq, self.schedule, self.records, self.state)
        gamma = {"learned": 0, "analytic": 1, "fixed": 2}[c.gamma]
        return [
            *(tensor.data_ptr() for tensor in addresses),
            *(c.samples, c.features, c.conditions, p.parameter_count),
            *(c.seed, min(c.batch, c.samples), c.steps, c.record_every, gamma, p.log_gamma),
            *(p.rows, p.x, p.condition, c.latents, p.mu, -1, p.prior, p.gate, p.noise, p.z, p.x_hat),
            *(len(p.layers), p.sampled_after),
            *(word for layer in p.layers for word in layer.values()),
            *([0] * 11 * (MOST_LAYERS - len(p.layers))),
        ]

    def everything(self) -> list[Tensor]:
        return [self.parameters, self.exp_avg, self.exp_avg_sq, self.records, self.state]


@dataclass
class Engine:
    library: Any
    device: torch.device

    def __call__(self, runs: list[Run], steps: int) -> None:
        models = torch.tensor([run.words() for run in runs], dtype=torch.int64, device=self.device)
        self.library.ensemble_steps(models, steps, 1)


@contextmanager
def engine_at(
    where: str, limit: int = H100, multiprocessors: int = MULTIPROCESSORS, taken: int = 0
) -> Iterator[Engine]:
    if where == "on device":
        assert extension.cuda_missing_because == ""
        yield Engine(torch.ops.manifold_core, torch.device("cuda"))
        return
    load()
    library = getattr(torch.ops, NAMESPACE)
    library.set_device(limit, multiprocessors, taken)
    yield Engine(library, torch.device("cpu"))
    library.set_device(H100, MULTIPROCESSORS, 0)


@pytest.fixture(params=[pytest.param("on host", marks=NEEDS_COMPILER), pytest.param("on device", marks=ON_DEVICE)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with engine_at(request.param) as found:
        yield found


@pytest.fixture(
    params=[
        *(pytest.param(("on host", limit), marks=NEEDS_COMPILER, id=f"on host-{limit}") for limit in LIMITS),
        pytest.param(("on device",), marks=ON_DEVICE, id="on device"),
    ]
)
def limited(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """With less and less shared memory; a device has what it has."""
    with engine_at(*request.param) as found:
        yield found


def order(seed: int, epoch: int, samples: int) -> list[int]:
    """The samples of an epoch; tests/kernels/test_permutation.py holds this against integers."""
    return permutation(torch.tensor(seed), torch.tensor([epoch]), torch.arange(samples)[None], samples)[0].tolist()


@dataclass
class Oracle:
    """Training in float64."""

    parameters: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    records: Tensor


@cache  # of a case that one engine after the other trains
def train(case: Case, steps: int) -> Oracle:
    run = Run(case, torch.device("cpu"))
    program = run.program
    d, k, count = case.features, case.latents, program.parameter_count
    numbers = run.start[:count].double().requires_grad_()
    optimizer = torch.optim.Adam([numbers])
    data = run.data.double()
    batch = min(case.batch, case.samples)
    per_epoch = case.samples // batch
    log_gamma = run.start[program.log_gamma].double()
    records = []

    def layers(rows: dict[int, Tensor], chosen: list[dict[str, int]]) -> None:
        for layer in chosen:
            inputs, outputs = layer["inputs"], layer["outputs"]
            x = torch.stack([rows[layer["in"] + i] for i in range(inputs)], dim=1)
            weight = numbers[layer["weight"] : layer["weight"] + inputs * outputs].reshape(outputs, inputs)
            y = x @ weight.T + numbers[layer["bias"] : layer["bias"] + outputs]
            if layer["activation"] == 1:
                y = torch.relu(y)
            elif layer["activation"] == 2:
                y = torch.nn.functional.prelu(y, numbers[layer["slope"] : layer["slope"] + 1])
            put(rows, layer["out"], y)

    def put(rows: dict[int, Tensor], first: int, values: Tensor) -> None:
        rows.update({first + i: column for i, column in enumerate(values.unbind(1))})

    def get(rows: dict[int, Tensor], first: int, number: int) -> Tensor:
        return torch.stack([rows[first + i] for i in range(number)], dim=1)

    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        samples = order(case.seed, epoch, case.samples)[place * batch : (place + 1) * batch]
        rows: dict[int, Tensor] = {}
        put(rows, program.x, data[samples, :d])
        if case.conditions:
            put(rows, program.condition, data[samples, d:])
        layers(rows, program.layers[: program.sampled_after])
        mu, log_var = get(rows, program.mu, 2 * k).chunk(2, dim=1)
        m, p = torch.zeros(2, batch, k, dtype=torch.float64)
        if case.prior:
            m, p = get(rows, program.prior, 2 * k).chunk(2, dim=1)
        z = mu + (log_var / 2).exp() * standard_normal(torch.tensor(case.seed * 2**32 + step), batch, k)
        if case.gate:
            z = z * torch.sigmoid(get(rows, program.gate, k))
        kl = (0.5 * ((mu - m) ** 2 * (-p).exp() + (log_var - p).exp() - 1 - (log_var - p))).sum(1).mean()
        put(rows, program.z, z)
        layers(rows, program.layers[program.sampled_after :])
        squared_error = ((get(rows, program.x_hat, d) - data[samples, :d]) ** 2).sum(1).mean()
        if case.gamma == "learned":
            log_gamma = numbers[program.log_gamma]
        elif case.gamma == "analytic":
            log_gamma = (squared_error / d).log()
        nll = 0.5 * (squared_error / log_gamma.exp() + d * (math.log(2 * math.pi) + log_gamma))
        ratio = (log_var - p).exp().mean(0)
        records.append(torch.cat([torch.stack([nll, kl, squared_error, log_gamma]), ratio]).detach())
        optimizer.zero_grad()
        (nll + kl).backward()
        (group,) = optimizer.param_groups
        group["lr"], group["betas"] = run.rates[step][0], (run.rates[step][1], BETA2)
        before = numbers.detach().clone()
        optimizer.step()
        if case.gamma == "learned":
            with torch.no_grad():
                numbers[program.log_gamma] += (LOG_GAMMA_RATE - 1) * (numbers - before)[program.log_gamma]
    state = optimizer.state[numbers]
    last = log_gamma.detach().reshape(1)
    return Oracle(
        torch.cat([numbers.detach(), last]) if case.gamma != "learned" else numbers.detach(),
        state["exp_avg"],
        state["exp_avg_sq"],
        torch.stack(
            [record for i, record in enumerate(records, start=1) if i % case.record_every == 0 or i == case.steps]
        ),
    )


def assert_trained(run: Run, steps: int) -> None:
    """float32 and float64 part slowly: a step of Adam has the size of the learning rate whatever the gradient's is."""
    expected = train(run.case, steps)
    assert run.state.tolist() == [steps, 0]
    for name in ("exp_avg", "exp_avg_sq", "parameters", "records"):
        wanted: Tensor = getattr(expected, name)
        found: Tensor = getattr(run, name).cpu().double()
        found = found[: len(wanted)]
        bound = 2e-5 * wanted.abs() + 2e-6 * wanted.abs().max()
        assert found.shape == wanted.shape, name
        assert ((found - wanted).abs() <= bound).all(), name


def assert_same(one: Run, other: Run) -> None:
    """To the last bit."""
    for a, b in zip(one.everything(), other.everything(), strict=True):
        assert torch.equal(a, b)


CASES = {
    "one step": Case(steps=1),
    "a VAE": Case(),
    "prelu": Case(activation="prelu", hidden=(9, 6)),
    "analytic": Case(gamma="analytic", hidden=(4,)),
    "fixed": Case(gamma="fixed", log_gamma=-1.0),
    "whole batches": Case(samples=20, batch=64, features=8, latents=4, hidden=(16,)),
    "more columns than a tile": Case(samples=310, batch=147, steps=2),
    "a CVAE": Case(conditions=2, hidden=(6,), batch=17),
    "with a prior": Case(conditions=3, prior=True, activation="prelu", batch=33),
    "with a gate": Case(conditions=2, gate=True, hidden=(13,), batch=16),
    "with both": Case(conditions=1, prior=True, gate=True, gamma="analytic", batch=45, steps=2),
    "wide": Case(features=37, latents=9, hidden=(45,), batch=40, steps=2),
    "features of the condition": Case(conditions=2, condition_features=19, batch=30, steps=2),
    "one of each": Case(features=1, latents=1, hidden=(1,), samples=3, batch=2, steps=4),
    "records": Case(steps=5, record_every=2),
    "a layer at a time": Case(hidden=(150, 150), steps=2),
    "some layers at a time": Case(hidden=(420, 60), steps=2),
    "all elsewhere": Case(hidden=(820,), steps=1),
}


def trained(engine: Engine, cases: list[Case], *steps: int) -> list[Run]:
    """Models that were trained together, in launches of so many steps."""
    runs = [Run(case, engine.device) for case in cases]
    for number in steps:
        engine(runs, number)
    return runs


class TestAgainstFloat64:
    @pytest.mark.parametrize("name", CASES)
    def test_as_autograd_and_adam(self, engine: Engine, name: str) -> None:
        (run,) = trained(engine, [CASES[name]], CASES[name].steps)
        assert_trained(run, run.case.steps)

    def test_models_of_all_sizes_in_one_launch(self, limited: Engine) -> None:
        for run in trained(limited, list(CASES.values()), 5):
            assert_trained(run, run.case.steps)

    def test_many_layers(self, engine: Engine) -> None:
        (run,) = trained(engine, [Case(hidden=(5,) * 11, steps=2)], 2)
        assert len(run.program.layers) == MOST_LAYERS
        assert_trained(run, 2)

    def test_nothing_is_written_elsewhere(self, engine: Engine) -> None:
        run = Run(CASES["a VAE"], engine.device)
        data, table, count = run.data.clone(), run.schedule.clone(), run.program.parameter_count
        engine([run], 3)
        assert torch.equal(run.data, data)
        assert torch.equal(run.schedule, table)
        assert run.parameters[count] == run.start[count]  # log γ is learned: this place is nobody's


@NEEDS_COMPILER
class TestLayout:
    """Where a model lies: 0, all in shared memory; 1, the tile there; 2, nothing. And how many columns a tile has."""

    @staticmethod
    def layout(case: Case, limit: int) -> list[int]:
        load()
        words = torch.tensor(Run(case, torch.device("cpu")).words())
        found: list[int] = getattr(torch.ops, NAMESPACE).layout(words, limit)
        return found

    def test_the_cases_lie_everywhere(self) -> None:
        found = {tuple(self.layout(case, limit)[:2]) for case in CASES.values() for limit in LIMITS}
        assert found == {(0, 128), (0, 64), (0, 32), (1, 32), (2, 32)}
        for limit in (H100, 16 << 10):  # in one launch
            assert {self.layout(case, limit)[0] for case in CASES.values()} == {0, 1, 2}

    def test_some_layers_have_room_and_some_do_not(self) -> None:
        found = set()
        for case in CASES.values():
            largest = max(layer["outputs"] * layer["inputs"] for layer in Program(case).layers)
            for limit in LIMITS:
                residency, *_, staged = self.layout(case, limit)
                found.add((residency, staged >= largest))
        assert found == {(0, False), (1, False), (1, True), (2, False), (2, True)}

    def test_bytes_of_a_model(self) -> None:
        case = Case(features=20, latents=20, hidden=(32,), samples=1024, batch=1024)
        lines = 32 * 20 + 40 * 36 + 32 * 20 + 20 * 36  # lines of W, an odd number of fours each
        parameters, rows = lines + (32 + 40 + 32 + 20) + 4, 4 * 20 + 2 * 20 + 2 * 32 + 1
        for limit, columns in ((T4, 32), (H100, 64)):
            assert self.layout(case, limit)[:3] == [0, columns, 4 * (parameters + rows * (columns + 4))]

    def test_chunks_of_a_batch(self) -> None:
        wanted = {1: (64, 1, 1), 65: (128, 1, 1), 129: (128, 2, 1), 2048: (128, 16, 1), 2049: (128, 9, 2)}
        for batch, numbers in wanted.items():
            _, columns, _, chunks, tiles_a_chunk, _ = self.layout(Case(samples=batch, batch=batch), H100)
            assert (columns, chunks, tiles_a_chunk) == numbers


CHUNKS = {
    "a chunk each": Case(samples=310, batch=147),
    "several tiles a chunk": Case(samples=1300, batch=1237, steps=2),
    "all at once": Case(
        conditions=2, prior=True, gate=True, gamma="analytic", activation="prelu", samples=640, batch=640
    ),
}


@NEEDS_COMPILER
class TestTeams:
    """Several blocks to a model, which run at once, as the processor likes."""

    LIMITS = (24 << 10, 12 << 10, 11 << 10, NOTHING)

    @staticmethod
    def trained_by(multiprocessors: int, limit: int, cases: list[Case], steps: int) -> list[Run]:
        with engine_at("on host", limit, multiprocessors) as engine:
            return trained(engine, cases, steps)

    def test_memory_of_each_kind_is_used(self) -> None:
        layouts = [TestLayout.layout(case, limit) for case in CHUNKS.values() for limit in self.LIMITS]
        assert {(residency, columns) for residency, columns, *_ in layouts} == {(0, 64), (0, 32), (1, 32), (2, 32)}
        assert {tiles_a_chunk for *_, tiles_a_chunk, _ in layouts} == {1, 2, 3}

    @pytest.mark.parametrize("limit", LIMITS)
    @pytest.mark.parametrize("name", CHUNKS)
    def test_the_same_however_many_blocks(self, name: str, limit: int) -> None:
        case = CHUNKS[name]
        (alone,) = self.trained_by(1, limit, [case], case.steps)
        assert_trained(alone, case.steps)
        for multiprocessors in (2, 5, 40):
            (run,) = self.trained_by(multiprocessors, limit, [case], case.steps)
            assert_same(alone, run)

    def test_a_block_each_where_others_have_a_part_of_the_device(self) -> None:
        case = CHUNKS["a chunk each"]
        (alone,) = self.trained_by(1, 12 << 10, [case], case.steps)
        with engine_at("on host", 12 << 10, multiprocessors=5, taken=2) as engine:
            (run,) = trained(engine, [case], case.steps)
        assert_same(alone, run)

    def test_models_of_all_sizes_side_by_side(self) -> None:
        cases = list(CHUNKS.values())
        alone = [self.trained_by(1, 12 << 10, [case], 3)[0] for case in cases]
        for one, run in zip(alone, self.trained_by(11, 12 << 10, cases, 3), strict=True):
            assert_same(one, run)

    def test_workspace(self) -> None:
        case, small = CHUNKS["several tiles a chunk"], CASES["a VAE"]
        lines = 7 * 12 + 6 * 12 + 7 * 4 + 5 * 12  # of W, an odd number of fours each
        parameters = lines + (8 + 8 + 8 + 8) + 4
        of_model = 4 * (1 + 13) * parameters + 8 * 13 * (3 + 3)  # itself; gradients and sums of 13 chunks
        with engine_at("on host", 12 << 10, 5) as engine:

            def workspace(*cases: Case) -> int:
                runs = [Run(case, engine.device) for case in cases]
                words = torch.tensor([run.words() for run in runs], dtype=torch.int64).reshape(len(runs), -1)
                return int(engine.library.ensemble_workspace(words, 1))

            assert workspace(case) == of_model
            assert workspace(small, case, case) == workspace(small) + 2 * of_model
            assert 0 < workspace(small) < of_model
            assert (
                engine.library.ensemble_workspace(torch.zeros(0, len(Run(case, engine.device).words())).long(), 1) == 0
            )
        with engine_at("on host", NOTHING, 5) as engine:
            rows = Run(case, engine.device).program.rows
            assert workspace(case) == of_model + 5 * 4 * (rows + 1) * 36  # and a tile each for 5 blocks

    def test_a_loss_that_is_no_number_ends_the_model_in_all_its_blocks(self) -> None:
        case = CHUNKS["a chunk each"]
        with engine_at("on host", 12 << 10, 5) as engine:
            runs = [Run(case, engine.device), Run(case, engine.device)]
            runs[0].data[order(case.seed, 0, 310)[200], 1] = math.nan  # in the second step
            engine(runs, 3)
        assert [run.state.tolist() for run in runs] == [[1, 2], [3, 0]]
        assert_trained(runs[1], 3)


class TestSteps:
    @pytest.mark.parametrize("gamma", ["learned", "analytic"])
    def test_several_launches_are_one(self, limited: Engine, gamma: str) -> None:
        case = Case(gamma=gamma, steps=5, record_every=2, features=30, hidden=(33,))
        (one,), (several,) = trained(limited, [case], 5), trained(limited, [case], 1, 3, 9, 9)
        assert_same(one, several)

    def test_no_more_steps_than_asked_for(self, engine: Engine) -> None:
        case = Case(steps=6, record_every=4)
        (run,) = trained(engine, [case], 2, 0)
        assert run.state.tolist() == [2, 0]
        assert run.records.isnan().all()

    def test_the_same_each_time_and_whatever_is_beside_it(self, engine: Engine) -> None:
        # Threads take turns in another order each time, and on an H100 memory of each kind is used.
        names = ("with both", "prelu", "a layer at a time", "some layers at a time", "all elsewhere")
        alone = [trained(engine, [CASES[name]], 9)[0] for name in names]
        together = trained(engine, [CASES[name] for name in names], 9)
        for a, b in zip(alone, together, strict=True):
            assert_same(a, b)

    def test_nothing_to_do(self, engine: Engine) -> None:
        models = torch.zeros(0, len(Run(Case(), engine.device).words()), dtype=torch.int64, device=engine.device)
        engine.library.ensemble_steps(models, 3, 1)

    def test_words_of_another_length_are_refused(self, engine: Engine) -> None:
        with pytest.raises(RuntimeError, match="models must be a contiguous int64 matrix with 294 columns"):
            engine.library.ensemble_steps(torch.zeros(1, 7, dtype=torch.int64, device=engine.device), 3, 1)

    @pytest.mark.parametrize("layers", [0, MOST_LAYERS + 1])
    def test_more_layers_than_there_is_room_for_are_refused(self, engine: Engine, layers: int) -> None:
        run = Run(Case(), engine.device)
        words = run.words()
        words[-11 * MOST_LAYERS - 2] = layers
        with pytest.raises(RuntimeError, match=f"a model must have 1 to {MOST_LAYERS} layers, got {layers}"):
            engine.library.ensemble_steps(torch.tensor([words], device=engine.device), 1, 1)


class TestTeamsOnDevice:
    pytestmark = ON_DEVICE
    MANY = 600  # beside so many each has one block: a multiprocessor has room for two, or more where they are small

    @pytest.mark.parametrize("name", [*CHUNKS, "two tiles of 128 a chunk"])
    def test_the_same_each_time_however_many_are_beside_it(self, name: str) -> None:
        case = CHUNKS.get(name, Case(samples=2500, batch=2177, steps=2))
        with engine_at("on device") as engine:
            (alone,) = trained(engine, [case], case.steps)
            beside = trained(engine, [case, *[Case(steps=1)] * self.MANY, case], case.steps)
            assert_trained(alone, case.steps)
            for run in (beside[0], beside[-1]):
                assert_same(alone, run)


class TestDivergence:
    @pytest.mark.parametrize("gamma", ["learned", "analytic"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
    def test_a_loss_that_is_no_number_ends_the_model(self, engine: Engine, gamma: str, value: float) -> None:
        case = Case(gamma=gamma, samples=40, batch=10, steps=4)
        runs = [Run(case, engine.device), Run(case, engine.device)]
        wrong = order(case.seed, 0, 40)[25]  # comes up in step 2, counted from 0
        runs[0].data[wrong, 1] = value
        before, other = trained(engine, [case], 2)[0], trained(engine, [case], 4)[0]
        engine(runs, 4)
        runs[0].data[wrong, 1] = 0
        engine(runs, 4)  # nor does it go on when it is called again
        assert runs[0].state.tolist() == [2, 3]
        for a, b in zip(runs[0].everything()[:-1], before.everything()[:-1], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert_same(runs[1], other)

    @pytest.mark.parametrize("activation", ["relu", "prelu"])
    def test_a_weight_that_is_no_number_is_not_hidden_by_an_activation(self, engine: Engine, activation: str) -> None:
        run = Run(Case(activation=activation), engine.device)
        run.parameters[run.program.layers[0]["weight"]] = math.nan
        engine([run], 1)
        assert run.state.tolist() == [0, 1]

    @pytest.mark.parametrize(("log_gamma", "scale"), [(-100.0, 1.0), (-200.0, 1.0), (-89.0, 1e-3)])
    def test_a_loss_that_float_cannot_hold_ends_the_model(self, engine: Engine, log_gamma: float, scale: float) -> None:
        """Or 1 / gamma, where data and weights are so small that the loss is finite."""
        run = Run(Case(gamma="fixed", log_gamma=log_gamma), engine.device)
        run.data *= scale
        run.parameters[: run.program.log_gamma] *= scale
        before = run.parameters.clone()
        engine([run], 3)
        assert run.state.tolist() == [0, 1]
        assert torch.equal(run.parameters, before)

    def test_a_perfect_reconstruction_has_no_analytic_gamma(self, engine: Engine) -> None:
        run = Run(Case(gamma="analytic", steps=2), engine.device)
        run.data.zero_()
        run.parameters.zero_()
        engine([run], 2)
        assert run.state.tolist() == [0, 1]
        assert (run.parameters == 0).all()


SPECS = [
    mc.ModelSpec(3, (7,), training=mc.TrainingConfig(steps=5, batch_size=16, seed=5)),
    mc.ModelSpec(4, (9, 6), activation="prelu", gamma="analytic", training=mc.TrainingConfig(steps=3, batch_size=64)),
    mc.ModelSpec(
        *(2, (8,)),
        condition_dim=2,
        attention=True,
        training=mc.TrainingConfig(steps=4, batch_size=20, seed=9),
        data=1,
    ),
]


def data_sets(device: torch.device) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    x, y, c = (torch.randn(50, width, generator=generator).to(device) for width in (6, 5, 2))
    return [x, (y, c)]


def assert_as_the_reference(models: list[torch.nn.Module]) -> None:
    """Weights move by some thousandths a step; where a gradient is near 0, rounding has a say in how far."""
    reference = mc.train_ensemble(SPECS, data_sets(torch.device("cpu")), backend="reference", progress=False)
    for found, expected in zip(models, reference, strict=True):
        wanted = expected.model.state_dict()
        assert found.state_dict().keys() == wanted.keys()
        for name, tensor in found.state_dict().items():
            torch.testing.assert_close(tensor.cpu(), wanted[name], rtol=1e-4, atol=2e-5, msg=name)


class TestSpecifications:
    def test_as_the_training_loop(self, engine: Engine) -> None:
        state = EngineState(SPECS, check_data(data_sets(engine.device)))
        engine.library.ensemble_steps(state.words, 9, 1)
        assert state.progress.tolist() == [[spec.training.steps, 0] for spec in SPECS]
        assert_as_the_reference([state.model(index) for index in range(len(SPECS))])


@NEEDS_COMPILER
@NEEDS_COMPILED
class TestEveryKind:
    """Of several hidden layers before each head as well, by the bounds of the other engine, which were measured on
    processors: a device has exponentials of its own."""

    @staticmethod
    def trained(monkeypatch: pytest.MonkeyPatch, steps: int, limit: int) -> list[mc.TrainedModel]:
        with engine_at("on host", limit) as engine:
            for name in ("ensemble_steps", "ensemble_workspace"):  # in the place of those in C++
                monkeypatch.setattr(torch.ops.manifold_core, name, getattr(engine.library, name))
            return mc.train_ensemble(kinds(steps), toy(), backend="cpu", progress=False)

    @pytest.mark.parametrize("limit", [25 << 10, 16 << 10])  # between them, models of each place of TestLayout
    def test_one_step_wherever_it_lies(self, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        assert_the_way_of_the_reference(self.trained(monkeypatch, 1, limit), kinds(1))

    @pytest.mark.parametrize("steps", [10, pytest.param(100, marks=pytest.mark.slow)])
    def test_the_way_of_the_reference(self, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        assert_the_way_of_the_reference(self.trained(monkeypatch, steps, H100), kinds(steps))


class TestTrainEnsemble:
    pytestmark = ON_DEVICE
    device = torch.device("cuda")

    def train(self, folder: Path | None = None) -> list[mc.TrainedModel]:
        return mc.train_ensemble(SPECS, data_sets(self.device), backend="cuda", folder=folder, progress=False)

    def test_as_the_training_loop(self) -> None:
        trained = self.train()
        assert all(t.diverged_at is None and t.history.step[-1] == t.spec.training.steps for t in trained)
        assert_as_the_reference([t.model for t in trained])

    def test_stopped_and_started_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(_: torch.device) -> None:
            raise KeyboardInterrupt

        undisturbed = self.train()
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "synchronize", stop)  # after the first launch, of one step
            with pytest.raises(KeyboardInterrupt):
                self.train(tmp_path)
        for one, two in zip(undisturbed, self.train(tmp_path), strict=True):
            assert one.history.neg_elbo == two.history.neg_elbo
            for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
                assert torch.equal(a, b)
