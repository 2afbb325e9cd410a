"""The command line: ``manifold-core train``, ``reproduce``, ``eager``, ``report``, ``bench`` and ``info``."""

import argparse
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from . import __version__
from .data import find_images
from .distributed import group_of_torchrun, process_of_torchrun
from .errors import InputError
from .kernels import explain
from .kernels.extension import compiled, cuda_missing_because, missing_because, nodes_missing_because
from .networks.conv import CHANNELS
from .run import IMAGE_SETS, ModelConfig, RunConfig, run
from .training import Diverged, TrainingConfig

__all__ = ["main", "table"]

# Where the command line gives no number. The paper trains images for 46,800 steps at 0.002; log γ moves by about a
# learning rate a step, so a tenth of the steps needs a higher one.
DEFAULTS: dict[str, dict[str, Any]] = {
    "images": {"steps": 5_000, "batch_size": 512, "learning_rate": 0.01},
    "vectors": {"steps": 20_000, "batch_size": 1024, "learning_rate": 0.005},
}

# Of the table, and the least that they are wide.
COLUMNS = {
    "data": 20,
    "C×H×W": 14,
    "r": 4,
    "active": 8,
    "by eigenvalue": 15,
    "of": 5,
    "gap": 10,
    "-ELBO": 11,
    "recon": 11,
    "KL": 9,
    "gamma": 11,
    "held-out -ELBO": 17,
}

