"""The one training loop."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..arguments import check_flag, check_seconds
from ..distributed import Group, check_agreed, from_first, is_first, joined_mean, together
from ..errors import InputError
from ..kernels.batch_sums import mean_of_batch
from ..metrics.active import count_active
from ..models import CVAE, VAE
from ..models.checks import input_dtype
from ..models.elbo import ELBOTerms
from ..models.inputs import check_inputs, unwrapped
from ..models.scale import warn_of_condition, warn_of_scale
from ..modes import evaluation_mode, put_into_training_mode
from ..networks.residual import channels_last
from ..storage import checkpoint
from ..storage.files import AnyPath, as_folder, as_json
from ..storage.owner import announce, taken
from .checks import check_gradients, check_group, check_precision, check_tensors, check_weights
from .config import Diverged, History, TrainingConfig, check_config, record_every
from .graph import cuda_graph
from .schedule import batches, noise_seed
from .snapshot import weights_back
from .state import TrainingState
from .step import GraphStep, PlainStep, Step
from .update import GraphUpdate
from .watch import Watch

__all__ = ["Bar", "Turns", "train", "turns"]

Turns = Generator[History, float | None, None]
AfterRecord = Callable[[History], object]
TAKEN = {"condition", "frozen", "log_gamma", "model", "training", "x"}  # what every checkpoint says itself


@runtime_checkable
class Bar(Protocol):
    """A progress bar to advance, such as tqdm's."""

    def update(self, n: int, /) -> object: ...

    def set_postfix(self, ordered_dict: dict[str, str], /, *, refresh: bool) -> object: ...


def train(
    model: VAE | CVAE,
    x: Tensor,
    config: TrainingConfig = TrainingConfig(),
    *,
    condition: Tensor | None = None,
    folder: AnyPath | None = None,
    identity: dict[str, Any] | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool | Bar = True,
    after_record: AfterRecord | None = None,
    process_group: Group = None,
    cuda_graphs: bool = True,
) -> History:
    """Minimise ``model(batch).loss``, or ``model(batch, condition).loss`` for a CVAE, with Adam. Afterwards, even if
    stopped, ``model`` has the trained weights, is in evaluation mode and holds no gradients. Frozen parameters do not
    change, and modules without any others that come in evaluation mode stay in it.

    With a folder, checkpoints are saved there between steps, now and then. However it was stopped, the same call
    resumes from the last one and reaches the numbers of an undisturbed run: bit for bit on a CPU with the same number
    of threads. It refuses other data, another model or configuration, and saved weights that no longer give what they
    did, since then the model's code has changed. Frozen parameters must be the same ones with the same values. Buffers
    are taken from the checkpoint, since constants cannot be told from what training writes: put those that you chose
    yourself into ``identity``. What changes from step to step must be a parameter or a buffer: Python variables, such
    as a counter from which a hook sets ``elbo.beta``, and generators other than torch's are not saved. The checkpoint
    stays until the caller removes it. Meanwhile no other process can use the folder.

    On a GPU the residual networks of :mod:`manifold_core.networks` are made channels-last. Networks of your own may not
    work on such images: call ``model.to(memory_format=torch.channels_last)`` yourself if they do.

    With a process group, all its processes call this with the same arguments and train one model: each takes an equal
    share of the rows of every mini-batch, gradients are averaged, and what depends on the whole batch (an analytic γ,
    the normalisation of the residual networks) is computed jointly. The numbers, noise included, are those of one
    process but for rounding; only what a network draws from torch's own generator, as dropout does, repeats in every
    share. The first process alone keeps checkpoints and shows the bar, and all start from its weights.

    Args:
        model: called with a batch ``[B, ...]``, for a CVAE its conditions ``[B, t]``, and ``seed=``; in a group also
            ``first_row=``.
        x: ``[N, ...]`` training samples, on the device of the model.
        config: see :class:`TrainingConfig`; its defaults are those of the synthetic tables.
        condition: ``[N, t]``, of a CVAE.
        folder: of the checkpoints; None keeps none.
        identity: what the checkpoint must match as well, for JSON: what samples, ``config`` and the model's ``repr`` do
            not tell.
        checkpoint_seconds: between two checkpoints.
        progress: show a bar on standard error with −ELBO, γ and active dimensions; or a bar to advance, perhaps of more
            steps.
        after_record: called with the curves after each recorded step, some 500 in all, with the model in evaluation
            mode; torch's random state is restored. For a held-out loss, a log, a picture. If it returns True, training
            ends there; the same call with a folder resumes it. In a group all processes call it, and must agree.
        process_group: of :mod:`torch.distributed`; None is this process alone.
        cuda_graphs: on a GPU, and without a group, capture the step into a CUDA graph and replay it; if that fails, a
            warning says why. Use False for a model whose forward pass depends on Python variables that change from step
            to step, or that has hooks: a replay runs no Python.

    Raises:
        InputError: ``config`` is not a :class:`TrainingConfig`; an identity that JSON cannot hold; no samples, a
            condition that does not match model and samples, or a checkpoint that is damaged or of another run; a folder
            that another process uses or that holds a finished run of the command line; with a folder, a model whose
            ``get_extra_state`` gives no tensor, which a checkpoint could not hold; a precision that model or device
            does not support; no parameter to train, or one of half precision; inside ``torch.inference_mode()`` or
            ``torch.autocast``; in a group, a mini-batch that cannot be split equally, arguments that differ, an
            unsupported batch normalisation, or parameters without a gradient.
        Diverged: the loss, or a weight, became NaN or infinite. Weights and buffers, running statistics included, are
            those before that step; on a GPU, which checks the loss at 500 of the steps, and if a gradient was not
            finite though its loss was, those before the last of these 500 that was fine.
    """
    one = turns(
        model,
        x,
        config,
        condition=condition,
        folder=folder,
        identity=identity,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
        after_record=after_record,
        process_group=process_group,
        cuda_graphs=cuda_graphs,
    )
    warn_of_scale("x", x)
    warn_of_condition("condition", condition, input_dtype(unwrapped(model).encoder))
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad(), closing(one):
        return deque(one, maxlen=1).pop()


