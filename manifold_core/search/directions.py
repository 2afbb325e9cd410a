"""Coordinates in which samples are trained on by a search, and models of them made models of the samples."""

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..data.directions import ROWS, principal
from ..ensemble import ModelSpec
from ..models import VAE
from ..storage import checkpoint
from ..storage.files import output_folder
from ..training import History

__all__ = ["Directions"]


class Directions:
    """y = (s Bᵀ x, 0) and x = B y/s + a: coordinates in the q principal directions in which samples vary, the columns
    of B, with a scale of 1, and one coordinate in which they do not.

    Theorem 1 needs r < d: if samples fill their space, no γ is better than another, and one constant coordinate is
    room enough. The d − q that the samples have of their own would pay (d − q)/2 · log γ to whatever model has the
    smallest γ, whether it has learned the manifold or the flat space around it, and the −ELBO would say little else.

    Args:
        basis: B, ``[d, q]`` float64, orthonormal.
        scale: s.
        offset: a, ``[d]`` float64, what all samples have across these directions: a pixel, say, that is never black.
    """

    def __init__(self, basis: Tensor, scale: float, offset: Tensor) -> None:
        self.basis, self.scale, self.offset = basis, scale, offset

    @classmethod
    def of_samples(cls, x: Tensor) -> "Directions":
        """Those of samples ``[N, d]`` of a scale of about 1."""
        mean, variance, basis = principal(x)
        return cls(basis, math.sqrt(basis.shape[1] / variance), mean - basis @ (basis.T @ mean))

    @classmethod
    def kept_in(cls, folder: Path, x: Tensor) -> "Directions":
        """Those in the folder, which is claimed for these samples, or else those of the samples, put there: with other
        threads, or on another machine, they would round otherwise, and a search resume with other numbers.

        Raises:
            InputError: the folder cannot be written to.
        """
        path = output_folder(folder) / "directions.safetensors"
        if path.exists():
            kept = checkpoint.load_tensors(path)
            return cls(kept["basis"].to(x.device), float(kept["scale"]), kept["offset"].to(x.device))
        found = cls.of_samples(x)
        numbers = {
            "basis": found.basis.contiguous(),
            "scale": torch.tensor(found.scale, dtype=torch.float64),
            "offset": found.offset,
        }
        checkpoint.save_tensors(path, numbers)
        return found

    @property
    def count(self) -> int:
        """q."""
        return self.basis.shape[1]

    def of(self, x: Tensor) -> Tensor:
        """Coordinates ``[N, q + 1]`` of samples ``[N, d]``, float32."""
        y = torch.cat([(self.scale * (part.double() @ self.basis)).float() for part in x.split(ROWS)])
        return torch.nn.functional.pad(y, (0, 1))

    def lifted(self, model: VAE, spec: ModelSpec) -> VAE:
        """The model of samples that says of x what ``model`` says of y: the first matrix of its encoder and the last of
        its decoder take s B in, and the last bias a."""
        made = cast(VAE, spec.build(len(self.basis))).to(self.basis.device)
        last = f"decoder.layers.{2 * len(spec.hidden)}"
        state = {name: tensor.double() for name, tensor in model.state_dict().items()}
        first = state["encoder.layers.0.weight"][:, : self.count]
        state["encoder.layers.0.weight"] = first @ (self.scale * self.basis.T)
        for name in (f"{last}.weight", f"{last}.bias"):
            state[name] = self.basis @ state[name][: self.count] / self.scale
        state[f"{last}.bias"] += self.offset
        state["elbo.log_gamma"] = state["elbo.log_gamma"] - 2 * math.log(self.scale)
        made.load_state_dict(state)
        return made.eval()

    def history(self, history: History) -> History:
        """Its curves as those of the lifted model, but for the error in the constant coordinate, which that has not."""
        gamma = [value / self.scale**2 for value in history.gamma]
        coordinates = self.count + 1
        more = len(self.basis) - coordinates
        return replace(
            history,
            gamma=gamma,
            neg_elbo=[
                loss + more / 2 * math.log(2 * math.pi * value) - coordinates * math.log(self.scale)
                for loss, value in zip(history.neg_elbo, gamma, strict=True)
            ],
        )
