"""Many small models trained side by side."""

import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from tqdm import tqdm

from ..arguments import check_seconds
from ..errors import InputError
from ..kernels import Backend
from ..metrics.evaluation import Metrics, metrics_of
from ..models import CVAE, VAE
from ..models.scale import warn_of_condition, warn_of_scale
from ..storage import checkpoint
from ..storage.files import OF_THE_DISK, AnyPath, as_folder, as_json
from ..storage.owner import announce, check_identity, claim, taken
from ..training import Diverged, History
from ..training.checks import check_gradients
from .choice import BACKENDS, check_threads, choose
from .data import Samples, SamplesLike, check_data, check_specs
from .memory import check_memory
from .reference import check_room, train_in_turn
from .spec import BaseSpec, ModelSpec, Spec
from .state import EngineState

__all__ = ["TrainedModel", "all_diverged", "train_ensemble"]

CALL_SECONDS = 0.3  # between two looks at the clock, the keyboard and the progress

# Its kernels stand in csrc/cpu/ensemble.cpp and csrc/cuda/ensemble.cu. It works on memory that its words name.
_library = torch.library.Library("manifold_core", "FRAGMENT")
_library.define("ensemble_steps(Tensor models, int steps, int threads) -> ()")
_library.define("ensemble_workspace(Tensor models, int threads) -> int")  # bytes


@dataclass(frozen=True, eq=False)  # a model is equal to itself alone
class TrainedModel:
    """One model of an ensemble, after training.

    Attributes:
        spec: what was asked for.
        model: an ordinary module, in evaluation mode, on the device of the data.
        metrics: over all of its training data; if it diverged, with the last finite weights. ``active_dimensions`` is
            None if these do not tell it.
        history: its curves; the seconds are those of the whole ensemble.
        diverged_at: the step, from 1, whose loss was not finite; None for a model trained to its end.
    """

    spec: Spec
    model: VAE | CVAE
    metrics: Metrics
    history: History
    diverged_at: int | None

    def __repr__(self) -> str:
        said = (
            f"active_dimensions={self.metrics.active_dimensions}, neg_elbo={self.metrics.neg_elbo:.4g}"
            if self.diverged_at is None
            else f"diverged_at={self.diverged_at}"
        )
        kind, latent_dim, seed = type(self.spec).__name__, self.spec.latent_dim, self.spec.training.seed
        return f"TrainedModel({said}, spec={kind}(latent_dim={latent_dim}, seed={seed}, …))"


def all_diverged(trained: Sequence[TrainedModel]) -> Diverged:
    """The error if no model was trained to its end, or none has a loss: that of the first one to diverge."""
    first = min(trained, key=lambda one: math.inf if one.diverged_at is None else one.diverged_at)
    step = first.spec.training.steps if first.diverged_at is None else first.diverged_at
    return Diverged(math.nan, step, first.history)


