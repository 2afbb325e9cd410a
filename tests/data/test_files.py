import json
import math
import re
import tracemalloc
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.manifolds import BENT
from manifold_core.data import (
    Dataset,
    Standardisation,
    arma_windows,
    blocks,
    conditional_manifold,
    load_file,
    synthetic_manifold,
    union_of_manifolds,
)
from manifold_core.data.files import sample_shape
from manifold_core.errors import InputError


def samples(*shape, dtype=np.float64):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path, array):
    np.save(path, array)
    return path


def rows(data):
    """All samples, back in the order of the (increasing) first feature."""
    x = torch.cat([data.train, data.validation])
    return x[x.flatten(1)[:, 0].argsort()]


@pytest.mark.parametrize(
    "dtype",
    ["<f4", ">f4", "<f8", ">f8", "f2", "longdouble", "u1", "i1", "u2", "i2", "i4", "u4", ">i8", "u8"],
)
def test_types(tmp_path, dtype):
    array = samples(10, 3, dtype=dtype)
    data = load_file(save(tmp_path / "mine.npy", array))
    assert data.name == "mine"
    assert data.train.dtype == data.validation.dtype == torch.float32
    assert rows(data).tolist() == array.tolist()  # uint8 too stays as it was
    assert data.train_labels is None
    assert data.manifold_dim is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((10, 3), (9, 3)), ((10, 4, 5), (9, 1, 4, 5)), ((10, 2, 4, 5), (9, 2, 4, 5)), ((2, 1), (1, 1))],
)
def test_shapes(tmp_path, shape, expected):
    array = samples(*shape)
    data = load_file(save(tmp_path / "a.npy", array))
    assert data.train.shape == expected
    assert data.validation.shape == (1, *expected[1:])
    assert rows(data).flatten().tolist() == array.flatten().tolist()
    assert data.train.is_contiguous()
    assert sample_shape(tmp_path / "a.npy") == expected[1:]  # by which the command line chooses its defaults


def test_column_order_and_views(tmp_path):
    array = np.asfortranarray(samples(10, 3, dtype=np.float32))
    data = load_file(save(tmp_path / "a.npy", array))
    assert rows(data).tolist() == array.tolist()
    data.train.add_(1)  # its own memory, not the file's
    assert np.load(tmp_path / "a.npy").tolist() == array.tolist()


def test_constant_columns_stay(tmp_path):
    array = np.column_stack([np.arange(6.0), np.full(6, 7.0)])
    assert rows(load_file(save(tmp_path / "a.npy", array))).tolist() == array.tolist()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(tmp_path, write):
    array = samples(5, 2)
    write(tmp_path / "one.npz", whatever=array)
    write(tmp_path / "several.npz", y=samples(5), x=array)
    write(tmp_path / "unclear.npz", y=samples(5), data=array)
    assert rows(load_file(tmp_path / "one.npz")).tolist() == array.tolist()
    assert rows(load_file(tmp_path / "several.npz")).tolist() == array.tolist()
    with pytest.raises(
        InputError, match=r"unclear.npz: arrays \['y', 'data'\]; expected exactly one, or one called 'x'"
    ):
        load_file(tmp_path / "unclear.npz")


@pytest.mark.parametrize(
    "text",
    [
        "1.,2\n3,4\n5,-6e-1\n",
        "1.,2\r\n3,4\r\n5,-6e-1",
        "a,b\n1,2\n3,4\n5,-.6\n",
        '# of "last year, by hand\n#a,b\n1.,2\n#7,8\n3,4\n5,-.6\n',
        "first feature,second\n1,2\n3,4\n5,-.6\n",
        '"a;b","c 1"\n1,2\n3,4\n5,-.6\n',
        '\ufeff"a,c",b\n\n1, 2\n\n"3",4\n5,-0.6\n\n',
    ],
)
def test_csv(tmp_path, text):
    path = tmp_path / "table.CSV"
    path.write_text(text, encoding="utf-8", newline="")
    data = load_file(path)
    assert data.name == "table"
    torch.testing.assert_close(rows(data), torch.tensor([[1, 2], [3, 4], [5, -0.6]]), rtol=0, atol=0)