# Active dimensions over those of nearest neighbours. Of 38 manifolds of known dimension, those read right have up to
# 1.25, but for one with 1.56, and curved ones that are read as flat 1.5 to 2.9.
CURVED = 1.4


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input, 3 training diverged, 130 or 143 stopped by a signal, 141 nobody reads on."""
    with _no_stream_closed():
        try:
            try:
                return _of_process(arguments)
            finally:
                sys.stdout.flush()  # --help as well; at the exit of Python it would be too late
        except BrokenPipeError:  # by `| head`, which ends as soon as it has its lines
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):  # what Python still holds of them, it writes at its exit
                os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            return 128 + signal.SIGPIPE


@contextmanager
def _no_stream_closed() -> Iterator[None]:
    """Where the shell closed one (``>&-``), Python has None in its place; what is written there then goes nowhere."""
    with ExitStack() as stack:
        for stream, redirected in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:
                stack.enter_context(redirected(stack.enter_context(open(os.devnull, "w"))))
        yield


def _of_process(arguments: Sequence[str] | None) -> int:
    if not process_of_torchrun():
        return _main(arguments)
    # The first process says what all would say. It has the status, too: torchrun ends all when one fails, the first
    # perhaps before it has said why.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), suppress(SystemExit):
        _main(arguments)
    return 0


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        if process_of_torchrun() is not None and options.command is not _train:
            raise InputError("with torchrun the command must be train, which alone shares its work out to processes")
        status: int = options.command(options)
    except InputError as error:
        print(f"manifold-core: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"manifold-core: training diverged: {error}", file=sys.stderr)
        return 3
    except (KeyboardInterrupt, _Terminated) as signalled:
        resumes = options.command in (_train, _reproduce)
        then = "; the same command goes on from the last checkpoint" if resumes else ""
        print(f"manifold-core: stopped{then}", file=sys.stderr)
        return 143 if isinstance(signalled, _Terminated) else 130
    return status


class _Terminated(BaseException):
    """SIGTERM."""


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults but those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


def _default(name: str) -> str:
    vectors, images = (DEFAULTS[kind][name] for kind in ("vectors", "images"))
    return f"default {vectors}; {images} for {' and '.join(IMAGE_SETS)} without --hidden"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manifold-core", description="Train a VAE and read off its manifold dimension."
    )
    parser.add_argument("--version", action="version", version=f"manifold-core {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    add = commands.add_parser("train", help="train a VAE on a data set", formatter_class=_Formatter)
    add.set_defaults(command=_train)
    add.add_argument("--data", required=True, help="synthetic, mnist, fashion-mnist, or a .npy, .npz or .csv file")
    add.add_argument("--out", required=True, type=Path, help="folder of the results; goes on with a stopped run there")
    add.add_argument(
        "--latent-dim", type=int, default=20, metavar="K", help="latent dimensions; more than the manifold's"
    )
    add.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="of synthetic data, of the split of a file into training and held-out samples, of weights, batches, noise",
    )
    add.add_argument("--ambient-dim", type=int, default=20, metavar="d", help="of synthetic data")
    add.add_argument("--manifold-dim", type=int, default=6, metavar="r", help="of synthetic data")
    add.add_argument("--data-dir", metavar="DIR", help="folder of the image files; default: search, then download")
    add.add_argument("--steps", type=int, help=f"optimizer steps; {_default('steps')}")
    add.add_argument("--batch-size", type=int, help=f"samples a step; {_default('batch_size')}")
    add.add_argument(
        "--learning-rate", type=float, help=f"highest of the one-cycle schedule; {_default('learning_rate')}"
    )
    add.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        metavar="N",
        help="widths of an MLP; default 64, residual networks for images whose sides are multiples of 4",
    )
    add.add_argument("--channels", type=int, help=f"of the residual networks, default {CHANNELS}; an MLP has none")
    add.add_argument("--gamma", choices=("learned", "analytic", "fixed"), default="learned", help="decoder variance")
    add.add_argument(
        "--log-gamma",
        type=float,
        help="log of a fixed γ, or where a learned one starts, default 0; an analytic one has none",
    )
    add.add_argument(
        "--covariance", choices=("diagonal", "cholesky"), default="diagonal", help="of the posterior; cholesky is full"
    )
    add.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32", help="of the networks' products"
    )
    add.add_argument(
        "--device",
        default="auto",
        help="auto is cuda where there is a GPU, else cpu; with torchrun cuda is a GPU a process",
    )
    add.add_argument(
        "--models",
        type=int,
        default=1,
        metavar="N",
        help="train so many side by side, of seeds from S on; the one of lowest held-out -ELBO is kept",
    )
    add.add_argument("--quiet", action="store_true", help="no progress bar")

    add = commands.add_parser(
        "reproduce",
        help="replay tables and theorems of the paper",
        formatter_class=_Formatter,
    )
    add.set_defaults(command=_reproduce)
    add.add_argument(
        "tables",
        nargs="+",
        metavar="table",
        help="table1, table2, table3, table4, table5, table6, table7, table8, table9, theorem1, theorem1_too_few, "
        "theorem2, remark1; synthetic, images or all for all such",
    )
    add.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder of the results; goes on with what is begun there"
    )
    add.add_argument(
        "--budget", default="quick", metavar="{quick,reduced,full}", help="steps, samples, and models a cell"
    )
    add.add_argument("--seeds", type=int, metavar="N", help="models a cell; default: 1 quick or reduced, 5 full")
    add.add_argument(
        "--as-published",
        action="store_true",
        help="the paper's widths, steps, batches and schedules where ours are others; results go into DIR/as_published",
    )
    add.add_argument(
        "--device",
        default="auto",
        help="cpu; cuda, all GPUs, which share the models; cuda:0,cuda:2, some; auto is cuda if there is a GPU",
    )
    add.add_argument(
        "--backend", default="auto", metavar="{auto,reference,cpu,cuda}", help="what trains the models of a table"
    )
    add.add_argument("--quiet", action="store_true", help="no progress bar")

    add = commands.add_parser(
        "eager", help="measure what the tables in a folder would take in eager PyTorch on this machine, for the report"
    )
    add.set_defaults(command=_eager)
    add.add_argument("folder", type=Path, metavar="DIR", help="folder of result files, as table1.json")
    add.add_argument("--device", default="cpu", help="cpu or cuda")

    add = commands.add_parser(
        "report", help="one page of the result files in a folder, the paper's numbers beside them"
    )
    add.set_defaults(command=_report)
    add.add_argument(
        "folder", type=Path, metavar="DIR", help="folder of result files, as table1.json, and of as_published with such"
    )
    add.add_argument("--out", type=Path, metavar="DIR", help="folder of report.html and report.md; default: the same")

    add = commands.add_parser(
        "bench",
        help="what the library would give on this machine's CPU, beside eager PyTorch and other peers",
        formatter_class=_Formatter,
    )
    add.set_defaults(command=_bench)
    add.add_argument(
        "comparisons",
        nargs="*",
        metavar="comparison",
        help="elbo, cholesky, ensemble, step: these where none is named; images; batch, features, latents, triangle, "
        "models, threads, or growth for these six",
    )
    add.add_argument("--rounds", type=int, default=1, metavar="N", help="processes of each contender")
    add.add_argument("--seconds", type=float, default=85, metavar="S", help="after so long nothing new is begun")
    add.add_argument("--json", action="store_true", help="raw figures on standard output, in place of the table")
    add.add_argument("--plot", type=Path, metavar="FILE", help="the roofline, as a PNG file")
    add.add_argument("--quiet", action="store_true", help="do not say what is being measured")

    add = commands.add_parser("info", help="versions, backends and data on this machine")
    add.set_defaults(command=_info)
    return parser


def _train(options: argparse.Namespace) -> int:
    if options.gamma == "analytic" and options.log_gamma is not None:
        raise InputError(
            f"log_gamma must be left out with gamma 'analytic', the optimum of each batch, got {options.log_gamma}"
        )
    defaults = DEFAULTS["images" if options.data in IMAGE_SETS and options.hidden is None else "vectors"]
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
        ),
        training=TrainingConfig(seed=options.seed, precision=options.precision, **chosen),
        ambient_dim=options.ambient_dim,
        manifold_dim=options.manifold_dim,
        data_folder=options.data_dir,
        device=_device(options.device),
        models=options.models,
    )
    with group_of_torchrun(config.device) as group:
        metrics = run(config, options.out, progress=not options.quiet, process_group=group)
    print(table([metrics]))
    print(f"\nmetrics and weights: {options.out}")
    for name in metrics["pictures"]:
        print(f"picture: {options.out / name}")
    if not metrics["pictures"]:
        print("no pictures: matplotlib is missing; pip install 'manifold-core[experiments]'")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from .experiments.reproduce import reproduce

    folder = reproduce(
        options.tables,
        options.out,
        budget=options.budget,
        seeds=options.seeds,
        as_published=options.as_published,
        devices=_devices(options.device),
        backend=options.backend,
        progress=not options.quiet,
    )
    print(f"results: {folder}")
    return 0


def _eager(options: argparse.Namespace) -> int:
    from .experiments.eager import measure

    measure(options.folder, _device(options.device))
    return 0


def _devices(names: str) -> list[str]:
    """Those that share a table: ``cuda`` is all GPUs, ``auto`` as well where there are any."""
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


def _cells(metrics: dict[str, Any]) -> dict[str, str]:
    """What the table says of a run, by the titles of its columns."""
    measured, sides = metrics["train"], metrics["sample_shape"]
    return {
        "data": metrics["data"],
        "C×H×W": "×".join(map(str, sides)) if len(sides) == 3 else "-",
        "r": "?" if metrics["manifold_dim"] is None else str(metrics["manifold_dim"]),
        "active": str(metrics["active_dimensions"]),
        "by eigenvalue": str(measured["spectrum_count"]) if _is_full(metrics) else "-",
        "of": str(metrics["latent_dim"]),
        "gap": "-" if measured["gap"] is None else f"{measured['gap']:.3g}",
        "-ELBO": f"{measured['neg_elbo']:.3f}",
        "recon": f"{measured['recon']:.4g}",
        "KL": f"{measured['kl']:.3f}",
        "gamma": f"{measured['gamma']:.3g}",
        "held-out -ELBO": f"{metrics['validation']['neg_elbo']:.3f}",
    }


def _line(row: dict[str, str], widths: dict[str, int]) -> str:
    data, *others = widths
    return f"{row[data]:<{widths[data]}}" + "".join(f"{row[title]:>{widths[title]}}" for title in others)


def table(runs: Sequence[dict[str, Any]]) -> str:
    """One line a run, measured on its training data as the model takes them; nats."""
    rows = [_cells(metrics) for metrics in runs]
    full = any(_is_full(metrics) for metrics in runs)
    images = any(len(metrics["sample_shape"]) == 3 for metrics in runs)
    left_out = {*(() if images else ("C×H×W",)), *(() if full else ("by eigenvalue",))}
    # A space before each column, however long its numbers are.
    widths = {
        title: max([width, 1 + len(title), *(1 + len(row[title]) for row in rows)])
        for title, width in COLUMNS.items()
        if title not in left_out
    }
    head = _line({title: title for title in widths}, widths)
    lines = [head, "-" * len(head), *(_line(row, widths) for row in rows)]
    lines.append(
        "\ngap: smallest inactive over largest active variance; near 1 the count hangs on the threshold, train longer"
    )
    lines += [_why_no_gap(metrics) for metrics in runs if metrics["train"]["gap"] is None]
    lines += [note for metrics in runs if (note := _blown_up(metrics))]
    lines += [note for metrics in runs if (note := _of_several(metrics))]
    lines += [note for metrics in runs if (note := _curved(metrics))]
    for metrics in runs:
        if (scale := metrics["standardisation"]["scale"]) != 1:
            greater = math.prod(metrics["sample_shape"]) * math.log(scale)
            lines.append(
                f"{metrics['data']} was measured as (x - mean) / {scale:.4g}; in the units of the data recon and gamma "
                f"are {scale**2:.4g} times as large, -ELBO is greater by {greater:.4g}"
            )
    return "\n".join(lines)


def _why_no_gap(metrics: dict[str, Any]) -> str:
    """All dimensions are of one kind: their number says nothing of the manifold's."""
    data, kappa = metrics["data"], metrics["latent_dim"]
    if metrics["active_dimensions"] == 0:
        return f"{data} has no gap, as no dimension is active: this says nothing yet; train longer, with more --steps"
    return f"{data} has no gap, as all {kappa} dimensions are active: it may have more; raise --latent-dim"


