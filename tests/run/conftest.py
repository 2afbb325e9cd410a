"""Data and finished runs, made once for all of these tests: they leave them as they are."""

import sys
from pathlib import Path

import pytest
from runs import configuration, write_data
from threads import on_one_thread

from manifold_core.run import run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data sets."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of undisturbed runs; ``trained`` and ``full`` are trained until dimensions are active."""
    folders = {}
    with on_one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        for kind in ("vectors", "images", "analytic"):
            folders[kind] = tmp_path_factory.mktemp(kind)
            run(configuration(data, kind), folders[kind], progress=False)
        folders["trained"] = tmp_path_factory.mktemp("trained")
        run(configuration(data, "vectors", steps=600), folders["trained"], progress=False)
        folders["full"] = tmp_path_factory.mktemp("full")
        run(configuration(data, "full", steps=600), folders["full"], progress=False)
    return folders
