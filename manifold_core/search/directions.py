"""Coordinates in which samples are trained on by a search, and models of them made models of the samples."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

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
    """y = (s Bᵀ x, 0) and x = B y/s + a: coordinates in the q widest of the principal directions in which samples vary,
    the columns of B, with a scale of 1, and one coordinate in which they do not.

    Almost all projections of a manifold onto more than 2r dimensions leave it whole, and its dimension as it is. The
    narrow ones of hundreds of directions are mostly where it bends most: networks that are to follow it in all of them
    read the flat space around it, and take far longer.

    Theorem 1 needs r < d: if samples fill their space, no γ is better than another, and one constant coordinate is
    room enough. The d − q that the samples have of their own would pay (d − q)/2 · log γ to whatever model has the
    smallest γ, whether it has learned the manifold or the flat space around it, and the −ELBO would say little else.

    Source: Sauer, Yorke and Casdagli, "Embedology", 1991, for the projections.

    Args:
        basis: B, ``[d, q]`` float64, orthonormal.
        scale: s.
        offset: a, ``[d]`` float64, the mean of the samples across these directions: a pixel, say, that is never black.
        left_out: variance across these directions, per feature.
    """

    def __init__(self, basis: Tensor, scale: float, offset: Tensor, left_out: float) -> None:
        self.basis, self.scale, self.offset, self.left_out = basis, scale, offset, left_out

    @classmethod
    def of_samples(cls, x: Tensor, most: int | None) -> "Directions":
        """Those of samples ``[N, d]`` of a scale of about 1; None takes all."""
        mean, variance, left_out, basis = principal(x, most)
        scale = math.sqrt(basis.shape[1] / (variance - left_out))
        return cls(basis, scale, mean - basis @ (basis.T @ mean), left_out / x.shape[1])

    @classmethod
    def kept_in(cls, folder: Path, x: Tensor, most: int | None) -> "Directions":
        """Those in the folder, which is claimed for these samples, or else those of the samples, put there: with other
        threads, or on another machine, they would round otherwise, and a search resume with other numbers.

        Raises:
            InputError: the folder cannot be written to.
        """
        path = output_folder(folder, "folder") / "directions.safetensors"
        if path.exists():
            kept = checkpoint.load_tensors(path)
            scale, left_out = float(kept["scale"]), float(kept["left_out"])
            return cls(kept["basis"].to(x.device), scale, kept["offset"].to(x.device), left_out)
        found = cls.of_samples(x, most)
        numbers = {
            "basis": found.basis.contiguous(),
            "scale": torch.tensor(found.scale, dtype=torch.float64),
            "offset": found.offset,
            "left_out": torch.tensor(found.left_out, dtype=torch.float64),
        }
        checkpoint.save_tensors(path, numbers)
        return found

    @property
    def count(self) -> int:
        """q."""
        return self.basis.shape[1]

    @property
    def share(self) -> float:
        """Of the variance of the samples, what lies along these directions."""
        variance = self.count / self.scale**2
        return variance / (variance + self.left_out * len(self.basis))

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers, for JSON."""
        return {"trained_directions": self.count, "trained_share": self.share}

    def of(self, x: Tensor) -> Tensor:
        """Coordinates ``[N, q + 1]`` of samples ``[N, d]``, float32."""
        y = torch.cat([(self.scale * (part.double() @ self.basis)).float() for part in x.split(ROWS)])
        return torch.nn.functional.pad(y, (0, 1))

    def lifted(self, model: VAE, spec: ModelSpec) -> VAE:
        """The model of samples that says of x what ``model`` says of y: the first matrix of its encoder and the last of
        its decoder take s B in, and the last bias a. To γ comes what the directions left out add to the error."""
        made = cast(VAE, spec.build(len(self.basis))).to(self.basis.device)
        last = f"decoder.layers.{2 * len(spec.hidden)}"
        state = {name: tensor.double() for name, tensor in model.state_dict().items()}
        first = state["encoder.layers.0.weight"][:, : self.count]
        state["encoder.layers.0.weight"] = first @ (self.scale * self.basis.T)
        for name in (f"{last}.weight", f"{last}.bias"):
            state[name] = self.basis @ state[name][: self.count] / self.scale
        state[f"{last}.bias"] += self.offset
        state["elbo.log_gamma"] = (state["elbo.log_gamma"].exp() / self.scale**2 + self.left_out).log()
        made.load_state_dict(state)
        return made.eval()

    def history(self, history: History) -> History:
        """Its curves as those of the lifted model, but for the error in the constant coordinate, which that has not. If
        directions are left out, as if the error were what γ says it is."""
        both = [(value, value / self.scale**2 + self.left_out) for value in history.gamma]
        return replace(
            history,
            gamma=[of_x for _, of_x in both],
            neg_elbo=[loss + self._more(of_y, of_x) for loss, (of_y, of_x) in zip(history.neg_elbo, both, strict=True)],
        )

    def _more(self, gamma_of_y: float, gamma_of_x: float) -> float:
        """What the Gaussian of x has more than that of y."""
        features, coordinates = len(self.basis), self.count + 1
        error = coordinates * gamma_of_y / self.scale**2 + features * self.left_out
        of_y, of_x = (math.log(2 * math.pi * gamma) for gamma in (gamma_of_y, gamma_of_x))
        return ((error / gamma_of_x - coordinates) + features * of_x - coordinates * of_y) / 2
