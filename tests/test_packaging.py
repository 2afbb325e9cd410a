"""What users install: source distribution, wheel, editable install; with a C++ compiler and torch and without."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from torch.utils.cpp_extension import CUDA_HOME

import manifold_core

ROOT = Path(__file__).parents[1]
NOT_SOURCE = (".*", "build", "dist", "demo", "*.egg-info", "__pycache__", "*.so")  # as in .gitignore
# Built by nvcc, where torch could use them.
CUDA_KERNELS = (
    {f"manifold_core/_C_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"}
    if torch.version.cuda is not None and CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").exists()
    else set()
)
# Fast to compile, and a sign that these flags count.
BY_HAND = {"MANIFOLD_CORE_CXXFLAGS": "-O0 -UMC_COMPILER -DMC_COMPILER='\"hand\"'"}
NO_NVCC = {"CUDA_HOME": "no-cuda-of-this-name"}  # which would take minutes
NO_COMPILER = {"CC": "no-compiler-of-this-name", "CXX": "no-compiler-of-this-name", **NO_NVCC}
TOP_LEVEL = ("kernels", "experiments", "benchmarks", "csrc", "tests")  # folders of ours that must not become packages

BUILD = """
import sys
hook, out, *hidden = sys.argv[1:]

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from setuptools import build_meta
getattr(build_meta, "build_" + hook)(out)
"""

# Python starts without `site`, so that none of the .pth files takes effect: that of an editable install of this package
# would put the checkout in the place of whatever an installation lacks. The dependencies come from where they are.
PATHS = """
import site, sys
sys.path[:0] = [{target!r}]
sys.path += {dependencies!r}
site.addsitedir({target!r})
"""
DEPENDENCIES = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]

# What an installed package is like.
LOOK = """
import importlib.util, json
from importlib.resources import files
import torch
import manifold_core as mc
from manifold_core import cli, experiments, kernels
from manifold_core.experiments import demo, paper
from manifold_core.kernels.extension import compiled, missing_because

torch.manual_seed(0)
mu, log_var = torch.randn(2, 5, 3).unbind()
z, kl = mc.rsample_kl(mu, log_var, seed=1)
z_reference, kl_reference = mc.rsample_kl(mu, log_var, seed=1, backend="reference")
model = mc.VAE.mlp(4, 2, (8,))
history = mc.train(model, torch.randn(50, 4), mc.TrainingConfig(steps=3, batch_size=10), progress=False)
print(json.dumps({
    "package": mc.__file__,
    "kernels": kernels.__file__,
    "version": mc.__version__,
    "compiled": compiled and compiled.__file__,
    "missing_because": missing_because,
    "backend": kernels.explain(mu).backend,
    "close": torch.allclose(z, z_reference, atol=1e-6) and torch.allclose(kl, kl_reference, atol=1e-6),
    "finite": all(abs(value) < float("inf") for value in history.neg_elbo),
    "table": len(paper.rows("table1")),
    "typed": (files(mc) / "py.typed").is_file(),
    "top_level": [name for name in TOP_LEVEL if importlib.util.find_spec(name) is not None],
}))
""".replace("TOP_LEVEL", repr(TOP_LEVEL))


def python(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, status: int = 0
) -> "subprocess.CompletedProcess[str]":
    # PYTHONPATH could lead to the checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | (env or {})
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done


def build(
    source: Path, hook: str, out: Path, *, env: dict[str, str] | None = None, hide: tuple[str, ...] = ()
) -> tuple[Path, str]:
    """What a hook of PEP 517 makes of the sources, and what it prints. Offline: with what is installed here."""
    out.mkdir()
    log = python("-c", BUILD, hook, str(out), *hide, cwd=source, env=env).stdout
    (made,) = out.iterdir()
    return made, log


def unpack(sdist: Path, to: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(to, filter="data")
    (folder,) = to.iterdir()
    return folder


def install(wheel: Path, target: Path) -> Path:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile")
    python("-m", "pip", "install", *options, "--target", str(target), str(wheel), cwd=target.parent)
    return target


def installed(target: Path, code: str, cwd: Path, *arguments: str, status: int = 0) -> str:
    """What ``code`` prints where the package is installed in ``target``."""
    paths = PATHS.format(dependencies=DEPENDENCIES, target=str(target))
    return python("-S", "-c", paths + code, *arguments, cwd=cwd, status=status).stdout


def look(printed: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return content


def assert_sound(found: dict[str, Any]) -> None:
    """Wherever it is and whatever it was built with."""
    assert found["version"] == manifold_core.__version__
    assert found["top_level"] == []
    assert found["typed"]
    assert found["table"] > 10
    assert found["close"]
    assert found["finite"]


def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def package_files(source: Path) -> set[str]:
    """What belongs into the package, by the names that it has there; without the compiled module."""
    found = set()
    for folder, inside in (
        ("manifold_core", "manifold_core"),
        ("kernels", "manifold_core/kernels"),
        ("experiments", "manifold_core/experiments"),
    ):
        for path in (source / folder).rglob("*"):
            if path.suffix in (".py", ".json", ".css", ".typed") and "results" not in path.parts:
                found.add(f"{inside}/{path.relative_to(source / folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything is built in here and nothing in the checkout; empty afterwards."""
    folder = tmp_path_factory.mktemp("packaging")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def elsewhere(work: Path) -> Path:
    """A working folder that has nothing to do with the package."""
    folder = work / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def source(work: Path) -> Path:
    """A clean checkout."""
    return shutil.copytree(ROOT, work / "source", ignore=shutil.ignore_patterns(*NOT_SOURCE))


