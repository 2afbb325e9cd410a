"""A loss, or a gradient, that is not finite: what is raised, and which weights are left."""

import math
import pickle
import weakref
from pathlib import Path

import pytest
import torch
from runs import Enough, orders, stop_before
from torch import Tensor, nn

import manifold_core as mc
from manifold_core.storage import checkpoint
from manifold_core.training import snapshot


class BreaksAt(nn.Module):
    """An encoder whose variance is NaN in the n-th step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.layer, self.step, self.seen = nn.Linear(5, 4), step, 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layer(x).chunk(2, dim=1)
        self.seen += 1
        return mu, log_var * float("nan") if self.seen == self.step else log_var


@pytest.mark.parametrize("gamma", ["learned", "analytic", "fixed"])
@pytest.mark.parametrize("step", [1, 2, 7, 102])
def test_divergence_stops_before_its_step(gamma: str, step: int) -> None:
    """Of 2,000 steps every fourth makes a record; the loss is looked at in all."""

    def model(breaks_at: int) -> mc.VAE:
        torch.manual_seed(0)
        return mc.VAE(BreaksAt(breaks_at), nn.Linear(2, 5), 2, elbo=mc.GaussianELBO(gamma))  # type: ignore[arg-type]

    class Enough(Exception):
        pass

    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=2000, batch_size=8)
    found, expected = model(step), model(0)
    first = ", before any training; x and condition should have a scale of about 1"
    then = first if step == 1 else "; a lower learning_rate may help"
    with pytest.raises(mc.Diverged, match=rf"^the loss is nan at step {step}{then}$") as caught:
        mc.train(found, x, config, progress=False)
    assert caught.value.step == step
    assert math.isnan(caught.value.loss)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.step) == (str(caught.value), step)

    def stop(_module: nn.Module, _arguments: object) -> None:
        if expected.encoder.seen == step - 1:  # type: ignore[operator]
            raise Enough

    expected.register_forward_pre_hook(stop)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    for model_left in (found, expected):  # the next call would move running statistics, and an analytic γ
        assert not any(module.training for module in model_left.modules())


@pytest.mark.parametrize("gamma", ["learned", "analytic"])
@pytest.mark.parametrize(("step", "seen_at", "before"), [(2, 4, 1), (4, 4, 1), (6, 8, 4), (9, 12, 8)])
def test_where_not_every_loss_is_looked_at_the_weights_of_the_last_look_come_back(
    monkeypatch: pytest.MonkeyPatch, gamma: str, step: int, seen_at: int, before: int
) -> None:
    """As on a GPU: of 2,000 steps every fourth makes a record, and its loss alone is read."""
    monkeypatch.setattr("manifold_core.training.watch._reads_every_loss", lambda _device: False)

    def model(breaks_at: int) -> mc.VAE:
        torch.manual_seed(0)
        return mc.VAE(BreaksAt(breaks_at), nn.Linear(2, 5), 2, elbo=mc.GaussianELBO(gamma))  # type: ignore[arg-type]

    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=2000, batch_size=8)
    found, expected = model(step), model(0)
    with pytest.raises(mc.Diverged) as caught:
        mc.train(found, x, config, progress=False)
    assert caught.value.step == seen_at
    stop_before(expected, before - 1)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


class RootOfZero(nn.Linear):
    """A decoder whose output is finite, and its gradient is not, in the n-th step."""

    def __init__(self, step: int) -> None:
        super().__init__(2, 5)
        self.step, self.seen = step, 0

    def forward(self, z: Tensor) -> Tensor:
        self.seen += self.training  # not where a checkpoint looks at the loss
        out = super().forward(z)
        return out + (0 * out).abs().sqrt() if self.seen == self.step else out


@pytest.mark.parametrize(
    ("step", "before", "seen_at", "steps"), [(1, 0, 2, 2000), (7, 3, 8, 2000), (10, 7, 11, 2000), (600, 599, 600, 600)]
)
def test_a_gradient_that_is_not_finite_leaves_weights_that_are(
    tmp_path: Path, step: int, before: int, seen_at: int, steps: int
) -> None:
    """Of 2,000 steps every fourth makes a record, of 600 every second; those before it have the last weights that were
    kept. In the last step there is no other loss to see it by."""

    def model(breaks_at: int) -> mc.VAE:
        torch.manual_seed(0)
        return mc.VAE(mc.VAE.mlp(5, 2, (4,)).encoder, RootOfZero(breaks_at), 2)

    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=steps, batch_size=8)
    found, expected = model(step), model(0)
    with pytest.raises(mc.Diverged) as caught:
        mc.train(found, x, config, progress=False, folder=tmp_path, checkpoint_seconds=0)
    assert caught.value.step == seen_at
    stop_before(expected, before)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    kept = checkpoint.load(tmp_path)
    assert (kept is None) == (step == 1)
    if kept is not None:
        assert kept.state["step"] == step - 1
        assert all(tensor.isfinite().all() for name, tensor in kept.tensors.items() if name.startswith("model."))


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.filterwarnings("ignore:x is about")
def test_a_batch_that_diverges_leaves_no_trace_in_running_statistics(ours: bool) -> None:
    """One sample is too large, of the batch of step 3; a run that is stopped before it has the same numbers."""

    def model() -> mc.VAE:
        torch.manual_seed(0)
        made = mc.VAE.conv((1, 8, 8), 2, 3)
        return made if ours else mc.networks.by_pytorch(made)

    x, config = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), mc.TrainingConfig(8, 10)
    x[orders(40, config)[3][0]] = 1e25
    found, expected = model(), model()
    with pytest.raises(mc.Diverged) as caught:
        mc.train(found, x, config, progress=False)
    assert caught.value.step == 4
    stop_before(expected, 3)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_a_mask_that_is_infinite_is_no_divergence(tmp_path: Path) -> None:
    """Neither as a frozen parameter nor as a buffer."""

    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 5)
            self.frozen = nn.Parameter(torch.full((3,), -torch.inf), requires_grad=False)
            self.register_buffer("mask", torch.tensor([torch.nan, torch.inf]))

    model = mc.VAE(mc.VAE.mlp(5, 2, (4,)).encoder, Masked(), 2)
    mc.train(model, torch.rand(64, 5), mc.TrainingConfig(steps=20, batch_size=8), progress=False, folder=tmp_path)
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    assert kept.state["step"] == 20


@pytest.mark.parametrize("in_place", [True, False])
def test_statistics_spoilt_by_a_batch_whose_loss_was_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_place: bool
) -> None:
    """As where half precision overflows on a GPU: the step is skipped, and no later loss tells."""
    monkeypatch.setattr("manifold_core.training.watch._reads_every_loss", lambda _device: False)

    class Spoilt(nn.Linear):
        def __init__(self, step: int) -> None:
            super().__init__(2, 5)
            self.register_buffer("running", torch.zeros(()))
            self.step, self.seen = step, 0

        def forward(self, z: Tensor) -> Tensor:
            self.seen += self.training  # not where a checkpoint looks at the loss
            batch = torch.tensor(torch.inf if self.seen == self.step else 1.0)
            if in_place:
                self.running.lerp_(batch, 0.1)
            else:
                self.running = self.running.lerp(batch, 0.1)
            return super().forward(z)

    x, config = torch.rand(64, 5), mc.TrainingConfig(steps=2000, batch_size=8)  # every fourth is looked at
    encoders = [mc.VAE.mlp(5, 2, (4,)).encoder for _ in range(2)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    torch.manual_seed(0)
    found, expected = (mc.VAE(encoder, Spoilt(step), 2) for encoder, step in zip(encoders, (102, 0), strict=True))
    expected.decoder.load_state_dict(found.decoder.state_dict())
    with pytest.raises(mc.Diverged):
        mc.train(found, x, config, progress=False, folder=tmp_path, checkpoint_seconds=0)
    stop_before(expected, 99)
    with pytest.raises(Enough):
        mc.train(expected, x, config, progress=False)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    assert kept.state["step"] == 101


class Writes(nn.Linear):
    """A decoder that counts its steps in a buffer, from one step on: in some way that PyTorch sees, or in one that it
    does not, as networks with a codebook do."""

    seen: Tensor
    never: Tensor

    def __init__(self, way: str, first: int, breaks_at: int) -> None:
        super().__init__(2, 5)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("never", torch.ones(3))
        self.way, self.first, self.breaks_at, self.steps = way, first, breaks_at, 0

    def forward(self, z: Tensor) -> Tensor:
        self.steps += 1
        if self.steps >= self.first:
            if self.way == "in place":
                self.seen += 1
            elif self.way == "anew":
                self.seen = self.seen + 1
            else:
                self.seen.data += 1
        return super().forward(z) * (math.nan if self.steps == self.breaks_at else 1.0)


@pytest.mark.parametrize("way", ["in place", "anew", "uncounted"])
@pytest.mark.parametrize(
    ("steps", "first", "breaks_at"), [(40, 1, 1), (40, 1, 9), (40, 7, 9), (2000, 1, 3), (2000, 7, 11)]
)
def test_what_the_step_wrote_is_undone_however_it_was_written(way: str, steps: int, first: int, breaks_at: int) -> None:
    """Of 40 steps each makes a record, of 2,000 every fourth."""
    decoder = Writes(way, first, breaks_at)
    model = mc.VAE(mc.VAE.mlp(5, 2, (4,)).encoder, decoder, 2)
    with pytest.raises(mc.Diverged):
        mc.train(model, torch.rand(64, 5), mc.TrainingConfig(steps, batch_size=8), progress=False)
    assert decoder.seen.tolist() == [breaks_at - first] * 3
    assert decoder.never.tolist() == [1.0] * 3


def test_a_buffer_is_copied_where_something_has_written_to_it() -> None:
    """A network may have tables of a hundred megabytes, which no step changes."""
    copies, part = snapshot.Copies(), torch.zeros(3)
    with torch.inference_mode():
        uncounted = torch.zeros(3)  # PyTorch counts none of the writes to it

    def copied(of: Tensor = part, compare: bool = False) -> Tensor:
        copies.begin(compare)
        found = copies(of)
        assert torch.equal(found, of)
        assert found is not of
        return found

    first = copied()
    assert copied() is copied() is copied(compare=True) is first
    part += 1
    second = copied()
    assert second.tolist() == [1.0] * 3
    assert first.tolist() == [0.0] * 3
    assert copied() is second
    part.data += 1
    third = copied(compare=True)
    assert copied() is not third
    assert copied(uncounted) is not copied(uncounted)
    new = torch.zeros(3)  # as some networks have in each step
    copied(new)
    gone = weakref.ref(new)
    del new
    copied()
    copied()
    assert gone() is None


def test_training_copies_no_buffer_that_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []

    def copied(part: Tensor) -> Tensor:
        made.append(part)
        return part.detach().clone()

    monkeypatch.setattr(snapshot, "_copied", copied)
    decoder = Writes("in place", 1, 0)
    model = mc.VAE(mc.VAE.mlp(5, 2, (4,)).encoder, decoder, 2)
    mc.train(model, torch.rand(64, 5), mc.TrainingConfig(40, batch_size=8), progress=False)
    assert sum(part is decoder.seen for part in made) == 40
    assert sum(part is decoder.never for part in made) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_one_number_that_is_not_finite_is_found(dtype: torch.dtype, number: float) -> None:
    well = [torch.zeros(1000, dtype=dtype), torch.zeros(0), torch.tensor(3), torch.zeros(7, 9).bool()]
    assert snapshot.are_finite(well)
    assert snapshot.are_finite([])
    for place in (0, 500, 999):
        ill = well[0].clone()
        ill[place] = number
        assert not snapshot.are_finite([*well, ill, *well])