@pytest.mark.parametrize("text", ["a,b\n0,1\n2,3\n", "2,3\n0,1\n", "0.0,1.0\n2,3\n", "0,2\n1,3\n", "2,1\n1,2\n"])
def test_csv_of_small_numbers(tmp_path, text):
    """A line that counts the columns is unclear as the first alone."""
    path = tmp_path / "table.csv"
    path.write_text(text)
    written = [[float(field) for field in line.split(",")] for line in text.removeprefix("a,b\n").splitlines()]
    assert rows(load_file(path)).tolist() == sorted(written)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"5,2\n3,4,5\n", "line 2: 3 fields; expected 2"),
        (b"a,b\n\n1,2\n3\n", "line 4: 1 fields; expected 2"),
        (b"a,b,c\n1,2\n", "line 2: 2 fields; expected 3"),
        (b"5,2\n3,four\n", "line 2, column 2: 'four'; expected a number"),
        (b"5,2\n3,\n", "line 2, column 2: nothing, a missing value; expected a number"),
        (b"a,b\n1,2\n3, \n", r"line 3, column 2 \(b\): nothing, a missing value; expected a number"),
        (b"5,2\na,b\n", "line 2, column 1: 'a'; expected a number"),
        (b"id,2\n3,4\n", r"line 1: neither a header \(field '2' is a number\) nor a sample \('id' is not\); expected"),
        (b"0,1,2,3\n4,5,6,7\n8,9,1,2\n", "line 1: counts the columns, 0 to 3, .* expected a header of words"),
        (b'\n"0", 1\n4,5\n8,9\n', "line 2: counts the columns, 0 to 1"),
        (b"0\n4\n8\n", "line 1: counts the columns, 0 to 0"),
        (b"1,2,3\n4,5,7\n8,9,2\n", "line 1: counts the columns, 1 to 3, .* expected a header of words"),
        (b",x0,x1\n0,4.5,6.5\n1,2.5,8.5\n", r"line 1: .* no name for column 0 \(counted from 0\).* index=False"),
        (b'"","x0"\n0,4.5\n1,2.5\n', "line 1: the header has no name for column 0"),
        (b"x0,x1, \n4.5,6.5,0\n2.5,8.5,1\n", "line 1: the header has no name for column 2"),
        (b",0,1\n0,4.5,6.5\n1,2.5,8.5\n", "line 1: the header has no name for column 0 .*index=False"),
        (b",2,3\n4,5,6\n", r"line 1: neither a header \(field '2' is a number\) nor a sample \('' is not\)"),
        (
            b"1990,1991,f2\n1,2,3\n",
            r"line 1: neither a header \(field '1990' is a number\) nor a sample \('f2' is not",
        ),
        (b"\nnan,f1\n1,2\n", r"line 2: neither a header \(field 'nan' is a number\) nor a sample \('f1' is not\)"),
        (b"#a,b\n1,b\n1,2\n", "line 2: neither a header .field '1' is a number. nor a sample"),
        (b"a,b\nc,d\n1,2\n", r"line 2, column 1 \(a\): 'c'; expected a number"),
        (b"1;2\n3;4\n", "line 1: '1;2', separated by ';'\\? expected commas$"),
        (b"0,61;-0,05\n", "line 1: '61;-0', separated by ';'\\? expected commas, and points .* have decimal commas$"),
        (b"a\tb\n0,61\t-5\n", r"line 2: '61\\t-5', separated by tabs\? expected commas, and points in numbers"),
        (b"1,2;3;x,4\n", r"line 1: neither a header \(field '1' is a number\) nor a sample \('2;3;x' is not\)"),
        (b"5,2\n1;2,word\n", "line 2: '1;2', separated by ';'\\? expected commas$"),
        (b"#a\na;b\n1;2;\n", "line 3: '1;2;', separated by ';'\\? expected commas"),
        (b"a;b;c\n1,5;2,5;3\n", "line 2: '5;2', separated by ';'\\? expected commas, and points in numbers"),
        (b"1\t2\n3\t4\n", r"line 1: '1\\t2', separated by tabs\? expected commas"),
        (b"a b\n 1.5  2e3\n", "line 2: ' 1.5  2e3', separated by spaces\\? expected commas"),
        (b"5,2\n1_0,4\n", "line 2, column 1: '1_0'; expected a number"),
        (b"\xff\xfe1\0,\0", "expected comma-separated text"),
        (b"5,2\n3," + b"4" * 200_000 + b"\n", "after line 2: expected comma-separated text"),
        (b"5,2\n3,nan\n", r"NaN or infinity at 1 place, first in row 1, column 1 \(counted from 0\)"),
        (b"5,2\n3,1e999\n", "NaN or infinity at 1 place, first in row 1, column 1"),
        (b"5,2\n3,1e39\n", "too large for float32 at 1 place, first in row 1, column 1"),
        (b"a,b\n", r"shape \(0, 2\); expected at least two samples"),
        (b"a,b\n1,2\n", r"shape \(1, 2\); expected at least two samples"),
        (b"\n\n", "expected at least two samples"),
        (b"", "the file is empty"),
    ],
)
def test_refuses_csv(tmp_path, text, expected):
    path = tmp_path / "table.csv"
    path.write_bytes(text)
    with pytest.raises(InputError, match=expected) as caught:
        load_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("extension", ["npy", "npz"])
