"""The package map and the compiled module. Everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

# Folders at the top of the repository that live inside the package: "kernels" alone would collide with others' names.
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
]
TORCH_TARGET = (2, 10)  # the oldest torch whose stable ABI the module runs with


def compiled_module() -> list[Extension]:
    """The extension, or nothing where torch's headers are not to be had: the package then has its reference backend."""
    try:
        import pybind11
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError as error:
        print(f"manifold_core: the compiled module is left out ({error})")
        return []
    target = f"0x{TORCH_TARGET[0]:02x}{TORCH_TARGET[1]:02x}000000000000ULL"
    return [
        Extension(
            "manifold_core._C",
            sources=sorted(str(path) for path in Path("csrc").rglob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").rglob("*.h")),
            include_dirs=["csrc", "csrc/include", pybind11.get_include(), *include_paths()],
            define_macros=[
                ("TORCH_TARGET_VERSION", target),
                ("MC_TORCH_TARGET", '"{}.{}"'.format(*TORCH_TARGET)),
                ("MC_COMPILER", "__VERSION__"),
            ],
            extra_compile_args=COMPILE_ARGS,
            # No run-time path: manifold_core imports torch first, and the loader finds its libraries by name.
            libraries=["torch_cpu"],
            library_dirs=library_paths(),
            language="c++",
            optional=True,  # no compiler: a warning, and the reference backend
        )
    ]


packages = find_packages(".", include=["manifold_core", "manifold_core.*"])
for name, folder in INSIDE.items():
    packages += [name, *(f"{name}.{inner}" for inner in find_packages(folder))]

setup(packages=packages, package_dir=INSIDE, ext_modules=compiled_module())
