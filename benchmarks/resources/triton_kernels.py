"""Every Triton kernel, compiled ahead of time as its launcher would have it compiled.

The launchers are called with tensors on the CPU, and what they would launch is recorded: kernel, types, which strides
are 1, which numbers are multiples of 16, sizes of the tiles.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from manifold_core.kernels.gaussian_elbo.triton import gaussian_elbo, gaussian_elbo_scale
from manifold_core.kernels.gaussian_nll.triton import gaussian_nll, gaussian_nll_backward
from manifold_core.kernels.rsample_kl.triton import rsample_kl, rsample_kl_backward
from manifold_core.kernels.rsample_kl_cholesky.triton import rsample_kl_cholesky, rsample_kl_cholesky_backward
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from .table import ARCHITECTURES, Row, release

__all__ = ["rows", "version"]

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
}
SEED = torch.tensor(1)


class Launch(NamedTuple):
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[tuple[int], list[list[Any]]]
    options: dict[str, Any]  # of the compiler, such as num_warps


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within the block, kernels are recorded instead of run."""
    launches: list[Launch] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in tuple(kwargs) if name not in kernel.arg_names}
        launches.append(specialised(kernel, kernel.signature.bind(*args, **kwargs).arguments, options))

    with mock.patch.object(JITFunction, "run", run):
        yield launches


