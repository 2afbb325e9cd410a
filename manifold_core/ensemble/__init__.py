"""Many small VAEs and CVAEs trained side by side, whole training steps fused."""

from .choice import explain_ensemble
from .spec import ConvSpec, ModelSpec, SequentialSpec, Spec
from .train import TrainedModel, all_diverged, train_ensemble

__all__ = [
    "ConvSpec",
    "ModelSpec",
    "SequentialSpec",
    "Spec",
    "TrainedModel",
    "all_diverged",
    "explain_ensemble",
    "train_ensemble",
]
