"""The commands and their options, and what ``--help`` says of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

from .. import __version__
from ..covariance import Covariance
from ..models import Prior
from ..models.elbo import Gamma
from ..networks.residual import CHANNELS, CONDITIONAL_CHANNELS
from ..run import RunConfig
from ..search.plan import EACH, FIRST, LEAST, NETWORKS, WIDER, SearchPlan
from ..training.config import Precision
from .commands import DEFAULTS, bench, dimension, eager, info, report, reproduce, train

__all__ = ["make_parser"]

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults, except those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


class _AllLayersAtOnce(argparse.Action):
    """Refuses ``--hidden 64 --hidden 32``: argparse takes only the last of a repeated option, and ``dimension`` takes
    these for two networks."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if (earlier := getattr(namespace, self.dest)) is not None:
            first, second = (" ".join(map(str, widths)) for widths in (earlier, values))
            raise argparse.ArgumentError(
                self,
                f"given more than once, as {first} and as {second}; expected all layers at once, as in "
                f"{option_string} {first} {second}",
            )
        setattr(namespace, self.dest, values)


_CHANNELS = f"of the residual networks; default {CHANNELS}, for a CVAE {CONDITIONAL_CHANNELS}; an MLP has none"


def _default(name: str) -> str:
    vectors, images = (DEFAULTS[kind][name] for kind in ("vectors", "images"))
    return f"default {vectors}; {images} for images that residual networks read"


def _as_options(networks: Sequence[Sequence[int]]) -> str:
    return " ".join(f"--hidden {' '.join(map(str, widths))}" for widths in networks)


def _add_data(add: argparse.ArgumentParser) -> None:
    """The options of every command that trains on a data set."""
    add.add_argument(
        "--data",
        required=True,
        help="synthetic, mnist, fashion-mnist, or a .npy, .npz or .csv file of shape N,d, images N,H,W or N,C,H,W; in "
        "an .npz file of several arrays, the one called x",
    )
    add.add_argument("--out", required=True, help="folder for the results; resumes a stopped run there")
    add.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of synthetic data, of the split of a file into training and held-out samples, of weights, batches "
        "and noise",
    )
    for name, letter, what in (("ambient", "d", "features"), ("manifold", "r", "dimension")):
        default = RunConfig.__dataclass_fields__[f"{name}_dim"].default
        add.add_argument(f"--{name}-dim", type=int, metavar=letter, help=f"{what} of synthetic data, default {default}")
    add.add_argument("--data-dir", metavar="DIR", help="folder of the image files; default: search, then download")
    add.add_argument(
        "--device",
        default="auto",
        help="auto is cuda if there is a GPU, else cpu; with torchrun (train only), one GPU per process",
    )
    add.add_argument("--quiet", action="store_true", help="no progress bar")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manifold-core",
        description="Estimate the dimension of the manifold that data lie on with VAEs, and train VAEs.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"manifold-core {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for add_to in (_add_dimension, _add_train, _add_reproduce, _add_eager, _add_report, _add_bench, _add_info):
        add_to(commands)
    return parser


def _command(commands: _Commands, name: str, help: str, example: str = "") -> argparse.ArgumentParser:
    said = f"{help[0].upper()}{help[1:]}."
    # No abbreviations: `reproduce --seed 3` would be --seeds, and result files keep the command as it was given.
    return commands.add_parser(
        name,
        help=help,
        description=said,
        epilog=f"example: {example}" if example else None,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )


def _add_dimension(commands: _Commands) -> None:
    add = _command(
        commands,
        "dimension",
        help="estimate the dimension of a data set: try networks with fewer and fewer latent dimensions",
        example="manifold-core dimension --data points.npy --out runs/points",
    )
    add.set_defaults(command=dimension)
    _add_data(add)
    plan = SearchPlan()
    add.add_argument(
        "--latent-dim",
        type=int,
        metavar="K",
        help=f"latent dimensions to start with; default {FIRST}, or the number of features if that is lower; raised "
        "while all are active",
    )
    add.add_argument(
        "--directions",
        type=int,
        metavar="N",
        help=f"how many of the widest principal directions of the samples to train on; default {EACH} times the "
        f"dimension that nearest neighbours see, and at least {LEAST}",
    )
    add.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        action="append",
        metavar="N",
        help=f"layer widths of an MLP; repeat it to try several; default {_as_options(NETWORKS)}, and, if these read "
        f"more dimensions than nearest neighbours see, {_as_options(WIDER)}",
    )
    add.add_argument("--models", type=int, default=plan.models, metavar="N", help="models per MLP, seeds S, S + 1, …")
    add.add_argument("--steps", type=int, default=plan.steps, help="optimizer steps")
    add.add_argument("--batch-size", type=int, default=plan.batch_size, help="samples per step")
    add.add_argument("--learning-rate", type=float, default=plan.learning_rate, help="peak of the one-cycle schedule")
    add.add_argument(
        "--log-gamma", type=float, default=plan.log_gamma, help="log of the initial γ, for standardised data"
    )


