"""The elementary functions of the C++ kernels, on every float32 number and every word of noise there is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from instruction_sets import INSTRUCTION_SETS, NEEDS_COMPILED

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
# As setup.py compiles the kernels.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fopenmp-simd",
    "-pthread",
)
# Units in the last place, over all float32 numbers and words. If the results of two are multiplied or added, as in the
# KL, their errors add up.
LARGEST = {
    "exp": 1.0,
    "exp_minus_1": 1.7,
    "exp_minus_1_minus_x": 7.3,
    "sigmoid": 3.0,
    "sigmoid_slope": 5.0,
    "sigma": 1.0,
    "variance_minus_1": 3.5,
    "kl": 6.0,
    "radius": 2.5,
    "cosine": 3.3,
    "sine": 3.3,
}
pytestmark = [NEEDS_COMPILED, pytest.mark.skipif(COMPILER is None, reason="there is no g++")]


def errors(instruction_set: str, folder: Path, stride: int) -> dict[str, float]:
    """The largest error of each function over every so many numbers."""
    source = (ROOT / "csrc" / "cpu" / f"isa_{instruction_set}.cpp").read_text(encoding="utf-8")
    width = re.findall(r"#define MC_VECTOR_BYTES (\d+)", source)[-1]
    target = [
        f"-m{name}" for found in re.findall(r'#define MC_TARGET "(.+)"', source)[-1:] for name in found.split(",")
    ]
    program, source = folder / "every_number", Path(__file__).with_name("every_number.cpp")
    options = [*target, f"-DMC_ISA={instruction_set}", f"-DMC_VECTOR_BYTES={width}", f"-I{ROOT / 'csrc' / 'include'}"]
    subprocess.run([COMPILER or "", *FLAGS, *options, source, "-o", program], check=True)
    printed = subprocess.run([program, str(stride)], check=True, capture_output=True, text=True).stdout
    return {name: float(error) for name, error, _ in map(str.split, printed.splitlines())}


def check(found: dict[str, float]) -> None:
    assert found.keys() == LARGEST.keys()
    assert {name: error for name, error in found.items() if not 0.4 < error <= LARGEST[name]} == {}


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_thousandth(instruction_set: str, tmp_path: Path) -> None:
    check(errors(instruction_set, tmp_path, 997))


@pytest.mark.slow
def test_every_one(tmp_path: Path) -> None:
    """With the widest instruction set: three minutes on two cores."""
    check(errors(INSTRUCTION_SETS[-1], tmp_path, 1))
