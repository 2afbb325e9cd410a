"""Image files that are small, in the place of the real ones; result files written and read back."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifold_core.experiments import images
from manifold_core.experiments.report import write_report
from manifold_core.experiments.report.files import read_results
from manifold_core.experiments.report.results import Result

from manifold_core.data.images import ENVIRONMENT_VARIABLE

SAMPLES = {"train": 40, "t10k": 20}


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training images of each set, of classes 0 to 9 in turn, and 20 test images, of 9 to 0."""
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("mnist", "fashion-mnist")):
        random = np.random.default_rng(seed)
        (folder / name).mkdir()
        for split, samples in SAMPLES.items():
            contents = {
                "images-idx3": random.integers(0, 256, (samples, 28, 28), dtype=np.uint8),
                "labels-idx1": np.arange(samples, dtype=np.uint8)[:: 1 if split == "train" else -1] % 10,
            }
            for part, array in contents.items():
                head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
                (folder / name / f"{split}-{part}-ubyte").write_bytes(head + array.tobytes())
    return folder


@pytest.fixture(autouse=True)
def images_are_small(small_images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is cached beyond a test."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(small_images))
    for cached in (images._whole, images._first):
        cached.cache_clear()
    yield
    for cached in (images._whole, images._first):
        cached.cache_clear()


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., list[Result]]:
    """``written(content, ...)``: read back from a folder of these files; ``published`` are those as published."""

    def write(*contents: dict[str, Any], published: Sequence[dict[str, Any]] = ()) -> list[Result]:
        for folder, own in ((tmp_path, contents), (tmp_path / "as_published", published)):
            for content in own:
                folder.mkdir(exist_ok=True)
                (folder / f"{content['table']}.json").write_text(json.dumps(content), encoding="utf-8")
        return read_results(tmp_path)

    return write


@pytest.fixture
def pages(tmp_path: Path, written: Callable[..., list[Result]]) -> Callable[..., tuple[str, str]]:
    """``pages(content, ...)``: report.html and report.md of these files."""

    def write(*contents: dict[str, Any], published: Sequence[dict[str, Any]] = ()) -> tuple[str, str]:
        written(*contents, published=published)
        html, markdown = write_report(tmp_path, tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.md"]
        return html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")

    return write
