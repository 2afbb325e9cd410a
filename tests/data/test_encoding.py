"""Conditions out of files: what the networks get of them, and that each stays with its sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import manifold_core as mc
from manifold_core.data import load_file
from manifold_core.data.encoding import Columns, OneHot, checked_condition

N = 60


def write(folder: Path, condition: Any) -> Path:
    """Samples whose first number is their row, in ``x.npy``; their conditions in ``c.npy``."""
    x = np.random.default_rng(0).normal(size=(N, 3))
    x[:, 0] = np.arange(N)
    np.save(folder / "x.npy", x)
    np.save(folder / "c.npy", condition)
    return folder / "x.npy"


class TestOneHot:
    def test_labels_of_any_integers_are_unit_vectors(self) -> None:
        encoding = OneHot((-3, 5, 40))
        expected = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
        for labels in ([5, 40, -3], np.array([5, 40, -3], dtype=np.int8), torch.tensor([5, 40, -3])):
            assert torch.equal(encoding.apply(labels), expected)
        assert encoding.width == 3
        assert OneHot(**encoding.as_dict()) == encoding

    @pytest.mark.parametrize("make", [list, np.array, torch.tensor])
    def test_truth_values_are_two_classes(self, tmp_path: Path, make: Any) -> None:
        assert OneHot((0, 1)).apply(make([True, False])).tolist() == [[0, 1], [1, 0]]
        units = Columns(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.0]))
        assert units.apply(make([[True, False], [False, True]])).tolist() == [[1, 0], [-1, 1]]
        found = load_file(write(tmp_path, np.arange(N) > 6), condition=tmp_path / "c.npy")
        assert found.condition_encoding == OneHot((0, 1))
        assert found.train_labels is not None
        assert torch.equal(found.train_labels, (found.train[:, 0] > 6).long())

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            ([5, 6], "of the classes -3, 5, 40, got 6"),
            ([[5]], r"integers of shape \[N\], got shape \(1, 1\) of int64"),
            ([5.0], r"integers of shape \[N\], got shape \(1,\) of float64"),
            ("trousers", "condition must be a tensor or an array of numbers"),
        ],
    )
    def test_other_labels_are_refused(self, labels: Any, said: str) -> None:
        with pytest.raises(mc.InputError, match=said):
            OneHot((-3, 5, 40)).apply(labels)

    def test_of_many_classes_the_first_few_are_named(self) -> None:
        with pytest.raises(mc.InputError, match=r"classes 0, 1, .* 11, …, got 1000$"):
            OneHot(tuple(range(1000))).apply([1000])


def test_labels_beyond_int64_are_told_apart() -> None:
    """Hashes, such as names have."""
    labels = np.array([5, 2**63 + 1, 2**63 + 5, 7], dtype=np.uint64)
    encoding = OneHot((5, 7, 2**63 + 1, 2**63 + 5))
    assert encoding.places(labels).tolist() == [0, 2, 3, 1]
    assert encoding.places(np.array([7, 5], dtype=np.int8)).tolist() == [1, 0]


class TestColumns:
    def test_each_column_has_a_scale_of_its_own(self) -> None:
        source = np.array([[1.0, 1e6], [3.0, 3e6], [100.0, 1e20]])
        encoding = Columns.of_rows(source, np.array([0, 1]))
        assert torch.equal(encoding.apply(source[:2]), torch.tensor([[-1.0, -1], [1, 1]]))
        assert encoding.apply(torch.tensor([[2.0, 2e6]])).tolist() == [[0, 0]]
        again = Columns(**encoding.as_dict())
        assert torch.equal(again.apply(source), encoding.apply(source))
        assert repr(again) == "Columns(mean=[2], scale=[2])"

    def test_a_column_that_does_not_vary_keeps_its_scale(self) -> None:
        """Nor does one whose variance is none in float64."""
        encoding = Columns.of_rows(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]]), np.arange(3))
        assert Columns.of_rows(np.array([[1e-200], [3e-200]]), np.arange(2)).scale == 1
        assert encoding.scale[0] == 1
        assert encoding.apply([[0.1, 1.0]])[0, 0].abs() < 1e-6

    def test_one_number_may_come_without_its_column(self) -> None:
        encoding = Columns.of_rows(np.array([[1.0], [3.0]]), np.arange(2))
        assert encoding.apply([1.0, 3.0, 5.0]).tolist() == [[-1], [1], [3]]

    @pytest.mark.parametrize(("c", "got"), [([[1.0]], r"\(1, 1\)"), ([1.0, 2.0], r"\(2,\)"), (3.0, r"\(\)")])
    def test_other_shapes_are_refused(self, c: Any, got: str) -> None:
        encoding = Columns.of_rows(np.array([[1.0, 2.0], [3.0, 4.0]]), np.arange(2))
        with pytest.raises(mc.InputError, match=rf"condition must be of shape \[N, 2\], got {got}"):
            encoding.apply(c)


class TestFiles:
    def test_labels_stay_with_their_samples(self, tmp_path: Path) -> None:
        labels = 7 + 2 * (np.arange(N) % 3)
        data = load_file(write(tmp_path, labels), seed=4, condition=tmp_path / "c.npy")
        assert data.condition_encoding == OneHot((7, 9, 11))
        for x, c, places in (
            (data.train, data.train_condition, data.train_labels),
            (data.validation, data.validation_condition, data.validation_labels),
        ):
            assert c is not None
            assert places is not None
            assert torch.equal(places, x[:, 0].long() % 3)
            assert torch.equal(c, torch.eye(3)[places])
        assert len(data.validation) == 6

    def test_numbers_stay_with_their_samples_and_are_standardised_by_those_of_training(self, tmp_path: Path) -> None:
        source = np.stack([3 * np.arange(N), 1000 - np.arange(N)], 1)  # integers [N, t] are numbers
        path = write(tmp_path, source)
        raw = load_file(path, seed=4, condition=tmp_path / "c.npy")
        scaled = load_file(path, seed=4, condition=tmp_path / "c.npy", standardise=True)
        assert raw.train_condition is not None
        assert raw.train_labels is None
        assert torch.equal(raw.train_condition[:, 0], 3 * raw.train[:, 0])
        rows = raw.train[:, 0].double()
        for found, of in ((scaled.train_condition, rows), (scaled.validation_condition, raw.validation[:, 0].double())):
            expected = (of - rows.mean()) / rows.std(correction=0)
            torch.testing.assert_close(found, torch.stack([expected, -expected], 1).float())

    def test_one_column_of_floating_type_are_numbers(self, tmp_path: Path) -> None:
        data = load_file(write(tmp_path, np.arange(N) / 7), condition=tmp_path / "c.npy")
        assert data.train_condition is not None
        assert data.train_condition.shape == (54, 1)

    def test_an_archive_holds_both(self, tmp_path: Path) -> None:
        x, c = np.load(write(tmp_path, np.arange(N) % 2)), np.arange(N) % 2
        np.savez(tmp_path / "both.npz", x=x, c=c, other=c[:3])
        found = load_file(tmp_path / "both.npz", condition=tmp_path / "both.npz")
        expected = load_file(tmp_path / "x.npy", condition=tmp_path / "c.npy")
        assert found.train_condition is not None
        assert expected.train_condition is not None
        assert torch.equal(found.train_condition, expected.train_condition)

    def test_samples_are_not_their_own_condition(self, tmp_path: Path) -> None:
        path = write(tmp_path, np.arange(N))
        for name in ("x.npy", "x.csv"):
            np.savetxt(tmp_path / "x.csv", np.load(path), delimiter=",")
            with pytest.raises(mc.InputError, match=f"condition must be another file than that of the .*{name}'$"):
                load_file(tmp_path / name, condition=tmp_path / ".." / tmp_path.name / name)
        np.savez(tmp_path / "one.npz", x=np.load(path))
        with pytest.raises(mc.InputError, match=r"one\.npz: arrays \['x'\]; expected one called 'c'"):
            load_file(tmp_path / "one.npz", condition=tmp_path / "one.npz")
        np.savez(tmp_path / "c.npz", labels=np.arange(N) % 2)  # of a file of its own, one array is as good by any name
        assert load_file(path, condition=tmp_path / "c.npz").condition_encoding is not None

    @pytest.mark.parametrize("header", ["", "digit\n", "0\n"])
    def test_whole_numbers_in_text_are_labels(self, tmp_path: Path, header: str) -> None:
        """Also where the first is a 0 or a 1, which of samples may be the name of a column and here is one too many."""
        path = write(tmp_path, np.arange(N))
        lines = "\n".join(f" {label}" for label in np.arange(N) % 5 - 1)
        (tmp_path / "c.csv").write_text(header + lines)
        if header == "0\n":
            with pytest.raises(mc.InputError, match="61 conditions; expected one for each of the 60"):
                load_file(path, condition=tmp_path / "c.csv")
            return
        data = load_file(path, condition=tmp_path / "c.csv")
        assert data.condition_encoding == OneHot((-1, 0, 1, 2, 3))
        assert torch.equal(data.train_labels, data.train[:, 0].long() % 5)

    @pytest.mark.parametrize("other", ["1.0", "1e0"])
    def test_text_is_read_as_numbers(self, tmp_path: Path, other: str) -> None:
        path = write(tmp_path, np.arange(N))
        (tmp_path / "c.csv").write_text(
            "angle\n" + "\n".join(map(str, np.arange(N) % 5)).replace("1\n", f"{other}\n", 1)
        )
        data = load_file(path, condition=tmp_path / "c.csv")
        assert isinstance(data.condition_encoding, Columns)
        assert data.train_condition is not None
        assert torch.equal(data.train_condition[:, 0], data.train[:, 0] % 5)

    def test_several_columns_of_whole_numbers_are_numbers(self, tmp_path: Path) -> None:
        path = write(tmp_path, np.arange(N))
        (tmp_path / "c.csv").write_text("\n".join(f"{n % 5},{n % 3}" for n in range(N)))
        data = load_file(path, condition=tmp_path / "c.csv")
        assert isinstance(data.condition_encoding, Columns)
        assert data.train_condition is not None
        assert torch.equal(data.train_condition, data.train[:, :1] % torch.tensor([5, 3]))

    def test_booleans_in_text_are_those_of_arrays(self, tmp_path: Path) -> None:
        """As NumPy and pandas write them: a column of them labels, beside numbers 0 and 1."""
        path = write(tmp_path, np.arange(N))
        (tmp_path / "c.csv").write_text("odd\n" + "\n".join(str(n % 2 == 1) for n in range(N)))
        data = load_file(path, condition=tmp_path / "c.csv")
        assert data.condition_encoding == OneHot((0, 1))
        assert torch.equal(data.train_labels, data.train[:, 0].long() % 2)
        (tmp_path / "c.csv").write_text("odd,n\n" + "\n".join(f"{n % 2 == 1}, {n}" for n in range(N)))
        data = load_file(path, condition=tmp_path / "c.csv")
        assert data.train_condition is not None
        assert torch.equal(data.train_condition[:, 0], data.train[:, 0] % 2)
        (tmp_path / "x.csv").write_text("a,b\nTrue,1\nFalse,2\n")
        with pytest.raises(mc.InputError, match=r"'True'; expected a number$"):  # no more than in an array
            load_file(tmp_path / "x.csv")

    @pytest.mark.parametrize(
        ("condition", "said"),
        [
            (np.arange(N - 1) % 3, "59 conditions; expected one for each of the 60 samples"),
            (np.ones(N, dtype=int), "all 60 conditions are the same"),
            (np.ones((N, 2)), "all 60 conditions are the same"),
            (
                np.arange(N),
                r"60 different labels for 60 samples; expected at most 30 classes, or numbers of shape \(N,",
            ),
            (np.ones((N, 2, 2)), r"shape \(60, 2, 2\); expected class labels \(N,\) or numbers \(N, t\)"),
            (np.ones((N, 0)), r"shape \(60, 0\)"),
            (np.full(N, "a"), r"type <U1; expected bool, an integer or a floating type; np\.unique"),
            (np.full(N, b"a"), r"type \|S1; expected bool, an integer or a floating type; np\.unique"),
            (np.full(N, 1j), "type complex128; expected bool, an integer or a floating type$"),
            (
                np.where(np.arange(N) == 7, np.nan, np.arange(N)),
                r"NaN or infinity at 1 place, first in row 7, column 0",
            ),
            (np.where(np.arange(N) == 7, 1e39, np.arange(N)), "too large for float32 at 1 place, first in row 7"),
        ],
    )
    def test_what_is_no_condition_of_these_samples_is_refused(self, tmp_path: Path, condition: Any, said: str) -> None:
        path = write(tmp_path, condition)
        with pytest.raises(mc.InputError, match=rf"c\.npy: .*{said}"):
            load_file(path, condition=tmp_path / "c.npy")

    @pytest.mark.parametrize("header", ["", "kind\n"])
    def test_words_become_labels_as_the_message_says(self, tmp_path: Path, header: str) -> None:
        labels = np.where(np.arange(N) % 3, "cat", "dog")
        path = write(tmp_path, labels)
        (tmp_path / "c.csv").write_text(header + "\n".join(labels))
        messages = []
        for name in ("c.npy", "c.csv"):
            with pytest.raises(mc.InputError) as refused:
                load_file(path, condition=tmp_path / name)
            messages.append(str(refused.value))
        written = "np.unique(labels, return_inverse=True)[1]"
        assert all(message.endswith(f"; {written} turns words into integers") for message in messages)
        np.save(tmp_path / "c.npy", eval(written))
        found = load_file(path, condition=tmp_path / "c.npy")
        assert torch.equal(found.train_labels, (found.train[:, 0] % 3 == 0).long())
        # Of samples, or of numbers, a word is no label.
        (tmp_path / "two.csv").write_text("a,b\n1,word\n")
        for arguments in ({"path": tmp_path / "two.csv"}, {"path": path, "condition": tmp_path / "two.csv"}):
            with pytest.raises(mc.InputError, match=r"'word'; expected a number$"):
                load_file(**arguments)

    def test_so_many_classes_that_their_labels_are_numbers_are_refused(self) -> None:
        """Each sample would have a number for each of them."""
        labels = np.arange(2 * 4097) // 2
        with pytest.raises(mc.InputError, match=r"c: 4097 different labels for 8194 samples; expected at most 4096"):
            checked_condition(labels, len(labels), "c")
        assert checked_condition(labels[:-2], len(labels) - 2, "c").shape == (8192,)

    def test_one_held_out_far_from_all_others_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, np.arange(N) % 2)
        held_out = load_file(path, seed=4).validation[0, 0].long()
        source = 1e-30 * np.random.default_rng(0).normal(size=(N, 2))
        source[held_out, 1] = 1e30
        np.save(tmp_path / "c.npy", source)
        with pytest.raises(
            mc.InputError, match=f"condition too far from the others at 1 place, first in row {held_out}"
        ):
            load_file(path, seed=4, condition=tmp_path / "c.npy", standardise=True)