def _blown_up(metrics: dict[str, Any]) -> str:
    """A loss may jump to any height and still be a number."""
    first, last = metrics["history"]["neg_elbo"][0], metrics["train"]["neg_elbo"]
    if last <= first:
        return ""
    return (
        f"{metrics['data']} ends at a higher -ELBO than it had near the beginning, {last:.4g} after {first:.4g}: this "
        "says nothing; lower --learning-rate, or train longer, with more --steps"
    )


def _of_several(metrics: dict[str, Any]) -> str:
    """One run says little."""
    if not (models := metrics.get("models")):
        return ""
    counts = ", ".join("diverged" if one["diverged_at"] else str(one[_count(metrics)]) for one in models)
    return (
        f"{metrics['data']} is read by {len(models)} models: {counts}; above is that of seed {metrics['seed']}, which "
        "has the lowest held-out -ELBO"
    )


def _curved(metrics: dict[str, Any]) -> str:
    """Networks that are not able enough read a curved manifold as the flat space around it, with a wide gap."""
    neighbours, count = metrics.get("two_nn"), metrics["train"][_count(metrics)]
    if neighbours is None or count < CURVED * neighbours:
        return ""
    return (
        f"{metrics['data']}: nearest neighbours see {neighbours:.1f} dimensions (TwoNN). If the manifold is curved it "
        f"has fewer than {count}, and networks with more layers (--hidden 64 64 64) may read them; of a high dimension "
        "neighbours see too little"
    )