@pytest.fixture(scope="module")
def sdist(work: Path, source: Path) -> Path:
    return build(source, "sdist", work / "sdist")[0]


class TestSdist:
    def test_holds_all_that_a_build_needs(self, source: Path, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            found = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        folders = ("manifold_core", "kernels", "experiments", "csrc")
        needed = {
            path.relative_to(source).as_posix()
            for folder in folders
            for path in (source / folder).rglob("*")
            if path.is_file() and "results" not in path.parts  # measurements stay in the repository
        }
        assert len(needed) > 40
        assert needed | {"pyproject.toml", "setup.py", "LICENSE", "README.md", "PKG-INFO"} <= found
        assert not [name for name in found if name.endswith((".so", ".pyc", ".o")) or name.startswith("build/")]
        assert not [name for name in found if name.startswith("tests/") or name == "Makefile"]  # or all of either

    def test_built_without_torch_it_holds_the_same(self, work: Path, source: Path, sdist: Path) -> None:
        """Whoever builds from it may have torch."""
        copy = shutil.copytree(source, work / "source-without-torch", ignore=shutil.ignore_patterns("*.egg-info"))
        other, log = build(copy, "sdist", work / "sdist-without-torch", hide=("torch",))
        contents = []
        for path in (sdist, other):
            with tarfile.open(path) as archive:
                contents.append({member.name for member in archive.getmembers()})
        assert "the compiled module is left out" in log
        assert contents[0] - contents[1] == set()


@pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))),
    reason="the compiled module needs a C++ compiler",
)
class TestWheel:
    """Built from the source distribution."""

    @pytest.fixture(scope="class")
    @staticmethod
    def wheel(work: Path, sdist: Path) -> Path:
        return build(unpack(sdist, work / "unpacked"), "wheel", work / "wheel", env=BY_HAND)[0]

    @pytest.fixture(scope="class")
    @staticmethod
    def target(work: Path, wheel: Path) -> Path:
        return install(wheel, work / "installed")

    @pytest.fixture(scope="class")
    @staticmethod
    def metadata(wheel: Path) -> Message:
        with ZipFile(wheel) as archive:
            return Parser().parsestr(archive.read(f"{info_folder(wheel)}/METADATA").decode())

    def test_holds_the_package_and_nothing_else(self, source: Path, wheel: Path) -> None:
        version = torch.__version__.partition("+")[0].replace(".", "_")  # of the torch that the nodes are built for
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        compiled = {f"manifold_core/_C{suffix}", f"manifold_core/_autograd_{version}{suffix}", *CUDA_KERNELS}
        info = info_folder(wheel)
        found = {name for name in names(wheel) if not name.startswith(f"{info}/")}
        assert found == package_files(source) | compiled
        assert {"manifold_core/py.typed", "manifold_core/experiments/paper_tables.json"} <= found
        with ZipFile(wheel) as archive:
            assert archive.read(f"{info}/top_level.txt").decode().split() == ["manifold_core"]
            assert "manifold-core = manifold_core.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
            assert archive.read(f"{info}/licenses/LICENSE") == (source / "LICENSE").read_bytes()

    def test_metadata(self, metadata: Message) -> None:
        assert (metadata["Name"], metadata["Version"]) == ("manifold-core", manifold_core.__version__)
        assert set(metadata.get_all("Provides-Extra", [])) == {"triton", "experiments", "dev"}
        required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
        assert {line.split(">")[0] for line in required} == {"torch", "numpy", "safetensors", "tqdm"}
        assert metadata["License-Expression"] == "Apache-2.0"
        assert metadata["Requires-Python"] == ">=3.10"

    def test_the_description_is_the_readme(self, source: Path, metadata: Message) -> None:
        assert metadata["Description-Content-Type"] == "text/markdown"
        assert metadata.get_payload().strip() == (source / "README.md").read_text(encoding="utf-8").strip()

    def test_works_where_it_is_installed(self, elsewhere: Path, target: Path) -> None:
        found = look(installed(target, LOOK, elsewhere))
        assert_sound(found)
        for part in ("package", "kernels", "compiled"):
            assert Path(found[part]).is_relative_to(target), found[part]
        assert found["backend"] == "cpu"

    def test_brings_the_command(self, elsewhere: Path, target: Path) -> None:
        command = target / "bin" / "manifold-core"
        assert os.access(command, os.X_OK)
        run = "import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
        printed = installed(target, run, elsewhere, str(command), "info")
        assert f"manifold-core   {manifold_core.__version__}\n" in printed
        assert "compiled module built by hand " in printed
        assert "autograd in C++ loaded" in printed

    def test_in_the_checkout_it_says_why_it_cannot_work(self, source: Path, target: Path) -> None:
        """Python looks into the folder that it runs in first, where the kernels are not inside the package."""
        printed = installed(target, "sys.path.insert(0, '')\nimport manifold_core", source, status=1)
        assert printed.splitlines()[-1] == (
            f"ImportError: manifold_core was imported from the checkout {source / 'manifold_core'}, which has no "
            "kernels inside; run Python from another folder, or install the checkout with 'pip install -e .'"
        )


