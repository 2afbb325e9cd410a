"""Numbers and names as both pages print them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .results import Columns, DivergedModel, Fit, Run
from .summary import Contrast, Row

__all__ = [
    "BY_DECODER",
    "NOTHING",
    "QUANTITIES",
    "cell_label",
    "duration",
    "enumeration",
    "fixed",
    "flat",
    "integer",
    "label",
    "percent",
    "power_of_ten",
    "significant",
    "symbol",
    "unbroken",
    "value",
]

NOTHING = "–"
BY_DECODER = "by the decoder"  # how dimensions are read: the head of columns
_SYMBOLS = {
    "kappa": "κ",
    "gamma": "γ",
    "log_gamma": "log γ",
    "init_log_gamma": "initial log γ",
}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def symbol(column: str) -> str:
    """``init_log_gamma`` → ``initial log γ``."""
    return _SYMBOLS.get(column, column.replace("_", " "))


def value(content: Any) -> str:
    """The text of a cell: numbers with a minus sign, True and False in words."""
    if isinstance(content, bool):
        return "yes" if content else "no"
    return str(content).replace("-", "−") if isinstance(content, (int, float)) else str(content)


def label(row: Contrast | DivergedModel | Fit | Row | Run) -> str:
    """``κ = 20, d = 30, r = 6, without attention``."""
    return ", ".join(part for part in (cell_label(row.cell), getattr(row, "variant", "")) if part) or "all"


def unbroken(text: str) -> str:
    """The same, with no line break between a name and its value."""
    return text.replace(" = ", "\u00a0=\u00a0")


def cell_label(cell: Columns) -> str:
    """``κ = 20, d = 30, r = 6``."""
    return ", ".join(f"{symbol(name)} = {value(content)}" for name, content in cell.items())


def integer(number: int | None) -> str:
    return NOTHING if number is None else str(number).replace("-", "−")


def fixed(number: float, digits: int = 2) -> str:
    """``−45.30``; without a sign if the number is rounded to 0."""
    return _sign(f"{round(number, digits) + 0.0:.{digits}f}", number)


def significant(number: float, digits: int = 3, *, padded: bool = False) -> str:
    """``0.0312``, ``1.63×10⁻⁵``; ``padded`` with zeros to that many digits."""
    mantissa, _, exponent = (f"{number:#.{digits}g}" if padded else f"{number:.{digits}g}").partition("e")
    mantissa = mantissa.rstrip(".")
    return _sign(mantissa + (f"×10{str(int(exponent)).translate(_SUPERSCRIPT)}" if exponent else ""), number)


def power_of_ten(exponent: int) -> str:
    """``0.01``, ``1``, ``10⁻³``."""
    return f"{10.0**exponent:g}" if -3 < exponent < 3 else "10" + str(exponent).translate(_SUPERSCRIPT)


def _sign(text: str, number: float) -> str:
    if math.isfinite(number):
        return text.replace("-", "−")
    return NOTHING if math.isnan(number) else ("∞" if number > 0 else "−∞")


def percent(part: int, whole: int) -> str:
    """Rounded down: only all are 100 %."""
    return f"{100 * part // whole} %" if whole else NOTHING


def duration(seconds: float) -> str:
    """``3 days 2 h``, ``1 h 5 min``, ``2 min 3 s``, ``4.2 s``."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        days, hours = divmod(hours, 24)
        return f"{days} days {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def enumeration(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last


def flat(content: Mapping[str, Any]) -> str:
    """An object in one line: ``torch 2.13.0, python 3.11``."""
    return ", ".join(f"{name} {inner}" for name, inner in content.items())


# quantity → its name, and how it is written
QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "neg_elbo": ("−ELBO", fixed),
    "recon": ("squared error", significant),
    "kl": ("KL", fixed),
    "gamma": ("γ", significant),
}
