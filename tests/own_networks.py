"""Networks as users write them."""

from torch import Tensor, nn

__all__ = ["Encoder", "First"]


class Encoder(nn.Module):
    """What a user would write."""

    def __init__(self) -> None:
        super().__init__()
        self.mu, self.log_var = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(x), self.log_var(x)


class First(nn.Module):
    """Gives back what it gets first."""

    def forward(self, first: Tensor, *_rest: Tensor) -> Tensor:
        return first
