"""What each command does with its options."""

import argparse
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data import find_images
from ..data.files import sample_shape
from ..data.images import IMAGE_SETS, ImageSet
from ..distributed import group_of_torchrun
from ..errors import InputError
from ..kernels import explain
from ..kernels.extension import compiled, cuda_missing_because, missing_because, nodes_missing_because
from ..run import ConditionConfig, ModelConfig, RunConfig, SearchConfig, run
from ..run.build import is_convolutional
from ..search import SearchPlan
from ..storage.files import as_folder, output_folder
from ..training import TrainingConfig
from .results import table

__all__ = ["DEFAULTS", "bench", "dimension", "eager", "info", "report", "reproduce", "train"]

# If the command line gives no number. The paper trains images for 46,800 steps at 0.002; log γ moves by about a
# learning rate per step, so a tenth of the steps needs a higher one.
DEFAULTS: dict[str, dict[str, Any]] = {
    "images": {"steps": 5_000, "batch_size": 512, "learning_rate": 0.01},
    "vectors": {"steps": 20_000, "batch_size": 1024, "learning_rate": 0.005},
}


def train(options: argparse.Namespace) -> int:
    out = as_folder("out", options.out)
    if options.gamma == "analytic" and options.log_gamma is not None:
        raise InputError(
            f"log_gamma must be left out with gamma 'analytic', the optimum of each batch, got {options.log_gamma}"
        )
    defaults = DEFAULTS["images" if _is_of_images(options) else "vectors"]
    chosen = {
        name: value if (value := getattr(options, name)) is not None else default for name, default in defaults.items()
    }
    config = RunConfig(
        data=options.data,
        model=ModelConfig(
            options.latent_dim,
            tuple(options.hidden) if options.hidden is not None else None,
            options.channels,
            options.gamma,
            options.log_gamma if options.log_gamma is not None else 0.0,
            options.covariance,
            _condition(options),
        ),
        training=TrainingConfig(seed=options.seed, precision=options.precision, **chosen),
        **_of_data(options),
        device=_device(options.device),
        models=options.models,
    )
    with group_of_torchrun(config.device) as group:
        metrics = run(config, out, progress=not options.quiet, process_group=group)
    return _say(metrics, out)


def dimension(options: argparse.Namespace) -> int:
    out = as_folder("out", options.out)
    config = SearchConfig(
        data=options.data,
        plan=SearchPlan(
            options.latent_dim,
            options.hidden and tuple(map(tuple, options.hidden)),
            options.models,
            log_gamma=options.log_gamma,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=options.seed,
            directions=options.directions,
        ),
        **_of_data(options),
        device=_device(options.device),
    )
    return _say(run(config, out, progress=not options.quiet), out)


