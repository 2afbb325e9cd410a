"""Models that take turns come to the numbers of models trained one after the other. On a CPU without streams."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from ensemble.kinds import kinds, toy
from torch import Tensor

import manifold_core as mc
from manifold_core import TrainedModel
from manifold_core.ensemble import reference
from manifold_core.training import Turns
from manifold_core.training.state import TrainingState

STEPS = (7, 12, 3, 9, 5)
GOOD = [
    dataclasses.replace(spec, training=dataclasses.replace(spec.training, steps=steps))
    for spec, steps in zip(kinds(1)[:13:3], STEPS, strict=True)
]
SPECS = [*GOOD[:1], dataclasses.replace(kinds(1)[0], training=mc.TrainingConfig(6, 100), log_gamma=-200.0), *GOOD[1:]]
DIVERGES = [None, 1, None, None, None, None]


def train(**arguments: Any) -> list[TrainedModel]:
    return mc.train_ensemble(SPECS, toy(), backend="reference", **({"progress": False} | arguments))


def three_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on; and whose each step is: that of how many."""
    seen: list[int] = []
    update = TrainingState.update

    def note(self: TrainingState) -> None:
        seen.append(self.config.steps)
        update(self)

    monkeypatch.setattr(reference, "_at_once", lambda _device: 3)
    monkeypatch.setattr(TrainingState, "update", note)
    return seen


def assert_same(found: list[TrainedModel], expected: list[TrainedModel]) -> None:
    assert [one.diverged_at for one in found] == [one.diverged_at for one in expected] == DIVERGES
    for a, b in zip(found, expected, strict=True):
        assert not a.model.training
        assert a.history == dataclasses.replace(b.history, seconds=a.history.seconds)
        if a.diverged_at is None:
            assert a.metrics == b.metrics
        for name, tensor in b.model.state_dict().items():
            assert torch.equal(a.model.state_dict()[name], tensor), name


def test_in_turn_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before, expected = torch.get_rng_state(), train()
    seen = three_at_once(monkeypatch)
    found = train(progress=True)
    assert_same(found, expected)
    assert torch.equal(torch.get_rng_state(), before)
    total = sum(spec.training.steps for spec in SPECS)
    assert f"{total}/{total}" in capsys.readouterr().err
    # The second diverges at once, and what has ended makes room.
    assert seen[:12] == [7, 12, 7, 12, 3, 7, 12, 3, 7, 12, 3, 7]
    assert len(seen) == sum(STEPS)


def test_the_seconds_are_those_of_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clock that goes on by one whenever somebody looks at it: time that another's turn takes counts once."""
    three_at_once(monkeypatch)
    clock = iter(range(10**6))
    monkeypatch.setattr("manifold_core.training.loop.time.monotonic", lambda: float(next(clock)))
    seconds = {one.history.seconds for one in train()}
    assert len(seconds) == 1
    assert sum(STEPS) <= seconds.pop() < next(clock)


def test_stopped_in_a_turn_all_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = train()
    seen = three_at_once(monkeypatch)
    forward, turns = mc.VAE.forward, reference.turns
    begun: list[Turns] = []

    def note(*args: Any, **keywords: Any) -> Turns:
        begun.append(turns(*args, **keywords))
        return begun[-1]

    def interrupt(self: mc.VAE, *args: Tensor, **keywords: Any) -> object:
        if self.training and len(seen) == 20:
            raise KeyboardInterrupt
        return forward(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(reference, "turns", note)
        patch.setattr(mc.VAE, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            train(folder=tmp_path, checkpoint_seconds=0)
    assert all(one.gi_frame is None for one in begun), caught  # its traceback would keep those that had no part in it
    assert len(seen) < sum(STEPS)
    assert_same(train(folder=tmp_path), expected)
    assert len(seen) == sum(STEPS)  # none was made twice


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_in_turn_on_streams_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [tuple(p.cuda() for p in part) if isinstance(part, tuple) else part.cuda() for part in toy()]
    found = mc.train_ensemble(GOOD, data, backend="reference", progress=False)
    monkeypatch.setattr(reference, "_at_once", lambda _device: 1)
    expected = mc.train_ensemble(GOOD, data, backend="reference", progress=False)
    for a, b in zip(found, expected, strict=True):
        for name, tensor in b.model.state_dict().items():
            torch.testing.assert_close(a.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
