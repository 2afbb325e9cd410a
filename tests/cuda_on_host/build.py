"""Builds csrc/cuda for this processor: the operators ``torch.ops.manifold_core_cuda_on_host`` on CPU tensors.

The kernels' sources are compiled as they are. Schemas, fakes and autograd are those of every other backend.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from manifold_core.kernels.batch_norm_relu.op import OPERATOR as batch_norm_relu
from manifold_core.kernels.gaussian_elbo.op import OPERATOR as gaussian_elbo
from manifold_core.kernels.gaussian_nll.op import OPERATOR as gaussian_nll
from manifold_core.kernels.registration import Calls
from manifold_core.kernels.rsample_kl.op import OPERATOR as rsample_kl
from manifold_core.kernels.rsample_kl_cholesky.op import OPERATOR as rsample_kl_cholesky
from torch.utils.cpp_extension import include_paths, library_paths

__all__ = ["NAMESPACE", "OPERATORS", "load"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMESPACE = "manifold_core_cuda_on_host"
FLAGS = (
    "-std=c++17",
    "-O1",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fsanitize=alignment",  # a GPU refuses what this processor reads wherever it lies
    "-fsanitize-undefined-trap-on-error",
    "-U_FORTIFY_SOURCE",  # a jump to another stack is what it takes for an error
    "-DUSE_CUDA",
    f"-DMC_LIBRARY={NAMESPACE}",
    "-DMC_DISPATCH_KEY=CPU",
    f"-I{HERE}",  # before any CUDA that may be there
    f"-I{ROOT / 'csrc' / 'include'}",
)


# The gradient of gaussian_elbo is an operator of gaussian_nll, which is therefore defined first.
OPERATORS = (rsample_kl, rsample_kl_cholesky, gaussian_nll, gaussian_elbo, batch_norm_relu)


@cache
def load() -> dict[str, Calls]:
    """The ways to call each operator, their library built and loaded; built anew only when a source has changed.

    Raises:
        FileNotFoundError: there is no g++.
        subprocess.CalledProcessError: it refused the sources.
    """
    sources = sorted([*(ROOT / "csrc" / "cuda").glob("*.cu"), *HERE.glob("*.cpp")])
    folders = (ROOT / "csrc" / "cuda", ROOT / "csrc" / "include", HERE)
    headers = [*(ROOT / "csrc").glob("*.h"), *(path for folder in folders for path in folder.rglob("*.*h"))]
    state = hashlib.sha256(f"{torch.__version__} {FLAGS}".encode())
    for path in (*sources, *sorted(headers)):
        state.update(path.read_bytes())
    folder = ROOT / "build" / "cuda_on_host"
    library = folder / f"{state.hexdigest()[:16]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # one process builds, the others wait and load what it has built
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _build(sources, library)
    torch.library.define(f"{NAMESPACE}::ensemble_steps", "(Tensor models, int steps, int threads) -> ()")
    torch.library.define(f"{NAMESPACE}::ensemble_workspace", "(Tensor models, int threads) -> int")
    torch.ops.load_library(str(library))
    return {operator.name: operator.define(NAMESPACE) for operator in OPERATORS}


def _build(sources: list[Path], library: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("g++ is needed to run the CUDA kernels on this processor")
    folder = library.with_suffix(f".{os.getpid()}")
    folder.mkdir()
    try:
        flags = [*FLAGS, *(f"-I{path}" for path in include_paths())]
        objects = [str(folder / f"{source.stem}.o") for source in sources]
        commands = [
            [compiler, *flags, "-x", "c++", "-c", str(source), "-o", out]
            for source, out in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda command: subprocess.run(command, check=True), commands))
        link = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-Wl,--no-undefined"]
        subprocess.run([compiler, "-shared", *objects, *link, "-o", str(folder / library.name)], check=True)
        for stale in library.parent.glob("*.so"):
            stale.unlink(missing_ok=True)
        (folder / library.name).replace(library)  # whole or not at all
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    load()