def _count(metrics: dict[str, Any]) -> str:
    """The name of the count that a rotation of the latent space does not change."""
    return "spectrum_count" if _is_full(metrics) else "active_dimensions"


def _is_full(metrics: dict[str, Any]) -> bool:
    return bool(metrics["config"]["model"].get("covariance") == "cholesky")


def _report(options: argparse.Namespace) -> int:
    from .experiments.report import write_report  # the experiments are above this module

    for path in write_report(options.folder, options.out):
        print(f"report: {path}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .bench import roofline, suite
    from .bench.table import text

    if options.rounds < 1:
        raise InputError(f"rounds must be at least 1, got {options.rounds}")
    if not options.seconds > 0:
        raise InputError(f"seconds must be positive, got {options.seconds:g}")
    if options.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise InputError("a plot needs matplotlib: pip install 'manifold-core[experiments]'")
    if options.plot is not None and not options.plot.absolute().parent.is_dir():
        raise InputError(f"--plot: there is no folder {options.plot.absolute().parent}")
    progress = (lambda _: None) if options.quiet else (lambda what: print(what, file=sys.stderr))
    results = suite.measure(suite.chosen(options.comparisons), options.rounds, options.seconds, progress)
    print(suite.to_json(results) if options.json else text(results))
    if options.plot is not None:
        roofline.plot_roofline(options.plot, results["rows"])
        print(f"picture: {options.plot}", file=sys.stderr)
    return 0


def _info(_options: argparse.Namespace) -> int:
    print(f"manifold-core   {__version__}")
    print(f"torch           {torch.__version__}, {torch.get_num_threads()} threads")
    if compiled is None:
        print(f"compiled module none: {missing_because}")
    else:
        print(f"compiled module built by {compiled.compiler} for torch >= {compiled.torch_target_version}")
        print(f"instructions    {compiled.instruction_set()} of {', '.join(compiled.supported_instruction_sets())}")
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


def _where(name: str) -> Path | str:
    try:
        return find_images(name) or "not found; would be downloaded"
    except InputError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