def _add_train(commands: _Commands) -> None:
    add = _command(
        commands,
        "train",
        help="train a VAE, or with --condition a CVAE, on a data set",
        example="manifold-core train --data points.npy --latent-dim 32 --models 8 --out runs/several",
    )
    add.set_defaults(command=train)
    _add_data(add)
    add.add_argument(
        "--latent-dim", type=int, default=20, metavar="K", help="latent dimensions; give more than the manifold has"
    )
    add.add_argument("--steps", type=int, help=f"optimizer steps; {_default('steps')}")
    add.add_argument("--batch-size", type=int, help=f"samples per step; {_default('batch_size')}")
    add.add_argument("--learning-rate", type=float, help=f"peak of the one-cycle schedule; {_default('learning_rate')}")
    add.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        action=_AllLayersAtOnce,
        metavar="N",
        help="layer widths of an MLP; default 64, or residual networks for images whose sides are multiples of 4",
    )
    add.add_argument("--channels", type=int, help=_CHANNELS)
    add.add_argument("--gamma", choices=get_args(Gamma), default="learned", help="decoder variance")
    add.add_argument(
        "--log-gamma",
        type=float,
        help="log of a fixed γ, or of the initial value of a learned one, default 0; not for an analytic γ",
    )
    add.add_argument(
        "--covariance", choices=get_args(Covariance), default="diagonal", help="of the posterior; cholesky is full"
    )
    add.add_argument(
        "--condition",
        metavar="SOURCE",
        help="train a CVAE with this condition: labels, for mnist and fashion-mnist; or a .npy, .npz or .csv file of "
        "class labels N (integers or booleans) or numbers N,t, in the order of the samples; in an .npz file of several "
        "arrays, the one called c",
    )
    add.add_argument(
        "--prior", choices=get_args(Prior), help="p(z|c) of a CVAE: learned, the default, or standard, N(0, I)"
    )
    add.add_argument(
        "--attention", action="store_true", help="let the condition of a CVAE switch latent dimensions off"
    )
    add.add_argument("--precision", choices=get_args(Precision), default="float32", help="of matrix products")
    add.add_argument(
        "--models",
        type=int,
        default=1,
        metavar="N",
        help="train N side by side, seeds S, S + 1, …; keep the one with the lowest held-out -ELBO",
    )


def _add_reproduce(commands: _Commands) -> None:
    add = _command(commands, "reproduce", help="replay tables and theorems of the paper")
    add.set_defaults(command=reproduce)
    add.add_argument(
        "tables",
        nargs="+",
        metavar="table",
        help="table1, table2, table3, table4, table5, table6, table7, table8, table9, theorem1, theorem1_too_few, "
        "theorem2, theorem3, remark1; table10 and table11 for table1 and table4, off whose models they are read; "
        "synthetic, images or all for all of that kind",
    )
    add.add_argument("--out", required=True, metavar="DIR", help="folder for the results; resumes what was begun there")
    add.add_argument(
        "--budget", default="quick", metavar="{quick,reduced,full}", help="steps, samples, and models per cell"
    )
    add.add_argument("--seeds", type=int, metavar="N", help="models per cell; default: 1 (quick or reduced), 5 (full)")
    add.add_argument(
        "--first-seed",
        type=int,
        default=0,
        metavar="S",
        help="first seed of these models, then S + 1 and so on; the recipe was chosen on seeds 0 to 7",
    )
    add.add_argument(
        "--as-published",
        action="store_true",
        help="the paper's widths, steps, batches and schedules where ours differ (--budget quick: a fifth of the "
        "steps, except for images); results go into DIR/as_published",
    )
    add.add_argument(
        "--device",
        default="auto",
        help="cpu; cuda for all GPUs, which share the models; cuda:0,cuda:2 for some; auto is cuda if there is a GPU",
    )
    add.add_argument(
        "--backend", default="auto", metavar="{auto,reference,cpu,cuda}", help="what trains the models of a table"
    )
    add.add_argument("--quiet", action="store_true", help="no progress bars, and not how long the rest will take")


def _add_eager(commands: _Commands) -> None:
    add = _command(
        commands,
        "eager",
        help="measure what the tables in a folder would take in eager PyTorch on this machine, for the report",
    )
    add.set_defaults(command=eager)
    add.add_argument("folder", metavar="DIR", help="folder of result files, such as table1.json")
    add.add_argument("--device", default="cpu", help="auto, cpu or a CUDA device")


def _add_report(commands: _Commands) -> None:
    add = _command(commands, "report", help="make one page of the result files in a folder, beside the paper's numbers")
    add.set_defaults(command=report)
    add.add_argument(
        "folder", metavar="DIR", help="folder of result files, such as table1.json, also those in its as_published"
    )
    add.add_argument("--out", metavar="DIR", help="folder for report.html and report.md; default: DIR above")


def _add_bench(commands: _Commands) -> None:
    add = _command(
        commands,
        "bench",
        help="measure how fast the library is on this machine's CPU, beside eager PyTorch and other peers",
    )
    add.set_defaults(command=bench)
    add.add_argument(
        "comparisons",
        nargs="*",
        metavar="comparison",
        help="elbo, cholesky, ensemble, step: these if none is named; images, lstm; batch, features, latents, "
        "triangle, models, threads, or growth for these six: how the time grows with the batch, d, κ, κ of a full "
        "covariance, models side by side, and threads; or all",
    )
    add.add_argument("--rounds", type=int, default=1, metavar="N", help="processes per contender, if S allows")
    add.add_argument("--seconds", type=float, default=85, metavar="S", help="start nothing new after that")
    add.add_argument("--json", action="store_true", help="raw figures on standard output, not the table")
    add.add_argument("--plot", type=Path, metavar="FILE", help="the roofline, as a PNG file")
    add.add_argument("--quiet", action="store_true", help="do not say what is being measured")


def _add_info(commands: _Commands) -> None:
    add = _command(commands, "info", help="versions, backends and data on this machine")
    add.set_defaults(command=info)
