"""Data files good and bad, and a finished run, made once for all of these tests: they leave them as they are."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL
from threads import on_one_thread

from manifold_core import cli


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """``main`` takes over SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def idx(path: Path, *shape: int, short: int = 0) -> None:
    """An IDX file of one number that lacks its last ``short`` bytes."""
    content = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    number = b"\1" if len(shape) == 1 else b"\x80"  # a label, or a pixel
    path.write_bytes((content + number * int(np.prod(shape)))[: -short or None])


def images(folder: Path, *, train: int = 4, labels: int = 4, short: int = 0) -> None:
    """The four files of an image set."""
    folder.mkdir()
    idx(folder / "train-images-idx3-ubyte", train, 28, 28, short=short)
    idx(folder / "train-labels-idx1-ubyte", labels)
    idx(folder / "t10k-images-idx3-ubyte", 2, 28, 28)
    idx(folder / "t10k-labels-idx1-ubyte", 2)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of good and bad data files."""
    folder = tmp_path_factory.mktemp("inputs")
    x = np.random.default_rng(0).normal(size=(120, 5))
    np.save(folder / "good.npy", x)
    np.savez(folder / "good.npz", x=x, other=x[:3])
    np.savetxt(folder / "good.csv", x, delimiter=",", header="a,b,c,d,e", comments="")
    np.save(folder / "images.npy", np.random.default_rng(0).random((60, 1, 8, 8)))
    for kind in ("npy", "npz", "csv"):
        (folder / f"empty.{kind}").touch()
    for name, bad in (("nan", np.nan), ("infinity", -np.inf), ("overflow", 1e300)):
        y = x.copy()
        y[7, 2] = bad
        np.save(folder / f"{name}.npy", y)
        np.savetxt(folder / f"{name}.csv", y, delimiter=",")
    np.save(folder / "constant.npy", np.full((10, 3), 2.5))
    np.save(folder / "one.npy", x[:1])
    np.save(folder / "none.npy", x[:0])
    np.save(folder / "two.npy", x[:2])
    np.save(folder / "vector.npy", x[:, 0])
    np.save(folder / "five.npy", x.reshape(5, 2, 2, 2, 15))
    np.save(folder / "complex.npy", x * 1j)
    np.save(folder / "text.npy", np.array([["a", "b"], ["c", "d"]]))
    np.save(folder / "object.npy", np.array([[{}], [{}]], dtype=object))
    np.savez(folder / "several.npz", a=x, b=x)
    (folder / "half.npy").write_bytes((folder / "good.npy").read_bytes()[:-50])
    (folder / "half.npz").write_bytes((folder / "good.npz").read_bytes()[:-50])
    (folder / "ragged.csv").write_text("5,2\n3,4\n5\n")
    (folder / "words.csv").write_text("5,2\n3,four\n")
    (folder / "index.csv").write_text(",x,y\n0,1.5,2.5\n1,3.5,4.5\n")
    (folder / "semicolons.csv").write_text("1.5;2\n3;4\n")
    (folder / "x.txt").write_text("1 2\n")
    (folder / "folder.npy").mkdir()
    (folder / "lacking").mkdir()
    idx(folder / "lacking" / "train-images-idx3-ubyte", 4, 28, 28)
    images(folder / "mismatched", labels=3)
    images(folder / "truncated", short=9)
    images(folder / "small")
    return folder


@pytest.fixture(scope="session")
def earlier(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("earlier")
    with on_one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert cli.main(["train", "--data", str(inputs / "good.npy"), "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def printed(command: str) -> str:
        monkeypatch.setenv("COLUMNS", "999")  # no word is broken
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0
        return " ".join(capfd.readouterr().out.split())

    return printed
