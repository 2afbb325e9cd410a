"""asv: whole training steps on a CPU."""

import torch

import manifold_core as mc
from manifold_core.bench import ensemble, step
from manifold_core.bench.comparison import Call


def convolutional(batch: int) -> Call:
    """The residual networks of the paper's appendix, on images like MNIST's."""
    torch.manual_seed(0)
    model, x = mc.VAE.conv((1, 28, 28), 16), torch.rand(batch, 1, 28, 28)
    return Call(step.adam_step(model.parameters(), lambda: model(x).loss))


STEPS = {
    "MLP, B = 128": lambda: step.COMPARISON.contenders["manifold_core"](128),
    "MLP, B = 512": lambda: step.COMPARISON.contenders["manifold_core"](512),
    "convolutional, B = 32": lambda: convolutional(32),
    "ensemble, hidden 16, B = 1,024": lambda: ensemble.COMPARISON.contenders["side by side"](16, 1024),
}


class Steps:
    """One call: one step, or some hundred of the ensemble."""

    params = ([*STEPS],)
    param_names = ("model",)

    def setup(self, model: str) -> None:
        self.call = STEPS[model]()
        self.call.run()

    def time_call(self, _model: str) -> None:
        self.call.run()


class StepsMemory:
    """Peak memory of a process that does nothing else."""

    params = ([*STEPS],)
    param_names = ("model",)

    def peakmem_call(self, model: str) -> None:
        STEPS[model]().run()
