"""Image files that are small, in the place of the real ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from manifold_core.experiments import images

from manifold_core.data.images import ENVIRONMENT_VARIABLE

SAMPLES = {"train": 40, "t10k": 20}


@pytest.fixture(autouse=True)
def small_images(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """40 training images and 20 test images of each set, classes 0 to 9 in turn; nothing is cached beyond a test."""
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("mnist", "fashion-mnist")):
        random = np.random.default_rng(seed)
        (folder / name).mkdir()
        for split, samples in SAMPLES.items():
            contents = {
                "images-idx3": random.integers(0, 256, (samples, 28, 28), dtype=np.uint8),
                "labels-idx1": np.arange(samples, dtype=np.uint8) % 10,
            }
            for part, array in contents.items():
                head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
                (folder / name / f"{split}-{part}-ubyte").write_bytes(head + array.tobytes())
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(folder))
    for cached in (images._whole, images._first):
        cached.cache_clear()
    yield folder
    for cached in (images._whole, images._first):
        cached.cache_clear()