@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((0, 3)), r"shape \(0, 3\); expected at least two samples"),
        (np.ones((1, 3)), r"shape \(1, 3\); expected at least two samples"),
        (np.ones((3, 0)), r"shape \(3, 0\); expected at least two samples with features"),
        (np.arange(5.0), r"shape \(5,\); expected \(N, d\), \(N, H, W\) or \(N, C, H, W\)"),
        (np.float64(3), r"shape \(\); expected"),
        (samples(2, 2, 2, 2, 2), r"shape \(2, 2, 2, 2, 2\); expected"),
        (np.eye(3) > 0, "type bool; expected an integer or floating type"),
        (np.eye(3) * 1j, "type complex128; expected"),
        (np.array([["a"], ["b"]]), "type <U1; expected"),
        (np.array([[b"a"], [b"b"]]), r"type \|S1; expected"),
        (np.array([["2024-01-01"], ["2024-01-02"]], dtype="M8[D]"), "datetime64"),
        (np.array([[1, None], [2, 3]]), "without pickled objects"),
        (np.full((4, 3), 2.5), "all 4 samples are the same; expected features that vary"),
        (np.array([[1.0, 2], [np.nan, 3], [np.inf, -np.inf]]), "3 places, first in row 1, column 0"),
        (np.array([[[1.0, 2]], [[3, np.nan]]]), "1 place, first in row 1, column 0, 1"),
        (np.array([[1.0, 1e300], [2, -1e300]]), "too large for float32 at 2 places, first in row 0, column 1"),
    ],
)
def test_refuses_array(tmp_path, extension, array, expected):
    path = tmp_path / f"a.{extension}"
    if extension == "npy":
        np.save(path, array)
    else:
        np.savez(path, array)
    with pytest.raises(InputError, match=expected) as caught:
        load_file(path)
    assert str(path) in str(caught.value)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def lying(path):
    """A header that promises more than any memory holds."""
    path.write_bytes(path.read_bytes().replace(b"(4, 3)", b"(4444444444444, 3)").replace(b"        \n", b"\n", 1))


def header_cut(path):
    path.write_bytes(path.read_bytes().replace(b"'shape': (4, 3), }", b"'shape': (((((((((("))


@pytest.mark.parametrize("damage", [truncated, lying, header_cut])
def test_refuses_damaged_npy(tmp_path, damage):
    path = save(tmp_path / "a.npy", samples(4, 3))
    before = path.read_bytes()
    damage(path)
    assert path.read_bytes() != before
    with pytest.raises(InputError, match=r"a\.npy: expected a \.npy file"):
        load_file(path)


