"""Many models of one kind trained side by side in PyTorch alone, written for speed.

The matrices of all models are stacked, a product is one torch.bmm, the backward pass is by hand, and one fused Adam
updates everything. Nothing waits for the host, so that a step can be captured in a CUDA graph. It does less than the
engine: the loss itself, which only curves need, is not computed, and the learning rate stays as it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from manifold_core.bench.ensemble import LEARNING_RATE


def gradients(parameters: Sequence[Tensor], data: Tensor, index: Tensor, noise: Tensor) -> list[Tensor]:
    """Of each model's mean loss by the stacked parameters; index int64 ``[M, B]`` of data, noise ``[M, B, κ]``."""
    w1, b1, w2, b2, w3, b3, w4, b4, log_gamma = parameters
    (models, batch), features = index.shape, data.shape[1]
    x = data.index_select(0, index.view(-1)).view(models, batch, features)
    h1 = torch.baddbmm(b1.unsqueeze(1), x, w1.mT).relu_()
    mu, log_var = torch.baddbmm(b2.unsqueeze(1), h1, w2.mT).chunk(2, dim=2)
    spread = torch.exp(0.5 * log_var) * noise
    z = mu + spread
    h2 = torch.baddbmm(b3.unsqueeze(1), z, w3.mT).relu_()
    error = torch.baddbmm(b4.unsqueeze(1), h2, w4.mT).sub_(x)
    scale = torch.exp(-log_gamma) / batch
    of_log_gamma = 0.5 * (features - scale * error.square().sum(dim=(1, 2)))
    of_x_hat = error * scale[:, None, None]
    of_h2 = torch.ops.aten.threshold_backward(torch.bmm(of_x_hat, w4), h2, 0)
    of_z = torch.bmm(of_h2, w3)
    of_log_var = 0.5 * torch.add(of_z * spread, torch.expm1(log_var), alpha=1 / batch)
    of_head = torch.cat((torch.add(of_z, mu, alpha=1 / batch), of_log_var), dim=2)
    of_h1 = torch.ops.aten.threshold_backward(torch.bmm(of_head, w2), h1, 0)
    found = []
    for of_output, given in ((of_h1, x), (of_head, h1), (of_h2, z), (of_x_hat, h2)):
        found += [torch.bmm(of_output.mT, given), of_output.sum(dim=1)]
    return [*found, of_log_gamma]


class Batched:
    """Models with one hidden layer, and their training.

    Args:
        models: the parameters of each, in the order of :func:`gradients`.
        sets: the data sets, of one shape, which the models take in turn.
        batch: samples per step.
        compiled: by torch.compile.
    """

    def __init__(
        self, models: Sequence[Sequence[Tensor]], sets: Sequence[Tensor], batch: int, *, compiled: bool = False
    ) -> None:
        self.data = torch.cat(list(sets))
        self.parameters = [torch.stack([t.detach() for t in same]).to(self.data) for same in zip(*models, strict=True)]
        self.samples, self.batch = len(sets[0]), batch
        first = [i % len(sets) * self.samples for i in range(len(models))]
        self.first = torch.tensor(first, device=self.data.device).unsqueeze(1)
        self.gradients = torch.compile(gradients, dynamic=False) if compiled else gradients
        on_gpu = self.data.is_cuda
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True, capturable=on_gpu)

    @torch.no_grad()
    def step(self, index: Tensor, noise: Tensor) -> None:
        """On samples ``[M, B]`` of each model's data set, with noise ``[M, B, κ]``."""
        found = self.gradients(self.parameters, self.data, index + self.first, noise)
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def __call__(self) -> None:
        """A step on samples and noise drawn at random."""
        shape, device = (len(self.first), self.batch), self.data.device
        index = torch.randint(self.samples, shape, device=device)
        latents = self.parameters[4].shape[2]
        self.step(index, torch.randn(*shape, latents, device=device, dtype=self.data.dtype))