def _of_data(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the data; refused if they would have no effect."""
    if options.data_dir is not None and options.data not in IMAGE_SETS:
        raise InputError(f"data_dir must be left out with data {options.data!r}, got {options.data_dir!r}")
    dimensions = ("ambient_dim", "manifold_dim")
    given = {name: value for name in dimensions if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if options.data != "synthetic":
            raise InputError(f"{name} must be left out with data {options.data!r}, which has its own, got {value}")
    return given | {"data_folder": options.data_dir}


def _condition(options: argparse.Namespace) -> ConditionConfig | None:
    """The condition with its options; refused if they would have no effect."""
    asked: dict[str, Any] = {} if options.prior is None else {"prior": options.prior}
    if options.attention:
        asked["attention"] = True
    if options.condition is not None:
        return ConditionConfig(options.condition, **asked)
    for name, value in asked.items():
        raise InputError(f"{name} must be left out without a condition, got {value!r}")
    return None


def _say(metrics: dict[str, Any], out: Path) -> int:
    print(table([metrics]))
    print(f"\nmetrics and weights: {out}")
    for name in metrics["pictures"]:
        print(f"picture: {out / name}")
    if not metrics["pictures"] and importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is missing; pip install matplotlib")
    elif not metrics["pictures"]:
        print("no pictures: matplotlib was missing when this run ended, and a finished run is left as it is")
    return 0


def _is_of_images(options: argparse.Namespace) -> bool:
    """Whether residual networks are trained."""
    if options.data in IMAGE_SETS:
        return options.hidden is None
    if Path(options.data).suffix.lower() not in (".npy", ".npz"):
        return False
    try:
        return is_convolutional(options.hidden, sample_shape(options.data))
    except InputError:  # the run reports it, once for all processes
        return False


def reproduce(options: argparse.Namespace) -> int:
    from ..experiments.reproduce import reproduce as replay

    folder = replay(
        options.tables,
        as_folder("out", options.out),
        budget=options.budget,
        seeds=options.seeds,
        first_seed=options.first_seed,
        as_published=options.as_published,
        devices=_devices(options.device),
        backend=options.backend,
        progress=not options.quiet,
    )
    print(f"results: {folder}")
    return 0


def eager(options: argparse.Namespace) -> int:
    from ..experiments.eager import measure

    measure(as_folder("folder", options.folder), _device(options.device))
    return 0


def report(options: argparse.Namespace) -> int:
    from ..experiments.report import write_report  # the experiments are above this module

    folder = as_folder("folder", options.folder)
    out = None if options.out is None else as_folder("out", options.out)
    for path in write_report(folder, out):
        print(f"report: {path}")
    return 0


def bench(options: argparse.Namespace) -> int:
    from ..bench import roofline, suite
    from ..bench.table import text

    if options.rounds < 1:
        raise InputError(f"rounds must be at least 1, got {options.rounds}")
    if not 0 < options.seconds < math.inf:
        raise InputError(f"seconds must be positive and finite, got {options.seconds:g}")
    if options.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise InputError("a plot needs matplotlib: pip install matplotlib")
    if options.plot is not None:
        if not options.plot.absolute().parent.is_dir():
            raise InputError(f"--plot: there is no folder {options.plot.absolute().parent}")
        if options.plot.is_dir():
            raise InputError(f"--plot must be a file to write, got {str(options.plot)!r}, which is a folder")
        output_folder(options.plot.absolute().parent, "--plot")
    progress = (lambda _: None) if options.quiet else (lambda what: print(what, file=sys.stderr))
    results = suite.measure(suite.chosen(options.comparisons), options.rounds, options.seconds, progress)
    print(suite.to_json(results) if options.json else text(results))
    if options.plot is not None:
        roofline.plot_roofline(options.plot, results["rows"])
        print(f"picture: {options.plot}", file=sys.stderr)
    return 0


def info(_options: argparse.Namespace) -> int:
    print(f"manifold-core   {__version__}")
    print(f"torch           {torch.__version__}, {torch.get_num_threads()} threads")
    if compiled is None:
        print(f"compiled module none: {missing_because}")
    else:
        print(f"compiled module built by {compiled.compiler} for torch >= {compiled.torch_target_version}")
        print(f"instructions    {compiled.instruction_set()}, from {', '.join(compiled.supported_instruction_sets())}")
    print(f"autograd in C++ {nodes_missing_because or 'loaded'}")
    print(f"CUDA kernels    {cuda_missing_because or 'loaded'}")
    choice = explain(torch.empty(0))
    print(f"backend (CPU)   {choice.backend}: {choice.reason}")
    if torch.cuda.is_available():
        choice = explain(torch.empty(0, device="cuda"))
        print(f"backend (GPU)   {choice.backend}: {choice.reason}")
    for name in IMAGE_SETS:
        print(f"{name:<16}{_where(name)}")
    return 0


def _devices(names: str) -> list[str]:
    """The devices that share a table: ``cuda`` is all GPUs, and so is ``auto`` if there are any."""
    if names == "auto":
        names = _device(names)
    if names == "cuda" and torch.cuda.device_count() > 1:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [_device(name) for name in names.split(",")]


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        usable = torch.device(name).type in ("cpu", "cuda")
        torch.empty(0, device=name if usable else "cpu")
        reason = "" if usable else "another kind of device"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
    if reason:
        raise InputError(f"device must be 'auto', 'cpu' or a CUDA device of this machine, got {name!r}: {reason}")
    return name


def _where(name: ImageSet) -> Path | str:
    try:
        return find_images(name) or "not found; would be downloaded"
    except InputError as error:
        return str(error)
