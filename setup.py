"""The package map and the compiled modules. Everything else is in pyproject.toml."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import setuptools
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# That of a new environment of Python 3.11 or older is older, and would call pyproject.toml invalid.
if int(setuptools.__version__.partition(".")[0]) < 77:
    raise SystemExit(
        f"manifold_core: setuptools must be 77 or newer, got {setuptools.__version__}: pip install 'setuptools>=77'"
    )

# Top-level folders of the repository that are installed inside the package: "kernels" alone would collide with others.
INSIDE = {"manifold_core.kernels": "kernels", "manifold_core.experiments": "experiments"}
COMPILE_ARGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    # Loops vectorise without -ffast-math: NaN and infinity keep their meaning.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fopenmp-simd",
    # These come after ours, and so win; CXXFLAGS come before and lose: conda sets -O2 there, which would cost speed.
    *shlex.split(os.environ.get("MANIFOLD_CORE_CXXFLAGS", "")),
]
# For the device code: square roots to one unit in the last place, and quotients to two. The noise and the gate need no
# more. benchmarks/resources compiles with the same.
NVCC_FLAGS = "csrc/cuda/nvcc_flags.txt"
ARCHITECTURES = Path("csrc/cuda/architectures.txt").read_text(encoding="utf-8").split()
NVCC_ARGS = [
    f"--options-file={NVCC_FLAGS}",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "--threads=0",
    *(f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in ARCHITECTURES),
    # Later ones compile this when it is first loaded.
    "-gencode=arch=compute_{0},code=compute_{0}".format(ARCHITECTURES[-1]),
]
AUTOGRAD = Path("csrc/autograd")


def compiled_module() -> list[Extension]:
    """The extension, or nothing if torch's headers are missing: the package then has its reference backend."""
    try:
        import pybind11
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError as error:
        print(f"manifold_core: the compiled module is left out ({error})")
        return []
    return [
        Extension(
            "manifold_core._C",
            sources=sorted(str(path) for path in Path("csrc").rglob("*.cpp") if path.parent != AUTOGRAD),
            depends=sorted(str(path) for path in Path("csrc").rglob("*.h") if path.parent != AUTOGRAD),
            include_dirs=["csrc", "csrc/include", pybind11.get_include(), *include_paths()],
            define_macros=[("MC_COMPILER", "__VERSION__")],
            extra_compile_args=COMPILE_ARGS,
            # No run-time path: manifold_core imports torch first, and the loader finds its libraries by name.
            libraries=["torch_cpu"],
            library_dirs=library_paths(),
            language="c++",
            optional=True,  # no compiler: a warning, and the reference backend
        )
    ]


def autograd_nodes() -> list[Extension]:
    """The nodes in C++, for the torch that is installed: they need more of it than the stable ABI has. Its version is
    in the module's name (``kernels/extension.py`` looks for it), so that no other torch ever loads it."""
    try:
        import pybind11
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError:
        return []
    name = "_autograd_" + re.sub(r"\W", "_", torch.__version__.partition("+")[0])
    return [
        Extension(
            f"manifold_core.{name}",
            sources=sorted(str(path) for path in AUTOGRAD.glob("*.cpp")),
            depends=sorted(str(path) for path in AUTOGRAD.glob("*.h")),
            include_dirs=[pybind11.get_include(), *include_paths()],
            define_macros=[("MC_MODULE", name)],
            extra_compile_args=[*COMPILE_ARGS, "-std=c++20"],  # as torch's own headers from 2.13 on
            libraries=["torch_python", "torch_cpu", "c10"],
            library_dirs=library_paths(),
            language="c++",
            optional=True,
        )
    ]


def cuda_kernels() -> list[Extension]:
    """The kernels for NVIDIA's GPUs, if nvcc is installed and a torch that could use them."""
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, include_paths, library_paths
    except ImportError:
        return []
    if torch.version.cuda is None or CUDA_HOME is None or not (Path(CUDA_HOME) / "bin" / "nvcc").exists():
        return []
    return [
        Extension(
            "manifold_core._C_cuda",
            sources=sorted(str(path) for path in Path("csrc/cuda").glob("*.cu")),
            depends=[NVCC_FLAGS, *sorted(str(path) for path in Path("csrc").rglob("*.*h"))],
            include_dirs=["csrc/include", *include_paths()],
            extra_compile_args=[f"{CUDA_HOME}/bin/nvcc", *NVCC_ARGS],
            libraries=["torch_cpu", "torch_cuda"],
            library_dirs=library_paths(),
            language="cuda",
            optional=True,
        )
    ]


def compile_side_by_side() -> None:
    """Compile the sources of a module on all processors; one after the other without pybind11, or any module."""
    try:
        from pybind11.setup_helpers import ParallelCompile
    except ImportError:
        return
    ParallelCompile().install()


class BuildExtensions(build_ext):
    """Builds those in CUDA too, by one nvcc command. CUDA's runtime library is linked in, so that any torch will do."""

    def build_extension(self, ext: Any) -> None:
        if ext.language != "cuda":
            super().build_extension(ext)
            return
        out = Path(self.get_ext_fullpath(ext.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        flags = [f"-I{path}" for path in ext.include_dirs] + [f"-L{path}" for path in ext.library_dirs]
        flags += [f"-l{name}" for name in ext.libraries]
        self.spawn([*ext.extra_compile_args, "-shared", "-o", str(out), *ext.sources, *flags])


packages = find_packages(".", include=["manifold_core", "manifold_core.*"])
for name, folder in INSIDE.items():
    packages += [name, *(f"{name}.{inner}" for inner in find_packages(folder))]

compile_side_by_side()
setup(
    packages=packages,
    package_dir=INSIDE,
    ext_modules=[*compiled_module(), *autograd_nodes(), *cuda_kernels()],
    cmdclass={"build_ext": BuildExtensions},
)