def turns(
    model: VAE | CVAE,
    x: Tensor,
    config: TrainingConfig,
    *,
    condition: Tensor | None = None,
    folder: AnyPath | None = None,
    identity: dict[str, Any] | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool | Bar = True,
    after_record: AfterRecord | None = None,
    process_group: Group = None,
    cuda_graphs: bool = True,
) -> Turns:
    """:func:`train` with a turn for each step, after which others may take theirs, and one for the end; the history is
    the same each time. Send it the seconds that others took, which do not count. The caller enables gradients and puts
    torch's random numbers back, once for all who take turns."""
    check_config("config", config)
    check_seconds("checkpoint_seconds", checkpoint_seconds)
    check_gradients()
    inputs = tuple(part.detach() for part in check_inputs(model, x, condition))  # features keep their network's graph
    if not callable(after_record) and after_record is not None:
        raise InputError(f"after_record must be a function of the curves, or None, got {after_record!r}")
    said = _said(identity)
    progress = progress if isinstance(progress, Bar) else bool(progress)
    cuda_graphs = check_flag("cuda_graphs", cuda_graphs)
    place = None if folder is None else as_folder("folder", folder).absolute()  # wherever the process changes to
    if place is not None:
        check_tensors(model)
    check_weights(model)
    check_precision(config.precision, model, x.device)
    check_agreed({"x": tuple(x.shape), "batch_size": config.batch_size}, process_group)  # or one alone would refuse
    check_group(model, min(config.batch_size, len(x)), process_group)
    if x.is_cuda and x.dim() == 4:  # as tensor cores need it; CPUs with several threads are faster without
        channels_last(model)

    def one_by_one() -> Turns:
        with ExitStack() as stack, together(model, process_group):
            _seed(config.seed, x.device)
            prints = _fingerprints(inputs) if place is not None or process_group is not None else {}
            about = from_first(lambda: _about(model) | prints, process_group) if place is not None else {}
            run = TrainingState(model, inputs, config, said | about)
            if process_group is not None:
                parts = model.state_dict().items()
                shapes = {name: tuple(part.shape) for name, part in parts if isinstance(part, Tensor)}
                own = {"model": shapes, "data": prints}
                check_agreed(run.identity | own, process_group)
            begun = from_first(lambda: stack.enter_context(taken(place)) if place is not None else None, process_group)
            if place is not None:
                run.remember_constants()
            if place is not None and begun is not None:
                _resume(run, begun, place, process_group)
                if progress is True and is_first(process_group):
                    announce(place, run.step, config.steps)
            try:
                yield from _loop(
                    run, model, inputs, place, checkpoint_seconds, progress, after_record, process_group, cuda_graphs
                )
            finally:
                model.eval()
        yield run.history

    return one_by_one()


def _said(identity: dict[str, Any] | None) -> dict[str, Any]:
    """The identity as the checkpoint holds it."""
    if not isinstance(identity, dict | None):
        raise InputError(f"identity must be a dictionary, such as {{'data': 'version 2'}}, got {identity!r}")
    if taken := TAKEN & (identity or {}).keys():
        raise InputError(
            f"identity must have other keys than {', '.join(sorted(TAKEN))}, which training says itself, got "
            f"{min(taken)!r}"
        )
    said: dict[str, Any] = as_json(identity or {}, "identity")
    return said