def train_ensemble(
    specs: Sequence[BaseSpec],
    data: SamplesLike | Sequence[SamplesLike],
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    folder: AnyPath | None = None,
    checkpoint_seconds: float = 30.0,
    progress: bool | str = True,
) -> list[TrainedModel]:
    """Train every model as :func:`manifold_core.train` would, side by side, with whole training steps fused.

    A step gathers the mini-batch and runs forward, ELBO, backward and Adam. Backends share weights, sample order and
    noise, and differ by rounding only:

    - ``"reference"``: :func:`manifold_core.train`, one model after another, on a GPU several in turn: the definition,
      and all there is for :class:`manifold_core.SequentialSpec`, :class:`manifold_core.ConvSpec`, a full covariance on
      a GPU or after a layer of more than 64 neurons, and a precision other than float32;
    - ``"cpu"``: C++; one model per thread, or with fewer models than threads, several threads per model. The numbers do
      not depend on the number of threads. With more than a million weights the reference is faster, and ``"auto"``
      takes it; if a small batch leaves threads idle, the limit is lower in proportion;
    - ``"cuda"``: one model per thread block, or with fewer models than the GPU has room for, up to 16 blocks per model.
      The numbers do not depend on the number of blocks.

    A model whose loss is not finite stops alone, before the step that would have ruined its weights (an engine checks
    nothing else: if a gradient overflows and its loss does not, they are ruined, and it says so); the reference on a
    GPU, which checks the loss at 500 of the steps, keeps the weights of the last good check. However it was stopped,
    the same call with the same folder resumes and reaches the numbers of an undisturbed run. The checkpoint stays in
    the folder until the caller removes it. Meanwhile no other process can use the folder.

    A thread needs 512 samples of a batch to be of use, a block 32, 64 or 128. Besides the data, the engines need: 16
    bytes per parameter, of which 4 are the models handed back; for the curves at most 1,000 points of κ + 4 numbers per
    model; 20 bytes per step of every schedule, shared by models whose training differs in seed and batch only; a copy
    of data that have a condition or are not contiguous. On a CPU, for each thread, a tile of 2,112 bytes per neuron
    (twice that if hidden with PReLU), and for two numbers per latent dimension (with full covariance four, and κ(κ−1)/2
    in all); and for each model at work, of which there are no more than threads, 4 bytes per parameter for every 512
    samples of a batch, up to 64 times; on a GPU 4 bytes per parameter for every 32, 64 or 128 samples of a batch, up to
    16 times, and once more. The reference needs 4 bytes per parameter, and for a model at work 12 more and what its
    layers hold of a batch.

    Args:
        specs: the models.
        data: x ``[N, d]``, or a tuple (x ``[N, d]``, condition ``[N, t]``, for sequences ``[N, T, d]``), float32; for
            images x is ``[N, C, H, W]``; or a list of these, of any widths, from which ``ModelSpec.data`` chooses.
            Integers and booleans in a condition, such as one-hot labels, become float32.
        backend: ``"auto"``, ``"reference"``, ``"cpu"`` or ``"cuda"``; :func:`manifold_core.ensemble.explain_ensemble`
            says which one ``"auto"`` takes, and why.
        threads: of the CPU engine; None takes PyTorch's number.
        folder: of the checkpoints; None keeps none.
        checkpoint_seconds: between two checkpoints.
        progress: show a bar on standard error; text stands before the bar.

    Returns:
        One :class:`TrainedModel` for each specification, in their order.

    Raises:
        InputError: a specification or data set that cannot be trained, too little memory, an unknown backend, a
            checkpoint that is damaged or of another ensemble, or a folder that another process uses or that holds a
            finished run of the command line.
        RuntimeError: the named backend cannot serve; says why.
    """
    check_seconds("checkpoint_seconds", checkpoint_seconds)
    check_gradients()
    samples = check_data(data)
    specs = check_specs(specs, samples)
    for index, data_set in enumerate(samples):
        warn_of_scale(f"data[{index}]: x", data_set.x)
        warn_of_condition(f"data[{index}]: condition", data_set.condition, torch.float32)
    threads = check_threads(threads)
    shapes = [(len(samples[spec.data].x), samples[spec.data].x.shape[1]) for spec in specs]
    choice = choose(specs, samples[0].x, shapes, backend, threads).backend
    place = as_folder("folder", folder).absolute() if folder is not None else None
    with ExitStack() as stack:
        begun = stack.enter_context(taken(place)) if place is not None else None
        if begun is not None and backend == "auto":
            choice = _as_begun(begun, specs, samples[0].x) or choice
        if choice == "reference":
            check_room(specs, samples)
            return _by_reference(specs, samples, place, checkpoint_seconds, progress)
        state = EngineState(cast("Sequence[ModelSpec]", specs), samples)  # an engine was chosen: there are no others
        workspace = torch.ops.manifold_core.ensemble_workspace(state.words, threads)
        what = f"the tiles of {threads} threads" if choice == "cpu" else "the gradients of all models"
        check_memory(workspace, what, samples[0].x.device)
        seconds = _run(state, choice, threads, place, begun, checkpoint_seconds, progress)
    # With many models this takes a while: then it has a bar as well.
    desc = f"{progress}, measuring" if isinstance(progress, str) else "measuring"
    measured = tqdm(specs, desc=desc, unit="model", delay=2.0, disable=not progress, file=sys.stderr)
    return [
        _trained(spec, state.model(i), samples[spec.data], state.history(i, seconds), state.diverged_at(i))
        for i, spec in enumerate(measured)
    ]


def _as_begun(begun: checkpoint.Checkpoint, specs: Sequence[Spec], x: Tensor) -> Backend | None:
    """The backend of the checkpoint if it serves here: with other threads, the choice might be another."""
    identity = begun.state.get("identity")
    backend = identity.get("backend") if isinstance(identity, dict) else None
    try:
        return choose(specs, x, (), backend).backend if backend in BACKENDS else None
    except RuntimeError:
        return None


def _trained(spec: Spec, model: VAE | CVAE, data: Samples, history: History, diverged_at: int | None) -> TrainedModel:
    metrics = metrics_of(model, data.parts)  # checked before all training
    return TrainedModel(spec, model, metrics, history, diverged_at)


