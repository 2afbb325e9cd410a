"""The search for a dimension: what it tries, by what it judges, that it finds the dimension, stops and goes on."""

import json
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import Stopped, stop_at_save
from threads import on_one_thread

import manifold_core as mc
from manifold_core.data.arrays import split
from manifold_core.data.seeds import stream
from manifold_core.metrics.overfit import error_ratio
from manifold_core.search import SearchPlan, Trial, find_dimension, search
from manifold_core.search.directions import Directions
from manifold_core.search.trials import by_latent_dim, doubts, lowest, trials_as_dict

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = SearchPlan(networks=((16,), (16, 16)), steps=3000, batch_size=128, learning_rate=0.01, seed=5)
SHORT = SearchPlan(networks=((16,), (24,)), models=1, steps=800, batch_size=64, learning_rate=0.02, seed=5)


def plane(samples: int = 600, features: int = 6) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of two dimensions, far from the origin and large."""
    generator = np.random.default_rng(0)
    return 300 + 50 * generator.normal(size=(samples, 2)) @ generator.normal(size=(2, features))


@pytest.fixture(scope="module")
def found() -> mc.DimensionSearch:
    with on_one_thread():
        return find_dimension(plane(), QUICK, progress=False)


class TestFound:
    def test_the_dimension_of_a_plane(self, found: mc.DimensionSearch) -> None:
        assert found.dimension == 2
        assert found.gap > 20
        assert found.best.active_dimensions == 2
        assert found.best.trained.metrics.gap > 20
        assert found.two_nn == pytest.approx(2, abs=0.4)

    def test_one_fewer_is_tried_and_costs_much(self, found: mc.DimensionSearch) -> None:
        assert [(one.latent_dim, one.spec.hidden, one.spec.training.seed) for one in found.trials] == [
            (kappa, hidden, seed) for kappa in (6, 1) for hidden in ((16,), (16, 16)) for seed in (5, 6)
        ]
        assert found.by_latent_dim[1] > found.by_latent_dim[6] + 1

    def test_the_model_is_the_best_and_reads_samples_in_their_units(self, found: mc.DimensionSearch) -> None:
        assert found.best.held_out == min(one.held_out for one in found.trials)
        assert found.best.held_out == found.by_latent_dim[6]
        assert found.model is found.best.trained.model
        x = plane(3000)[600:]
        assert mc.active_dimensions(found.model, found.standardisation.apply(x)).count == 2
        drawn = found.standardisation.undo(found.model.sample(2000)).numpy()
        assert drawn.mean(axis=0) == pytest.approx(plane().mean(axis=0), abs=25)

    def test_its_curves_end_where_it_does(self, found: mc.DimensionSearch) -> None:
        best = found.best.trained
        assert best.history.gamma[-1] == pytest.approx(best.metrics.gamma, rel=0.02)
        assert best.history.neg_elbo[-1] == pytest.approx(best.metrics.neg_elbo, abs=0.5)

    def test_its_errors_are_compared_on_the_samples_held_out(self, found: mc.DimensionSearch) -> None:
        data = split(plane(), "x", "x", 0.1, QUICK.seed, standardise=True)
        assert found.error_ratio == error_ratio(found.model, (data.train,), (data.validation,))
        assert found.error_ratio != 1

    def test_a_tenth_is_held_out(self, found: mc.DimensionSearch) -> None:
        assert found.best.trained.metrics.samples == 540

    def test_tensors_and_integers_are_taken(self) -> None:
        x = np.round(plane(60)).astype(np.int64)
        of_array, of_tensor, of_floats = (
            find_dimension(form, SHORT, progress=False).trials[0].held_out
            for form in (x, torch.from_numpy(x), torch.from_numpy(x).float())
        )
        assert of_array == of_tensor == of_floats


def test_a_search_that_learned_nothing_is_warned_of() -> None:
    x = np.random.default_rng(0).normal(size=(60, 5))
    with pytest.warns(
        UserWarning, match=r"the model has learned no dimension from its 54 training samples: the 0 means nothing"
    ):
        found = find_dimension(x, replace(SHORT, steps=1, learning_rate=0.005), progress=False)
    assert found.dimension == 0


def test_a_search_whose_latent_dimensions_are_all_active_is_warned_of() -> None:
    """Two latent dimensions for a plane of dimension 2 are just enough, which nobody can see."""
    with pytest.warns(UserWarning, match="all 2 latent dimensions of the best model are active, and no model had more"):
        found = find_dimension(plane(), replace(SHORT, latent_dim=2), progress=False)
    assert found.dimension == 2


def test_every_doubt_is_kept_and_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are, test_reading.py holds."""
    monkeypatch.setattr("manifold_core.metrics.reading.two_nn", lambda _: 1.0)
    monkeypatch.setattr("manifold_core.metrics.reading.error_ratio", lambda *_: 7.0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = find_dimension(plane(), replace(SHORT, latent_dim=2), progress=False)
    assert [str(one.message) for one in warned] == list(found.doubts)
    for part in ("curved", "7 times", "no model had more"):
        assert any(part in doubt for doubt in found.doubts), part
    assert (found.dimension, found.two_nn, found.error_ratio) == (2, 1.0, 7.0)
    assert repr(found).endswith(" trials, 3 doubts)")


def test_a_plane_leaves_no_doubt(found: mc.DimensionSearch) -> None:
    assert found.doubts == ()
    assert repr(found).endswith(" no doubts)")


def test_what_is_found_is_told_in_a_line() -> None:
    with pytest.warns(UserWarning, match="learned"):
        found = find_dimension(plane(60), replace(SHORT, steps=1, learning_rate=0.005), progress=False)
    text = repr(found)
    assert text.startswith("DimensionSearch(dimension=0, gap=None, by_latent_dim={")
    assert text.endswith(f"two_nn={found.two_nn:.3g}, {len(found.trials)} trials, 1 doubt)")
    one = repr(found.best.trained)
    assert one.startswith(
        f"TrainedModel(active_dimensions=0, neg_elbo={found.best.trained.metrics.neg_elbo:.4g}, spec="
    )
    assert len(one) < 600


class TestJudgement:
    def test_the_tenth_that_fits_worst_is_left_out(self) -> None:
        spec = mc.ModelSpec(2, (8,), training=mc.TrainingConfig(seed=1))
        model = spec.build(5).double().eval()
        x = torch.randn(57, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        x[3], x[20] = 1e4, torch.nan
        with torch.no_grad():
            terms = model(x, seed=0)
        losses = sorted((terms.nll + terms.kl).tolist(), key=lambda loss: math.inf if math.isnan(loss) else loss)
        assert search._held_out(model, x) == pytest.approx(math.fsum(losses[:52]) / 52, rel=1e-12)

    def test_batches_change_rounding_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = mc.ModelSpec(2, (8,)).build(5).double().eval()
        x = torch.randn(57, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        whole = search._held_out(model, x)
        monkeypatch.setattr(search, "samples_at_a_time", lambda *_: 10)
        assert search._held_out(model, x) == pytest.approx(whole, rel=1e-12)


Outcome = Callable[[int], tuple[int, float, int]]  # of κ: active dimensions, held-out −ELBO, those of the decoder
BELOW_ALL = -1000.0  # as one that has diverged may have, of its last finite weights


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[list[int]], int]]:
    """The numbers of latent dimensions that a search tries with models of these outcomes, and what it finds."""

    def run(
        outcome: Outcome,
        features: int,
        neighbours: float | None,
        latent_dim: int | None = None,
        networks: Sequence[Sequence[int]] | None = ((4,),),
        wider: Outcome | None = None,
        clear: bool = True,
    ) -> tuple[list[list[int]], int]:
        rounds: list[list[int]] = []

        def of(spec: mc.ModelSpec) -> tuple[int, float, int]:
            return (wider if wider is not None and spec.hidden in search.WIDER else outcome)(spec.latent_dim)

        def train(specs: Sequence[mc.ModelSpec], *_: Any, **__: Any) -> list[Any]:
            rounds.append([spec.latent_dim for spec in specs])
            return [
                SimpleNamespace(
                    spec=spec,
                    model=spec,
                    metrics=SimpleNamespace(active_dimensions=of(spec)[0]),
                    history=None,
                    diverged_at=7 if of(spec)[1] < BELOW_ALL else None,
                )
                for spec in specs
            ]

        monkeypatch.setattr(search, "train_ensemble", train)
        monkeypatch.setattr(search, "_of_samples", lambda one, *_: one)
        monkeypatch.setattr(search, "_held_out", lambda spec, _: of(spec)[1])
        monkeypatch.setattr(
            search,
            "local_dimensions_of_some",
            lambda spec, _: SimpleNamespace(count=of(spec)[2], clear=clear and of(spec)[2] > 0),
        )
        monkeypatch.setattr(search, "two_nn", lambda _: neighbours)
        x = torch.randn(200, features, generator=torch.Generator().manual_seed(0))
        trials, best, _ = search.train_trials(x, x, SearchPlan(latent_dim, networks, models=1), None, progress=False)
        losses: dict[int, float] = {}
        for spec in sorted((trial.spec for trial in trials), key=lambda spec: spec.latent_dim):
            if of(spec)[1] > BELOW_ALL:
                losses[spec.latent_dim] = min(of(spec)[1], losses.get(spec.latent_dim, math.inf))
        assert list(by_latent_dim(trials).items()) == list(losses.items())
        return rounds, best.active_dimensions

    return run


def able(r: int) -> Outcome:
    """Of networks that learn the manifold with any number of latent dimensions."""
    return lambda kappa: (min(kappa, r), -10.0 if kappa >= r else 5.0 * (r - kappa), min(kappa, r))


def bent_by_force(r: int, flat: int) -> Outcome:
    """Of networks that learn the flat space of so many dimensions where they have the latent dimensions for it."""

    def outcome(kappa: int) -> tuple[int, float, int]:
        loss = -5.0 if kappa >= flat else kappa - 20.0 if kappa >= r else 5.0 * (r - kappa)
        return min(kappa, flat), loss, min(kappa, flat)

    return outcome


def counted_too_few(r: int, active: int, read: int) -> Outcome:
    """Of networks that with more latent dimensions than the manifold has dimensions have fewer than these active, and
    more by the decoder."""

    def outcome(kappa: int) -> tuple[int, float, int]:
        if kappa <= r:
            return kappa, 5.0 * (r - kappa) - 40.0, kappa
        return active, -30.0, read

    return outcome


@pytest.mark.parametrize(
    ("outcome", "features", "neighbours", "rounds", "dimension"),
    [
        (able(6), 20, 5.6, [[20], [5]], 6),  # at least one fewer
        (able(9), 30, 6.4, [[30], [6, 7, 8]], 9),
        (able(3), 20, None, [[20], [1, 2]], 3),
        (able(3), 3, 3.2, [[3], [2]], 3),
        (able(1), 5, 1.0, [[5]], 1),
        (able(0), 5, 5.2, [[5]], 0),
        (able(0), 9, 5.2, [[9], [5, 6, 7, 8]], 0),  # too many of them may shut all
        (able(40), 100, 25.2, [[32], [64], [33, 35, 37, 39]], 40),  # more where all are active
        (able(100), 100, 25.2, [[32], [64], [100], [65, 76, 88, 99]], 100),
        (bent_by_force(2, 3), 3, 2.0, [[3], [2], [1]], 2),
        (bent_by_force(6, 12), 36, 5.9, [[32], [6, 8, 9, 11], [5]], 6),
        (bent_by_force(7, 12), 36, 3.0, [[32], [3, 6, 8, 11], [7]], 7),
        (bent_by_force(2, 4), 4, 9.0, [[4], [3], [2], [1]], 2),  # noise has neighbours see too many
        (counted_too_few(3, 2, 4), 50, 3.0, [[32], [3, 4], [2]], 3),
        (counted_too_few(5, 1, 5), 50, 4.6, [[32], [4, 5]], 5),  # what is read is tried
    ],
)
def test_what_is_tried(
    tried: Callable[..., tuple[list[list[int]], int]],
    outcome: Outcome,
    features: int,
    neighbours: float | None,
    rounds: list[list[int]],
    dimension: int,
) -> None:
    assert tried(outcome, features, neighbours) == (rounds, dimension)


def test_a_named_number_of_latent_dimensions_is_not_raised(
    tried: Callable[..., tuple[list[list[int]], int]],
) -> None:
    assert tried(able(9), 20, 8.0, latent_dim=4) == ([[4], [3]], 4)


@pytest.mark.parametrize(
    ("r", "neighbours", "again"),
    [(3, 1.5, True), (3, 2.8, False), (3, None, False), (1, 0.5, False), (0, 1.5, False)],
)
def test_wider_networks_are_tried_where_neighbours_see_fewer_dimensions(
    tried: Callable[..., tuple[list[list[int]], int]], r: int, neighbours: float | None, again: bool
) -> None:
    """As the doubt says, that is not of curves. They search anew; networks that were named are the only ones."""
    named, _ = tried(able(r), 20, neighbours)
    rounds, dimension = tried(able(r), 20, neighbours, networks=None)
    assert rounds == [sorted(one + one) for one in named] + named * again  # two networks, then one
    assert dimension == r


def test_a_diverged_model_is_never_the_best(tried: Callable[..., tuple[list[list[int]], int]]) -> None:
    def outcome(kappa: int) -> tuple[int, float, int]:
        return (kappa, 2 * BELOW_ALL, kappa) if kappa == 2 else able(3)(kappa)

    assert tried(outcome, 6, 2.0) == ([[6], [2]], 3)
    with pytest.raises(mc.Diverged) as all_diverged:
        tried(lambda kappa: (kappa, 2 * BELOW_ALL, kappa), 6, 2.0)
    assert all_diverged.value.step == 7


@pytest.mark.parametrize(
    ("wider", "clear", "dimension"),
    [
        ((3, -10.0, 3), True, 3),  # as neighbours say
        ((3, -10.0, 3), False, 6),  # a guess
        ((5, -10.0, 5), True, 6),  # no more than the others
        ((5, -50.0, 5), True, 5),  # at least of a lower loss
        ((0, -10.0, 0), True, 6),  # nothing learned
        ((3, 2 * BELOW_ALL, 3), True, 6),  # diverged
    ],
)
def test_wider_networks_are_believed_where_neighbours_agree_or_the_loss_is_lower(
    tried: Callable[..., tuple[list[list[int]], int]], wider: tuple[int, float, int], clear: bool, dimension: int
) -> None:
    """The others read 6, with a loss of -40."""
    found = tried(lambda kappa: (6, -40.0, 6), 6, 2.8, networks=None, wider=lambda kappa: wider, clear=clear)
    assert found[1] == dimension


def test_json_says_by_what_the_best_was_chosen() -> None:
    trained: Any = SimpleNamespace(
        spec=mc.ModelSpec(2),
        diverged_at=None,
        metrics=SimpleNamespace(active_dimensions=2, gap=9.0, neg_elbo=1.0, gamma=0.1),
    )
    trials = [Trial(trained, 2.0), Trial(trained, 1.0)]
    assert [trials_as_dict(trials, best)["chosen_by"] for best in trials] == ["neighbours", "held_out"]


@pytest.mark.parametrize(("more", "features", "doubtful"), [(None, 30, True), (20, 30, False), (None, 6, False)])
def test_all_active_is_a_doubt_where_none_had_more(more: int | None, features: int, doubtful: bool) -> None:
    """Of as many as there are features there are no more."""
    trials = []
    for kappa, held_out in ((6, -3.0), *([(more, -2.0)] if more is not None else [])):
        metrics = SimpleNamespace(active_dimensions=kappa)
        trained: Any = SimpleNamespace(spec=mc.ModelSpec(kappa), diverged_at=None, metrics=metrics)
        trials.append(Trial(trained, held_out))
    assert ["all 6 latent dimensions" in doubt for doubt in doubts(trials, trials[0], features)] == [True] * doubtful


def test_a_model_whose_loss_on_other_samples_is_no_number_is_never_the_best() -> None:
    """Though its training came to an end; min and NaN know no order."""
    trained: Any = SimpleNamespace(spec=mc.ModelSpec(2), diverged_at=None)
    for held_out in ((math.nan, 1.0), (1.0, math.nan), (-math.inf, 1.0)):
        trials = [Trial(trained, loss) for loss in held_out]
        assert lowest(trials).held_out == 1.0
        assert by_latent_dim(trials) == {2: 1.0}


def test_stopped_it_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(trials: Sequence[Trial]) -> list[float]:
        return [one.held_out for one in trials]

    x = plane(100)
    undisturbed = find_dimension(x, SHORT, progress=False)
    assert [one.latent_dim for one in undisturbed.trials] == [6, 6, 1, 1]
    for number in (1, 2, 3):  # behind the folder's own, and each of the two looks'
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at_save(patch, number)
            with pytest.raises(Stopped):
                find_dimension(x, SHORT, folder=folder, progress=False)
        assert losses(find_dimension(x, SHORT, folder=folder, progress=False).trials) == losses(undisturbed.trials)


def test_stopped_among_the_wider_networks_it_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which try what the others have tried, in checkpoints of their own."""
    monkeypatch.setattr("manifold_core.search.plan.NETWORKS", ((16,), (24,)))
    monkeypatch.setattr(search, "WIDER", ((32,),))
    monkeypatch.setattr(search, "neighbours_see_fewer", lambda *_: True)
    plan = replace(SHORT, networks=None)
    undisturbed = find_dimension(plane(100), plan, progress=False)
    assert [(one.spec.hidden, one.latent_dim) for one in undisturbed.trials] == [
        *[((16,), 6), ((24,), 6), ((16,), 1), ((24,), 1)],
        *[((32,), 6), ((32,), 1)],
    ]
    with monkeypatch.context() as patch:
        stop_at_save(patch, 4)  # behind the folder's own, two looks' and the first of the wider
        with pytest.raises(Stopped):
            find_dimension(plane(100), plan, folder=tmp_path, progress=False)
    assert (tmp_path / "wider").is_dir()
    found = find_dimension(plane(100), plan, folder=tmp_path, progress=False)
    assert [one.held_out for one in found.trials] == [one.held_out for one in undisturbed.trials]


def test_it_goes_on_where_directions_come_out_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine: the other way around, or rounded otherwise."""
    x = plane(100)
    undisturbed = find_dimension(x, SHORT, progress=False)
    with monkeypatch.context() as patch:
        stop_at_save(patch, 2)
        with pytest.raises(Stopped):
            find_dimension(x, SHORT, folder=tmp_path, progress=False)
    assert (tmp_path / "directions.safetensors").exists()
    eigh = torch.linalg.eigh
    monkeypatch.setattr("torch.linalg.eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    found = find_dimension(x, SHORT, folder=tmp_path, progress=False)
    assert [one.held_out for one in found.trials] == [one.held_out for one in undisturbed.trials]


def test_the_folder_of_another_search_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a model is trained: a later look may be one that the folder has, of other models."""
    find_dimension(plane(100), SHORT, folder=tmp_path, progress=False)
    monkeypatch.setattr("manifold_core.search.search.train_ensemble", lambda *_, **__: pytest.fail("trained"))
    for x, plan, said in (
        (plane(101), SHORT, "x is '"),
        (plane(100, features=7), SHORT, "x is '"),
        (plane(100), replace(SHORT, networks=((16,),)), "plan.networks"),
        (plane(100), replace(SHORT, latent_dim=4), "plan.latent_dim is"),
        (plane(100), replace(SHORT, steps=999), "plan.steps is"),
    ):
        with pytest.raises(mc.InputError, match=rf"checkpoint is of another run: its {said}"):
            find_dimension(x, plan, folder=tmp_path, progress=False)


def test_a_search_holds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first file on: directions are put there before any model is trained."""
    errors = []

    def another() -> None:
        try:
            find_dimension(plane(101), SHORT, folder=tmp_path, progress=False)
        except mc.InputError as error:
            errors.append(str(error))

    of_samples = Directions.of_samples

    def at_work(x: torch.Tensor, most: int | None) -> Directions:
        if not errors:
            thread = threading.Thread(target=another)
            thread.start()
            thread.join()
        return of_samples(x, most)

    monkeypatch.setattr(Directions, "of_samples", at_work)
    find_dimension(plane(100), SHORT, folder=tmp_path, progress=False)
    assert [error.partition(",")[0] for error in errors] == ["folder must be left to one process"]


def test_it_says_what_it_tries(capsys: pytest.CaptureFixture[str]) -> None:
    find_dimension(plane(60), SHORT, progress=False)
    assert capsys.readouterr() == ("", "")
    find_dimension(plane(60), SHORT)
    said = capsys.readouterr().err
    assert "latent dimensions: 6\n" in said
    assert "widest" not in said
    with pytest.warns(UserWarning, match="learned no dimension"):
        found = find_dimension(plane(60), replace(SHORT, steps=1, directions=1))
    assert f"training on the 1 widest directions, {100 * found.directions.share:.4g} % of" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning")  # what one step learns is in doubt
@pytest.mark.parametrize(
    ("neighbours", "named", "count"),
    [(3.01, None, 25), (1.2, None, 16), (9.0, None, 60), (None, None, 60), (3.0, 7, 7)],
)
def test_the_widest_directions_are_trained_on(
    monkeypatch: pytest.MonkeyPatch, neighbours: float | None, named: int | None, count: int
) -> None:
    """Eight for each dimension that neighbours see, at least 16; all, if neighbours see nothing."""
    monkeypatch.setattr(search, "two_nn", lambda _: neighbours)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 60)) / np.arange(1, 61) @ np.linalg.qr(generator.normal(size=(60, 60)))[0]
    found = find_dimension(x, replace(SHORT, steps=1, directions=named, latent_dim=1), progress=False)
    data = split(x, "x", "x", 0.1, SHORT.seed, standardise=True)
    variances = np.linalg.svd((data.train - data.train.mean(0)).double().numpy(), compute_uv=False) ** 2
    assert found.directions.count == count
    assert found.directions.share == pytest.approx(variances[:count].sum() / variances.sum(), rel=1e-6)
    said = {"trained_directions": count, "trained_share": found.directions.share}
    assert found.as_dict().items() >= said.items()