def _seed(seed: int, device: torch.device) -> None:
    """For what a network draws from torch's own generators, as dropout does. Not ``torch.manual_seed``: that seeds
    those of all devices, and the caller only puts back the two that are used here."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _about(model: VAE | CVAE) -> dict[str, Any]:
    """Which model a checkpoint is of. Weights may begin anywhere, but a fixed γ and frozen weights stay as they are."""
    model = unwrapped(model)
    about: dict[str, Any] = {"model": repr(model)}
    if model.elbo.gamma == "fixed":
        about["log_gamma"] = float(model.elbo.log_gamma)
    frozen = {name: part for name, part in model.named_parameters() if not part.requires_grad}
    if frozen:
        about["frozen"] = {"parameters": list(frozen), "values": checkpoint.fingerprint(*frozen.values())}
    return about


def _fingerprints(inputs: tuple[Tensor, ...]) -> dict[str, str]:
    """Which data a checkpoint is of."""
    return dict(zip(("x", "condition"), map(checkpoint.fingerprint, inputs), strict=False))


def _resume(run: TrainingState, begun: checkpoint.Checkpoint, folder: Path, group: Group) -> None:
    """If that is refused, the model keeps the weights that it came with."""
    with weights_back(run.model, InputError):
        run.restore(begun, folder)
        from_first(lambda: run.check_network(begun, folder), group)


def _loop(
    run: TrainingState,
    model: VAE | CVAE,
    inputs: tuple[Tensor, ...],
    folder: Path | None,
    checkpoint_seconds: float,
    progress: bool | Bar,
    after_record: AfterRecord | None,
    group: Group,
    cuda_graphs: bool,
) -> Turns:
    config, history = run.config, run.history
    put_into_training_mode(model)
    model.zero_grad()  # those of frozen parameters as well: Adam would follow gradients that another training has left
    every = record_every(config)
    device = inputs[0].device
    step, update = _step_and_update(run, model, inputs, group, cuda_graphs)
    watch = Watch(model, device, group)
    first = is_first(group)
    started = saved = time.monotonic()
    already, begun_at = history.seconds, run.step
    own: tqdm[Any] | None = None
    if isinstance(progress, Bar):
        bar, shown = progress, 0
    else:
        bar = own = _bar(run, config.steps, progress and first)
        shown = run.step
    try:
        for index in batches(len(inputs[0]), config, run.step, device):
            recorded = (run.step + 1) % every == 0 or run.step + 1 == config.steps
            watch.begin(recorded)
            terms = step(index, noise_seed(config.seed, run.step))
            if (loss := watch.not_finite(terms.loss, recorded)) is not None:
                raise Diverged(loss, run.step + 1, history)
            if recorded:  # before the step: γ is the one that the loss was taken with
                _record(history, run.step + 1, terms, group)
            update()
            run.step += 1
            if recorded:
                bar.set_postfix(history.latest(), refresh=False)
                bar.update(run.step - shown)
                shown = run.step
            now = time.monotonic()
            history.seconds = already + now - started
            if recorded and after_record is not None and _says_enough(after_record, history, model, device):
                break
            if folder is not None and first and now - saved >= checkpoint_seconds and watch.is_well():
                run.save(folder)
                saved = time.monotonic()  # after the save: on a slow disk, training still gets its time between two
            started += (yield history) or 0.0
    finally:
        model.zero_grad()
        bar.update(run.step - shown)
        if own is not None:
            own.close()
    if device.type == "cuda":  # else graphs would be destroyed while they run
        torch.cuda.current_stream(device).synchronize()
    if not watch.is_well():  # the last gradient was not, though its loss was; or statistics of an earlier batch
        watch.put_back()
        raise Diverged(math.nan, run.step, history)
    if folder is not None and first and run.step > begun_at:
        run.save(folder)


def _step_and_update(
    run: TrainingState, model: VAE | CVAE, inputs: tuple[Tensor, ...], group: Group, cuda_graphs: bool
) -> tuple[Step, Callable[[], None]]:
    """What leaves the gradients of a step behind, and what changes the weights by them."""
    size = min(run.config.batch_size, len(inputs[0]))
    plain = PlainStep(model, inputs, size, run.config.precision, run.scaler, group)
    if cuda_graphs and group is None and _has_graphs(inputs[0].device):
        graph = GraphStep(plain, cuda_graph)
        return graph, GraphUpdate(run, graph, partial(cuda_graph, warm_ups=0))
    return plain, run.update


def _says_enough(after_record: AfterRecord, history: History, model: VAE | CVAE, device: torch.device) -> bool:
    """Whether to stop; what ``after_record`` draws at random, or does to gradients, does not change the training."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), evaluation_mode(model):
        said = after_record(history)
    for parameter, gradient in kept:  # a replayed step writes into the tensors that they were when it was captured
        parameter.grad = gradient
    return isinstance(said, bool | np.bool_ | Tensor) and bool(said)  # a list of losses, for example, is not a yes


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def _bar(run: TrainingState, steps: int, shown: bool) -> "tqdm[Any]":
    return tqdm(total=steps, initial=run.step, unit="step", disable=not shown, file=sys.stderr, mininterval=0.5)


def _record(history: History, step: int, terms: ELBOTerms, group: Group) -> None:
    """A point for the joined batch. In one tensor, so that a device is waited for once."""
    neg_elbo = mean_of_batch((terms.nll + terms.kl).detach()).double()
    gamma = terms.log_gamma.detach().double().exp()
    of_all = joined_mean(torch.cat((torch.stack((neg_elbo, gamma)), terms.variance_ratio.detach().double())), group)
    of_all = of_all.cpu()
    history.step.append(step)
    history.neg_elbo.append(float(of_all[0]))
    history.gamma.append(float(of_all[1]))
    history.active_dimensions.append(count_active(of_all[2:]))