def info_folder(wheel: Path) -> str:
    (folder,) = {name.partition("/")[0] for name in names(wheel) if ".dist-info/" in name}
    return folder


class TestWithoutCompiler:
    @pytest.fixture(scope="class")
    @staticmethod
    def built(work: Path, sdist: Path) -> tuple[Path, str]:
        # Unpacked afresh: the object files of another build would do in place of a compiler.
        return build(unpack(sdist, work / "no-compiler"), "wheel", work / "wheel-no-compiler", env=NO_COMPILER)

    @pytest.fixture(scope="class")
    @staticmethod
    def target(work: Path, built: tuple[Path, str]) -> Path:
        return install(built[0], work / "installed-no-compiler")

    def test_the_wheel_lacks_the_compiled_module_alone(self, source: Path, built: tuple[Path, str]) -> None:
        wheel, log = built
        assert {name for name in names(wheel) if ".dist-info/" not in name} == package_files(source)
        assert "no-compiler-of-this-name" in log

    def test_works_on_the_reference_backend(self, elsewhere: Path, target: Path) -> None:
        found = look(installed(target, LOOK, elsewhere))
        assert_sound(found)
        assert Path(found["package"]).is_relative_to(target)
        assert (found["compiled"], found["backend"]) == (None, "reference")
        assert "install a C++17 compiler" in found["missing_because"]

    def test_info_says_so(self, elsewhere: Path, target: Path) -> None:
        printed = installed(target, "from manifold_core import cli\nsys.exit(cli.main(['info']))", elsewhere)
        assert "compiled module none: the compiled module is not built; install a C++17 compiler" in printed
        assert "backend (CPU)   reference: the compiled module is not built" in printed

    def test_a_compiled_module_that_does_not_load_is_told_from_none(
        self, work: Path, elsewhere: Path, target: Path
    ) -> None:
        """As one built for another torch."""
        broken = shutil.copytree(target, work / "broken")
        (broken / "manifold_core" / ("_C" + sysconfig.get_config_var("EXT_SUFFIX"))).write_bytes(b"\x7fELF, not quite")
        printed = installed(broken, LOOK, elsewhere)
        assert "Warning: the compiled module does not load: " in printed
        found = look(printed)
        assert_sound(found)
        assert (found["compiled"], found["backend"]) == (None, "reference")
        assert found["missing_because"].startswith("the compiled module does not load: ")

    def test_an_editable_install_works(self, work: Path, elsewhere: Path, source: Path) -> None:
        copy = shutil.copytree(source, work / "editable", ignore=shutil.ignore_patterns("*.egg-info"))
        wheel, _ = build(copy, "editable", work / "wheel-editable", env=NO_COMPILER)
        target = install(wheel, work / "installed-editable")
        found = look(installed(target, LOOK, elsewhere))
        assert_sound(found)
        assert Path(found["package"]) == copy / "manifold_core" / "__init__.py"
        assert Path(found["kernels"]) == copy / "kernels" / "__init__.py"