def specialised(kernel: Any, arguments: dict[str, Any], options: dict[str, Any]) -> Launch:
    """What Triton makes of the arguments of a launch."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        typed = parameter.annotation_type  # a 1 in such an argument is not a constant
        is_one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize and not typed
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
            aligned = value.data_ptr() % 16 == 0
        else:
            signature[parameter.name] = typed or ("i32" if abs(value) < 2**31 else "i64")
            aligned = isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return Launch(kernel, signature, constants, attributes, options)


@contextmanager
def up_to_ptx(folder: str) -> Iterator[None]:
    """Within the block, Triton leaves out its own run of ptxas, and keeps the partial result out of its usual cache."""
    with triton.knobs.cache.scope(), mock.patch.object(CUDABackend, "make_cubin", return_value=b""):
        triton.knobs.cache.dir = folder
        yield


def compiled(name: str, variant: str, launch: Launch, sm: int) -> Row:
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    with tempfile.TemporaryDirectory() as folder, up_to_ptx(folder):
        binary = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=launch.options)
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(binary.asm["ptx"])
        arch = re.search(r"\.target (sm_\w+)", binary.asm["ptx"])
        assert arch is not None
        command = [str(PTXAS), "-v", f"--gpu-name={arch[1]}", str(ptx), "-o", str(ptx.with_suffix(".cubin"))]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill", said)
    assert registers is not None, said
    assert spills, said
    return Row(name, variant, sm, int(registers[1]), binary.metadata.shared, sum(map(int, spills)))


def matrices(number: int, rows: int, cols: int, dtype: torch.dtype, apart: bool = False) -> list[Tensor]:
    """Dense, or with columns that do not lie side by side, whose addresses take registers."""
    step = 2 if apart else 1
    return [torch.zeros(rows, step * cols, dtype=dtype)[:, ::step] for _ in range(number)]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


Calls = Iterator[tuple[str, Callable[[], object]]]  # variants, and calls that launch one kernel each


def diagonal(rows: int, cols: int, dtype: torch.dtype, apart: bool = False) -> Calls:
    mu, log_var, prior_mu, prior_log_var, gate, grad_z = matrices(6, rows, cols, dtype, apart)
    grad_kl = torch.zeros(rows, dtype=wide(dtype))
    bare, options = (None, None, None), (prior_mu, prior_log_var, gate)
    shared = (prior_mu[:1], prior_log_var[:1], gate[:1])
    incoming = (grad_z, grad_kl)
    at = _at(cols, apart)
    if not apart:
        yield at, lambda: rsample_kl(mu, log_var, *bare, SEED, 0, False, False)
        yield f"{at}, per dimension", lambda: rsample_kl(mu, log_var, *bare, SEED, 0, True, True)
        yield at, lambda: rsample_kl_backward(*incoming, mu, log_var, *bare, SEED, 0, False, False)
    yield f"{at}, all options", lambda: rsample_kl(mu, log_var, *options, SEED, 0, False, True)
    yield f"{at}, all options", lambda: rsample_kl_backward(*incoming, mu, log_var, *options, SEED, 0, True, True)
    yield f"{at}, shared prior", lambda: rsample_kl_backward(*incoming, mu, log_var, *shared, SEED, 0, True, True)


def _at(cols: int, apart: bool) -> str:
    return f"κ = {cols}, columns apart" if apart else f"κ = {cols}"


def cholesky(rows: int, cols: int, dtype: torch.dtype, apart: bool = False) -> Calls:
    mu, prior_mu, prior_log_var, grad_z = matrices(4, rows, cols, dtype, apart)
    (tril,) = matrices(1, rows, cols * (cols + 1) // 2, dtype, apart)
    bare, prior, shared = (None, None), (prior_mu, prior_log_var), (prior_mu[:1], prior_log_var[:1])
    incoming = (grad_z, torch.zeros(rows, dtype=wide(dtype)))
    at = _at(cols, apart)
    if not apart:
        yield at, lambda: rsample_kl_cholesky(mu, tril, *bare, SEED, 0, False, False)
        yield at, lambda: rsample_kl_cholesky_backward(*incoming, mu, tril, *bare, SEED, 0, False)
    yield f"{at}, all options", lambda: rsample_kl_cholesky(mu, tril, *prior, SEED, 0, False, True)
    yield f"{at}, all options", lambda: rsample_kl_cholesky_backward(*incoming, mu, tril, *prior, SEED, 0, True)
    yield f"{at}, shared prior", lambda: rsample_kl_cholesky_backward(*incoming, mu, tril, *shared, SEED, 0, True)


def reconstruction(rows: int, cols: int, dtype: torch.dtype) -> Calls:
    x_hat, x = matrices(2, rows, cols, dtype)
    per_row = torch.zeros(rows, dtype=wide(dtype))
    log_gamma = torch.tensor(0.0)
    at = f"d = {cols}"
    yield at, lambda: gaussian_nll(x_hat, x, log_gamma)
    yield at, lambda: gaussian_nll_backward(per_row, per_row, x_hat, x, log_gamma, per_row)
    yield f"{at}, ELBO", lambda: gaussian_elbo(x_hat, x, log_gamma, per_row, 1.0, False)
    yield f"{at}, ELBO with gradients", lambda: gaussian_elbo(x_hat, x, log_gamma, per_row, 1.0, True)


def calls(dtype: torch.dtype) -> Calls:
    """Few options and all of them; narrow and wide, multiples of 16 and not; in half precision one size, for the full
    covariance in float16 two. One row of one column: a 1 among the arguments becomes a constant, which Triton's
    interpreter does not do. And columns that do not lie side by side, for the kernels that hold most in registers."""
    half = dtype in (torch.bfloat16, torch.float16)
    one = ((1, 1),) if dtype == torch.float32 else ()
    for rows, cols in ((8192, 64),) if half else ((8192, 20), (600, 1024), *one):
        yield from diagonal(rows, cols, dtype)
    for rows, cols in ((1024, 32),) if dtype == torch.bfloat16 else ((1024, 32), (1024, 300), *one):
        yield from cholesky(rows, cols, dtype)
    if dtype == torch.float32:
        yield from diagonal(600, 1024, dtype, apart=True)
        yield from cholesky(1024, 300, dtype, apart=True)
    if dtype in (torch.float32, torch.float16):
        yield from cholesky(1024, 32, dtype, apart=True)
    for rows, cols in ((4096, 784),) if half else ((4096, 20), (60, 30_000), *one):
        yield from reconstruction(rows, cols, dtype)
    if not half:
        number = torch.zeros((), dtype=dtype)
        for numbers in (81_920, 81_919, *((1,) if one else ())):
            grad = torch.zeros(numbers, dtype=dtype)
            yield f"B d = {numbers}", partial(gaussian_elbo_scale, grad, torch.tensor(0.0), number, number)


def compile_call(dtype: torch.dtype, number: int) -> list[Row]:
    """One of the calls, for every architecture."""
    variant, call = next(islice(calls(dtype), number, None))
    with recorded() as launches:
        call()
    (launch,) = launches
    op = launch.kernel.__module__.split(".")[-2]
    name = f"{op} {launch.kernel.__name__.removesuffix('_kernel')}"
    return [
        compiled(name, f"{TYPES[dtype]}, {variant}", launch, sm)
        for sm in ARCHITECTURES
        if dtype != torch.bfloat16 or sm >= 80  # earlier hardware has no such numbers
    ]


def rows() -> Iterator[Row]:
    """One row for every kernel in every variant for every architecture. All processors work on it.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, so that there is nothing to compile.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: Triton would interpret the kernels, not compile them; unset it")
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    jobs = [(dtype, number) for dtype in dtypes for number, _ in enumerate(calls(dtype))]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for found in pool.map(compile_call, *zip(*jobs, strict=True)):
            yield from found


def version() -> str:
    said = subprocess.run([str(PTXAS), "--version"], check=True, capture_output=True, text=True).stdout
    return f"Triton {triton.__version__} with its ptxas {release(said)}"