def _by_reference(
    specs: Sequence[Spec],
    samples: list[Samples],
    folder: Path | None,
    checkpoint_seconds: float,
    progress: bool | str,
) -> list[TrainedModel]:
    whole: dict[str, Any] = {}
    if folder is not None:
        whole = _identity("reference", specs, [data.fingerprint() for data in samples])
        claim(folder, whole)  # the numbers of each model go into a folder of its own
    folders = [None if folder is None else folder / f"model-{index:05d}" for index in range(len(specs))]
    identities = [{"spec": spec} for spec in whole["specs"]] if whole else [{} for _ in specs]
    steps = sum(spec.training.steps for spec in specs)
    with _bar(steps, progress) as bar:
        trainings = train_in_turn(specs, samples, folders, identities, checkpoint_seconds, bar)
    trained = [
        _trained(spec, one.model, samples[spec.data], one.history, one.diverged_at)
        for spec, one in zip(specs, trainings, strict=True)
    ]
    seconds = sum(one.history.seconds for one in trained)
    for one in trained:
        one.history.seconds = seconds
    return trained


def _bar(steps: int, progress: bool | str) -> "tqdm[NoReturn]":
    desc = progress if isinstance(progress, str) else None
    return tqdm(total=steps, desc=desc, unit="step", disable=not progress, file=sys.stderr, mininterval=0.5)


def _identity(backend: Backend, specs: Sequence[Spec], fingerprints: list[str]) -> dict[str, Any]:
    """What the checkpoint of an ensemble must agree on."""
    return {"backend": backend, "data": fingerprints, "specs": as_json([asdict(spec) for spec in specs], "specs")}


def _restore(state: EngineState, found: checkpoint.Checkpoint, identity: dict[str, Any], folder: Path) -> float:
    check_identity(found.state.get("identity"), identity, folder)
    try:
        state.restore(found.tensors)
        return float(found.state["seconds"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint is of another ensemble or damaged: {error}") from error


def _run(
    state: EngineState,
    backend: Backend,
    threads: int,
    folder: Path | None,
    begun: checkpoint.Checkpoint | None,
    checkpoint_seconds: float,
    progress: bool | str,
) -> float:
    """Advance all models to their ends. Returns the seconds this took, those before a stop included."""
    before = 0.0
    identity: dict[str, Any] = {}
    if folder is not None:
        identity = _identity(backend, state.specs, [checkpoint.fingerprint(data) for data in state.data])
        if begun is not None:
            before = _restore(state, begun, identity, folder)
    steps = [spec.training.steps for spec in state.specs]
    totals = torch.tensor(steps, device="cpu")

    def over(done: Tensor, ended: Tensor) -> int:
        """Steps that are done, or never will be: all those of a model that has diverged."""
        return int(torch.where(ended > 0, totals, done).sum())

    if folder is not None and begun is not None and progress:
        announce(folder, over(*state.progress.cpu().unbind(1)), sum(steps))
    started = saved = time.monotonic()

    def save() -> None:
        if folder is not None:
            seconds = before + time.monotonic() - started
            done = int(state.progress[:, 0].sum())
            checkpoint.save(folder, done, state.tensors(), {"identity": identity, "seconds": seconds})

    with _bar(sum(steps), progress) as bar:
        a_call = 1
        try:
            while True:
                done, ended = state.progress.cpu().unbind(1)
                bar.update(over(done, ended) - bar.n)
                going_on = ((done < totals) & (ended == 0)).nonzero().flatten()
                bar.set_postfix(_shown(state, len(going_on), int((ended > 0).sum())), refresh=False)
                if not len(going_on):
                    break
                start = time.monotonic()
                # Without those that are over: a GPU is shared out to the models of a call.
                words = state.words[going_on.to(state.words.device)]
                torch.ops.manifold_core.ensemble_steps(words, a_call, threads)
                if state.words.is_cuda:
                    torch.cuda.synchronize(state.words.device)
                now = time.monotonic()
                a_call = max(1, int(a_call * min(4.0, CALL_SECONDS / max(now - start, 1e-6))))
                if now - saved >= checkpoint_seconds:
                    save()
                    saved = time.monotonic()
        except BaseException as error:  # stopped by the user or by a signal: between two calls all is consistent
            if getattr(error, "errno", None) not in OF_THE_DISK:  # then another save would fail as well
                save()
            raise
    save()
    return before + time.monotonic() - started


def _shown(state: EngineState, going_on: int, diverged: int) -> dict[str, str]:
    """Beside the bar."""
    if len(state.specs) == 1:
        return state.history(0, 0.0).latest()
    return {"training": str(going_on), "diverged": str(diverged)}
