"""The pictures of a run."""

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dropout import Encoder
from runs import IMAGES, TRAINING, configuration, contents, metrics_of, timeless
from torch import Tensor, nn

import manifold_core as mc
from manifold_core import plots
from manifold_core.data import load_file
from manifold_core.run import RunConfig, run

pytestmark = pytest.mark.usefixtures("one_thread")


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


class TestPictures:
    @pytest.fixture(autouse=True)
    def matplotlib(self) -> None:
        pytest.importorskip("matplotlib", reason="pictures need matplotlib, of the extra 'experiments'")

    @pytest.mark.parametrize(("named", "chosen"), [("nowhere", "agg"), ("svg", "svg")])
    def test_a_backend_that_is_missing_is_not_needed(self, tmp_path: Path, named: str, chosen: str) -> None:
        """In a process of its own, which imports matplotlib for the first time, without a display."""
        script = (
            "import os, sys\nfrom pathlib import Path\nfrom manifold_core import plots\n"
            "plots.save(plots.new_figure(2, 1), Path(sys.argv[1]))\n"
            "from matplotlib import pyplot\nprint(pyplot.get_backend(), os.environ['MPLBACKEND'])"
        )
        environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "empty.png")],
            env=environment | {"MPLBACKEND": named},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout.split()) == (0, [chosen, named]), done.stderr
        assert min(png_size(tmp_path / "empty.png")) > 0

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("vectors", ["variances.png", "curves.png"]), ("images", ["variances.png", "curves.png", "images.png"])],
    )
    def test_they_are_png_files_of_a_sensible_size(
        self, data: Path, tmp_path: Path, kind: str, expected: list[str]
    ) -> None:
        from matplotlib.image import imread

        metrics = run(configuration(data, kind, steps=5), tmp_path, progress=False)
        assert metrics["pictures"] == expected
        assert contents(tmp_path).keys() == {"metrics.json", "weights.safetensors", *expected}
        for name in expected:
            width, height = png_size(tmp_path / name)
            assert 400 <= width <= 2000
            assert 300 <= height <= 2000
            pixels = imread(tmp_path / name)  # which checks the sums in the file
            assert pixels.shape[:2] == (height, width)
            assert pixels[..., :3].std() > 0.05  # something is drawn

    def test_eigenvalues_stand_beside_the_variances_of_a_full_covariance(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from matplotlib.axes import Axes

        titles: list[str] = []
        lines: list[list[float]] = []
        of_decoder: list[list[float]] = []
        plot, set_title = Axes.plot, Axes.set_title

        def watched_plot(self: Any, *arguments: Any, **more: Any) -> Any:
            if more.get("label") == "eigenvalues":
                lines.append(arguments[1])
            if more.get("label") == "by the decoder":
                of_decoder.append(arguments[1])
            return plot(self, *arguments, **more)

        def watched_title(self: Any, title: str, *arguments: Any, **more: Any) -> Any:
            titles.append(title)
            return set_title(self, title, *arguments, **more)

        monkeypatch.setattr(Axes, "plot", watched_plot)
        monkeypatch.setattr(Axes, "set_title", watched_title)
        metrics = run(configuration(data, "full", steps=5), tmp_path / "full", progress=False)
        assert metrics["pictures"] == ["variances.png", "curves.png"]
        assert lines == [metrics["train"]["spectrum"]]
        assert of_decoder == [metrics["local"]["spectrum"]]
        assert titles[0].endswith(f", {metrics['local']['count']} at a sample")
        plots.plot_variances(tmp_path / "x.png", [0.9, 0.01], spectrum=[0.95, 0.03, 0.02], manifold_dim=2)
        plots.plot_variances(tmp_path / "y.png", [0.9, 0.01])
        assert lines[1:] == [[0.02, 0.03, 0.95]]
        assert titles[1:] == [
            "1 active of 2 dimensions, 2 by eigenvalue, true dimension 2",
            "1 active of 2 dimensions",
        ]

    def test_a_search_is_drawn_without_what_diverged_and_with_its_best(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from matplotlib.axes import Axes

        dots: dict[str, tuple[list[float], list[float]]] = {}
        lines: list[tuple[Any, ...]] = []
        scatter, plot = Axes.scatter, Axes.plot

        def watched_scatter(self: Any, x: Any, y: Any, **more: Any) -> Any:
            dots[more["label"]] = (x, y)
            return scatter(self, x, y, **more)

        def watched_plot(self: Any, *given: Any, **more: Any) -> Any:
            lines.append(given)
            return plot(self, *given, **more)

        monkeypatch.setattr(Axes, "scatter", watched_scatter)
        monkeypatch.setattr(Axes, "plot", watched_plot)
        one = {"hidden": [8], "latent_dim": 3, "held_out": 1.0, "diverged_at": None}
        other = one | {"hidden": [8, 4], "latent_dim": 7, "held_out": -2.0}
        trials = [one, other, one | {"held_out": -9.0, "diverged_at": 5}, one | {"held_out": float("nan")}]
        plots.plot_search(tmp_path / "search.png", trials, {"3": 1.0, "7": -2.0}, 3)
        assert dots == {"hidden 8": ([3], [1.0]), "hidden 8-4": ([7], [-2.0]), "best": ([7], [-2.0])}
        assert lines == [([3, 7], [1.0, -2.0])]

    def test_without_matplotlib_the_run_succeeds(self, data: Path, tmp_path: Path, no_pictures: None) -> None:
        metrics = run(configuration(data, "images", steps=2), tmp_path, progress=False)
        assert metrics["pictures"] == metrics_of(tmp_path)["pictures"] == []
        assert contents(tmp_path).keys() == {"metrics.json", "weights.safetensors"}

    def test_pictures_change_no_number(self, data: Path, tmp_path: Path, finished: dict[str, Path]) -> None:
        metrics = timeless(run(configuration(data, "images"), tmp_path, progress=False))
        assert metrics | {"pictures": []} == timeless(metrics_of(finished["images"]))

    @pytest.mark.parametrize("number", [2, 41])
    def test_the_variances_of_the_classes_are_drawn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """A row a class, the columns in the order of their mean; classes have names where there is room."""
        from matplotlib.axes import Axes

        drawn: list[tuple[Any, list[str]]] = []
        imshow, set_yticks = Axes.imshow, Axes.set_yticks

        def watched(axes: Axes, values: Any, **more: Any) -> Any:
            drawn.append((values, []))
            return imshow(axes, values, **more)

        def named(axes: Axes, ticks: Any, labels: Any = None, **more: Any) -> Any:
            if labels is not None:
                drawn[-1][1].extend(labels)
            return set_yticks(axes, ticks, labels, **more)

        monkeypatch.setattr(Axes, "imshow", watched)
        monkeypatch.setattr(Axes, "set_yticks", named)
        one = {"label": 7, "variance": [1.2, 0.0, 0.04], "active_dimensions": 2, "spectrum_count": 3}
        other = {"label": -3, "variance": [0.9, 0.5, 0.02], "active_dimensions": 1, "spectrum_count": 2}
        classes = [one, *[other] * (number - 1)]
        path = plots.plot_classes(tmp_path / "classes.png", classes)
        ((values, names),) = drawn
        order = [2, 1, 0]
        clipped = [[1.0, 1e-3, 0.04], *[[0.9, 0.5, 0.02]] * (number - 1)]
        assert values.tolist() == [[row[column] for column in order] for row in clipped]
        assert names == (["7: 2 active", "-3: 1 active"] if number == 2 else [])
        drawn.clear()
        plots.plot_classes(path, classes, "spectrum_count")
        assert drawn[0][1] == (["7: 3 active", "-3: 2 active"] if number == 2 else [])
        width, height = png_size(path)
        assert 400 <= width <= 2000
        assert 200 <= height <= 2000

    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_images_of_any_number_of_channels(self, tmp_path: Path, channels: int) -> None:
        np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, channels, 8, 8)))
        config = RunConfig(str(tmp_path / "x.npy"), IMAGES, replace(TRAINING, steps=2))
        metrics = run(config, tmp_path / "run", progress=False)
        png_size(tmp_path / "run" / "images.png")
        assert metrics["sample_shape"] == [channels, 8, 8]

    @pytest.fixture
    def sheets(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What is given to matplotlib to be shown."""
        from matplotlib.axes import Axes

        shown: list[Any] = []
        show = Axes.imshow

        def watched(self: Any, picture: Any, *arguments: Any, **more: Any) -> Any:
            shown.append(np.array(picture))
            return show(self, picture, *arguments, **more)

        monkeypatch.setattr(Axes, "imshow", watched)
        return shown

    @pytest.mark.parametrize("held_out", [30, 20, 7, 1])
    def test_originals_reconstructions_and_samples_are_where_they_are_labelled(
        self, tmp_path: Path, sheets: list[Any], held_out: int
    ) -> None:
        class Stub(mc.VAE):
            """Each kind of picture has a shade of its own."""

            def reconstruct(self, x: Tensor) -> Tensor:
                return torch.full_like(x, 0.5)

            def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
                return torch.full((n, 1, 8, 8), 0.25)

        plots.plot_images(
            tmp_path / "x.png", Stub(Encoder(), nn.Linear(3, 6), 3), torch.full((held_out, 1, 8, 8), 0.75)
        )
        (sheet,) = sheets
        thirds = np.array_split(sheet, 3)
        background = {0.0, 1.0}
        assert [set(np.unique(third).tolist()) - background for third in thirds] == [{0.75}, {0.5}, {0.25}]

    def test_a_users_images_look_like_themselves(self, tmp_path: Path, sheets: list[Any]) -> None:
        """However they were scaled for training."""
        generator = np.random.default_rng(0)
        x = generator.random((300, 1, 8, 8)) + 3 * (np.arange(64).reshape(8, 8) % 3 == 0)
        np.save(tmp_path / "x.npy", x)
        config = RunConfig(str(tmp_path / "x.npy"), IMAGES, replace(TRAINING, steps=2))
        run(config, tmp_path / "run", progress=False)
        first = load_file(tmp_path / "x.npy", seed=TRAINING.seed).validation[0, 0].numpy()
        shown = sheets[0][:8, :8]  # the first tile
        assert np.corrcoef(shown.ravel(), first.ravel())[0, 1] > 0.95