class TestWithoutTorch:
    """At build time: as where the build has its own environment and no torch for this platform in it."""

    @pytest.mark.parametrize("missing", ["torch", "pybind11"])
    def test_a_wheel_is_made_that_lacks_the_compiled_module_alone(
        self, work: Path, sdist: Path, source: Path, missing: str
    ) -> None:
        unpacked = unpack(sdist, work / f"no-{missing}")
        wheel, log = build(unpacked, "wheel", work / f"wheel-no-{missing}", env=NO_NVCC, hide=(missing,))
        assert f"manifold_core: the compiled module is left out (No module named {missing!r}" in log
        assert {name for name in names(wheel) if ".dist-info/" not in name} == package_files(source)


class TestOldSetuptools:
    """As `venv` of Python 3.10 and 3.11 puts into an environment, and `pip install setuptools` leaves there."""

    def test_what_is_too_old_is_said(self, work: Path, source: Path) -> None:
        older = "import setuptools; setuptools.__version__ = '76.1.0'; from setuptools import build_meta; "
        printed = python("-c", older + "build_meta.build_wheel('.')", cwd=source, status=1).stdout
        assert printed.splitlines()[-1] == (
            "manifold_core: setuptools must be 77 or newer, got 76.1.0: pip install 'setuptools>=77'"
        )

    def test_whatever_installs_it_asks_for_the_same(self, source: Path) -> None:
        for name in ("pyproject.toml", "setup.py", "Makefile", "README.md", "docs/install.md"):
            text = (source / name).read_text(encoding="utf-8")
            assert set(re.findall(r"setuptools>=(\d+)", text)) == {"77"}, name
            assert "install setuptools" not in text, name


class TestThisInstallation:
    """The one that the tests run with; `make test` has an editable one."""

    def test_works_from_anywhere(self, elsewhere: Path) -> None:
        found = look(python("-c", LOOK, cwd=elsewhere).stdout)
        assert_sound(found)
        assert Path(found["package"]) == Path(manifold_core.__file__)

    @pytest.mark.parametrize("folder", ["kernels", "experiments"])
    def test_folders_of_the_checkout_are_no_packages_of_their_own(self, folder: str) -> None:
        done = python("-c", f"import {folder}", cwd=ROOT, status=1)
        assert done.stdout.splitlines()[-1] == (
            f"ImportError: this folder is the package manifold_core.{folder}, but was imported as '{folder}'"
        )
