"""Builds csrc/cuda for this processor: the operators ``torch.ops.manifold_core_cuda_on_host`` on CPU tensors."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

__all__ = ["load"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMESPACE = "manifold_core_cuda_on_host"
FLAGS = (
    "-std=c++17",
    "-O1",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-U_FORTIFY_SOURCE",  # a jump to another stack is what it takes for an error
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000ULL",
    f"-DMC_LIBRARY={NAMESPACE}",
    "-DMC_DISPATCH_KEY=CPU",
    f"-I{HERE}",  # before any CUDA that may be there
    f"-I{ROOT / 'csrc' / 'include'}",
)


def load() -> str:
    """The name of the namespace, its library built and loaded; built anew only when a source, or torch, has changed.

    Raises:
        FileNotFoundError: there is no g++.
        subprocess.CalledProcessError: it refused the sources.
    """
    sources = sorted([*(ROOT / "csrc" / "cuda").glob("*.cu"), *HERE.glob("*.cpp")])
    headers = [*(ROOT / "csrc" / "cuda").glob("*.*h"), *(ROOT / "csrc" / "include").rglob("*.h"), *HERE.glob("*.h")]
    state = hashlib.sha256(f"{torch.__version__} {FLAGS}".encode())
    for path in (*sources, *sorted(headers)):
        state.update(path.read_bytes())
    folder = ROOT / "build" / "cuda_on_host"
    library = folder / f"{state.hexdigest()[:16]}.so"
    if not library.exists():
        _build(sources, library)
    torch.ops.load_library(str(library))
    return NAMESPACE


def _build(sources: list[Path], library: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("g++ is needed to run the CUDA kernels on this processor")
    folder = library.with_suffix(f".{os.getpid()}")
    folder.mkdir(parents=True)
    try:
        flags = [*FLAGS, *(f"-I{path}" for path in include_paths())]
        objects = [str(folder / f"{source.stem}.o") for source in sources]
        for source, out in zip(sources, objects, strict=True):
            subprocess.run([compiler, *flags, "-x", "c++", "-c", str(source), "-o", out], check=True)
        link = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-Wl,--no-undefined"]
        subprocess.run([compiler, "-shared", *objects, *link, "-o", str(folder / library.name)], check=True)
        for stale in library.parent.glob("*.so"):
            stale.unlink(missing_ok=True)
        (folder / library.name).replace(library)  # whole or not at all, should two test runs build at a time
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    print(load(), file=sys.stderr)