def test_a_manifold_bent_through_hundreds_of_features() -> None:
    """Trained on all directions in which they vary, the same networks read 4 to 8 dimensions, with every seed."""
    generator = np.random.default_rng(0)
    x = np.tanh(generator.normal(size=(1000, 3)) @ generator.normal(size=(3, 300)))
    plan = replace(SHORT, latent_dim=8, networks=((32, 32),), models=2, steps=2000, learning_rate=0.01)
    found = find_dimension(x, plan, progress=False)
    assert found.dimension == 3
    assert found.gap > 8
    assert found.directions.count < 32


def test_models_are_judged_by_the_samples_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[torch.Tensor] = []
    monkeypatch.setattr(search, "_held_out", lambda _, y: (judged.append(y), 1.0)[1])
    find_dimension(plane(), SHORT, progress=False)
    data = split(plane(), "x", "x", 0.1, SHORT.seed, standardise=True)
    assert len(data.validation) == 60
    expected = Directions.of_samples(data.train, None).of(data.validation)
    assert len(judged) >= 2
    for y in judged:
        assert torch.equal(y, expected)


def test_the_samples_held_out_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []
    monkeypatch.setattr("manifold_core.data.arrays.stream", lambda *given: (asked.append(given), stream(*given))[1])
    find_dimension(plane(60), SHORT, progress=False)
    assert asked == [(5, "split")]


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros(5), r"shape \[N, d\], got \(5,\)"),
        (np.random.default_rng(0).normal(size=(9, 4, 4)), r"got \(9, 4, 4\); x.reshape\(len\(x\), -1\)"),
        ([["a"]], "array of numbers, got list"),
        (np.full((9, 2), np.nan), "NaN or infinity at 18 places"),
        (np.ones((9, 2)), "all 9 samples are the same"),
        (np.ones((1, 2)), "at least two samples"),
    ],
)
def test_bad_samples_are_refused(x: Any, match: str) -> None:
    with pytest.raises(mc.InputError, match=match):
        find_dimension(x, SHORT, progress=False)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"models": 0}, "models must be a positive integer, got 0"),
        ({"latent_dim": 0}, "latent_dim must be a positive integer, got 0"),
        ({"directions": 0}, "directions must be a positive integer, got 0"),
        (
            {"networks": ()},
            r"networks must be None or a sequence of widths, such as \(\(64,\), \(64, 64\)\), got \(\)$",
        ),
        ({"networks": (64, 64)}, r"networks must be None or a sequence of widths, .* got \(64, 64\)$"),
        ({"networks": ((),)}, r"networks must be None or a sequence of widths, .* got \(\(\),\)$"),
        ({"networks": ("64",)}, r"networks must be None or a sequence of widths, .* got \('64',\)$"),
        ({"networks": ((64, 0),)}, r"networks\[1\] must be a positive integer, got 0"),
        ({"log_gamma": math.nan}, "log_gamma"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a positive integer, got 2.5"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive, finite number, got -1.0"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_bad_plans_are_refused(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(mc.InputError, match=match):
        SearchPlan(**changed)


def test_numbers_of_numpy_are_kept_as_python_s() -> None:
    """A checkpoint says the plan in JSON."""
    given = {"models": np.int64(1), "steps": np.int32(2), "batch_size": np.int64(3), "seed": np.int64(4)}
    given["networks"] = ((np.int64(64),), (64, 64, 64))  # type: ignore[assignment]
    plan = SearchPlan(**given, learning_rate=np.float32(0.5), log_gamma=np.float32(-2), latent_dim=np.int8(3))  # type: ignore[arg-type]
    assert json.loads(json.dumps(asdict(plan))) == asdict(SearchPlan(3, plan.networks, 1, -2.0, 2, 3, 0.5, 4)) | {
        "networks": [[64], [64, 64, 64]]
    }


def test_a_plan_is_a_plan() -> None:
    with pytest.raises(mc.InputError, match=r"plan must be a SearchPlan, such as SearchPlan\(models=4\), got 4"):
        find_dimension(plane(60), 4)  # type: ignore[arg-type]
