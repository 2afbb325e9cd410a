"""Models for which there is no engine, trained by the one training loop. On a GPU, most of which one model leaves idle,
several take turns, each on a stream of its own."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..models import CVAE, VAE
from ..training import Diverged, History, Turns, turns
from .data import Samples
from .memory import check_memory, largest
from .spec import Spec, weights

__all__ = ["Training", "check_room", "train_in_turn"]

ON_A_GPU = 8  # models that take turns: one leaves most of an H100 idle, and more than eight gain little


@dataclass
class Training:
    """The training of one model, which is in evaluation mode once it has ended."""

    model: VAE | CVAE
    steps: int
    turns: Turns
    stream: "torch.cuda.Stream | None"
    history: History
    diverged_at: int | None = None
    left: float | None = None  # when its last turn ended


def train_in_turn(
    specs: Sequence[Spec],
    samples: list[Samples],
    folders: Sequence[Path | None],
    identities: Sequence[dict[str, Any]],
    checkpoint_seconds: float,
    bar: "tqdm[Any]",
) -> list[Training]:
    """One training for each specification. None of our networks draws from torch's random numbers while it is trained:
    a model that takes turns reaches the same numbers as alone."""
    device = samples[0].x.device
    trainings: list[Training] = []
    going_on: list[Training] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        try:
            while going_on or len(trainings) < len(specs):
                while len(trainings) < len(specs) and len(going_on) < _at_once(device):
                    index = len(trainings)
                    spec, folder = specs[index], folders[index]
                    data = samples[spec.data]
                    trainings.append(_begun(spec, data, folder, identities[index], checkpoint_seconds, bar))
                    going_on.append(trainings[-1])
                going_on = [one for one in going_on if _goes_on(one, bar)]
        finally:
            for one in going_on:  # if another was stopped
                one.turns.close()
    return trainings


def check_room(specs: Sequence[Spec], samples: list[Samples]) -> None:
    """Check that the weights of all models fit into memory, and besides them the gradients and the two moments of those
    that are trained at once; what their layers hold of a batch is not counted.

    Raises:
        InputError: they do not; names the largest.
    """
    device = samples[0].x.device
    numbers = [weights(spec, *samples[spec.data].x.shape[1:]) for spec in specs]
    at_work = sum(sorted(numbers)[-_at_once(device) :])
    check_memory(4 * sum(numbers) + 12 * at_work, f"{len(specs)} models ({largest(numbers)})", device)


def _at_once(device: torch.device) -> int:
    return ON_A_GPU if device.type == "cuda" else 1


def _begun(
    spec: Spec,
    data: Samples,
    folder: Path | None,
    identity: dict[str, Any],
    checkpoint_seconds: float,
    bar: "tqdm[Any]",
) -> Training:
    stream = None
    if data.x.is_cuda:
        stream = torch.cuda.Stream(data.x.device)
        stream.wait_stream(torch.cuda.current_stream(data.x.device))
    with _on(stream):
        model = spec.build(*data.x.shape[1:]).to(data.x.device)
        one_by_one = turns(
            model,
            data.x,
            spec.training,
            condition=data.condition,
            folder=folder,
            identity=identity,
            checkpoint_seconds=checkpoint_seconds,
            progress=bar,
        )
    return Training(model, spec.training.steps, one_by_one, stream, History())


def _goes_on(one: Training, bar: "tqdm[Any]") -> bool:
    """Give it a turn; False if it has ended."""
    with _on(one.stream):
        try:
            one.history = one.turns.send(None if one.left is None else time.monotonic() - one.left)
            one.left = time.monotonic()
            return True
        except StopIteration:
            pass
        except Diverged as error:
            one.history, one.diverged_at = error.history, error.step
            # The bar has counted the steps before, and that one too if its loss was finite but not the weights it left.
            bar.update(one.steps - max([error.step - 1, *error.history.step]))
    if one.stream is not None:
        torch.cuda.current_stream(one.stream.device).wait_stream(one.stream)
    return False


def _on(stream: "torch.cuda.Stream | None") -> AbstractContextManager[Any]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
