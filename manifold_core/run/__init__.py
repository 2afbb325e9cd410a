"""One training run: its description, its data and models, its folder of results."""

from .build import build_model
from .config import ConditionConfig, ModelConfig, RunConfig, SearchConfig
from .data import load_data
from .load import FinishedRun, load_run
from .runner import run
from .save import save_run

__all__ = [
    "ConditionConfig",
    "FinishedRun",
    "ModelConfig",
    "RunConfig",
    "SearchConfig",
    "build_model",
    "load_data",
    "load_run",
    "run",
    "save_run",
]
