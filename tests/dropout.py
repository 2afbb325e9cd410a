"""A model that is a user's own, not the library's."""

import torch
from torch import Tensor, nn

import manifold_core as mc


class Encoder(nn.Module):
    """Draws from torch's own generator, and keeps a running statistic."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 6)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.layers(x).chunk(2, dim=1)
        return mu, log_var


def dropout_model(seed: int = 0) -> mc.VAE:
    """A user's own: its dropout takes numbers from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds those of GPUs too, and they stay so
        return mc.VAE(Encoder(), nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 6)), 3)
