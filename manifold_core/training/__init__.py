"""The one training loop, and its parts."""

from .config import Diverged, History, TrainingConfig, check_config, record_every
from .load import load_weights
from .loop import Turns, train, turns
from .schedule import batches, cycle_of, noise_seed, schedule_table

__all__ = [
    "Diverged",
    "History",
    "TrainingConfig",
    "Turns",
    "batches",
    "check_config",
    "cycle_of",
    "load_weights",
    "noise_seed",
    "record_every",
    "schedule_table",
    "train",
    "turns",
]
