"""Every CUDA kernel in csrc/cuda, compiled ahead of time for each architecture by nvcc."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from torch.utils.cpp_extension import include_paths

from .table import ARCHITECTURES, ROOT, SHARED_LIMIT, Row, release

__all__ = ["parse", "rows", "version"]

FLAGS = (f"--options-file={ROOT / 'csrc' / 'cuda' / 'nvcc_flags.txt'}", "-cubin", "-Xptxas=-v")  # -v makes it report
KERNEL = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
NAME = re.compile(r"^void manifold_core::cuda::(\w+)<(.*)>\(")
# How a template's arguments are named: the arithmetic, what memory holds, and how many sums over the batch there are.
PLAIN = {"float": "float32", "double": "float64", "BFloat16": "bfloat16", "Any": "any type and stride"}
# Or where a model resides, in the order of the layout's enum.
RESIDENCIES = {
    "AllShared": "all in shared memory",
    "TileShared": "the tile in shared memory",
    "NoneShared": "all in global memory",
}
# Models of the ensemble, whose memory the compiler does not know: features, latents and one hidden layer.
MODELS = ((20, 20, 16), (20, 20, 32), (20, 20, 64), (64, 32, 64))
LAYOUT = Path(__file__).with_name("ensemble_layout.cu")


def parse(log: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Mangled name, architecture, registers, bytes of shared memory and of spills, of each kernel in ptxas's log."""
    name, sm, spills = "", 0, 0
    for line in log.splitlines():
        if found := KERNEL.search(line):
            name, sm, spills = found[1], int(found[2]), 0
        elif found := SPILLS.search(line):
            spills = int(found[1]) + int(found[2])
        elif name and (found := USED.search(line)):
            shared = SHARED.search(line)
            yield name, sm, int(found[1]), int(shared[1]) if shared else 0, spills
            name = ""


def _readable(mangled: list[str]) -> list[tuple[str, str]]:
    """Kernel and variant of each name."""
    answer = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    found = []
    for line in answer.splitlines():
        parts = NAME.match(line)
        if parts is None:
            raise ValueError(f"not the name of a kernel of ours: {line}")
        words = [word.rpartition("::")[2] for word in parts[2].split(", ")]
        if words[0] in RESIDENCIES:
            found.append((parts[1], RESIDENCIES[words[0]]))
            continue
        arithmetic, memory, *number = words
        told = [f"{PLAIN[arithmetic]} from {PLAIN[memory]}", *(f"{sums} batch sums" for sums in number)]
        if "_staged" in parts[1]:  # asked for by the launch, and bounded in rsample_kl_cholesky.cu
            told.append("and 33 KB of rows a buffer")
        variant = ", ".join(told)
        found.append((parts[1], variant))
    return found


def _compiler() -> str:
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        raise FileNotFoundError("nvcc is needed to compile the CUDA kernels: install the CUDA toolkit, 12.8 or later")
    return nvcc


def version() -> str:
    """Raises FileNotFoundError if there is no nvcc, as :func:`rows` does."""
    said = subprocess.run([_compiler(), "--version"], check=True, capture_output=True, text=True).stdout
    return f"nvcc and ptxas {release(said)}"


def rows() -> Iterator[Row]:
    """One row for each kernel and architecture. All processors work on it.

    Raises:
        FileNotFoundError: there is no nvcc.
        subprocess.CalledProcessError: it refused a source; its errors have been printed.
    """
    nvcc = _compiler()
    headers = sorted((ROOT / "csrc" / "cuda").glob("*.cuh"))
    sources = [source for source in (header.with_suffix(".cu") for header in headers) if source.exists()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda job: _compile(nvcc, *job), product(sources, ARCHITECTURES)):
            yield from found
            yield from (row for row in _of_models(nvcc, found) if row.sm == ARCHITECTURES[0])


def _of_models(nvcc: str, compiled: list[Row]) -> Iterator[Row]:
    """The kernel of the ensemble again for some models, with the shared memory that a launch asks a T4 for."""
    kernels = {row.variant: row for row in compiled if row.variant in RESIDENCIES.values()}
    if not kernels:
        return
    with tempfile.TemporaryDirectory() as folder:
        include = f"-I{ROOT / 'csrc' / 'include'}"
        subprocess.run([nvcc, "-std=c++17", include, str(LAYOUT), "-o", f"{folder}/layout"], check=True)
        for features, latents, hidden in MODELS:
            command = [f"{folder}/layout", *map(str, (SHARED_LIMIT, features, latents, hidden))]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            residency, columns, dynamic = map(int, said.split())
            variant = list(RESIDENCIES.values())[residency]
            row = kernels[variant]
            named = f"{variant}, d = {features}, κ = {latents}, hidden {hidden}: {columns} columns"
            yield row._replace(variant=named, shared=row.shared + dynamic)


def _compile(nvcc: str, source: Path, sm: int) -> list[Row]:
    includes = [f"-I{path}" for path in (ROOT / "csrc" / "include", *include_paths())]
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *FLAGS, *includes, f"-arch=sm_{sm}", str(source), "-o", f"{folder}/cubin"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr)
        done.check_returncode()
    found = list(parse(done.stderr))
    names = _readable([name for name, *_ in found])
    return [Row(kernel, variant, *numbers) for (kernel, variant), (_, *numbers) in zip(names, found, strict=True)]
