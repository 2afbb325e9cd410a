"""Many small VAEs and CVAEs trained side by side, whole training steps fused."""

from .spec import ModelSpec
from .train import TrainedModel, train_ensemble

__all__ = ["ModelSpec", "TrainedModel", "train_ensemble"]