@pytest.mark.parametrize("extension", ["npy", "npz"])
def test_refuses_what_is_no_numpy_file(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    for content in (b"1,2\n3,4\n", b"\x93NUMPY", b"PK\x03\x04 and no more"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"expected a \.{extension} file"):
            load_file(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        load_file(path)


def test_refuses_names_that_lie(tmp_path):
    (tmp_path / "a.npz").write_bytes(save(tmp_path / "a.npy", samples(4, 3)).read_bytes())
    with pytest.raises(InputError, match="a single array; expected an archive"):
        load_file(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npy", "w") as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(InputError, match=r"expected a \.npy file"):
        load_file(tmp_path / "b.npy")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    with pytest.raises(InputError, match=r"arrays \[\]; expected exactly one"):
        load_file(tmp_path / "empty.npz")


@pytest.mark.parametrize("content", [b"", b"1,2\n3,4\n"])
def test_refuses_an_archive_of_something_else(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("table.csv", content)
    with pytest.raises(InputError, match=r"a.npz: member 'table.csv' is not an array; expected .npy files"):
        load_file(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["absent.npy", "absent.npz", "absent.csv"])
def test_missing(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        load_file(tmp_path / name)


@pytest.mark.parametrize("name", ["folder.npy", "folder.npz", "folder.csv"])
def test_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}: cannot be read"):
        load_file(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "npy"])
def test_other_kinds(tmp_path, name):
    with pytest.raises(InputError, match=r"expected \.npy, \.npz or \.csv"):
        load_file(tmp_path / name)


@pytest.mark.parametrize(
    ("n", "fraction", "n_validation"),
    [(100, 0.1, 10), (100, 0.37, 37), (18, 0.1, 2), (14, 0.1, 1), (3, 0.01, 1), (3, 0.99, 2), (2, 0.5, 1)],
)
def test_sizes_of_the_split(tmp_path, n, fraction, n_validation):
    array = samples(n, 2)
    data = load_file(save(tmp_path / "a.npy", array), validation_fraction=fraction)
    assert len(data.validation) == n_validation
    assert rows(data).tolist() == array.tolist()


def test_split_is_random_and_known_for_a_seed(tmp_path):
    path = save(tmp_path / "a.npy", samples(20, 1))
    drawn = [load_file(path, 0.25, seed).validation.flatten().tolist() for seed in (0, 0, 1, 2**32)]
    assert drawn[0] == drawn[1]
    assert len({tuple(d) for d in drawn}) == 3
    assert drawn[0] == [11, 5, 18, 0, 9]


def test_split_holds_out_every_sample_equally_often(tmp_path):
    path = save(tmp_path / "a.npy", samples(4, 1))
    counts = np.zeros(4)
    for seed in range(400):
        counts[int(load_file(path, 0.25, seed).validation)] += 1
    assert counts.min() > 65  # 100 expected, 4 standard deviations


@pytest.mark.parametrize(
    ("argument", "value"),
    [("validation_fraction", v) for v in (0, 1, -0.1, 1.5, float("nan"), "0.1", True, None)]
    + [("seed", v) for v in (0.5, "0", None, False)],
)
def test_refuses_argument(tmp_path, argument, value):
    path = save(tmp_path / "a.npy", samples(4, 1))
    with pytest.raises(InputError) as caught:
        load_file(path, **{argument: value})
    message = str(caught.value)
    assert message.startswith(f"{argument} must be ")
    assert message.endswith(f", got {value!r}")


def exact_standardisation(x, axis):
    """By rational arithmetic: nothing is rounded but the results."""
    x = np.vectorize(Fraction, otypes=[object])(x)
    mean = x.sum(axis=axis) / (len(x) if axis == 0 else x.size)
    variance = np.square(x - mean).sum() / x.size
    root = Fraction(math.isqrt(int(variance * 4**2000)), 2**2000)
    return np.asarray(mean).astype(float).tolist(), float(root)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", ">i2", "u4", "longdouble"])
@pytest.mark.parametrize("shape", [(30, 3), (12, 2, 3), (12, 2, 2, 3)])
def test_standardised(tmp_path, monkeypatch, shape, dtype, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    path = save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 100, shape).astype(dtype))
    raw, data = load_file(path), load_file(path, standardise=True)
    vectors = len(shape) == 2
    mean, scale = exact_standardisation(raw.train.numpy().astype(int), 0 if vectors else None)
    assert data.standardisation.mean.dtype == torch.float64
    assert data.standardisation.mean.tolist() == pytest.approx(mean, rel=1e-14)
    assert data.standardisation.scale == pytest.approx(scale, rel=1e-14)
    for found, x in ((data.train, raw.train), (data.validation, raw.validation)):  # the mean is that of the training
        expected = (x.double().numpy() - np.array(mean)) / scale
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
        assert torch.equal(data.standardisation.apply(x), found)
    # Nothing is done that was not asked for.
    assert (raw.standardisation.mean.item(), raw.standardisation.scale) == (0, 1)


@pytest.mark.parametrize("shape", [(1500, 10), (100, 4, 5)])
@pytest.mark.parametrize("offset", [1e7, -1e9, 1e12])
def test_standardised_far_from_zero(tmp_path, shape, offset):
    """Where float32 has no digits left for the spread, which is about 1."""
    x = np.random.default_rng(0).normal(size=shape)
    near, far = (
        load_file(save(tmp_path / f"{name}.npy", array), standardise=True)
        for name, array in (("near", x), ("far", x + offset))
    )
    rounding = np.spacing(abs(offset))  # of the file itself
    torch.testing.assert_close(far.train, near.train, rtol=1e-6, atol=2 * rounding)
    torch.testing.assert_close(far.validation, near.validation, rtol=1e-6, atol=2 * rounding)
    assert far.standardisation.scale == pytest.approx(near.standardisation.scale, abs=rounding)
    assert len(load_file(tmp_path / "far.npy").train) == len(near.train)  # rounded to one number, but not the same


@pytest.mark.parametrize("dtype", [np.float64, np.longdouble])
@pytest.mark.parametrize("shape", [(40, 3), (12, 2, 2)])
@pytest.mark.parametrize("size", [1e-153, 1e37])
def test_standardised_whatever_the_size(tmp_path, shape, size, dtype):
    """Also where the squares of the numbers are none in float64."""
    x = np.random.default_rng(0).normal(size=shape) * size + 3 * size
    path = save(tmp_path / "a.npy", x.astype(dtype))
    data = load_file(path, standardise=True)
    first = load_file(save(tmp_path / "numbered.npy", samples(*shape))).train.flatten(1)[:, 0].int()
    training = x[first.numpy() // x[0].size]
    mean, scale = exact_standardisation(training, 0 if len(shape) == 2 else None)
    assert data.standardisation.mean.tolist() == pytest.approx(mean, rel=1e-14, abs=0)
    assert data.standardisation.scale == pytest.approx(scale, rel=1e-14, abs=0)
    expected = (training - np.array(mean)) / scale
    np.testing.assert_allclose(data.train.numpy().reshape(expected.shape), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("shape", [(30, 3), (12, 2, 3), (12, 2, 2, 3)])
def test_standardisation_of_samples_at_hand(monkeypatch, shape, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    whole = np.random.default_rng(0).integers(0, 100, shape)
    mean, scale = exact_standardisation(whole, 0 if len(shape) == 2 else None)
    tensor = torch.from_numpy(whole)
    bfloat16 = tensor.to(torch.bfloat16)  # which holds integers below 256, and NumPy has none
    for x in (whole, whole.astype(np.float32), whole.tolist(), tensor, bfloat16.requires_grad_()):
        found = Standardisation.of(x)
        assert found.mean.tolist() == pytest.approx(mean, rel=1e-14)
        assert found.scale == pytest.approx(scale, rel=1e-14)
        assert found.sample_shape is None
    standard = found.apply(whole).double()
    assert standard.mean().item() == pytest.approx(0, abs=1e-6)
    assert standard.square().mean().item() == pytest.approx(1, rel=1e-6)
    far = Standardisation.of(whole + 1e12)
    assert far.scale == pytest.approx(scale, rel=1e-3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((5, 2)), "x: all 5 samples to standardise are the same; expected features that vary"),
        (np.ones(5), r"x must be of shape \[N, d\], .* got \(5,\)"),
        (np.ones((0, 2)), r"x must be of shape \[N, d\], .* got \(0, 2\)"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "x must be finite, got NaN or infinity"),
        (np.array([[1.0, 2.0]] * 3), "x: all 3 samples to standardise are the same"),
        (np.array([[[1.0, 2.0], [3.0, 4.0]]] * 3), "x: all 3 samples to standardise are the same"),
        (torch.tensor([[1.0, 2.0], [3.0, torch.inf]]), "x must be finite, got NaN or infinity"),
        ([["a", "b"]], "x must be a tensor or an array of numbers, got list of <U1"),
        (
            np.ma.masked_equal([[1.0, -9999.0], [3.0, 4.0]], -9999.0),
            "x must have a number everywhere, got a masked array that lacks 1",
        ),
        ([[1.0, 2.0], [3.0]], "x must be a tensor or an array of numbers, got list"),
        (torch.ones(3, 2, dtype=torch.complex64), "x must be a tensor or an array of numbers, got Tensor of complex64"),
    ],
)
def test_refuses_to_standardise(x, message):
    with pytest.raises(InputError, match=message):
        Standardisation.of(x)


@pytest.mark.parametrize(
    ("mean", "scale", "message"),
    [
        (0.0, "2", "scale must be a positive, finite number, got '2'"),
        (0.0, torch.tensor([1.0, 2.0]), r"scale must be a positive, finite number, got a tensor of shape \(2,\)$"),
        (0.0, True, "scale must be a positive, finite number, got True"),
        ([0.0, math.nan], 2.0, r"mean must be finite, one number or one for each feature, got \[0.0, nan\]$"),
        ([[0.0, 1.0]], 2.0, r"mean must be finite, one number or one for each feature, got \[\[0.0, 1.0\]\]$"),
        ("a", 2.0, "mean must be finite, one number or one for each feature, got 'a'"),
        (None, 2.0, "mean must be finite, one number or one for each feature, got None"),
    ],
)
def test_refuses_what_is_no_standardisation(mean, scale, message):
    with pytest.raises(InputError, match=message):
        Standardisation(mean, scale)


@pytest.mark.parametrize("shape", [3, (3, 0), (2.5,)])
def test_a_sample_shape_is_of_positive_integers(shape) -> None:
    with pytest.raises(InputError, match=r"^sample_shape"):
        Standardisation(0.0, 1.0, shape)


def test_a_masked_array_that_lacks_nothing_is_one_of_numbers() -> None:
    x = np.ma.masked_equal([[1.0, 2.0], [3.0, 4.0]], -9999.0)
    assert Standardisation.of(x).scale == 1.0


def test_refuses_a_spread_without_digits(tmp_path):
    path = save(tmp_path / "a.npy", np.arange(12.0).reshape(6, 2) * 1e-309)
    with pytest.raises(InputError, match=r"a\.npy: standard deviation \d\.\de-309; expected at least 1\.5e-154"):
        load_file(path, standardise=True)


def test_refuses_a_scale_whose_square_is_none() -> None:
    """recon and gamma in the units of the data are scale² times what they are in the model's."""
    x = np.array([[1.0, 2.0], [-1.0, -2.0]]) / math.sqrt(2.5)  # a standard deviation of 1
    for size in (1e-150, 1.6e-154):
        assert Standardisation.of(x * size).scale ** 2 == pytest.approx(size**2)
    for size in (1.4e-154, 1e-200, 1e-307):
        with pytest.raises(InputError, match=r"^x: standard deviation .*expected at least 1\.5e-154, whose square"):
            Standardisation.of(x * size)


def test_standardised_data_are_blown_up_block_by_block(tmp_path, monkeypatch):
    """NumPy's memory; the float32 samples are torch's."""
    monkeypatch.setattr(blocks, "BLOCK", 1 << 14)
    array = np.random.default_rng(0).integers(0, 256, (1 << 14, 8, 8), dtype=np.uint8)
    path = save(tmp_path / "a.npy", array)
    tracemalloc.start()
    try:
        load_file(path, standardise=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < array.size  # in float64 it is eight times as large


def test_standardisation_there_and_back():
    x = torch.tensor([[1e9 + 3, -7.0], [1e9 + 5, -6.5]], dtype=torch.float64)
    standardisation = Standardisation(torch.tensor([1e9, -7], dtype=torch.float64), 2.0)
    found = standardisation.apply(x)
    assert (found.dtype, found.tolist()) == (torch.float32, [[1.5, 0], [2.5, 0.25]])
    assert standardisation.undo(found).tolist() == x.tolist()
    assert standardisation.apply(x[1].long()).tolist() == [2.5, 0.5]  # one sample, of integers: -6.5 became -6
    images = Standardisation(torch.tensor(3.0, dtype=torch.float64), 0.5)
    assert images.apply(torch.full((2, 1, 4, 4), 4.0)).unique().tolist() == [2]
    assert images.undo(torch.full((2, 16), 2.0)).unique().tolist() == [4]
    as_it_is = torch.rand(5, 3)
    assert torch.equal(Standardisation().apply(as_it_is), as_it_is)
    assert torch.equal(Standardisation().undo(as_it_is), as_it_is.double())
    for call in (standardisation.apply, standardisation.undo):
        with pytest.raises(InputError, match=r"x must be of shape \[\.\.\., 2\], got shape \(5, 3\)"):
            call(as_it_is)


def test_a_standardisation_comes_back_out_of_plain_numbers() -> None:
    one = Standardisation.of(torch.arange(6.0).reshape(3, 2) + 0.1)
    again = Standardisation(**json.loads(json.dumps(one.as_dict())))
    assert json.dumps(Standardisation(0.0, np.float32(0.5)).as_dict()) == '{"mean": 0.0, "scale": 0.5}'
    assert torch.equal(one.apply([[1.0, 2.0]]), again.apply([[1.0, 2.0]]))


def test_a_standardisation_and_a_data_set_are_told_in_a_line() -> None:
    vectors = Standardisation(torch.zeros(784), 0.30712345)
    assert repr(vectors) == "Standardisation(mean=[784], scale=0.3071, sample_shape=None)"
    assert repr(Standardisation(0.25, 2.0, (1, 8, 8))) == (  # type: ignore[arg-type]
        "Standardisation(mean=0.25, scale=2, sample_shape=(1, 8, 8))"
    )
    data = Dataset("digits", torch.zeros(50, 784), torch.zeros(5, 784), torch.zeros(50).long(), manifold_dim=3)
    assert repr(data) == "Dataset('digits', train=[50, 784], validation=[5, 784], train_labels=[50])"


def test_columns_of_unlike_units_are_warned_of() -> None:
    x = np.random.default_rng(0).normal(size=(500, 9))
    x[:, 3] = 7.0  # varies not at all, which is no small unit
    Standardisation.of(x * np.array([20, *[1] * 8]))  # no warning, which would be an error here
    Standardisation.of(x * np.array([1, 1e-6, *[1] * 7]))  # nor of a pixel that hardly varies
    Standardisation.of(np.stack([x, 1000 * x], axis=1))  # nor of images
    with pytest.warns(UserWarning, match=r"^x: column 5 varies \d+ times as much as column \d \("):
        Standardisation.of(x * np.array([*[1] * 5, 100, 1, 1, 1]))


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("n", [200, 5000, 50_000])
def test_a_sample_far_from_all_others_is_warned_of(images: bool, n: int) -> None:
    """As -9999 for what is missing: beside it all others look alike. However many these are."""
    x = np.random.default_rng(0).normal(size=(n, 4, 4) if images else (n, 16))
    x[17] *= 5
    Standardisation.of(x)  # no warning, which would be an error here
    x[123] = 70  # beside which a search read a wrong dimension
    with pytest.warns(UserWarning, match=r"^x: row 123 \(counted from 0\) lies more than 10 times as far from"):
        Standardisation.of(x)
    x[[5, 8]] = -999
    with pytest.warns(UserWarning, match=r"^x: (2|3) samples, the farthest in row (5|8) .*, lie more than 10 times"):
        Standardisation.of(x)


def test_of_a_far_sample_it_says_how_much_of_the_variance_it_has() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 3))
    x[1234, 1] = 300
    centred = np.square(x - x.mean(axis=0)).sum(axis=1)
    with pytest.warns(
        UserWarning, match=f"row 1234 .* with {100 * centred[1234] / centred.sum():.1f}% of the variance"
    ):
        Standardisation.of(x)
    # Most samples the same, as of a sparse table, lie at the mean, or next to it.
    sparse = np.zeros((2000, 3))
    sparse[[5, 6]] = [[1.0], [-1.0]]
    with pytest.warns(UserWarning, match=r"2 samples, the farthest in row \d .* with 100\.0% "):
        Standardisation.of(sparse)


def test_a_far_sample_of_a_file_is_called_by_its_row(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 3))
    held_out = load_file(save(tmp_path / "a.npy", x)).validation[:, 0].tolist()
    row = next(row for row in range(250, 300) if np.float32(x[row, 0]) not in held_out)
    x[row] = 1e4
    with pytest.warns(UserWarning, match=rf"a\.npy: row {row} \(counted from 0\) lies"):
        load_file(save(tmp_path / "a.npy", x), standardise=True)


def test_where_half_of_the_samples_hardly_vary_it_is_said() -> None:
    """None lies apart: each is next to as far as another."""
    x = np.exp(np.linspace(-10, 4, 1001))
    typical, scale = math.exp(-3), math.sqrt(np.square(x).mean())
    with pytest.warns(
        UserWarning, match=rf"^x: row (1000|2001) .* half of them are within {typical / scale:.2g} of the"
    ):
        Standardisation.of(np.concatenate([x, -x])[:, None])


@pytest.mark.parametrize("n", [20, 300, 20_000])
def test_tails_that_are_long_are_no_far_samples(n: int) -> None:
    """Nor are small sets, closed manifolds, or groups."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        normal = generator.normal(size=(n, 5))
        for x in (normal, np.exp(normal), generator.standard_t(3, size=(n, 5)), np.sign(normal) + 0.01 * normal):
            Standardisation.of(x)  # no warning, which would be an error here
        Standardisation.of(normal / np.linalg.norm(normal, axis=1, keepdims=True))
        Standardisation.of(normal + 1000 * (np.arange(n) % 5 == 0)[:, None])  # a fifth of them are not few


def test_no_manifold_of_ours_has_far_samples() -> None:
    made = [manifold.samples(np.random.default_rng(0), 2000) for manifold in BENT]
    made += [
        synthetic_manifold(20, 6, n_train=2000).train,
        conditional_manifold(20, 6, 2, n_train=2000).train,
        union_of_manifolds(20, (2, 4, 6), n_train=2000).train,
        arma_windows(n_train=2000).train.flatten(1),
    ]
    for x in made:
        Standardisation.of(x)  # no warning, which would be an error here


def test_arrays_and_lists_are_standardised_as_tensors_are() -> None:
    standardisation = Standardisation(torch.tensor([1.0, -7.0], dtype=torch.float64), 2.0)
    array = np.array([[9.0, 3], [2, -7]])
    read_only = array.astype(">f4")  # as of another machine, mapped from its file
    read_only.flags.writeable = False
    backwards = np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    for given in (array, array.tolist(), torch.from_numpy(array), read_only, backwards, array.astype(np.longdouble)):
        found = standardisation.apply(given)
        assert found.dtype == torch.float32
        assert found.tolist() == [[4, 5], [0.5, 0]]
        assert standardisation.undo(given).tolist() == [[19, -1], [5, -21]]
    for method in (standardisation.apply, standardisation.undo):
        with pytest.raises(InputError, match=r"^x must be a tensor or an array of numbers, got str of <U1$"):
            method("0")
        with pytest.raises(InputError, match=r"^x must be of shape \[\.\.\., 2\], got shape \(2, 3\)$"):
            method(np.zeros((2, 3)))


@pytest.mark.parametrize("sample_shape", [(1, 4, 8), (32,)])
def test_samples_get_the_shape_that_the_model_takes(sample_shape: tuple[int, ...]) -> None:
    standardisation = Standardisation(torch.tensor(3.0, dtype=torch.float64), 0.5, sample_shape)
    x = torch.arange(96.0)
    for shape in ((3, 4, 8), (3, 1, 4, 8), (3, 32)):
        found = standardisation.apply(x.reshape(shape))
        assert found.shape == (3, *sample_shape)
        assert torch.equal(found.flatten(), (x - 3) / 0.5)
    assert standardisation.apply(x[:0].reshape(0, 4, 8)).shape == (0, *sample_shape)
    sizes = ", ".join(map(str, sample_shape))
    for shape in ((4, 8), (3, 2, 16, 1, 1, 2), ()):
        with pytest.raises(
            InputError, match=re.escape(f"x must be of shape [N, {sizes}], or as many numbers per sample")
        ):
            standardisation.apply(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(12, 3), (12, 1, 2, 2)])
def test_standardised_training_samples_must_vary(tmp_path, shape):
    array = np.full(shape, 0.1)  # whose sum is no multiple of it in float64
    for row in range(len(array)):
        array[:] = 0.1
        array[row] = 5
        if len(load_file(save(tmp_path / "a.npy", array)).train.unique()) == 1:
            break
    with pytest.raises(
        InputError, match=r"a\.npy: all 11 samples to standardise are the same; expected features that vary"
    ):
        load_file(tmp_path / "a.npy", standardise=True)


def test_channels_in_the_last_place_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    x = np.random.default_rng(0).random((20, 8, 12, 3))
    np.save(path, x)
    with pytest.raises(InputError, match=r"shape \(20, 8, 12, 3\), whose last axis .*np\.moveaxis\(x, -1, 1\)"):
        load_file(path)
    for kept in (np.moveaxis(x, -1, 1), x[:, :, :4, :], x[:, :3], x[..., :2]):  # narrow images, or of other numbers
        np.save(path, kept)
        assert load_file(path).train.shape[1:] == kept.shape[1:]


@pytest.mark.parametrize("header", ["# a,b\n", "#a,b\n", "# made by hand\n# a,b\n"])
def test_a_header_behind_a_comment_sign_is_one(tmp_path: Path, header: str) -> None:
    """As numpy.savetxt writes it."""
    path = tmp_path / "x.csv"
    path.write_text(header + "1,2\n3,4\n5,7\n")
    data = load_file(path)
    assert len(data.train) + len(data.validation) == 3
    for no_header in ("# 1,2\n", "# words of one\n", "# a,\n", ""):
        path.write_text(no_header + "1,2\n3,4\n5,7\n")
        with pytest.raises(InputError, match="counts the columns, 1 to 2"):
            load_file(path)
