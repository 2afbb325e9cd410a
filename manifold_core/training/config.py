"""How to train, and what training returns."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..arguments import check_choice, check_integer, check_number
from ..errors import InputError

__all__ = ["Diverged", "History", "Precision", "TrainingConfig", "check_config", "record_every"]

Precision = Literal["float32", "bfloat16", "float16"]
RECORDS = 500  # points on a curve, and updates of the progress bar


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: Adam with a one-cycle schedule over ``steps`` mini-batches.

    Args:
        steps: number of optimizer steps.
        batch_size: samples per step, capped at how many there are. Each epoch is a new shuffle; samples left at its
            end, too few for a batch, are left out of it.
        learning_rate: the peak of the cycle.
        log_gamma_rate: factor on it for a learned log γ.
        beta2: Adam's β₂, between 0 and 1: the second moment remembers about 1 / (1 − β₂) steps. If a learned γ starts
            far from the scale of the data, use 0.99 and a ``log_gamma_rate`` of 10; otherwise a slow γ is better.
        seed: from 0 to 2³¹ − 1; fixes the order of the samples and the noise, on every backend.
        precision: of the networks' matrix products and convolutions, by autocast: ``"float32"``, ``"bfloat16"`` or
            ``"float16"``, which scales the loss so that no gradient vanishes. The layers of our networks that make mu,
            log_var and x̂ or read z, the ELBO, the weights, Adam and all measurements after training stay in float32.
        cycle_steps: length of the cycle, at least ``steps``; None for that. A longer one is cut off.

    Raises:
        InputError: a number out of range, or an unknown precision.
    """

    steps: int = 20_000
    batch_size: int = 1024
    learning_rate: float = 0.005
    log_gamma_rate: float = 1.0
    beta2: float = 0.999
    seed: int = 0
    precision: Precision = "float32"
    cycle_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), 1))
        if self.cycle_steps is not None:
            object.__setattr__(self, "cycle_steps", check_integer("cycle_steps", self.cycle_steps, 1))
            if self.cycle_steps < self.steps:
                raise InputError(f"cycle_steps must be at least steps, {self.steps}, got {self.cycle_steps}")
        for name in ("learning_rate", "log_gamma_rate"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        object.__setattr__(self, "beta2", check_number("beta2", self.beta2, below=1))
        object.__setattr__(self, "seed", check_integer("seed", self.seed, 0, 2**31 - 1))
        check_choice("precision", self.precision, Precision)


def check_config(name: str, value: object) -> None:
    """Raise InputError for anything but a :class:`TrainingConfig`, such as a dictionary of its arguments."""
    if isinstance(value, TrainingConfig):
        return
    got = repr(value)
    if hasattr(value, "shape"):  # not its many numbers: what helps is that it is not a configuration
        got = f"{type(value).__name__} of shape {tuple(value.shape)}: give a condition by its name, condition=…"
    raise InputError(f"{name} must be a TrainingConfig, such as TrainingConfig(steps=1000), got {got}")


@dataclass
class History:
    """Curves over the steps, each a list with one number per recorded point.

    Attributes:
        step: how many steps had been taken.
        neg_elbo: of that step's mini-batch, nats, averaged over its samples.
        gamma: decoder variance.
        active_dimensions: of that mini-batch.
        seconds: the time it took, including that before a resume.
    """

    step: list[int] = field(default_factory=list)
    neg_elbo: list[float] = field(default_factory=list)
    gamma: list[float] = field(default_factory=list)
    active_dimensions: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def __repr__(self) -> str:
        """The numbers of its last point."""
        steps = self.step[-1] if self.step else 0
        said = [f"{steps} step{'' if steps == 1 else 's'}"]
        for name, digits in (("neg_elbo", ".4g"), ("gamma", ".3g"), ("active_dimensions", "d")):
            if curve := getattr(self, name):
                said.append(f"{name}={curve[-1]:{digits}}")
        return f"History({', '.join(said)}, {self.seconds:.1f} s)"

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it, and ``History(**…)`` takes it back."""
        return asdict(self)

    def latest(self) -> dict[str, str]:
        """The last point, for a progress bar; empty before the first."""
        if not self.step:
            return {}
        return {
            "neg_elbo": f"{self.neg_elbo[-1]:.2f}",
            "gamma": f"{self.gamma[-1]:.2e}",
            "active": str(self.active_dimensions[-1]),
        }


class Diverged(ArithmeticError):
    """The loss is NaN or infinite.

    Attributes:
        loss: its value.
        step: at which it was seen, from 1; on a CPU the first such step.
        history: the curves up to there.
    """

    def __init__(self, loss: float, step: int, history: History) -> None:
        super().__init__(loss, step, history)
        self.loss = loss
        self.step = step
        self.history = history

    def __str__(self) -> str:
        if self.step == 1:  # no weight has moved
            return (
                f"the loss is {self.loss} at step 1, before any training; x and condition should have a scale of "
                "about 1"
            )
        return f"the loss is {self.loss} at step {self.step}; a lower learning_rate may help"


def record_every(config: TrainingConfig) -> int:
    """Steps from one point of the curves to the next; the last step is a point, too."""
    return max(1, config.steps // RECORDS)
